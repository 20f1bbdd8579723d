"""IDX files, the format of MNIST and its relatives (LeCun et al. 1998): arrays of bytes, or gzip.

Four bytes 0, 0, 8, number of dimensions; each dimension as a big-endian 32-bit number; the bytes.
"""

import functools
import gzip
import math
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gan.errors import Refused, what_failed
from gan.readers import Source, expanded, is_folder, stamp_of

BLOCK = 2**20  # bytes read at once
MAX_BYTES = 4 * 2**30  # of one array: a file that claims more is refused before it is read


@dataclass(frozen=True)
class Part:
    """A file of pictures, and that of their labels, if there is one."""

    images: Path
    labels: Path | None
    count: int  # of pictures


def _open_plain_or_gzip(path: Path) -> IO[bytes]:
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if zipped else open(path, "rb")  # type: ignore[return-value]


def _shape(file: IO[bytes], path: Path, dimensions: int) -> tuple[int, ...]:
    header = file.read(4 + 4 * dimensions)
    if len(header) < 4 + 4 * dimensions or header[:4] != bytes([0, 0, 8, dimensions]):
        raise Refused(f"{path}: not an IDX file of {dimensions} dimensions of bytes")
    return tuple(np.frombuffer(header[4:], ">u4").astype(int).tolist())


@functools.lru_cache(maxsize=4)
def read(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array in `path`, uint8: pictures [N, H, W] have 3 `dimensions`, labels [N] have 1.

    Raises Refused, naming the file, unless it holds exactly what its header says.
    """
    try:
        with _open_plain_or_gzip(path) as file:
            shape = _shape(file, path, dimensions)
            size = math.prod(shape)
            if size > MAX_BYTES:
                raise Refused(f"{path}: says it holds {size >> 30} GiB")
            found = bytearray()  # in blocks: a header may claim what the file does not hold
            while block := file.read(min(BLOCK, size + 1 - len(found))):
                found += block
    except Refused:
        raise
    except Exception as error:  # gzip and zlib raise several types for what is damaged
        raise Refused(f"{path}: cannot be read ({what_failed(error)}); fetch it again") from error
    if len(found) != size:
        raise Refused(f"{path}: damaged, it does not hold the {shape[0]:,} it says; fetch it again")
    return np.frombuffer(found, np.uint8).reshape(shape)


def _image_files(folder: Path) -> list[Path]:
    """The files `*images*idx3*` in `folder` by name; one that is there plain and zipped is one."""
    there = sorted(path for path in folder.glob("*images*idx3*") if path.is_file())
    return [path for path in there if path.suffix != ".gz" or path.with_suffix("") not in there]


def _labels_of(images: Path) -> Path | None:
    """The labels beside a file of pictures: the same name with labels and idx1, plain or zipped."""
    name = images.name.replace("images", "labels").replace("idx3", "idx1")
    plain = [images.with_name(name), images.with_name(name.removesuffix(".gz"))]
    zipped = [path.with_name(f"{path.name}.gz") for path in plain]
    return next((path for path in plain + zipped if path.is_file()), None)


def find(folder: Path) -> list[Part]:
    """The IDX pictures in `folder` by name, with the labels beside each.

    Where there is a `train` part, it alone: the other one is for tests. Raises Refused, naming
    the file, if one is damaged or there are not as many labels as pictures.
    """
    files = _image_files(folder)
    train = [path for path in files if path.name.startswith("train")]
    parts = []
    for path in train or files:
        try:
            with _open_plain_or_gzip(path) as file:
                count = _shape(file, path, 3)[0]
        except Refused:
            raise
        except Exception as error:
            raise Refused(
                f"{path}: cannot be read ({what_failed(error)}); fetch it again"
            ) from error
        labels = _labels_of(path)
        if labels and len(read(labels, 1)) != count:
            raise Refused(f"{labels}: {len(read(labels, 1)):,} labels of {count:,} pictures")
        parts.append(Part(path, labels, count))
    return parts


# --- the reader ----------------------------------------------------------------------------------


def matches(data_path: str) -> bool:
    """Whether `data_path` is a folder with IDX pictures."""
    return is_folder(data_path) and bool(_image_files(expanded(data_path)))


def _open(paths: dict[str, Path], name: str, size: int) -> Image.Image:
    part, index = name.rsplit(" ", 1)
    return Image.fromarray(read(paths[part], 3)[int(index)])


def open_source(data_path: str, flag: str) -> Source:
    """The pictures of IDX files, in their order; with classes if every part has labels.

    Raises Refused, naming the file, if one is damaged.
    """
    path = expanded(data_path)
    parts = find(path)
    names: list[str] = []
    classes: list[str] = []
    for part in parts:
        read(part.images, 3)  # a damaged file is refused now, not in a worker
        names += [f"{part.images.name} {index:06}" for index in range(part.count)]
        classes += [str(label) for label in read(part.labels, 1)] if part.labels else []
    files = [file for part in parts for file in (part.images, part.labels) if file]
    stamp = "\n".join(f"{file.name} {stamp_of(file)}" for file in files)
    open_picture = functools.partial(_open, {part.images.name: part.images for part in parts})
    known = classes if len(classes) == len(names) else None
    return Source(path.resolve().stem, names, stamp, open_picture, 0, known, eight_bits=True)
