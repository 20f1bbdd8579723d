"""A folder of 500 faces made hostile: whatever people have, and `prepare` has to find its way in.

    python benchmarks/hostile.py FOLDER [ZIP_OF_FACES]
    python main.py prepare --data-path=FOLDER --out=OUT --crop=center --img-size=96
    python benchmarks/screenshots.py prepare=OUT.html

Without a zip, of which the first 500 pictures are taken, they are 128-pixel avatars.
"""

import io
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import common
import numpy as np
from PIL import Image, ImageOps

from gan import avatars

COUNT, SIDE = 500, 128
QUALITY = 92  # of JPEG


class Faces:
    """500 faces, handed out one after the other."""

    def __init__(self, archive: str) -> None:
        self.archive, self.next = archive, 0
        if archive:
            with zipfile.ZipFile(archive) as opened:
                names = sorted(n for n in opened.namelist() if n.endswith((".jpg", ".png")))
                self.files = [opened.read(name) for name in names[:COUNT]]

    def face(self, index: int) -> Image.Image:
        if self.archive:
            return Image.open(io.BytesIO(self.files[index])).convert("RGB")
        return avatars.render_one(index, SIDE)

    def take(self, count: int = 1) -> list[Image.Image]:
        self.next += count
        return [self.face(index) for index in range(self.next - count, self.next)]

    def grey(self, count: int = 1) -> "list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]":
        return [np.asarray(face.convert("L"), np.float64) for face in self.take(count)]


def jpeg(face: Image.Image) -> bytes:
    file = io.BytesIO()
    face.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def write_zip(path: Path, form: str, faces: Iterable[Image.Image]) -> None:
    """Names by `form`, of the class and a number; a backslash in it stays one."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, face in enumerate(faces):
            entry = zipfile.ZipInfo()
            entry.filename = form.format("cat" if number % 2 else "dog", number)
            archive.writestr(entry, jpeg(face))


def write_archives_and_folders(folder: Path, faces: Faces) -> None:
    """Zips made on other systems, split folders with classes, a long name, pairs of one stem."""
    write_zip(folder / "top.zip", "faces/{}/{}.jpg", faces.take(20))
    with zipfile.ZipFile(folder / "top.zip", "a") as archive:
        archive.writestr("__MACOSX/faces/cat/._1.jpg", b"x")
    write_zip(folder / "windows.zip", "{}\\{}.jpg", faces.take(20))
    for number, face in enumerate(faces.take(20)):
        part, kind = ("val", "train")[number % 5 > 0], ("dog", "cat")[number % 2]
        place = folder / part / kind
        place.mkdir(parents=True, exist_ok=True)
        face.save(place / f"{number}.jpg", quality=QUALITY)
    place = folder / ("动" * 80)
    place.mkdir()
    faces.take()[0].save(place / "long.jpg", quality=QUALITY)
    for number, face in enumerate(faces.take(5)):
        face.save(folder / f"base{number}.jpg", quality=QUALITY)
        face.quantize(12).save(folder / f"base{number}.png")
        (folder / f"base{number}.xml").write_text("<x/>")


def write_deep(folder: Path, faces: Faces) -> None:
    """More than 8 bits: 12 bits in 16, computed tomography, floats, one pixel that is no number."""
    folder.mkdir()
    for number, grey in enumerate(faces.grey(10)):
        Image.fromarray((16 * grey).astype(np.uint16)).save(folder / f"12bit{number}.png")
    for number, grey in enumerate(faces.grey(5)):
        Image.fromarray((16 * grey - 1024).astype(np.int32)).save(folder / f"ct{number}.tif")
    for number, grey in enumerate(faces.grey(5)):
        values = (grey / 127.5 - 1).astype(np.float32)
        Image.fromarray(values).save(folder / f"float{number}.tif")
    values = (faces.grey()[0] / 255).astype(np.float32)
    values[3, 3] = np.nan
    Image.fromarray(values).save(folder / "nan.tif")


def write_films(folder: Path, faces: Faces) -> None:
    """A clip in which nothing moves, and one of three faces."""
    still, random = faces.take()[0], np.random.default_rng(0)
    frames = [
        Image.fromarray((np.asarray(still) + random.integers(-1, 2, (SIDE, SIDE, 3))).clip(0, 255)
                        .astype(np.uint8))
        for _ in range(30)
    ]  # fmt: skip
    still.save(folder / "still.gif", save_all=True, append_images=frames, duration=1000)
    first, *others = faces.take(3)
    first.save(folder / "moving.webp", save_all=True, append_images=others, duration=1000)


def write_bad(folder: Path, faces: Faces) -> None:
    """Broken, empty, mistaken, huge, plain, wide, small, and with bars above and below."""
    folder.mkdir()
    whole = jpeg(faces.take()[0])
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "zero.png").touch()
    (folder / "page.jpg").write_text("<!DOCTYPE html><p>404")
    Image.new("1", (10_001, 10_000)).save(folder / "bomb.png")
    Image.new("RGB", (SIDE, SIDE), "tan").save(folder / "plain.png")
    png, wide, small, little, boxed = faces.take(5)
    png.save(folder / "really-png.jpg", "PNG")
    wide.resize((500, 120)).save(folder / "wide.png")
    small.resize((40, 40)).save(folder / "small.png")
    little.resize((60, 60)).save(folder / "little.png")
    canvas = Image.new("RGB", (SIDE, SIDE + 48), "black")
    canvas.paste(boxed, (0, 24))
    canvas.save(folder / "letterbox.png")


def write_likes(folder: Path, faces: Faces) -> None:
    """Of the first 15 faces a mirrored and a recompressed copy; five more in other colours."""
    folder.mkdir()
    for number in range(15):
        face = faces.face(number)
        ImageOps.mirror(face).save(folder / f"mirrored{number}.jpg", quality=85)
        face.save(folder / f"smaller{number}.webp", quality=70)
    for number in range(15, 20):
        swapped = Image.merge("RGB", faces.face(number).split()[::-1])
        swapped.save(folder / f"recoloured{number}.png")


def main(folder: str = "", archive: str = "") -> None:
    if not folder:
        sys.exit(__doc__)
    root, faces = Path(folder), Faces(archive)
    root.mkdir(parents=True)
    write_archives_and_folders(root, faces)
    write_deep(root / "deep", faces)
    write_films(root, faces)
    write_bad(root / "bad", faces)
    write_likes(root / "likes", faces)
    faces.take()[0].save(root / "stray.jpg", quality=QUALITY)
    (root / "faces").mkdir()
    for number, face in enumerate(faces.take(COUNT - faces.next)):
        face.save(root / "faces" / f"{number:03}.jpg", quality=QUALITY)


if __name__ == "__main__":
    common.run(main)
