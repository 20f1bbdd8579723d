"""How many faces the detectors of `prepare` find on canvases larger than the face.

    python benchmarks/faces.py ANIME_ZIP [CASCADE]

Faces of 128 pixels are pasted at random places, at 0.7 to 1.8 times their size, on 400 canvases of
320 to 900 pixels in the colours of another picture. Each detector, or CASCADE, searches them all.
"""

import io
import time
import zipfile
from collections.abc import Iterator

import common
import numpy as np
from PIL import Image

from gan import detect

COUNT = 400
QUALITY = 92  # of the canvases, as JPEG


def canvases(anime: str) -> Iterator[tuple[Image.Image, tuple[int, int, int]]]:
    """Each canvas, and left, top and side of the face on it."""
    random = np.random.default_rng(1)
    with zipfile.ZipFile(anime) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        faces = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    for i in range(COUNT):
        size = (int(random.integers(320, 900)), int(random.integers(320, 900)))
        other = faces[(3 * i + 1) % len(faces)].resize((8, 8), Image.Resampling.BOX)
        canvas = other.resize(size, Image.Resampling.BICUBIC)
        side = min(int(128 * random.uniform(0.7, 1.8)), *size)
        left, top = (int(random.integers(0, length - side + 1)) for length in size)
        face = faces[3 * i % len(faces)].resize((side, side), Image.Resampling.BICUBIC)
        canvas.paste(face, (left, top))
        file = io.BytesIO()
        canvas.save(file, "JPEG", quality=QUALITY)
        yield Image.open(file), (left, top, side)


def show(anime: str, name: str, cascade: str) -> None:
    detector = detect.open_detector(name, cascade)
    some = right = others = 0
    spent = 0.0
    for canvas, (left, top, side) in canvases(anime):
        began = time.perf_counter()
        boxes = detect.find_faces(detector, canvas)
        spent += time.perf_counter() - began
        hits = [
            box
            for box in boxes
            if left <= box.left + box.width / 2 <= left + side
            and top <= box.top + box.height / 2 <= top + side
        ]
        some, right, others = (
            some + bool(boxes),
            right + bool(hits),
            others + len(boxes) - bool(hits),
        )
    milliseconds = f"{1000 * spent / COUNT:.0f}"
    common.print_row([cascade or name, COUNT, some, right, others, milliseconds])


def main(anime: str, cascade: str = "") -> None:
    common.print_header(
        ["detector", "pictures", "with a face", "with that face", "other boxes", "ms a picture"]
    )
    for name in [""] if cascade else detect.DETECTORS:
        show(anime, name, cascade)


if __name__ == "__main__":
    common.run(main)
