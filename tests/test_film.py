"""Films and sheets: frames in order, times, formats, sizes said first; nothing half-written."""

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import faces
from gan import film, sheet
from gan.errors import Refused

Inside = Callable[..., None]
COLOURS = [(40 * i, 255 - 40 * i, 128) for i in range(6)]


def frames(first: int, count: int) -> Iterator[Image.Image]:
    for colour in COLOURS[first : first + count]:
        yield Image.new("RGB", (33, 20), colour)  # an odd width: H.264 wants even ones


def colours_of(path: Path) -> list[tuple[int, ...]]:
    if path.suffix == ".mp4":
        ffmpeg = pytest.importorskip("imageio_ffmpeg")
        reader = ffmpeg.read_frames(str(path))
        width, height = next(reader)["size"]
        shape = (height, width, 3)
        found = [np.frombuffer(frame, np.uint8).reshape(shape)[5, 5] for frame in reader]
        return [tuple(map(int, colour)) for colour in found]
    picture, found = Image.open(path), []
    for index in range(picture.n_frames):
        picture.seek(index)
        pixel = picture.convert("RGB").getpixel((5, 5))
        assert isinstance(pixel, tuple)
        found.append(pixel)
    return found


@pytest.mark.parametrize("kind", ["gif", "webp", "mp4"])
def test_a_film_has_its_frames_in_order_and_holds_the_last(kind: str, tmp_path: Path) -> None:
    if kind == "mp4":
        pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "deep" / f"x.{kind}"
    film.write_films(frames, film.Timing(6, 10.0, 0.5), [path], allow_large=False, way_out="")
    found = colours_of(path)
    wanted = COLOURS + [COLOURS[-1]] * (5 if kind == "mp4" else 0)
    assert len(found) == len(wanted)
    assert np.abs(np.array(found) - np.array(wanted)).max() <= 8
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    if kind != "mp4":
        picture, times = Image.open(path), []
        assert picture.info["loop"] == 0
        for index in range(6):
            picture.seek(index)
            picture.load()
            times.append(picture.info["duration"])
        assert times == [100] * 5 + [600]


def test_a_large_film_is_refused_with_its_size_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(film, "LARGE_BYTES", 200.0)
    path = tmp_path / "x.gif"
    path.write_text("the old one")
    timing = film.Timing(6, 10.0)
    says = r"x\.gif: 6 frames, about 0 MB and \d+ s; give fewer"
    with pytest.raises(Refused, match=says):
        film.write_films(frames, timing, [path], allow_large=False, way_out="give fewer")
    assert path.read_text() == "the old one"
    monkeypatch.setattr(film, "TOLD_SECONDS", 0.0)
    film.write_films(frames, timing, [path], allow_large=True, way_out="")
    assert "6 frames, about 0 MB" in capsys.readouterr().out
    assert len(colours_of(path)) == 6


def test_without_ffmpeg_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    film.check_formats(["gif", "webp"], "--output=x.gif")
    with pytest.raises(Refused, match=r"^--output=x\.mp4: .*pip install imageio-ffmpeg; or take"):
        film.check_formats(["mp4"], "--output=x.mp4")


def test_a_grid_by_hand() -> None:
    pictures = [Image.new("RGB", (4, 3), colour) for colour in COLOURS[:5]]
    whole = sheet.grid(pictures, 3, gap=1, colour=(0, 0, 0, 255))
    assert (whole.mode, whole.size) == ("RGB", (3 * 5 + 1, 2 * 4 + 1))
    for place, colour in enumerate(COLOURS[:5]):
        row, column = divmod(place, 3)
        assert whole.getpixel((1 + 5 * column, 1 + 4 * row)) == colour
        assert whole.getpixel((4 + 5 * column, 3 + 4 * row)) == colour
    assert whole.getpixel((0, 0)) == (0, 0, 0)
    clear = sheet.grid(pictures, gap=2, colour=sheet.colour_of("transparent", ""))
    assert clear.mode == "RGBA"
    assert clear.getpixel((0, 0))[3] == 0  # type: ignore[index]
    assert clear.getpixel((2, 2)) == (*COLOURS[0], 255)
    captioned = sheet.grid(pictures, 3, captions=list("abcde"))
    assert captioned.height == 2 * (3 + sheet.CAPTION_PIXELS + 2) + 2


@pytest.mark.parametrize(
    ("text", "found"),
    [("3", [3]), ("0-3", [0, 1, 2, 3]), ("3,14,15", [3, 14, 15]), ("5-6,2,2", [5, 6, 2, 2])],
)
def test_numbers(text: str, found: list[int]) -> None:
    assert faces.numbers(text, "seeds", 100) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "numbers and ranges"), ("a", "numbers and ranges"), ("1-", "numbers and ranges"),
        ("-3", "numbers and ranges"), ("1.5", "numbers and ranges"), ("1,,2", "numbers and ranges"),
        ("9-3", "9-3 goes backwards"), ("3-1024", r"less than 2\^10"),
    ],
)  # fmt: skip
def test_numbers_that_are_none(text: str, says: str) -> None:
    with pytest.raises(Refused, match=f"^--seeds={text}: .*{says}"):
        faces.numbers(text, "seeds", 1024)
    with pytest.raises(Refused, match="at most 1,000,000 at once"):
        faces.numbers("0-9999999", "seeds", 2**63)


