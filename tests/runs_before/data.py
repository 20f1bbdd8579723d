"""The pictures of the runs in this folder, from whole numbers alone: every machine has the same."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = 28  # pixels on a side that the runs were trained at
STORED = 31  # of a picture that is jittered: round(286 / 256 * 28)
BLOCK = 4  # pixels on a side of a patch of one colour
COUNT = 34  # images: four batches of 8 and two that every epoch drops
PAIRS = {"trainA": 18, "trainB": 18, "testA": 8, "testB": 8}
TWO_FOLDERS = {**PAIRS, "trainB": 14}


def pixels(index: int, size: int, channels: int) -> NDArray[np.uint8]:
    """Picture `index`: patches of colours that are a hash of (index, row, column, channel)."""
    at = np.arange(size, dtype=np.uint64) // np.uint64(BLOCK)
    row, column = at[:, None, None], at[None, :, None]
    channel = np.arange(channels, dtype=np.uint64)
    mixed = ((np.uint64(index) * np.uint64(97) + row) * np.uint64(89) + column) * np.uint64(83)
    mixed = (mixed + channel + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(56)).astype(np.uint8)


def save(path: Path, index: int, size: int, channels: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    found = pixels(index, size, channels)
    Image.fromarray(found[..., 0] if channels == 1 else found).save(path)


def write(kind: str, channels: int, folder: Path) -> None:
    """A data set in `folder`: "images", "classes", "pairs" or "two folders".

    At the very size that is trained at, so that decoding leaves every pixel as it is.
    """
    if kind in ("images", "classes"):
        for index in range(COUNT):
            part = f"{'first' if index % 3 else 'second'}/" if kind == "classes" else ""
            save(folder / f"{part}{index:02}.png", index, SIZE, channels)
        return
    for place, (part, count) in enumerate((PAIRS if kind == "pairs" else TWO_FOLDERS).items()):
        for index in range(count):
            size = STORED if part.startswith("train") else SIZE
            save(folder / part / f"{index:02}.png", 100 * (place + 1) + index, size, channels)
