"""Pictures out of whatever people have: files, zips, tars, tables, animations, videos.

The input is a list of units, each read by one process at a time: a file, or a part of an archive.
Nothing here imports torch, and optional packages only where a file needs them.
"""

import functools
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from PIL import Image, ImageSequence

from gan.errors import Refused
from gan.readers import MAX_FILE_BYTES, expanded, stamp_of

VIDEO = frozenset(
    (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv")
)
TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
TABLE = (".parquet", ".arrow")
MEMBERS = 128  # of a zip that are one unit
ROWS = 64  # of a table that are read at a time
ANIMATED = ("GIF", "WEBP", "PNG")  # Pillow's names of formats with frames over time

Content = bytes | Image.Image | Exception  # a file's bytes, a frame, or why there is none


class Unit(NamedTuple):
    """What one process reads: a file, or members `start` to `stop` of a zip or a table."""

    path: str  # relative to the input, with / between folders; "" if the input is this file
    start: int = 0
    stop: int = 0  # 0: all

    @property
    def key(self) -> str:
        """Its name in the state."""
        return f"{self.path}[{self.start}:{self.stop}]" if self.stop else self.path


class Missing(Exception):
    """An optional package that a file needs; main.py's line says which."""


# --- listing -------------------------------------------------------------------------------------


def is_hidden(name: str) -> bool:
    """Whether a part of the name is hidden, or a resource fork of a Mac."""
    parts = set(name.split("/")) - {".", ".."}
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _walk(root: Path) -> Iterator[str]:
    """The files below `root`, through links, each folder once, in the order of the disk."""
    seen: set[tuple[int, int]] = set()
    left = [""]
    while left:
        below = left.pop()
        try:
            status = os.stat(root / below)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(root / below) as entries:
                for entry in entries:
                    name = f"{below}/{entry.name}" if below else entry.name
                    if is_hidden(entry.name):
                        continue
                    if entry.is_dir():
                        left.append(name)
                    else:
                        yield name
        except OSError:
            continue  # no right to read it: as if it were not there


def is_table(key: str) -> bool:
    """Whether the key of a unit is that of a table."""
    return key.split("[")[0].lower().endswith(TABLE)


def _parts(path: Path, name: str) -> Iterator[Unit]:
    """The units of one file."""
    lower = str(path).lower()
    count = 0
    try:
        if lower.endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                count = len(archive.infolist())
        elif lower.endswith(".parquet"):
            count = _parquet(path).num_row_groups
    except (OSError, ValueError, zipfile.BadZipFile):
        pass  # it is one unit, and reading it says what is wrong
    step = MEMBERS if lower.endswith(".zip") else 1
    if count <= step:
        yield Unit(name)
        return
    for start in range(0, count, step):
        yield Unit(name, start, min(start + step, count))


def find_units(data_path: str) -> Iterator[tuple[Unit, str, int]]:
    """Each unit of a folder or a file with its stamp and size in bytes; raises Refused for neither.

    A stamp changes when the file may have changed.
    """
    root = expanded(data_path)
    if not root.exists():
        raise Refused(f"--data-path={data_path}: no such folder or file")
    for name in _walk(root) if root.is_dir() else [""]:
        path = root / name if name else root
        try:
            size = path.stat().st_size
        except OSError:
            size = 0
        units = list(_parts(path, name))
        for unit in units:
            yield unit, stamp_of(path), size // len(units)


# --- reading -------------------------------------------------------------------------------------


def read_unit(data_path: str, unit: Unit, every: float) -> Iterator[tuple[str, Content]]:
    """Each file, member or frame of a unit: its name, and its content or why there is none.

    `every` is the time in seconds between two frames of a video. Raises Missing if a package is.
    """
    root = expanded(data_path)
    path = root / unit.path if unit.path else root
    name = unit.path or root.name
    lower = name.lower()
    opener: Callable[..., Iterator[tuple[str, Content]]]
    if lower.endswith(".zip"):
        opener = functools.partial(_zip, unit=unit)
    elif lower.endswith(TAR):
        opener = _tar
    elif lower.endswith(TABLE):
        opener = functools.partial(_table, unit=unit)
    elif os.path.splitext(lower)[1] in VIDEO:
        opener = functools.partial(_video, every=every)
    else:
        yield name, _bytes_of(path)
        return
    top = f"{name}/" if unit.path else ""  # members of the input itself keep their names
    try:
        for member, content in opener(path):
            yield f"{top}{member}", content
    except (Missing, MemoryError):
        raise
    except Exception as error:  # a damaged archive: what was read before stays
        why = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        yield f"{top}...", OSError(f"damaged from here on: {why}")


def _bytes_of(path: Path) -> Content:
    try:
        if not path.is_file():
            return OSError("no regular file")
        if path.stat().st_size > MAX_FILE_BYTES:
            return OSError(f"larger than {MAX_FILE_BYTES >> 20} MiB")
        return path.read_bytes()
    except OSError as error:
        return error


def _limited(file: IO[bytes] | None, size: int) -> Content:
    if file is None or size > MAX_FILE_BYTES:
        return OSError(f"larger than {MAX_FILE_BYTES >> 20} MiB")
    return file.read()


@functools.lru_cache(maxsize=2)
def _open_zip(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _zip(path: Path, unit: Unit) -> Iterator[tuple[str, Content]]:
    archive = _open_zip(path)
    members = archive.infolist()
    windows = any("\\" in x.filename for x in members) and not any(
        "/" in x.filename for x in members
    )
    for member in members[unit.start : unit.stop or None]:
        name = member.filename.replace("\\", "/") if windows else member.filename
        if member.is_dir() or is_hidden(name):
            continue
        try:
            with archive.open(member) as file:
                yield name, _limited(file, member.file_size)
        except (OSError, RuntimeError, ValueError, zipfile.BadZipFile, EOFError) as error:
            yield name, OSError(str(error))


def _tar(path: Path) -> Iterator[tuple[str, Content]]:
    """Also the shards of WebDataset, which are tars of files."""
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            if member.isfile() and not is_hidden(member.name.removeprefix("./")):
                content = _limited(archive.extractfile(member), member.size)
                yield member.name.removeprefix("./"), content


# --- tables --------------------------------------------------------------------------------------


def _parquet(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise Missing(
            f"{path.name}: a table; pip install pyarrow ({error}); it is an extra"
        ) from None
    return parquet.ParquetFile(path)


def _batches(path: Path, unit: Unit) -> Iterator[Any]:
    """The record batches of a unit of a table."""
    if str(path).lower().endswith(".parquet"):
        file = _parquet(path)
        groups = list(range(unit.start, unit.stop)) if unit.stop else None
        yield from file.iter_batches(ROWS, row_groups=groups)
        return
    try:
        import pyarrow
    except ImportError as error:
        raise Missing(
            f"{path.name}: a table; pip install pyarrow ({error}); it is an extra"
        ) from None
    with pyarrow.memory_map(str(path)) as source:
        try:
            file = pyarrow.ipc.open_file(source)
            yield from (file.get_batch(i) for i in range(file.num_record_batches))
        except pyarrow.ArrowInvalid:  # the other form of the format
            source.seek(0)
            yield from pyarrow.ipc.open_stream(source)


def _class_names(schema: Any) -> list[str]:
    """The names of the classes that a data set of Hugging Face keeps beside its numbers."""
    try:
        told = json.loads((schema.metadata or {})[b"huggingface"])
        return list(told["info"]["features"]["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return []


def _table(path: Path, unit: Unit) -> Iterator[tuple[str, Content]]:
    """The first column of encoded pictures; a column `label` is the folder of each."""
    row = 0
    for batch in _batches(path, unit):
        names = _class_names(batch.schema)
        column, labels = None, [None] * batch.num_rows
        for field in batch.schema:
            kind = str(field.type)
            if field.name == "label":
                labels = batch.column(field.name).to_pylist()
            elif column is None and ("binary" in kind.split("<")[0] or "bytes: binary" in kind):
                column = batch.column(field.name)
        if column is None:
            raise OSError("no column of encoded pictures")
        for value, label in zip(column.to_pylist(), labels, strict=True):
            data = value.get("bytes") if isinstance(value, dict) else value
            known = isinstance(label, int) and 0 <= label < len(names)
            folder = "" if label is None else f"{names[label] if known else label}/"
            content = data if isinstance(data, bytes) else OSError("no bytes in this row")
            yield f"{folder}{unit.start:04}-{row:06}", content
            row += 1


# --- frames --------------------------------------------------------------------------------------


def frames_of(picture: Image.Image, every: float) -> Iterator[tuple[int, Image.Image]]:
    """The frames of an animation that are `every` seconds apart, the first one included."""
    clock, due = 0.0, 0.0
    for index, frame in enumerate(ImageSequence.Iterator(picture)):
        frame.load()  # before it some formats do not know the duration
        if clock >= due:
            yield index, frame.copy()
            due += every
        clock += float(frame.info.get("duration") or 100) / 1000


def is_animated(picture: Image.Image) -> bool:
    """Whether it has frames over time (pages of a TIFF are none)."""
    return picture.format in ANIMATED and getattr(picture, "n_frames", 1) > 1


def _video(path: Path, every: float) -> Iterator[tuple[str, Content]]:
    """Frames of a video, about `every` seconds apart, in their order."""
    try:
        import imageio_ffmpeg
    except ImportError as error:
        text = f"{path.name}: a video; pip install imageio-ffmpeg ({error}); it is an extra"
        raise Missing(text) from None
    chosen = f"select='isnan(prev_selected_t)+gte(t-prev_selected_t\\,{every:.6f})'"
    filters = f"{chosen},setpts=N/FRAME_RATE/TB"  # their times do not make it repeat any
    frames = imageio_ffmpeg.read_frames(str(path), "rgb24", output_params=["-vf", filters])
    size = next(frames)["size"]
    for index, pixels in enumerate(frames):
        yield f"{index:06}", Image.frombytes("RGB", size, pixels)


def parse_seconds(text: str) -> float:
    """ "1s", "500ms" or "0.5" in seconds; raises Refused."""
    number, scale = text.strip().lower(), 1.0
    if number.endswith("ms"):
        number, scale = number[:-2], 0.001
    try:
        seconds = float(number.removesuffix("s")) * scale
        if 0 < seconds < 1e9:
            return seconds
    except ValueError:
        pass
    raise Refused(f"--every={text}: a time such as 1s or 200ms")


def as_bytes(picture: Image.Image) -> bytes:
    """A frame as PNG."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
