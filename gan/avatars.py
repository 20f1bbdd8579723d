"""The embedded default data set: cartoon faces drawn from vector parts.

Style "Adventurer" by Lisa Wischofsky, CC BY 4.0, by way of the packages dicebear-core and
dicebear-styles; rasterised by resvg-py. The face of an index is always the same.
"""

import functools
import io
import json
from importlib import metadata, resources

import numpy as np
import resvg_py
from dicebear import Avatar, Style
from numpy.typing import NDArray
from PIL import Image

COUNT = 4096
# The five backgrounds DiceBear's own gallery shows the style on.
BACKGROUNDS = ["b6e3f4", "c0aede", "d1d4f9", "ffd5dc", "ffdfbf"]


@functools.cache
def _style() -> Style:
    text = resources.files("dicebear_styles").joinpath("adventurer.json").read_text("utf-8")
    return Style(json.loads(text))


def version() -> str:
    """What the look of the faces depends on, for the key of the cache."""
    packages = ("dicebear-core", "dicebear-styles", "resvg-py")
    return " ".join(f"{package} {metadata.version(package)}" for package in packages)


def portrait(index: int, size: int) -> Image.Image:
    """Face number `index`, `size` pixels on a side, RGB."""
    avatar = Avatar(_style(), {"seed": f"face {index}", "backgroundColor": BACKGROUNDS})
    png = resvg_py.svg_to_bytes(
        svg_string=avatar.to_string(), width=size, height=size, skip_system_fonts=True
    )
    return Image.open(io.BytesIO(png)).convert("RGB")


def draw(start: int, count: int, size: int) -> NDArray[np.uint8]:
    """Faces `start` to `start + count - 1` as uint8 [count, 3, size, size]."""
    faces = [np.asarray(portrait(start + i, size)) for i in range(count)]
    return np.stack(faces).transpose(0, 3, 1, 2)
