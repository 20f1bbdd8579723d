"""Bars, faults and the squares around faces; the detectors themselves on a drawn face."""

import numpy as np
import pytest
from picture_files import noise
from PIL import Image, ImageDraw

from gan import detect, examine
from gan.detect import Box, DetectorKind
from gan.errors import Refused


def smooth(seed: int, size: tuple[int, int]) -> Image.Image:
    return noise(seed, (6, 6)).resize(size, Image.Resampling.BICUBIC)


def boxed(picture: Image.Image, bars: tuple[int, int, int, int], colour: str) -> Image.Image:
    """The picture with bars at the left, top, right and bottom."""
    left, top, right, bottom = bars
    size = (picture.width + left + right, picture.height + top + bottom)
    whole = Image.new("RGB", size, colour)
    whole.paste(picture, (left, top))
    return whole


@pytest.mark.parametrize("colour", ["black", "white", "#203040"])
@pytest.mark.parametrize("bars", [(0, 20, 0, 20), (30, 0, 30, 0), (12, 16, 12, 16), (0, 0, 0, 24)])
def test_bars_are_found(bars: tuple[int, int, int, int], colour: str) -> None:
    picture = smooth(3, (140, 120))
    assert examine.find_bars(boxed(picture, bars, colour)) == bars
    assert examine.find_bars(picture) == (0, 0, 0, 0)


def test_a_bar_may_hold_text() -> None:
    picture = boxed(smooth(3, (160, 120)), (0, 0, 0, 32), "white")
    ImageDraw.Draw(picture).text((20, 130), "www.example.org", fill="black")
    assert examine.find_bars(picture) == (0, 0, 0, 32)


def test_a_plain_background_is_no_bar() -> None:
    face = detect.draw_face(128)  # on a plain background, which ends at the hair
    assert examine.find_bars(face) == (0, 0, 0, 0)
    post = boxed(smooth(3, (140, 120)), (18, 0, 0, 0), "tan")  # one side alone: a door post
    assert examine.find_bars(post) == (0, 0, 0, 0)


def treatment(**changes: object) -> examine.Treatment:
    known = {"crop": "none", "size": 0, "trim": False, "margin": 0.25, "suffix": "png"}
    return examine.Treatment(**{**known, **changes})  # type: ignore[arg-type]


def test_bars_are_cut_off_where_asked() -> None:
    inside = smooth(3, (140, 120))
    picture = boxed(inside, (0, 20, 0, 20), "black")
    (kept,) = examine.make(picture, treatment(), (b"bytes", "png"))
    assert (kept.data, kept.side, kept.notes[0][0]) == (b"bytes", 140, "bars")
    (cut,) = examine.make(picture, treatment(trim=True), (b"bytes", "png"))
    assert cut.notes == [("bars cut off", "left 0, top 20, right 0, bottom 20 pixels")]
    with examine.open_picture(cut.data) as made:
        assert np.array_equal(np.asarray(made), np.asarray(inside))


def test_faults_of_size() -> None:
    assert examine.size_fault(47, 48, 0) == ("too small", "47 pixels")
    assert examine.size_fault(48, 48, 72) is None
    assert examine.size_fault(48, 48, 73) == ("enlarged too much", "48 pixels, 1.5 times")


# --- faces ---------------------------------------------------------------------------------------


def test_the_square_around_a_face() -> None:
    around = detect.square_around
    assert around(Box(40, 50, 20, 20), 0.25, (200, 200)) == (35, 45, 65, 75)
    assert around(Box(0, 0, 20, 20), 0.25, (200, 200)) == (0, 0, 30, 30)  # moved to lie inside
    assert around(Box(190, 190, 20, 20), 0.25, (200, 200)) == (170, 170, 200, 200)
    assert around(Box(10, 5, 90, 90), 1.0, (120, 100)) == (5, 0, 105, 100)  # made smaller
    assert around(Box(40, 50, 10, 20), 0.0, (200, 200)) == (35, 50, 55, 70)  # of the longer side


def test_faces_are_cut_out_the_largest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = [Box(10, 10, 20, 20), Box(100, 40, 40, 40), Box(102, 41, 38, 38)]
    row = DetectorKind(lambda: lambda picture: boxes, "none")
    monkeypatch.setitem(detect.DETECTORS, "test", row)
    picture = smooth(5, (200, 120))
    made = examine.make(picture, treatment(crop="faces", detector="test"), (b"", ""))
    assert [(one.face, one.side) for one in made] == [(0, 60), (1, 30)]  # the third is the second
    assert made[0].notes == [("several faces", "2")]
    with examine.open_picture(made[0].data) as face:
        assert np.array_equal(np.asarray(face), np.asarray(picture)[30:90, 90:150])
    boxes.clear()
    (none,) = examine.make(picture, treatment(crop="faces", detector="test"), (b"", ""))
    assert none.fault is not None
    assert (none.fault[0], none.side) == ("no face found", 120)


def test_a_large_picture_is_searched_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    def find(picture: Image.Image) -> list[Box]:
        seen.append(picture.size)
        return [Box(10, 20, 30, 30)]

    assert detect.find_faces(find, Image.new("RGB", (4096, 2048))) == [Box(40, 80, 120, 120)]
    assert detect.find_faces(find, Image.new("RGB", (100, 80))) == [Box(10, 20, 30, 30)]
    assert seen == [(1024, 512), (100, 80)]


def test_animeface_finds_a_drawn_face_with_any_pillow() -> None:
    pytest.importorskip("animeface")
    canvas = Image.new("RGB", (400, 300), "white")
    canvas.paste(detect.draw_face(192), (150, 60))
    detector = detect.open_detector("anime", "")
    (box,) = detect.find_faces(detector, canvas)
    assert 150 < box.left < box.left + box.width < 342
    assert 60 < box.top < box.top + box.height < 252
    assert detect.find_faces(detector, Image.new("RGB", (200, 200), "white")) == []
    detect.check_detector("anime", "")


def test_a_detector_that_finds_nothing_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "ProcessPoolExecutor", _InThisProcess)
    monkeypatch.setitem(
        detect.DETECTORS, "blind", DetectorKind(lambda: lambda picture: [], "blind==1", check=True)
    )
    with pytest.raises(Refused, match=r"--detector=blind: blind==1 does not find a drawn face"):
        detect.check_detector("blind", "")


class _InThisProcess:
    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> "_InThisProcess":
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, function, *given):  # type: ignore[no-untyped-def]
        self.found = function(*given)
        return self

    def result(self) -> int:
        return int(self.found)


def test_opencv_finds_a_photographed_face() -> None:
    pytest.importorskip("cv2")
    skimage = pytest.importorskip("skimage")
    photo = Image.fromarray(skimage.data.astronaut())  # 512 x 512; her face is at 170-280, 70-210
    boxes = detect.find_faces(detect.open_detector("photo", ""), photo)
    assert boxes
    left, top, right, bottom = detect.square_around(boxes[0], 0.0, photo.size)
    assert 150 < (left + right) / 2 < 290
    assert 60 < (top + bottom) / 2 < 220


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    detect.open_detector.cache_clear()
    for name, package in (("photo", "cv2"), ("anime", "animeface")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(Refused, match=rf"^--detector={name}: pip install '"):
            detect.open_detector(name, "")
    with pytest.raises(Refused, match=r"^--cascade=x\.xml: pip install 'opencv-python-headless<5'"):
        detect.open_detector("", "x.xml")
