"""What one picture is worth to a data set: its faults, and the pictures that are cut out of it.

Pure functions of a picture; nothing here reads files or imports torch.
"""

import io
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from gan import detect, split
from gan.data import to_rgb
from gan.depth import NO_RANGES, NotFinite, Ranges, kind_of
from gan.readers import FORMATS

MOST_PIXELS = 100_000_000  # of a picture: a larger one is a decompression bomb, or a map
MOST_ASPECT = 3.0  # longer side by the shorter one: of more, a square shows a small part
MOST_ENLARGED = 1.5  # times: of more, a picture is blurred
LEAST_SPREAD = 3.0  # standard deviation, of 255, below which a picture shows nothing
QUALITY = 95  # of JPEG
EFFORT = 3  # of compressing PNG: twice as fast as the usual 6, files 3 % larger
THUMB = 64  # pixels on a side of what near-duplicates are found by
# bars
SAMPLES = 128  # pixels of a line that are looked at
LEAST_BAR, MOST_BAR = 0.03, 0.4  # shares of the side
UNEVEN = 0.2  # share of both by which bars at the sides may differ
NEAR = 16  # of 255: how far a pixel of a bar may be from the bar's colour
PLAIN, TEXT, PICTURE = 0.9, 0.5, 0.35  # shares of such pixels in a line of each

CROPS = ("faces", "center", "none")
OPTIONS: dict[str, dict[str, int]] = {
    "png": {"compress_level": EFFORT},
    "jpg": {"quality": QUALITY},
    "webp": {"lossless": True},
}
KINDS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}  # suffix of what is written: Pillow's name

# kinds of faults
EMPTY = "empty file"
DAMAGED = "truncated or damaged"
NO_PICTURE = "no picture"
VALUES = "NaN or infinite values"
BOMB = "decompression bomb"
CONSTANT = "near-constant"
ASPECT = "extreme aspect"
SMALL = "too small"
BLURRED = "enlarged too much"
NO_FACE = "no face found"
# kinds of notes
SUFFIX = "wrong suffix"
ANIMATED = "animated"
BARS = "bars"
TRIMMED = "bars cut off"
SEVERAL = "several faces"
DEEP = "more than 8 bits"

Note = tuple[str, str]  # kind, detail
Pixels = NDArray[np.uint8]


class Unusable(Exception):
    """A file that holds no picture: kind and detail."""


@dataclass(frozen=True)
class Treatment:
    """What is done to every picture."""

    crop: str  # one of CROPS
    size: int  # pixels on a side of what is written; 0: as it is
    trim: bool
    margin: float  # around a face, share of its side
    suffix: str  # one of KINDS
    detector: str = ""
    cascade: str = ""


class Made(NamedTuple):
    """A picture that was made of another one."""

    face: int  # 1 for the second face of a picture, and so on
    side: int  # pixels of the shorter side, before it was resized
    size: tuple[int, int]  # of the whole picture, width and height
    fault: Note | None
    notes: list[Note]
    suffix: str
    data: bytes
    signature: bytes


# --- opening -------------------------------------------------------------------------------------


def _what_it_is(data: bytes) -> str:
    """What a file that is no picture begins like."""
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if start.startswith(b"<?xml") or start.startswith(b"<svg"):
        return "XML"
    try:
        data[:512].decode("utf-8")
    except UnicodeDecodeError:
        return "bytes of another kind"
    return "text"


