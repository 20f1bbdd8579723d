"""Small pictures and folders of them, for the tests of pairs and of their layout."""

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gan import pairs

Pixels = NDArray[np.uint8]
# what index.json of a cache says was understood, as text
OVERVIEW = (
    '{"pictures": 4, "folders": 2, "modes": {"RGB": 4}, "median": [32, 32], "smallest": [32, 32], '
    '"enlarged": 0, "values": []}'
)
SIZE, STORED = 32, 36  # 286 / 256 * 32 = 35.75


def noise(seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def solid(colour: Any, size: tuple[int, int] = (SIZE, SIZE), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, colour)


def side_by_side(a: Image.Image, b: Image.Image) -> Image.Image:
    """A left, B right."""
    both = Image.new(a.mode, (a.width + b.width, a.height))
    both.paste(a, (0, 0))
    both.paste(b, (a.width, 0))
    return both


def chw(image: Image.Image) -> Pixels:
    return np.asarray(image).transpose(2, 0, 1)


def save(root: Path, pictures: Mapping[str, Image.Image | str]) -> Path:
    """A folder of these pictures; a text is written as it is."""
    for name, picture in pictures.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(picture, str):
            (root / name).write_text(picture)
        else:
            picture.save(root / name)
    return root


def dated(root: Path) -> Path:
    """The folder, with all its files of one date: with bitmaps, the key of its cache is known."""
    for path in root.rglob("*.bmp"):
        os.utime(path, ns=(10**18, 10**18))
    return root


def zipped(folder: Path, file: Path, top: str = "") -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_file():
                archive.write(path, top + path.relative_to(folder).as_posix())
    return file


def opened(path: Path, cache: Path, *, paired: bool = True, **more: Any) -> pairs.PictureSet:
    channels = more.pop("channels", (3, 3))
    more = {"jitter": False, "workers": 1, **more}
    return pairs.open_pictures(paired, str(path), SIZE, *channels, cache=cache, **more)


CONVENTIONS: dict[str, Callable[[str, str], str]] = {
    # of part and side, the folder
    "A/train": lambda part, side: f"{side}/{part}",
    "train/A": lambda part, side: f"{part}/{side}",
    "trainA": lambda part, side: f"{part}{side}",
    "TRAIN_a": lambda part, side: f"{part.upper()}_{side.lower()}",
}


def as_pairs(root: Path, convention: str) -> Path:
    """Six pairs to train on and two to score with, the same in every convention."""
    for i in range(8):
        part, a, b = "train" if i < 6 else "test", noise(i), noise(100 + i)
        if convention == "side by side":
            save(root, {f"{part}/{i}.png": side_by_side(a, b)})
        else:
            folder = CONVENTIONS[convention]
            save(root, {f"{folder(part, 'A')}/{i}.png": a, f"{folder(part, 'B')}/{i}.bmp": b})
    return root
