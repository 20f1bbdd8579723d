"""Pairs and two folders: every kind of file, the cache, the order, the crops."""

import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_files import (
    OVERVIEW,
    SIZE,
    STORED,
    Pixels,
    as_pairs,
    chw,
    dated,
    noise,
    opened,
    save,
    side_by_side,
    solid,
    zipped,
)
from PIL import Image

from gan import container, pairs
from gan.errors import Refused

# --- what is in a file ---------------------------------------------------------------------------


def rotated(image: Image.Image) -> tuple[Image.Image, dict[str, Any]]:
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me clockwise": on its side it is too narrow for halves
    return image.transpose(Image.Transpose.ROTATE_90), {"exif": exif}


RED_BLUE = side_by_side(solid((200, 30, 10), (40, 40)), solid((10, 60, 220), (40, 40)))
SIXTEEN = np.repeat(np.array([[40 * 257, 200 * 257]], np.uint16), 40, axis=1).repeat(40, axis=0)
KINDS = {
    # file name: picture, how to save it, A, B
    "a.jpg": (RED_BLUE, {"quality": 95}, (200, 30, 10), (10, 60, 220)),
    "b.png": (RED_BLUE, {}, (200, 30, 10), (10, 60, 220)),
    "palette.png": (RED_BLUE.quantize(8), {}, (200, 30, 10), (10, 60, 220)),
    "clear.png": (
        side_by_side(
            solid((9, 8, 7, 255), (40, 40), "RGBA"), solid((0, 0, 0, 51), (40, 40), "RGBA")
        ),
        {},
        (9, 8, 7),
        (204, 204, 204),  # over white: 255 * (1 - 51 / 255)
    ),
    "sixteen.png": (Image.fromarray(SIXTEEN), {}, (40, 40, 40), (200, 200, 200)),
    "turned.jpg": (*rotated(RED_BLUE), (200, 30, 10), (10, 60, 220)),
    "turned.png": (*rotated(RED_BLUE), (200, 30, 10), (10, 60, 220)),
}


@pytest.mark.parametrize("name", KINDS)
def test_left_is_a_and_right_is_b(name: str, tmp_path: Path) -> None:
    image, options, a, b = KINDS[name]
    (tmp_path / "in").mkdir()
    image.save(tmp_path / "in" / name, **options)
    data = opened(tmp_path / "in", tmp_path / "cache")
    for pixels, colour in (
        (data.given[..., :28], a),
        (data.wanted[..., 4:], b),
    ):  # JPEG blurs the middle
        off = np.abs(pixels[0].astype(int) - np.reshape(colour, (3, 1, 1))).max()
        assert off <= 5, f"{pixels[0, :, 5, 5]} instead of {colour}"