def test_shares_of_classes() -> None:
    names = ("cat", "dog", "a+b")
    assert faces.class_shares("", names) == ()
    assert faces.class_shares("dog", names) == (0, 1, 0)
    assert faces.class_shares("1", names) == (0, 1, 0)
    assert faces.class_shares("a+b", names) == (0, 0, 1)
    assert faces.class_shares("cat+dog", names) == (0.5, 0.5, 0)
    assert faces.class_shares("cat:3+1:1", names) == (0.75, 0.25, 0)
    for label, says in (
        ("cow", "no such class; there are cat, dog"), ("cat+cow", "no such class"),
        ("cat:x+dog", "x is no weight"), ("cat:-1+dog", "-1 is no weight"), ("7", "no such class"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=says):
            faces.class_shares(label, names)
    with pytest.raises(Refused, match="not conditional"):
        faces.class_shares("cat", ())


# ---- the film of a training ---------------------------------------------------------------------


def test_the_film_of_a_training_is_in_the_order_of_the_epochs(
    inside: Inside, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "imgs" / "mine"
    folder.mkdir(parents=True)
    for epoch in (2, 10, 9, 100):  # sorted as text it would be 10, 100, 2, 9
        Image.new("RGB", (242, 62), (epoch * 2, 0, 0)).save(folder / f"{epoch}.png")
    (folder / "best.png").write_bytes(b"no preview")
    inside("film", "--name=mine", "--output=x.webp", "--rows=1", "--upscale=2")
    assert "4 previews, epochs 2 to 100 -> x.webp" in capsys.readouterr().out
    found = [red for red, _, _ in colours_of(tmp_path / "x.webp")]
    assert np.abs(np.array(found) - [4, 18, 20, 200]).max() < 6
    assert Image.open(tmp_path / "x.webp").size == (484, 2 * 32 + sheet.CAPTION_PIXELS + 2)
    (folder / "9.png").write_bytes(b"no picture")
    with pytest.raises(Refused, match=r"imgs/mine/9\.png: no picture that can be read"):
        inside("film", "--name=mine", "--output=y.gif")
    assert not (tmp_path / "y.gif").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("film", "--name=x"), "imgs/x has 0 previews, and a film needs two"),
        (("film", "--output=x.avi"), "--output=x.avi: gif, webp, mp4"),
        (("film", "--formats=gif,avi"), "--formats=gif,avi: gif, webp, mp4 or all"),
        (("film", "--output=."), "a folder; give the name of a file"),
        (("interpolate", "--output=file/x.gif"), "is a file, not a folder to write to"),
        (("interpolate", "--seeds=3"), "one face leads nowhere"),
        (("interpolate", "--seeds=1,2", "--wander=3s"), "one of them names the faces"),
        (("interpolate", "--seeds=1,2,3", "--labels=a,b"), "2 classes for 3 faces"),
        (("interpolate", "--label=a", "--labels=a,b"), "leave one out"),
        (("interpolate", "--wander=soon"), "--wander=soon: a length such as 30s"),
        (("interpolate", "--wander=-3s"), "a length such as 30s"),
        (("interpolate", "--frames=1000000", "--seeds=0-99"), "100,000,000 frames; at most"),
        (("directions", "--output=x.gif"), "--output=x.gif: .png, .jpg or .webp"),
        (("directions", "--gen-index=0-99"), "at most 16 faces"),
        (("generate", "--seeds=9-3"), "--seeds=9-3: 9-3 goes backwards"),
        (("generate", "--seeds=1", "--gen-index=1"), "leave one out"),
        (("generate", "--seeds=1", "--seed=1"), "leave one out"),
        (("generate", "--seeds=1", "--gen-num=4"), "--gen-num: --seeds names the faces"),
        (("generate", "--gap-colour=clear"), "--gap-colour=clear: no colour"),
        (("generate", "--gap-colour=transparent", "--gen-img=x.jpg"), ".jpg has no transparency"),
    ],
)
def test_what_is_refused_before_a_run_is_loaded(
    words: tuple[str, ...], says: str, inside: Inside, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused) as refusal:
        inside(*words)
    assert says in str(refusal.value)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_pictures_of_one_channel_become_rgb() -> None:
    grey = np.arange(4, dtype=np.uint8).reshape(1, 2, 2)
    picture = sheet.as_rgb(grey)
    assert picture.getpixel((1, 1)) == (3, 3, 3)
    file = io.BytesIO()
    sheet.enlarged(picture, 4).save(file, "PNG")
    assert Image.open(file).size == (8, 8)