def open_picture(data: bytes) -> Image.Image:
    """The picture in `data`, not yet decoded; raises Unusable if there is none."""
    if not data:
        raise Unusable(EMPTY, "0 bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise Unusable(NO_PICTURE, _what_it_is(data)) from None
    except Image.DecompressionBombError:
        raise Unusable(BOMB, "far more pixels than any photograph") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plug-ins raise anything for a damaged file
        raise Unusable(DAMAGED, _line(error)) from None
    if picture.width * picture.height > MOST_PIXELS:
        raise Unusable(BOMB, f"{picture.width:,} x {picture.height:,} pixels")
    return picture


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def decode(picture: Image.Image, ranges: Ranges = NO_RANGES) -> Image.Image:
    """The picture as upright RGB of 8 bits; raises Unusable if it is damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return to_rgb(picture, ranges)
    except MemoryError:
        raise
    except NotFinite as error:
        raise Unusable(VALUES, str(error)) from None
    except Exception as error:
        raise Unusable(DAMAGED, _line(error)) from None


def suffix_note(name: str, picture: Image.Image) -> list[Note]:
    """A note if the suffix of `name` is that of another format, or of none."""
    Image.init()
    suffix = name[name.rfind(".") :].lower() if "." in name.rpartition("/")[2] else ""
    said = Image.registered_extensions().get(suffix)
    found = str(picture.format)
    same = {"MPO": "JPEG", "APNG": "PNG", "DIB": "BMP"}
    if same.get(found, found) == same.get(str(said), said):
        return []
    return [(SUFFIX, f"{found} named {suffix or 'without a suffix'}")]


# --- what it shows -------------------------------------------------------------------------------


def _bar(near: NDArray[np.float64]) -> int:
    """Lines of a bar at the start, where `near` [n] is the share of each line in its colour; or 0.

    A bar begins plain, may hold text, is plain again, and ends in one straight line: at the next
    line the picture begins all along. A plain background ends gradually, at hair and shoulders.
    """
    count = len(near)
    if near[0] < PLAIN:
        return 0
    end = int(np.argmax(near < TEXT)) if (near < TEXT).any() else count
    if not LEAST_BAR * count <= end <= MOST_BAR * count:
        return 0
    plain = near[max(0, end - 4) : end - 1]
    starts = near[end : end + 3].min() <= PICTURE
    return end if starts and len(plain) and plain.min() >= PLAIN else 0


def _bars_along(pixels: Pixels) -> tuple[int, int]:
    """Lines of the bars at the start and at the end of axis 0."""

    def shares(lines: Pixels, colour: NDArray[np.int16]) -> NDArray[np.float64]:
        return (np.abs(lines.astype(np.int16) - colour).max(2) <= NEAR).mean(1)

    found = []
    for lines in (pixels, pixels[::-1]):
        colour = np.median(lines[0], 0).round().astype(np.int16)
        plain = shares(lines[:1], colour)[0] >= PLAIN  # of most pictures the first line is not
        found.append(_bar(shares(lines, colour)) if plain else 0)
    return found[0], found[1]


def find_bars(picture: Image.Image) -> tuple[int, int, int, int]:
    """Pixels of plain bars, with or without text, at the left, top, right and bottom.

    Those at the sides come in pairs, of about equal width.
    """
    pixels = np.asarray(picture)
    if min(pixels.shape[:2]) < 8:
        return 0, 0, 0, 0
    down, across = (max(1, side // SAMPLES) for side in pixels.shape[:2])
    top, bottom = _bars_along(pixels[:, ::across])
    inside = pixels[top : len(pixels) - bottom : down]
    left, right = _bars_along(inside.swapaxes(0, 1))
    if abs(left - right) > UNEVEN * (left + right):  # a door post, a curtain
        left = right = 0
    return left, top, right, bottom


def _spread(picture: Image.Image) -> float:
    """The standard deviation of the liveliest channel, 0..255."""
    small = picture.resize((THUMB, THUMB), Image.Resampling.BOX)
    return float(np.asarray(small, dtype=np.float64).std((0, 1)).max())


def fault_of(picture: Image.Image) -> Note | None:
    """What is wrong with what a whole picture shows, if anything."""
    if (spread := _spread(picture)) < LEAST_SPREAD:
        return CONSTANT, f"standard deviation {spread:.1f} of 255"
    width, height = picture.size
    if max(width, height) > MOST_ASPECT * min(width, height):
        return ASPECT, f"{width:,} x {height:,}"
    return None


def size_fault(side: int, least: int, size: int) -> Note | None:
    """Why a picture with a shorter side of `side` pixels is too small, if it is."""
    if side < least:
        return SMALL, f"{side} pixels"
    if size > MOST_ENLARGED * side:
        return BLURRED, f"{side} pixels, {size / side:.1f} times"
    return None


# --- what is made of it --------------------------------------------------------------------------


def signature_of(picture: Image.Image) -> bytes:
    """What near-duplicates are found by: the bytes of `split.signatures`."""
    small = ImageOps.fit(picture, (THUMB, THUMB), Image.Resampling.BOX)
    return split.signatures(np.asarray(small).transpose(2, 0, 1)[None])[0].tobytes()


def _encode(picture: Image.Image, suffix: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, KINDS[suffix], **OPTIONS[suffix])
    return file.getvalue()


def _squares(
    picture: Image.Image, treatment: Treatment
) -> tuple[list[Image.Image], list[Note], Note | None]:
    """What is cut out of a picture; notes; and a fault if there is no face."""
    width, height = picture.size
    fault = None
    if treatment.crop == "none":
        return [picture], [], None
    if treatment.crop == "faces":
        detector = detect.open_detector(treatment.detector, treatment.cascade)
        boxes = detect.find_faces(detector, picture)
        if boxes:
            squares = [detect.square_around(box, treatment.margin, picture.size) for box in boxes]
            notes = [(SEVERAL, f"{len(boxes)}")] if len(boxes) > 1 else []
            return [picture.crop(square) for square in squares], notes, None
        fault = NO_FACE, "the centre is kept if it is in --keep"
    if width == height:
        return [picture], [], fault
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return [picture.crop((left, top, left + side, top + side))], [], fault


def _resized(picture: Image.Image, size: int) -> Image.Image:
    """The picture with a shorter side of `size`; of a square, both."""
    scale = size / min(picture.size)
    shape = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(shape, Image.Resampling.BICUBIC)


def make(picture: Image.Image, treatment: Treatment, original: tuple[bytes, str]) -> list[Made]:
    """All that is made of an upright RGB picture.

    `original` are the bytes that it was decoded from and their suffix; they are kept as they are
    where nothing changes. ("" if they are no picture file of KINDS.)
    """
    whole, fault = picture, fault_of(picture)
    notes: list[Note] = []
    left, top, right, bottom = find_bars(picture) if fault is None else (0, 0, 0, 0)
    if left or top or right or bottom:
        detail = f"left {left}, top {top}, right {right}, bottom {bottom} pixels"
        notes.append((TRIMMED if treatment.trim else BARS, detail))
        if treatment.trim:
            picture = picture.crop((left, top, picture.width - right, picture.height - bottom))
    squares, more, no_face = _squares(picture, treatment)
    made = []
    for index, square in enumerate(squares):
        side = min(square.size)
        if treatment.size not in (0, side) and (treatment.crop != "none" or side > treatment.size):
            square = _resized(square, treatment.size)
        data, suffix = original
        if square is not whole or not suffix:
            data, suffix = _encode(square, treatment.suffix), treatment.suffix
        signature = signature_of(square)
        made.append(
            Made(index, side, whole.size, fault or no_face, notes + more, suffix, data, signature)
        )
    return made


def keeps_bytes(picture: Image.Image) -> str:
    """The suffix under which the bytes of a picture can be kept as they are; "" if they cannot."""
    kept = {kind: suffix for suffix, kind in KINDS.items()}.get(str(picture.format), "")
    upright = picture.getexif().get(0x0112, 1) == 1
    plain = picture.mode in ("RGB", "L") and not kind_of(picture)
    return kept if upright and plain else ""
