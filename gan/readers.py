"""What can be read as pictures: a `Source`, the form every reader gives, and folders and zips.

A reader is a `matches` and an `open_source`; `gan/idx.py` and `gan/avatars.py` have one each, and
`gan.data.READERS` is the table of all. Sources are sent to worker processes: their `open` is a
function of a module, or a `functools.partial` of one. Nothing here imports torch.
"""

import functools
import io
import os
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from gan.console import alarm
from gan.errors import Refused, plain, what_failed

MAX_FILE_BYTES = 512 * 2**20  # a larger file is no photograph but a zip bomb
MAX_PIXELS = 2**27  # of a picture: more takes a gigabyte to decode
MAX_DEPTH = 100  # folders within folders
# of Pillow's formats, those of pictures that people have. Others ask another program to read them
# (EPS: Ghostscript) or the system (WMF), are parts of larger files, or are stubs.
FORMATS = (
    "AVIF", "BMP", "DDS", "DIB", "GIF", "ICNS", "ICO", "JPEG", "JPEG2000", "PCX", "PNG",
    "PPM", "PSD", "QOI", "SGI", "TGA", "TIFF", "WEBP", "XBM", "XPM",
)  # fmt: skip

OpenPicture = Callable[[str, int], Image.Image]  # (name, pixels on a side if they can be chosen)


@dataclass(frozen=True)
class Source:
    """Pictures that can be read, by name."""

    label: str  # for messages and the name of the cache's folder
    names: list[str]  # in the order of the data set
    stamp: str  # changes whenever what is read may have changed: part of the cache's key
    open: OpenPicture
    ignored: int = 0  # files in it that are no pictures
    classes: list[str] | None = None  # the class of each name; None: folders may be classes
    paths: list[str] | None = None  # where folders say classes and parts, if `names` do not
    eight_bits: bool = False  # `open` gives pictures of 8 bits only: no range to look for


@dataclass(frozen=True)
class Reader:
    """One kind of data: which paths it reads, and how."""

    matches: Callable[[str], bool]  # (data_path): whether this reader reads it
    # (data_path, flag) -> its pictures; raises Refused, naming `flag`, if they cannot be read
    open_source: Callable[[str, str], Source]


def find_source(data_path: str, flag: str, readers: Mapping[str, Reader]) -> Source:
    """The pictures at `data_path`, by the first of `readers` that matches it.

    Raises Refused, naming `flag`, if none does or there is no picture.
    """
    try:
        for reader in readers.values():
            if reader.matches(data_path):
                return reader.open_source(data_path, flag)
        there = expanded(data_path).exists()
    except (Refused, MemoryError):
        raise
    except Exception as error:  # foreign archives make zipfile, gzip and others raise anything
        raise Refused(f"{flag}={data_path}: cannot be read ({what_failed(error)})") from error
    what = "neither a folder nor a zip" if there else "no such folder or zip"
    raise Refused(f"{flag}={data_path}: {what}")


def expanded(path: str) -> Path:
    """`path` with the user's folder for ~; a user that is not known is the name of a file."""
    return Path(os.path.expanduser(path))


def open_image(file: str | Path | io.BytesIO) -> Image.Image:
    """Open a picture of one of FORMATS; raises OSError or ValueError if it is none or too large."""
    image = Image.open(file, formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"more than {MAX_PIXELS:,} pixels")
    return image


def stamp_of(file: str | Path) -> str:
    """Size and modification time of a file, or why they cannot be read."""
    try:
        status = os.stat(file)
    except OSError as error:  # a broken link: it will be among the skipped
        return str(error.strerror)
    return f"{status.st_size} {status.st_mtime_ns}"


# --- picture files -------------------------------------------------------------------------------


def picture_suffixes() -> set[str]:
    """The suffixes of the files that Pillow opens."""
    Image.init()
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}


def is_picture(name: str, suffixes: set[str]) -> bool:
    """Whether a file is a picture by its suffix, and neither hidden nor a Mac's resource fork."""
    parts = name.split("/")
    return (
        os.path.splitext(name)[1].lower() in suffixes
        and not any(part.startswith(".") for part in parts)
        and "__MACOSX" not in parts
    )


