"""Where the faces of a picture are: `DETECTORS`, each an optional package behind one function.

A detector takes an RGB picture and returns boxes. Nothing here imports torch.
"""

import ctypes
import functools
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from gan import processes
from gan.errors import Refused

LONGEST = 1024  # pixels: a larger picture is searched at this size
LEAST_FACE = 24  # pixels on a side of the smallest face that is looked for
OVERLAP = 0.3  # of two boxes, intersection over union, above which they are one face
NEIGHBOURS = 4  # hits that a face of a cascade needs
STEP = 1.08  # from one size that is searched to the next


class Box(NamedTuple):
    """A face, in pixels of the picture."""

    left: float
    top: float
    width: float
    height: float


Detector = Callable[[Image.Image], list[Box]]


class DetectorKind(NamedTuple):
    """A row of DETECTORS."""

    open: Callable[[], Detector]  # in the process that uses it; raises ImportError without it
    package: str  # what to install
    check: bool = False  # whether it must find the face of `draw_face` before it is believed


# --- cascades ------------------------------------------------------------------------------------


def open_cascade(file: str) -> Detector:
    """The detector of an OpenCV cascade (Viola & Jones 2001), Haar or LBP.

    Raises ImportError without OpenCV, and Refused if the file is no cascade.
    """
    import cv2

    if not hasattr(cv2, "CascadeClassifier"):
        raise ImportError("OpenCV 5 has no CascadeClassifier")
    cv2.setNumThreads(1)  # each process has its own pictures
    try:
        cascade = cv2.CascadeClassifier(file)
    except (cv2.error, SystemError):  # what it raises differs with its version
        cascade = cv2.CascadeClassifier()
    if cascade.empty():
        raise Refused(f"--cascade={file}: no cascade that OpenCV reads")

    def detect(picture: Image.Image) -> list[Box]:
        grey = cv2.equalizeHist(np.asarray(picture.convert("L")))
        found = cascade.detectMultiScale(grey, STEP, NEIGHBOURS, minSize=(LEAST_FACE, LEAST_FACE))
        return [Box(*map(float, box)) for box in found]

    return detect


def _open_photo() -> Detector:
    import cv2

    folder = Path(cv2.__file__).parent / "data"
    return open_cascade(str(folder / "haarcascade_frontalface_alt2.xml"))


# --- animeface -----------------------------------------------------------------------------------


