"""The range of values of pictures with more than 8 bits: which value is black and which is white.

Pillow opens 16-bit, 32-bit and float pictures as one channel of numbers, and nothing in the file
says which of them is white: a 12-bit scan in a 16-bit PNG holds 0 to 4,095. The range is found over
all pictures of a kind in a data set, not picture by picture, so that brightness stays comparable.
Nothing here imports torch.
"""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from gan.cache import map_in_processes
from gan.errors import Refused
from gan.readers import OpenPicture, Source

COLOUR = "16-bit colour"  # Pillow keeps the upper 8 of its bits
KINDS = {"I": "32-bit", "F": "float"}  # by Pillow's mode; all that begin with I;16 are 16-bit
BITS = (8, 10, 12, 14, 16)  # whose ranges are recognised
FLOATS = ((0.0, 1.0), (-1.0, 1.0))  # ranges of float pictures that are recognised
ROWS = 256  # of a picture that are converted at once
LEAST_COLOUR = 64  # of 255: below it 16-bit colour holds 14 bits or fewer, and loses most of them
SHALLOW = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp")  # suffixes: 8 bits at most

Ranges = Mapping[str, tuple[float, float]]  # kind -> the values that are black and white
NO_RANGES: Ranges = {}  # a plain dict: it is sent to the processes that decode


class Extrema(NamedTuple):
    """The kind of a deep picture, and its smallest and largest value."""

    kind: str
    low: float
    high: float


class NotFinite(ValueError):
    """A picture holds NaN or infinite values."""


def kind_of(image: Image.Image) -> str:
    """ "16-bit", "32-bit", "float" or COLOUR; "" for a picture of 8 bits. Decodes nothing."""
    if image.mode.startswith("I;16"):
        return "16-bit"
    if image.mode in ("RGB", "RGBA", "LA") and ";16" in repr(getattr(image, "tile", "")):
        return COLOUR
    return KINDS.get(image.mode, "")


def parse_range(text: str) -> tuple[float, float] | None:
    """LOW,HIGH or LOW:HIGH as two numbers, None for ""; raises Refused if they are none."""
    if not text:
        return None
    try:
        low, high = map(float, text.replace(":", ",").split(","))
        if -np.inf < low < high < np.inf:
            return low, high
    except ValueError:
        pass
    raise Refused(f"--value-range={text}: give LOW,HIGH, two numbers, as in --value-range=0,4095")


def choose(kind: str, low: float, high: float) -> tuple[float, float]:
    """The range that a set with values from `low` to `high` is read in.

    The smallest of 0..2**n - 1 for n in BITS, or of FLOATS, that holds them; else low..high.
    """
    whole = [(0.0, 2.0**bits - 1) for bits in BITS]
    for least, most in [*FLOATS, *whole] if kind == "float" else whole:
        if least <= low and high <= most:
            return least, most
    return low, max(high, low + 1)


def _describe(low: float, high: float) -> str:
    """ "12-bit", or the range itself."""
    bits = {(0.0, 2.0**bits - 1): f"{bits}-bit" for bits in BITS}
    return bits.get((low, high), f"{low:,g} to {high:,g}")


def extrema_of(image: Image.Image) -> Extrema | None:
    """The extrema of a deep picture; None for any other one, and for one that cannot be read."""
    kind = kind_of(image)
    if not kind:
        return None
    try:
        values = np.asarray(image)
    except MemoryError:
        raise
    except Exception:  # Pillow's plug-ins raise anything; decoding will say why it is skipped
        return None
    low, high = float(values.min()), float(values.max())
    return Extrema(kind, low, high) if np.isfinite([low, high]).all() else None


def _measure(open_picture: OpenPicture, name: str) -> Extrema | None:
    """The extrema of the picture of this name, None as `extrema_of`."""
    try:
        with open_picture(name, 0) as image:
            return extrema_of(image)
    except MemoryError:
        raise
    except Exception:
        return None


def range_of(kind: str, low: float, high: float) -> tuple[float, float]:
    """The range that pictures of a kind with these extrema are read in."""
    return (low, high) if kind == COLOUR else choose(kind, low, high)


def line_of(kind: str, count: int, low: float, high: float, used: tuple[float, float]) -> str:
    """One line: what was found and how it is read."""
    pictures = "picture holds" if count == 1 else "pictures hold"
    return (
        f"{count:,} {kind} {pictures} values {low:,g} to {high:,g}: read as {_describe(*used)}; "
        "--value-range=LOW,HIGH to set it"
    )


def find_ranges(
    source: Source, names: Sequence[str], workers: int, given: str = ""
) -> tuple[Ranges, list[str]]:
    """The range of each kind of deep pictures among `names`, and a line that says each.

    `given` is --value-range, "" to find them. Raises Refused if it is no range.
    """
    fixed = parse_range(given)
    if source.eight_bits:
        return NO_RANGES, []
    deep = [name for name in names if name[name.rfind(".") :].lower() not in SHALLOW]
    count: Counter[str] = Counter()
    found: dict[str, tuple[float, float]] = {}
    for extrema in map_in_processes(functools.partial(_measure, source.open), deep, workers):
        if extrema:
            kind, low, high = extrema
            count[kind] += 1
            before = found.get(kind, (low, high))
            found[kind] = min(low, before[0]), max(high, before[1])
    ranges, lines = {}, []
    for kind, (low, high) in found.items():
        ranges[kind] = fixed if fixed and kind != COLOUR else range_of(kind, low, high)
        if kind != COLOUR:
            lines.append(line_of(kind, count[kind], low, high, ranges[kind]))
    return ranges, lines


def to_8_bits(image: Image.Image, ranges: Ranges) -> Image.Image:
    """A picture of any depth as one of 8 bits, by the range of its kind.

    Raises ValueError for NaN and infinite values, for a kind that has no range, and for 16-bit
    colour of 14 bits or fewer.
    """
    kind = kind_of(image)
    if not kind:
        return image
    low, high = ranges.get(kind, (0.0, 0.0))
    if kind == COLOUR:
        if kind in ranges and high < LEAST_COLOUR:
            raise ValueError(
                "16-bit colour of 14 bits or fewer: only its upper 8 bits are read; save it as "
                "8-bit colour"
            )
        return image
    values = np.asarray(ImageOps.exif_transpose(image))
    if count := int((~np.isfinite(values)).sum()):
        raise NotFinite(f"NaN or infinite values, in {count:,} of {values.size:,} pixels")
    if kind not in ranges:
        raise ValueError(f"a {kind} picture whose suffix is of 8-bit ones; rename it")
    grey = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), ROWS):  # in float64, of which a large picture has no room
        rows = values[top : top + ROWS].astype(np.float64)
        grey[top : top + ROWS] = ((rows - low) / (high - low) * 255).clip(0, 255).round()
    return Image.fromarray(grey)
