"""The embedded default data set: cartoon faces, rendered from vector parts.

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

from gan.readers import Source

COUNT = 4096
# The five backgrounds DiceBear's own gallery shows the style on.
BACKGROUNDS = ["b6e3f4", "c0aede", "d1d4f9", "ffd5dc", "ffdfbf"]


@functools.cache
def _style() -> Style:
    text = resources.files("dicebear_styles").joinpath("adventurer.json").read_text("utf-8")
    return Style(json.loads(text))


def version() -> str:
    """The versions of the packages that the look of the faces depends on."""
    packages = ("dicebear-core", "dicebear-styles", "resvg-py")
    return " ".join(f"{package} {metadata.version(package)}" for package in packages)


def render_one(index: int, size: int) -> Image.Image:
    """Face number `index`, RGB, `size` pixels on a side."""
    avatar = Avatar(_style(), {"seed": f"face {index}", "backgroundColor": BACKGROUNDS})
    png = resvg_py.svg_to_bytes(
        svg_string=avatar.to_string(), width=size, height=size, skip_system_fonts=True
    )
    return Image.open(io.BytesIO(png)).convert("RGB")


def render(start: int, count: int, size: int) -> NDArray[np.uint8]:
    """Faces `start` to `start + count - 1`: uint8 [count, 3, size, size]."""
    faces = [np.asarray(render_one(start + i, size)) for i in range(count)]
    return np.stack(faces).transpose(0, 3, 1, 2)


def matches(data_path: str) -> bool:
    """Whether no path is given: then the data are the avatars."""
    return not data_path


def _open(name: str, size: int) -> Image.Image:
    return render_one(int(name.split()[1]), size)


def open_source(data_path: str, flag: str) -> Source:
    """All COUNT faces, each rendered at the size asked for."""
    names = [f"avatar {index:05}" for index in range(COUNT)]
    return Source("avatars", names, version(), _open, eight_bits=True)