class _Picture(ctypes.Structure):
    """Pillow's record of a picture as it was up to Pillow 11, which animeface 2.0.3 reads."""

    _fields_ = (
        ("mode", ctypes.c_char * 8),
        ("type", ctypes.c_int),
        ("depth", ctypes.c_int),
        ("bands", ctypes.c_int),
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("palette", ctypes.c_void_p),
        ("rows_of_bytes", ctypes.c_void_p),
        ("rows_of_pixels", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("block", ctypes.c_void_p),
        ("blocks", ctypes.c_void_p),
        ("pixel_bytes", ctypes.c_int),
        ("row_bytes", ctypes.c_int),
        ("destroy", ctypes.c_void_p),
    )


class _Holder(ctypes.Structure):
    """A Python object that holds such a record."""

    _fields_ = (
        ("references", ctypes.c_ssize_t),
        ("type", ctypes.c_void_p),
        ("picture", ctypes.c_void_p),
        ("access", ctypes.c_void_p),
    )


def _open_animeface() -> Detector:
    """nagadomi's detector of anime faces, with its weights, of the package animeface.

    Its native part reads the record of a picture inside Pillow, which Pillow 12 changed: with that
    it finds nothing, silently. So it is given a record of the old form made here.
    """
    from animeface import _nvxs

    def detect(picture: Image.Image) -> list[Box]:
        pixels = np.zeros((picture.height, picture.width, 4), np.uint8)
        pixels[..., :3] = np.asarray(picture.convert("RGB"))
        height, width = pixels.shape[:2]
        first = pixels.ctypes.data
        rows = (ctypes.c_void_p * height)(*range(first, first + pixels.nbytes, 4 * width))
        record = _Picture(mode=b"RGB", depth=8, bands=3, width=width, height=height, block=first)
        record.rows = record.rows_of_pixels = ctypes.addressof(rows)
        record.pixel_bytes, record.row_bytes = 4, 4 * width
        holder = _Holder(1000, id(object), ctypes.addressof(record))  # never freed by Python
        given = ctypes.cast(ctypes.addressof(holder), ctypes.py_object).value
        try:
            return [Box(*map(float, face["face_box"])) for face in _nvxs.detect(given)]
        finally:
            del given  # before what it points to

    return detect


# --- the table -----------------------------------------------------------------------------------

DETECTORS: dict[str, DetectorKind] = {
    "photo": DetectorKind(_open_photo, "opencv-python-headless<5"),
    "anime": DetectorKind(_open_animeface, "animeface==2.0.3", check=True),
}


def draw_face(size: int = 256) -> Image.Image:
    """A drawn face, to try a detector of drawn faces on: RGB, `size` pixels on a side."""
    scale = 4 * size / 256
    picture = Image.new("RGB", (4 * size, 4 * size), (200, 220, 240))
    draw = ImageDraw.Draw(picture)

    def at(*numbers: float) -> list[float]:
        return [scale * number for number in numbers]

    hair, skin, dark = (90, 60, 120), (250, 225, 205), (40, 20, 40)
    draw.ellipse(at(50, 30, 206, 230), hair)
    draw.polygon(at(78, 90, 178, 90, 176, 160, 128, 208, 80, 160), skin)
    draw.ellipse(at(76, 60, 180, 180), skin)
    fringe = (70, 110, 75, 50, 128, 35, 181, 50, 186, 110, 165, 85, 150, 110, 135, 80)
    draw.polygon(at(*fringe, 118, 112, 105, 82, 88, 112), hair)
    for x in (103, 153):
        draw.ellipse(at(x - 17, 118, x + 17, 156), "white")
        draw.ellipse(at(x - 13, 120, x + 13, 156), (70, 110, 190))
        draw.ellipse(at(x - 7, 128, x + 7, 150), (20, 20, 40))
        draw.ellipse(at(x - 8, 124, x, 133), "white")
        draw.line(at(x - 19, 122, x, 113, x + 19, 122), dark, round(4 * scale))
    draw.line(at(127, 163, 129, 168), (200, 150, 130), round(2 * scale))
    draw.line(at(120, 183, 128, 186, 136, 183), (170, 80, 80), round(2 * scale))
    return picture.resize((size, size), Image.Resampling.LANCZOS)


@functools.lru_cache(maxsize=2)
def open_detector(name: str, cascade: str) -> Detector:
    """The detector of a row of DETECTORS or, if one is given, of a cascade's file.

    Raises Refused if its package is missing.
    """
    kind = DETECTORS[name or "photo"]
    flag = f"--cascade={cascade}" if cascade else f"--detector={name}"
    package = DETECTORS["photo"].package if cascade else kind.package
    try:
        return open_cascade(cascade) if cascade else kind.open()
    except ImportError as error:
        raise Refused(f"{flag}: pip install '{package}' ({error}); it is an extra") from None


def _count_faces(name: str, cascade: str) -> int:
    return len(find_faces(open_detector(name, cascade), draw_face()))


def check_detector(name: str, cascade: str) -> None:
    """Raises Refused if a detector cannot be used.

    One that may silently find nothing has to find the face of `draw_face` first. It is tried in a
    process of its own, so that a fault in its native part ends that process only.
    """
    open_detector(name, cascade)
    if cascade or not DETECTORS[name].check:
        return
    with ProcessPoolExecutor(1, processes.context()) as pool:
        try:
            count = pool.submit(_count_faces, name, cascade).result()
        except BrokenProcessPool:
            count = 0
    if count != 1:
        raise Refused(
            f"--detector={name}: {DETECTORS[name].package} does not find a drawn face on this "
            "machine, so it would find none at all; use --cascade=FILE"
        )


# --- boxes ---------------------------------------------------------------------------------------


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    wide = min(a.left + a.width, b.left + b.width) - max(a.left, b.left)
    high = min(a.top + a.height, b.top + b.height) - max(a.top, b.top)
    both = max(wide, 0.0) * max(high, 0.0)
    return both / (a.width * a.height + b.width * b.height - both)


def find_faces(detector: Detector, picture: Image.Image) -> list[Box]:
    """The faces of a picture, the largest first, none twice; it is searched at LONGEST or less."""
    scale = max(picture.size) / LONGEST
    small = picture
    if scale > 1:
        small = picture.resize([max(1, round(side / scale)) for side in picture.size])
    boxes = [Box(*(max(scale, 1) * value for value in box)) for box in detector(small)]
    kept: list[Box] = []
    for box in sorted(boxes, key=lambda box: (-box.width * box.height, box)):
        if all(_overlap(box, other) < OVERLAP for other in kept):
            kept.append(box)
    return kept


def square_around(box: Box, margin: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The square around a face with `margin` (share of its side) on every side, in the picture.

    It is moved, and if it must be made smaller, to lie inside `size` (width, height).
    Returns left, top, right, bottom.
    """
    side = min(round(max(box.width, box.height) * (1 + 2 * margin)), *size)
    corner = []
    for start, length, limit in ((box.left, box.width, size[0]), (box.top, box.height, size[1])):
        corner.append(int(min(max(round(start + length / 2 - side / 2), 0), limit - side)))
    left, top = corner
    return left, top, left + side, top + side
