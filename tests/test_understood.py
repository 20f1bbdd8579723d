"""Inputs as people have them: what is understood of each, what is said, and what is not guessed."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, tiny_flags
from picture_files import Pixels, chw, noise, opened, save, side_by_side, solid, zipped
from PIL import Image

from gan import data, depth, folders, pairs
from gan.errors import Refused

Inside = Callable[..., None]


def images_in(path: Path, **more: object) -> data.Images:
    cache = path.parent / "cache"
    return data.open_images(str(path), 32, 1, cache=cache, workers=1, **more)  # type: ignore[arg-type]


def ramp(low: float, high: float, kind: type) -> Image.Image:
    """From left to right, `low` to `high`."""
    return Image.fromarray(np.linspace(low, high, 256).reshape(1, -1).repeat(256, 0).astype(kind))


def wide(images: data.Images, index: int = 0) -> list[int]:
    """The pixels at the left and the right border of an image."""
    row = images.array[index, 0, 16].astype(int)
    return [row[0], row[-1]]


# --- more than 8 bits ----------------------------------------------------------------------------

DEEP = {
    # values and type of the pictures: what is said, and the grey at the borders of the first one
    "twelve.png": ((0, 4095, np.uint16), "16-bit pictures hold values 0 to 4,095: read as 12-bit"),
    "full.png": ((0, 65535, np.uint16), "hold values 0 to 65,535: read as 16-bit"),
    "bytes.tif": ((0, 255, np.int32), "32-bit pictures hold values 0 to 255: read as 8-bit"),
    "ct.tif": ((-1024, 3072, np.int32), "hold values -1,024 to 3,072: read as -1,024 to 3,072"),
    "signed.tif": ((-1, 1, np.float32), "float pictures hold values -1 to 1: read as -1 to 1"),
    "unit.tif": ((0, 1, np.float32), "float pictures hold values 0 to 1: read as 0 to 1"),
}


@pytest.mark.parametrize("name", DEEP)
def test_the_range_of_a_set_is_found_and_said(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (low, high, kind), said = DEEP[name]
    half = (low + high) / 2
    pictures = {f"0{name}": ramp(low, high, kind), f"1{name}": ramp(low, half, kind)}
    found = images_in(save(tmp_path / "in", pictures))
    left, right = wide(found)
    assert left <= 6
    assert right >= 249
    left, right = wide(found, 1)  # by the range of the set, not its own: half as bright
    assert left <= 4
    assert abs(right - 127) <= 4
    out = capsys.readouterr().out
    assert said in out
    assert "; --value-range=LOW,HIGH to set it\n" in out


def test_a_range_that_is_given_is_used(tmp_path: Path) -> None:
    folder = save(tmp_path / "in", {"a.tif": ramp(-1024, 3072, np.int32)})
    found = images_in(folder, value_range="-1024,1024")
    assert wide(found)[1] == 255
    middle = int(found.array[0, 0, 16, 8])  # a quarter of the way: value 0
    assert abs(middle - 127) <= 10  # 8 of 32 columns are 15 grey values each
    assert images_in(folder, value_range="-1024:1024").digest == found.digest
    assert images_in(folder).digest != found.digest
    for wrong in ("5", "9,3", "a,b", "0,nan", "0,1,2"):
        with pytest.raises(Refused, match=rf"^--value-range={wrong}: give LOW,HIGH"):
            images_in(folder, value_range=wrong)


def test_a_picture_with_nan_is_skipped_with_its_reason(tmp_path: Path) -> None:
    nan = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    good = Image.fromarray(nan.copy())
    nan[0, 0] = np.nan
    found = images_in(save(tmp_path / "in", {"a.tif": Image.fromarray(nan), "b.tif": good}))
    assert found.skipped == {"a.tif": "NotFinite: NaN or infinite values, in 1 of 4,096 pixels"}
    assert wide(found)[1] > 120
    (tmp_path / "in" / "b.tif").unlink()
    with pytest.raises(Refused, match=r"1 skipped, a\.tif: NotFinite: NaN or infinite values"):
        images_in(tmp_path / "in")


def test_colour_of_which_only_8_bits_are_read_is_not_black(tmp_path: Path) -> None:
    """Pillow keeps the upper half of 16-bit colour; a PNG written by hand, of 12 bits and of 16."""
    import struct
    import zlib

    def png(value: int) -> bytes:
        def chunk(kind: bytes, body: bytes) -> bytes:
            check = struct.pack(">I", zlib.crc32(kind + body))
            return struct.pack(">I", len(body)) + kind + body + check

        head = struct.pack(">IIBBBBB", 40, 40, 16, 2, 0, 0, 0)
        rows = (b"\0" + struct.pack(">HHH", value, value, value) * 40) * 40
        body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + body

    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(4095))
    with pytest.raises(Refused, match=r"1 skipped, a\.png: ValueError: 16-bit colour of 14 bits"):
        images_in(folder)
    (folder / "b.png").write_bytes(png(65535))  # then 4,095 is dark grey, in the range of the set
    found = images_in(folder)
    assert found.skipped == {}
    assert found.array[:, 0, 0, 0].tolist() == [15, 255]


def test_a_deep_picture_with_the_suffix_of_a_shallow_one_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "in", {"a.png": ramp(0, 4095, np.uint16), "b.png": noise(1)})
    (folder / "a.png").rename(folder / "a.jpg")
    assert "a 16-bit picture whose suffix is of 8-bit ones" in images_in(folder).skipped["a.jpg"]


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("16-bit", (0, 1000), (0, 1023)),
        ("16-bit", (700, 16383), (0, 16383)),
        ("16-bit", (0, 16384), (0, 65535)),
        ("32-bit", (0, 70000), (0, 70000)),
        ("32-bit", (-1, 5), (-1, 5)),
        ("32-bit", (-5, -5), (-5, -4)),  # a set of one value has some range
        ("float", (0.2, 0.9), (0, 1)),
        ("float", (-0.1, 0.9), (-1, 1)),
        ("float", (0, 1.5), (0, 255)),
        ("float", (-3, 9), (-3, 9)),
    ],
)
def test_ranges(kind: str, values: tuple[float, float], expected: tuple[float, float]) -> None:
    assert depth.choose(kind, *values) == expected


def test_pairs_have_a_range_for_each_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = ramp(0, 4095, np.uint16), ramp(-1024, 3072, np.int32)
    folder = save(tmp_path / "in", {"A/1.png": a, "B/1.tif": b})
    found = opened(folder, tmp_path / "cache", channels=(1, 1))
    for pixels in (found.given, found.wanted):
        assert pixels[0, 0, 16, 0] <= 6
        assert pixels[0, 0, 16, -1] >= 249
    out = capsys.readouterr().out
    assert "data: A: 1 16-bit picture holds values 0 to 4,095: read as 12-bit" in out
    assert "data: B: 1 32-bit picture holds values -1,024 to 3,072" in out


def test_pictures_to_translate_have_the_range_of_all_of_them(tmp_path: Path) -> None:
    folder = save(
        tmp_path / "in", {"1.png": ramp(0, 4095, np.uint16), "2.png": ramp(0, 2047, np.uint16)}
    )
    for given, expected in (("", [255, 127]), ("0,8190", [127, 64])):
        found = [x for _, x in pairs.stream(str(folder), "--input", 1, given)]
        assert all(isinstance(x, Image.Image) for x in found)
        right = [int(np.asarray(x)[9, -1]) for x in found]
        assert np.abs(np.subtract(right, expected)).max() <= 1


# --- classes and parts ---------------------------------------------------------------------------


def of_class(prefix: str, count: int = 3) -> dict[str, Image.Image | str]:
    return {
        f"{prefix}{kind}/{i}.png": noise(10 * number + i)
        for number, kind in enumerate(("cat", "dog"))
        for i in range(count)
    }


def with_backslashes(folder: Path, file: Path) -> Path:
    """A zip as some Windows tools write it."""
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            info = zipfile.ZipInfo("x")
            info.filename = str(path.relative_to(folder)).replace("/", "\\")
            archive.writestr(info, path.read_bytes())
    return file


def test_a_zip_of_classes_is_read_as_its_folder(tmp_path: Path) -> None:
    folder = save(tmp_path / "in", of_class(""))
    top = zipped(folder, tmp_path / "top.zip", "faces/")
    with zipfile.ZipFile(top, "a") as archive:
        archive.writestr("__MACOSX/faces/cat/._0.png", b"resource fork")
    back = with_backslashes(folder, tmp_path / "back.zip")
    deep = save(tmp_path / "deep", of_class("a/b/"))
    plain = images_in(folder)
    assert plain.class_names == ("cat", "dog")
    for path in (top, back, deep):
        found = images_in(path)
        assert found.class_names == ("cat", "dog")
        assert found.digest == plain.digest
        assert np.array_equal(found.class_indices, plain.class_indices)  # type: ignore[arg-type]


@pytest.mark.parametrize("sides", [("A", "B"), ("trainA", "trainB")])
def test_a_zip_of_pairs_with_backslashes(sides: tuple[str, str], tmp_path: Path) -> None:
    names = {f"{side}/{i}.png": noise(i + 9 * n) for n, side in enumerate(sides) for i in range(3)}
    folder = save(tmp_path / "in", names)
    found = opened(with_backslashes(folder, tmp_path / "in.zip"), tmp_path / "cache")
    assert np.array_equal(found.given, [chw(noise(i)) for i in range(3)])
    assert np.array_equal(found.wanted, [chw(noise(9 + i)) for i in range(3)])


@pytest.mark.parametrize("val", ["val", "valid", "Validation", "test"])
def test_parts_hold_classes_and_the_others_are_held_out(
    val: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = {f"set/{name}": x for name, x in of_class("train/", 5).items()}
    apart = {f"set/{val}/cat/{i}.png": noise(90 + i) for i in range(2)}
    copied = {f"set/{val}/dog/copy.png": noise(0)}  # of a training image: no test
    folder = save(tmp_path / "in", {**inside, **apart, **copied})
    found = images_in(folder, held_out=0.1)
    assert found.class_names == ("cat", "dog")
    assert len(found.train) == 10
    grey = {np.asarray(noise(seed).convert("L")).tobytes() for seed in (90, 91)}
    assert {found.array[i, 0].tobytes() for i in found.held_out} == grey
    out = capsys.readouterr().out
    name = {"test": "test"}.get(val, "val")
    assert f"10 to train on, 2 held out to score with in {name}/" in out
    assert "1 held out are near-duplicates of those, and left out" in out
    assert "data: 2 classes: cat 7, dog 6" in out
    assert len(images_in(folder, held_out=0.0).train) == 13  # --held-out=0 trains on all


def test_parts_without_one_to_train_on(tmp_path: Path) -> None:
    folder = save(tmp_path / "in", {"val/1.png": noise(1), "test/2.png": noise(2)})
    with pytest.raises(Refused, match=r"pictures in test/ and val/ but none to train on"):
        images_in(folder)


def test_what_folders_say() -> None:
    def classes(*names: str) -> list[str] | None:
        return folders.read_labels(names, "x").classes

    assert classes("cat/1", "dog/2") == ["cat", "dog"]
    assert classes("cat/1", "cat/2") is None
    assert classes("1", "2") is None
    assert classes("train/1", "cars/2") == ["train", "cars"]  # alone it is a class: railways
    assert classes("train/a/1", "train/b/1") == ["a", "b"]
    found = folders.read_labels(["train/a/1", "val/a/2", "val/b/2", "other/x"], "x")
    assert found.names == ["train/a/1", "val/a/2", "val/b/2"]
    assert (found.parts, found.classes) == (["train", "val", "val"], ["a", "a", "b"])
    assert found.skipped == {"other/x": "in none of train/, val/ and test/"}


def test_a_stray_picture_beside_the_classes_is_named(inside: Inside, tmp_path: Path) -> None:
    save(tmp_path / "in", {**of_class("", 9), "preview.png": noise(99)})
    with pytest.raises(Refused) as refusal:
        inside("train", *tiny_flags("--conditional", "--batch-size=4", "--data-path=in"))
    assert str(refusal.value) == (
        "--conditional: no classes in in: 1 picture of 19 is beside the 2 folders, not in one "
        "(preview.png); move or delete it"
    )


# --- pairs ---------------------------------------------------------------------------------------


def test_two_files_of_one_stem_are_a_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files: dict[str, Image.Image | str] = {}
    for i in range(4):
        files |= {f"x{i}.jpg": solid((i, 0, 0)), f"x{i}.png": noise(i), f"x{i}.xml": "<labels/>"}
    found = opened(save(tmp_path / "in", {**files, "lone.png": noise(9)}), tmp_path / "cache")
    assert np.array_equal(found.wanted, [chw(noise(i)) for i in range(4)])
    assert found.given.max() <= 6  # the photo, nearly black
    assert found.skipped == {"lone.png": "no picture of this name in A"}
    assert "4 pairs (files of one name: the JPEG is A, the other one B)" in capsys.readouterr().out
    other = {f"{i}.{suffix}": noise(i) for i in range(4) for suffix in ("bmp", "png")}
    with pytest.raises(Refused, match=r"8 of 8 pictures share their name .*\(\.bmp, \.png\)"):
        opened(save(tmp_path / "other", other), tmp_path / "cache")


def test_only_what_is_twice_as_wide_as_high_is_cut_in_half(tmp_path: Path) -> None:
    wide = {f"{w}.png": noise(w, (w, 100)) for w in (194, 196, 204, 206)}
    found = opened(save(tmp_path / "in", wide), tmp_path / "cache")
    assert found.skipped == {
        f"{w}.png": f"ValueError: {w} x 100 pixels, not twice as wide as high: no two halves"
        for w in (194, 206)
    }
    square = {f"{i}.png": noise(i, (100, 100)) for i in range(3)}
    says = r"no usable pairs to train on; 3 skipped, the first 0\.png: ValueError: 100 x 100 pixels"
    with pytest.raises(Refused, match=says):
        opened(save(tmp_path / "square", square), tmp_path / "cache")


# --- what is said --------------------------------------------------------------------------------


def test_a_still_clip_says_that_its_frames_were_folded(tmp_path: Path) -> None:
    still: Pixels = np.asarray(noise(1, (4, 4)).resize((64, 64), Image.Resampling.BICUBIC))
    frames = {}
    for i in range(40):
        grain = np.random.default_rng(i).normal(0, 2, still.shape)
        frames[f"{i}.png"] = Image.fromarray((still + grain).clip(0, 255).astype(np.uint8))
    folder = save(tmp_path / "in", frames)
    with pytest.raises(Refused) as refusal:
        images_in(folder, dedup=True, batch_size=4)
    assert "only 1 usable image" in str(refusal.value)
    assert "40 near-duplicates are folded into 1" in str(refusal.value)
    assert "--dedup=False keeps them" in str(refusal.value)
    assert len(images_in(folder, dedup=False, batch_size=4)) == 40


@pytest.mark.parametrize("name", ["动漫头像数据集" * 12, "x" * 240, "é" * 120])
def test_a_long_name_makes_a_cache_of_bounded_length(name: str, tmp_path: Path) -> None:
    folder = save(tmp_path / name, {"a.png": noise(1)})
    found = images_in(folder)
    assert len(found.array) == 1
    assert len(found.folder.name.encode()) <= 64 + len("-32px-1ch-") + 12
    assert found.folder.name[:9] == name[:9]


def test_at_most_four_lines_and_a_file_with_every_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {**of_class("in/", 20), "in/cat/small.png": noise(1, (20, 30)), "in/x.txt": "notes"}
    folder = save(tmp_path, {**files, "in/dog/bad.png": "no picture", "in/cat/copy.png": noise(0)})
    (folder / "in" / "cat" / "grey.png").unlink(missing_ok=True)
    noise(77).convert("L").save(folder / "in" / "cat" / "grey.png")
    found = images_in(folder / "in", held_out=0.1, dedup=True)
    said = capsys.readouterr()
    lines = [line for line in (said.out + said.err).splitlines() if line.startswith("data:")]
    assert len(lines) == 4
    assert (
        "data: 43 pictures in 2 folders (42 RGB and 1 L; median 32 x 32, smallest 20 x 30 pixels)"
        in lines[0]
    )
    assert "1 enlarged to 32 px; 1 file that is no picture passed over" in lines[1]
    assert "data: 2 classes: cat 23, dog 20" in lines[2]
    assert "1 unreadable picture skipped (dog/bad.png)" in lines[3]
    report = (found.folder / "report.txt").read_text()
    assert "enlarged to 32 pixels: 1\n  cat/small.png\t20 x 30\n" in report
    assert "skipped: 1\n  dog/bad.png\tUnidentifiedImageError" in report
    assert "  2\tcat/0.png\tcat/copy.png\n" in report
    assert "  cat\t23\n  dog\t20\n" in report
    images_in(folder / "in", held_out=0.1, dedup=True)  # from the cache: the first line alone
    again = capsys.readouterr()
    (line,) = [line for line in (again.out + again.err).splitlines() if line]
    assert line in lines[0] or lines[0].startswith(line.split("(")[0])


def test_a_contact_sheet_shows_what_d_sees(inside: Inside, tmp_path: Path) -> None:
    save(tmp_path / "in", {f"{i}.png": noise(i, (28, 28)) for i in range(20)})
    words = ("train", *TINY, "--data-path=in", "--max-images=20", "--save-every=99", "--overwrite")
    inside(*words, "--contact-sheet=sheet.png", "--augment=0", "--flip=False")
    with Image.open(tmp_path / "sheet.png") as sheet:
        shown = np.asarray(sheet.convert("RGB"))
    assert shown.shape == (242, 242, 3)  # 64 of 28 pixels in rows of 8, 2 pixels between them
    known = {np.asarray(noise(i, (28, 28))).tobytes() for i in range(20)}
    tiles = [shown[2 + 30 * y :, 2 + 30 * x :][:28, :28] for y in range(8) for x in range(8)]
    assert {tile.tobytes() for tile in tiles[:20]} == known  # an epoch
    inside(*words, "--contact-sheet=changed.png", "--augment=0.9", "--flip=False")
    with Image.open(tmp_path / "changed.png") as sheet:
        changed = np.asarray(sheet.convert("RGB"))
    assert (changed != shown).mean() > 0.2  # augmented, as D sees them
    with pytest.raises(Refused, match=r"^--contact-sheet=x\.txt: a name that ends in \.png or"):
        inside(*words, "--contact-sheet=x.txt")


def test_a_contact_sheet_of_pairs_has_both(inside: Inside, tmp_path: Path) -> None:
    files = {f"{i}.png": side_by_side(solid("red"), solid("blue")) for i in range(3)}
    save(tmp_path / "in", files)
    inside(
        "train", "--family=pix2pix", "--img-size=32", "--ngf=2", "--ndf=2", "--data-path=in",
        "--gpu=False", "--max-images=1", "--held-out=0", "--contact-sheet=sheet.png",
    )  # fmt: skip
    with Image.open(tmp_path / "sheet.png") as sheet:
        shown = np.asarray(sheet.convert("RGB"))
    assert shown[18, [18, 50]].tolist() == [[255, 0, 0], [0, 0, 255]]


def test_side_by_side_is_measured_by_its_halves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {f"{i}.png": side_by_side(noise(i), noise(i + 9)) for i in range(2)}
    found = opened(save(tmp_path / "in", files), tmp_path / "cache")
    assert "median 32 x 32, smallest 32 x 32 pixels" in capsys.readouterr().out
    assert (found.folder / "report.txt").is_file()
