"""The reader of tars of pictures, WebDataset's shards among them: FILE.tar, or a{000..099}.tar.

A shard is a tar of files; files of one name but for the suffix are a sample, and `.cls` beside a
picture is its class. Classes may be folders too. The pictures are read in place, by their offsets,
into the cache: so near-duplicates, held-out images and the place in an epoch are what they are for
a folder.
"""

import functools
import io
import os
import re
import tarfile
from pathlib import Path

from PIL import Image

from gan.errors import Refused
from gan.readers import (
    MAX_FILE_BYTES,
    Source,
    expanded,
    is_picture,
    open_image,
    picture_suffixes,
    stamp_of,
)

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
MAX_SHARDS = 100_000
LABEL_BYTES = 256  # of a .cls file that are read

Place = tuple[int, int]  # offset and size in the shard


def matches(data_path: str) -> bool:
    """Whether `data_path` is a tar, or a pattern of tars."""
    return data_path.lower().endswith(".tar") and (
        bool(RANGE.search(data_path)) or expanded(data_path).is_file()
    )


def expand(data_path: str) -> list[str]:
    """The files of a pattern: {000..099} counts, with as many digits as it begins with."""
    found = RANGE.search(data_path)
    if not found:
        return [data_path]
    first, last = int(found[1]), int(found[2])
    numbers = range(first, min(last, first + MAX_SHARDS) + 1)
    start, end = data_path[: found.start()], data_path[found.end() :]
    return [path for n in numbers for path in expand(f"{start}{n:0{len(found[1])}}{end}")]


@functools.lru_cache(maxsize=4)
def index_of(path: Path) -> dict[str, Place]:
    """Where each file of a shard is, by name; raises OSError or tarfile.TarError if damaged."""
    found: dict[str, Place] = {}
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            if member.isfile():
                found[member.name.removeprefix("./")] = (member.offset_data, member.size)
            archive.members.clear()  # type: ignore[attr-defined]  # else it remembers each
    return found


def _read(path: Path, place: Place, most: int) -> bytes:
    offset, size = place
    if size > most:
        raise ValueError(f"larger than {most >> 20} MiB")
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


def _open(shards: tuple[Path, ...], name: str, size: int) -> Image.Image:
    number, member = name.split("/", 1)
    path = shards[int(number)]
    return open_image(io.BytesIO(_read(path, index_of(path)[member], MAX_FILE_BYTES)))


def _class_of(path: Path, places: dict[str, Place], member: str) -> str | None:
    """What the .cls file of a sample says."""
    place = places.get(f"{os.path.splitext(member)[0]}.cls")
    if place is None or place[1] > LABEL_BYTES:
        return None
    return _read(path, place, LABEL_BYTES).decode("utf-8", "replace").strip()


def open_source(data_path: str, flag: str) -> Source:
    """The pictures of a tar or of shards, shard by shard.

    Raises Refused, naming the file, if one is missing or damaged, or there are no pictures.
    """
    shards = tuple(expanded(path) for path in expand(data_path))
    suffixes = picture_suffixes()
    names: list[str] = []
    members: list[str] = []
    classes: list[str | None] = []
    ignored = 0
    for number, path in enumerate(shards):
        try:
            places = index_of(path)
        except FileNotFoundError:
            raise Refused(f"{flag}={data_path}: no file {path}") from None
        except (OSError, tarfile.TarError) as error:
            raise Refused(
                f"{flag}={data_path}: {path} cannot be read ({error}); a packed tar has to be "
                "unpacked, or read by `prepare`"
            ) from error
        for member in places:
            if is_picture(member, suffixes):
                names.append(f"{number:05}/{member}")
                members.append(member)
                classes.append(_class_of(path, places, member))
            else:
                ignored += not member.endswith((".cls", ".json", ".txt"))
    if not names:
        raise Refused(f"{flag}={data_path}: no pictures in it ({ignored} other files)")
    known = [label for label in classes if label is not None]
    return Source(
        RANGE.sub("", Path(data_path).stem),
        names,
        "\n".join(f"{path.name} {stamp_of(path)}" for path in shards),
        functools.partial(_open, shards),
        ignored,
        known if len(known) == len(names) else None,
        paths=members,
    )
