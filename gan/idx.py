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

from gan.errors import Refused

MAX_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Part:
    """A file of pictures, and that of their labels, if there is one."""

    images: Path
    labels: Path | None
    count: int


def _open(path: Path) -> IO[bytes]:
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if zipped else open(path, "rb")  # type: ignore[return-value]


def _shape(file: IO[bytes], path: Path, dimensions: int) -> tuple[int, ...]:
    head = file.read(4 + 4 * dimensions)
    if len(head) < 4 + 4 * dimensions or head[:4] != bytes([0, 0, 8, dimensions]):
        raise Refused(f"{path}: not an IDX file of {dimensions} dimensions of bytes")
    return tuple(np.frombuffer(head[4:], ">u4").astype(int).tolist())


@functools.lru_cache(maxsize=4)
def read(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array in `path`: 3 dimensions for pictures [N, H, W], 1 for labels [N].

    Raises Refused, naming the file, unless it holds exactly what its head says.
    """
    try:
        with _open(path) as file:
            shape = _shape(file, path, dimensions)
            wanted = math.prod(shape)
            if wanted > MAX_BYTES:
                raise Refused(f"{path}: says it holds {wanted >> 30} GiB")
            found = file.read(wanted + 1)
    except (OSError, EOFError) as error:
        raise Refused(f"{path}: cannot be read ({error}); fetch it again") from error
    if len(found) != wanted:
        raise Refused(f"{path}: damaged, it does not hold the {shape[0]:,} it says; fetch it again")
    return np.frombuffer(found, np.uint8).reshape(shape)


def find(folder: Path) -> list[Part]:
    """The IDX pictures in `folder` by name, `*images*idx3*`, with the labels beside each.

    Where there is a `train` part, it alone: the other one is for tests. A file that lies there
    both plain and zipped is one.
    """
    there = sorted(path for path in folder.glob("*images*idx3*") if path.is_file())
    files = [path for path in there if path.suffix != ".gz" or path.with_suffix("") not in there]
    train = [path for path in files if path.name.startswith("train")]
    parts = []
    for path in train or files:
        twins = [
            folder / path.name.replace("images", "labels").replace("idx3", "idx1").removesuffix(end)
            for end in ("", ".gz")
        ]
        twins += [twin.with_name(f"{twin.name}.gz") for twin in twins]
        labels = next((twin for twin in twins if twin.is_file()), None)
        try:
            with _open(path) as file:
                count = _shape(file, path, 3)[0]
        except (OSError, EOFError) as error:
            raise Refused(f"{path}: cannot be read ({error}); fetch it again") from error
        if labels and len(read(labels, 1)) != count:
            raise Refused(f"{labels}: {len(read(labels, 1)):,} labels of {count:,} pictures")
        parts.append(Part(path, labels, count))
    return parts
