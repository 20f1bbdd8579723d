"""The embedded data sets: cartoon faces, rendered from vector parts.

The default is of all parts. "simple-avatars" has fewer, and none that is small or stands off the
head: a G gets them right in less time, so they are what `make faces` shows.

Style "Adventurer" by Lisa Wischofsky, CC BY 4.0, by way of the packages dicebear-core and
dicebear-styles; rasterised by resvg-py. The face of an index is always the same.
"""

import functools
import io
import json
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path

import numpy as np
import resvg_py
from dicebear import Avatar, Style
from numpy.typing import NDArray
from PIL import Image

from gan.readers import Source

COUNT = 4096
# The five backgrounds DiceBear's own gallery shows the style on.
BACKGROUNDS = ["b6e3f4", "c0aede", "d1d4f9", "ffd5dc", "ffdfbf"]
SIMPLE = "simple-avatars"  # what --data-path calls them
SIMPLE_PARTS: dict[str, object] = {
    "hairVariant": [
        "long01", "long05", "long07", "short04", "short10", "short11",
    ],
    "mouthVariant": [f"variant{number:02}" for number in (1, 5, 23, 27, 30)],
    "eyesVariant": [f"variant{number:02}" for number in (1, 2, 3, 24, 25, 26)],
    "eyebrowsVariant": [f"variant{number:02}" for number in (2, 4, 7, 9, 11, 13)],
    "detailsProbability": 0,
    "earringsProbability": 0,
    "glassesProbability": 0,
}  # fmt: skip


@functools.cache
def load_style(name: str) -> Style:
    """A style of the package dicebear-styles."""
    text = resources.files("dicebear_styles").joinpath(f"{name}.json").read_text("utf-8")
    return Style(json.loads(text))


def version() -> str:
    """The versions of the packages that the look of the faces depends on."""
    packages = ("dicebear-core", "dicebear-styles", "resvg-py")
    return " ".join(f"{package} {metadata.version(package)}" for package in packages)


def draw(style: Style, index: int, size: int, parts: Mapping[str, object]) -> Image.Image:
    """Face number `index` of a style, RGB, `size` pixels on a side, of these parts alone."""
    avatar = Avatar(style, {"seed": f"face {index}", "backgroundColor": BACKGROUNDS, **parts})
    png = resvg_py.svg_to_bytes(
        svg_string=avatar.to_string(), width=size, height=size, skip_system_fonts=True
    )
    return Image.open(io.BytesIO(png)).convert("RGB")


def render_one(index: int, size: int, simple: bool = False) -> Image.Image:
    """Face number `index`, RGB, `size` pixels on a side; `simple`: of SIMPLE_PARTS alone."""
    return draw(load_style("adventurer"), index, size, SIMPLE_PARTS if simple else {})


def render(start: int, count: int, size: int) -> NDArray[np.uint8]:
    """Faces `start` to `start + count - 1`: uint8 [count, 3, size, size]."""
    faces = [np.asarray(render_one(start + i, size)) for i in range(count)]
    return np.stack(faces).transpose(0, 3, 1, 2)


def matches(data_path: str) -> bool:
    """Whether no path is given, or the name of the simple ones, which no file has."""
    return not data_path or (data_path == SIMPLE and not Path(data_path).exists())


def _open(name: str, size: int) -> Image.Image:
    kind, index = name.rsplit(" ", 1)
    return render_one(int(index), size, kind.startswith("simple"))


def open_source(data_path: str, flag: str) -> Source:
    """All COUNT faces, each rendered at the size asked for."""
    kind = "simple avatar" if data_path else "avatar"
    names = [f"{kind} {index:05}" for index in range(COUNT)]
    stamp = f"{version()} {SIMPLE_PARTS}" if data_path else version()
    return Source(f"{kind}s", names, stamp, _open, eight_bits=True)