def _source_of_files(
    data_path: str, flag: str, stamps: dict[str, str], open_picture: OpenPicture
) -> Source:
    """The picture files among `stamps` (name -> stamp), in the order of their names."""
    suffixes = picture_suffixes()
    names = sorted(name for name in stamps if is_picture(name, suffixes))
    ignored = len(stamps) - len(names)
    if not names:
        raise Refused(f"{flag}={data_path}: no pictures in it ({ignored} other files)")
    stamp = "\n".join(f"{name} {stamps[name]}" for name in names)
    label = expanded(data_path).resolve().stem
    return Source(label, names, stamp, open_picture, ignored)


# --- a folder ------------------------------------------------------------------------------------


def is_folder(data_path: str) -> bool:
    """Whether `data_path` is a folder."""
    return bool(data_path) and expanded(data_path).is_dir()


def _walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder below `root`, through links, once, and the names of its files."""
    seen: set[str] = set()

    def report(error: OSError) -> None:
        alarm(f"data: {plain(str(error.filename))}: {error.strerror}, passed over")

    for folder, inner, files in os.walk(root, onerror=report, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            inner.clear()
            continue
        if inner and folder.count(os.sep) - str(root).count(os.sep) >= MAX_DEPTH:
            alarm(f"data: folders below {MAX_DEPTH} others are passed over")
            inner.clear()
        seen.add(real)
        yield folder, files


def open_file(root: Path, name: str, size: int) -> Image.Image:
    """Open the picture `name` below `root`, in its own size.

    Raises OSError or ValueError if it is no picture, or larger than MAX_FILE_BYTES.
    """
    path = os.path.join(root, name)  # paths of pathlib take longer than the disk
    status = os.stat(path)  # says what a broken link is
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("no regular file")  # opening a pipe would wait forever
    if status.st_size > MAX_FILE_BYTES:
        raise ValueError(f"larger than {MAX_FILE_BYTES >> 20} MiB")
    return open_image(path)


def open_folder(data_path: str, flag: str) -> Source:
    """The picture files in a folder and in those below it; raises Refused if there are none."""
    root = expanded(data_path)
    stamps: dict[str, str] = {}
    for folder, files in _walk(root):
        below = Path(folder).relative_to(root).as_posix()
        start = "" if below == "." else f"{below}/"
        stamps |= {f"{start}{file}": stamp_of(os.path.join(folder, file)) for file in files}
    return _source_of_files(data_path, flag, stamps, functools.partial(open_file, root))


# --- a zip ---------------------------------------------------------------------------------------


def is_zip(data_path: str) -> bool:
    """Whether `data_path` is a zip archive."""
    path = expanded(data_path)
    return path.is_file() and zipfile.is_zipfile(path)


@functools.lru_cache(maxsize=1)
def _archive(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _has_backslashes(names: list[str]) -> bool:
    """Whether the folders in these names are separated by backslashes, as some Windows tools do."""
    return any("\\" in name for name in names) and not any("/" in name for name in names)


def _open_member(path: Path, separator: str, name: str, size: int) -> Image.Image:
    archive = _archive(path)
    name = name.replace("/", separator)
    if archive.getinfo(name).file_size > MAX_FILE_BYTES:
        raise ValueError(f"larger than {MAX_FILE_BYTES >> 20} MiB")
    return open_image(io.BytesIO(archive.read(name)))


def open_zip(data_path: str, flag: str) -> Source:
    """The pictures in a zip; raises Refused if there are none or the zip is damaged."""
    path = expanded(data_path)
    try:
        members = [member for member in _archive(path).infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise Refused(f"{flag}={data_path}: cannot be read ({error})") from error
    separator = "\\" if _has_backslashes([member.filename for member in members]) else "/"
    stamps = {
        member.filename.replace(separator, "/"): f"{member.file_size} {member.CRC}"
        for member in members
    }
    open_picture = functools.partial(_open_member, path, separator)
    return _source_of_files(data_path, flag, stamps, open_picture)


FILE_READERS: dict[str, Reader] = {
    "folder": Reader(is_folder, open_folder),
    "zip": Reader(is_zip, open_zip),
}