def test_bad_halves_are_skipped_with_the_reason(tmp_path: Path) -> None:
    pictures: dict[str, Image.Image | str] = {
        "good.png": noise(1, (56, 28)),
        "odd.png": noise(2, (65, 32)),
        "narrow.png": noise(3, (54, 40)),
        "low.png": noise(4, (64, 27)),
        "text.jpg": "<html>",
    }
    folder = save(tmp_path / "in", pictures)
    whole = (folder / "good.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    data = opened(folder, tmp_path / "cache")
    assert len(data) == 1
    assert set(data.skipped) == {*pictures, "cut.png"} - {"good.png"}
    assert data.skipped["odd.png"] == "ValueError: 65 pixels wide: an odd number has no two halves"
    assert data.skipped["narrow.png"].endswith("halves of 27 x 40 pixels, less than 28 x 28")
    assert data.skipped["low.png"].endswith("halves of 32 x 27 pixels, less than 28 x 28")
    (folder / "good.png").unlink()
    with pytest.raises(Refused, match=r"^--data-path=\S+: no usable pairs .*5 skipped"):
        opened(folder, tmp_path / "cache")


def test_a_square_is_made_without_cutting(tmp_path: Path) -> None:
    wide = solid("lime", (160, 40))
    wide.paste("red", (40, 0, 120, 40))  # all that a square out of the centre would show
    folder = save(tmp_path / "in", {"A/1.png": wide, "B/1.png": wide.transpose(Image.Transpose(2))})
    data = opened(folder, tmp_path / "cache")
    for picture in (data.given[0], data.wanted[0].swapaxes(1, 2)):
        assert picture[:, 5, [2, 16, 29]].T.tolist() == [[0, 255, 0], [255, 0, 0], [0, 255, 0]]


def test_channels_of_each_side(tmp_path: Path) -> None:
    red = solid((255, 0, 0), (64, 32))
    folder = save(tmp_path / "in", {"1.png": red, "test/2.png": red})
    for a, b in ((1, 3), (3, 1), (1, 1)):
        data = opened(folder, tmp_path / "cache", channels=(a, b))
        assert data.given.shape == data.test_given.shape == (1, a, SIZE, SIZE)
        assert data.wanted.shape == data.test_wanted.shape == (1, b, SIZE, SIZE)
        for pixels in (data.given, data.wanted, *data.batch_at(0, 1, 0, True)):
            grey = pixels.shape[1] == 1
            assert pixels[0, :, 3, 3].tolist() == ([76] if grey else [255, 0, 0])  # 0.299 * 255


# --- the cache -----------------------------------------------------------------------------------


def test_the_cache_is_reused_and_follows_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = as_pairs(tmp_path / "in", "trainA")
    first = opened(folder, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(pairs, "_build", lambda *_: pytest.fail("decoded again"))
        again = opened(folder, tmp_path / "cache", held_out=0.3)  # there is a test part: no matter
        assert np.array_equal(first.given, again.given)
        assert again.test_names_wanted == ("testB/6.bmp", "testB/7.bmp")
    others = [
        opened(folder, tmp_path / "cache", jitter=True),
        opened(folder, tmp_path / "cache", channels=(1, 3)),
        opened(folder, tmp_path / "cache", channels=(3, 1)),
        opened(folder, tmp_path / "cache", paired=False),
    ]
    noise(50).save(folder / "trainA" / "0.png")
    others.append(opened(folder, tmp_path / "cache"))
    assert np.array_equal(others[-1].given[0], chw(noise(50)))
    assert len({x.folder for x in others} | {first.folder}) == 6
    assert len({x.digest for x in others} | {first.digest}) == 5  # two folders have the same pixels
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_cache_of_this_version_is_read(tmp_path: Path) -> None:
    """Its name and its index, written by hand; its pixels are not those of the files."""
    files = {f"{side}/{i}.bmp": noise(i) for side in "AB" for i in range(3)}
    folder = dated(save(tmp_path / "small", files))
    old = tmp_path / "cache" / "small-pairs-32px-4ed5400d97f1"
    old.mkdir(parents=True)
    for stem, count in (("a", 3), ("b", 3), ("test_a", 1), ("test_b", 1)):
        (old / f"{stem}.u8").write_bytes(bytes([len(stem)]) * (count * 3 * SIZE * SIZE))
    index = json.loads(
        '{"counts": {"a": 3, "b": 3, "test_a": 1, "test_b": 1}, "names": {"A": ["A/9.bmp"], '
        '"B": ["B/9.bmp"]}, "test_paired": true, "digest": "abc", "skipped": {"x": "y"}, '
        f'"overview": {OVERVIEW}}}'
    )
    container.seal(old, [f"{stem}.u8" for stem in ("a", "b", "test_a", "test_b")], index)
    data = opened(folder, tmp_path / "cache")
    assert data.folder == old
    assert (data.given == 1).all()
    assert (data.test_wanted == 6).all()
    assert (data.digest, data.skipped, data.test_paired) == ("abc", {"x": "y"}, True)
    assert (data.test_names_given, data.test_names_wanted) == (("A/9.bmp",), ("B/9.bmp",))
    assert data.features_file == old / "features.npz"


@pytest.mark.parametrize("damaged", ["a.u8", "b.u8", "test_a.u8", "test_b.u8", "index.json"])
def test_a_damaged_cache_is_made_again(damaged: str, tmp_path: Path) -> None:
    folder = as_pairs(tmp_path / "in", "side by side")
    first = opened(folder, tmp_path / "cache")
    digest, size = first.digest, (first.folder / damaged).stat().st_size
    del first
    for left in (size - 1, size + 1, 0, None):
        file = next((tmp_path / "cache").glob(f"*/{damaged}"))
        if left is None:
            file.unlink()
        else:
            with open(file, "rb+") as opened_file:
                opened_file.truncate(left)
        assert opened(folder, tmp_path / "cache").digest == digest
        assert file.stat().st_size == size


def test_many_processes_give_what_one_gives(tmp_path: Path) -> None:
    pictures = {f"{side}/{i}.png": noise(i, (8, 8)) for i in range(64) for side in "AB"}
    folder = save(tmp_path / "in", {**pictures, "A/9.png": "broken"})
    one = opened(folder, tmp_path / "one")
    two = opened(folder, tmp_path / "two", workers=2)
    assert (two.digest, two.skipped) == (one.digest, one.skipped)
    assert len(two) == 63


def rows(pictures: Pixels) -> set[bytes]:
    return {picture.tobytes() for picture in pictures}


def test_a_share_of_pairs_is_held_out_if_there_is_no_test_part(faces: Path, tmp_path: Path) -> None:
    face = [Image.open(file).convert("RGB") for file in sorted(faces.iterdir())]
    couples = [side_by_side(face[i], face[100 + i // 2]) for i in range(80)]  # every B twice
    folder = save(tmp_path / "in", {f"{i}.png": both for i, both in enumerate(couples)})
    data = opened(folder, tmp_path / "cache", jitter=True, held_out=0.1)
    assert (len(data), len(data.test_given)) == (52, 28)  # at least 28
    assert data.given.shape[2:] == (STORED, STORED)
    assert data.test_wanted.shape[2:] == (SIZE, SIZE)
    held = {int(Path(name).stem) for name in data.test_names_given}
    assert {i // 2 for i in held} == {i // 2 for i in held if i ^ 1 in held}, "B is in both"
    for i, a, b in zip(
        map(int_stem, data.test_names_given), data.test_given, data.test_wanted, strict=True
    ):
        left, right = pairs.halves(couples[i])
        assert np.array_equal(a, chw(left.resize((SIZE, SIZE), Image.Resampling.BICUBIC)))
        assert np.array_equal(b, chw(right.resize((SIZE, SIZE), Image.Resampling.BICUBIC)))
    trained = [i for i in sorted(range(80), key=str) if i not in held]
    assert rows(data.given) == rows(
        np.stack([chw(face[i].resize((STORED, STORED), Image.Resampling.BICUBIC)) for i in trained])
    )
    renamed = {f"{37 * i % 80:02}.png": both for i, both in enumerate(couples)}
    other = opened(save(tmp_path / "x", renamed), tmp_path / "cache", jitter=True, held_out=0.1)
    assert rows(other.test_given) == rows(data.test_given)
    assert rows(other.given) == rows(data.given)
    assert other.digest != data.digest  # another order
    none = opened(folder, tmp_path / "cache", jitter=True)
    assert (len(none), len(none.test_given)) == (80, 0)


def int_stem(name: str) -> int:
    return int(Path(name).stem)


def test_a_share_of_each_of_two_folders_is_held_out(faces: Path, tmp_path: Path) -> None:
    for i, file in enumerate(sorted(faces.iterdir())[:170]):
        folder = tmp_path / "in" / ("trainA" if i < 70 else "trainB")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
    data = opened(tmp_path / "in", tmp_path / "c", paired=False, held_out=0.1)
    assert (len(data.given), len(data.test_given), len(data.wanted), len(data.test_wanted)) == (
        42,
        28,
        72,
        28,
    )
    assert not data.test_paired
    assert len(rows(data.given) | rows(data.test_given)) == 70
    assert not rows(data.given) & rows(data.test_given)
    assert not rows(data.wanted) & rows(data.test_wanted)
    # a test part for one side only: of the other a share is held out all the same
    save(tmp_path / "in", {"testA/x.png": noise(1)})
    data = opened(tmp_path / "in", tmp_path / "c", paired=False, held_out=0.1)
    assert (len(data.given), len(data.test_given), len(data.wanted), len(data.test_wanted)) == (
        70,
        1,
        72,
        28,
    )


def test_test_pictures_of_two_folders_come_by_name(tmp_path: Path) -> None:
    pictures = {f"{part}/{i}.png": noise(i) for part in ("trainA", "trainB") for i in range(2)}
    pictures |= {f"testA/{i}_A.png": noise(i) for i in (1, 10, 2)}  # of files 10_A comes before 1_A
    pictures |= {f"testB/{i}.bmp": noise(100 + i) for i in (1, 10, 2)}  # and 1 before 10
    folder = save(tmp_path / "in", pictures)
    data = opened(folder, tmp_path / "cache", paired=False)
    assert data.test_paired
    assert data.test_names_wanted == ("testB/1.bmp", "testB/10.bmp", "testB/2.bmp")
    assert np.array_equal(data.test_given, [chw(noise(i)) for i in (1, 10, 2)])
    assert np.array_equal(data.test_wanted, [chw(noise(100 + i)) for i in (1, 10, 2)])
    (folder / "testB" / "2.bmp").write_text("broken")
    data = opened(folder, tmp_path / "cache", paired=False)
    assert not data.test_paired
    assert (len(data.test_given), len(data.test_wanted)) == (3, 2)


# --- refusals ------------------------------------------------------------------------------------

TALL = noise(0, (64, 32))
REFUSALS = {
    # what is there, whether it is opened as pairs: what is said
    "none": ({}, True, "no pictures in it"),
    "text": ({"a.txt": "x"}, False, "no pictures in it .1 other files"),
    "only test": ({"test/1.png": TALL}, True, "test/ but none to train on; put"),
    "only val, A": ({"valA/1.png": TALL, "valB/1.png": TALL}, False, "none to train on"),
    "only A": ({"A/1.png": TALL}, True, "no folder B .*folders A/ and B/"),
    "only B": ({"trainB/1.png": TALL}, False, "no folder A .*put pictures in trainA/"),
    "B to test": (
        {"trainA/1.png": TALL, "testB/1.png": TALL},
        False,
        "no folder B with pictures to train on; put",
    ),
    "no sides": ({"train/1.png": TALL}, False, "no folders A and B .*put pictures in"),
    "no match": (
        {"A/1.png": TALL, "B/2.png": TALL},
        True,
        "2 of 2 pictures are in no pair .*A/1.png: no picture of this name in B.; name partners",
    ),
    "all odd": ({"1.png": noise(0, (63, 32))}, True, "1.png: ValueError: 63 .*; see"),
    "bad B": ({"A/1.png": TALL, "B/1.png": "x"}, False, "no usable pictures of B .*see"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_are_one_line_with_flag_and_way_out(case: str, tmp_path: Path) -> None:
    pictures, paired, said = REFUSALS[case]
    (tmp_path / "in").mkdir()
    folder = save(tmp_path / "in", pictures)  # type: ignore[arg-type]
    with pytest.raises(Refused, match=said) as refusal:
        opened(folder, tmp_path / "cache", paired=paired, flag="--some-flag")
    assert str(refusal.value).startswith(f"--some-flag={folder}: ")
    assert "\n" not in str(refusal.value)


def test_refusals_of_paths_and_of_small_sets(tmp_path: Path) -> None:
    for paired in (True, False):
        with pytest.raises(Refused, match=r"^--data-path: give a folder or zip"):
            pairs.open_pictures(paired, "", SIZE, 3, 3, cache=tmp_path)
        with pytest.raises(Refused, match=r"^--data-path=\S+: no such folder or zip"):
            opened(tmp_path / "nowhere", tmp_path, paired=paired)
    folder = as_pairs(tmp_path / "in", "trainA")
    with pytest.raises(Refused, match=r"--batch-size=7: only 6 usable pairs .*--batch-size=6 or"):
        opened(folder, tmp_path / "cache", batch_size=7)
    assert len(opened(folder, tmp_path / "cache", batch_size=6)) == 6


# --- one at a time -------------------------------------------------------------------------------


def test_a_stream_of_pictures_by_name(tmp_path: Path) -> None:
    folder = save(tmp_path / "in", {"b.png": noise(1, (50, 20)), "a/z.bmp": noise(2), "c.png": "x"})
    turned, options = rotated(RED_BLUE)
    turned.save(folder / "a" / "turned.jpg", **options)
    save(folder, {"notes.txt": "nothing"})
    for path in (folder, zipped(folder, tmp_path / "in.zip")):
        found = dict(pairs.stream(str(path), "--input"))
        assert list(found) == ["a/turned.jpg", "a/z.bmp", "b.png", "c.png"]
        assert "cannot identify" in str(found.pop("c.png"))
        assert [(x.size, x.mode) for x in found.values() if not isinstance(x, str)] == [
            ((80, 40), "RGB"),
            ((32, 32), "RGB"),
            ((50, 20), "RGB"),
        ]
        assert np.array_equal(np.asarray(found["b.png"]), np.asarray(noise(1, (50, 20))))
    for name in ("b.png", "c.png"):
        ((only, picture),) = pairs.stream(str(folder / name), "--input", channels=1)
        assert only == name
        if name == "c.png":
            assert isinstance(picture, str)
        else:
            assert isinstance(picture, Image.Image)
            assert picture.mode == "L"
    with pytest.raises(Refused, match=r"^--input=\S+: no such folder or zip"):
        pairs.stream(str(tmp_path / "nowhere"), "--input")
    with pytest.raises(Refused, match=r"^--input: wants a picture"):
        pairs.stream("", "--input")


def test_a_stream_holds_one_picture_at_a_time(tmp_path: Path) -> None:
    folder = save(tmp_path / "in", {f"{i}.png": noise(i) for i in range(9)})
    earlier: list[weakref.ref[Image.Image]] = []
    for _, picture in pairs.stream(str(folder), "--input"):
        assert isinstance(picture, Image.Image)
        earlier.append(weakref.ref(picture))
        del picture
        assert not any(ref() for ref in earlier)
    assert len(earlier) == 9
