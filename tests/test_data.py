"""Pictures of every kind, broken ones, the cache, and the order of the data."""

import json
import mmap
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from picture_files import OVERVIEW, chw, dated, noise, save
from PIL import Image, ImageOps

from config import Config, RunFacts
from gan import avatars, container, data, feed, readers
from gan.errors import Refused
from gan.readers import Reader, Source, find_source


def solid(mode: str, colour: Any, size: tuple[int, int] = (40, 40)) -> Image.Image:
    return Image.new(mode, size, colour)


def opened(folder: Path, cache: Path, **more: Any) -> data.Images:
    return data.open_images(
        str(folder), 32, more.pop("channels", 3), cache=cache, workers=1, **more
    )


def palette(colour: tuple[int, int, int]) -> Image.Image:
    return solid("RGB", colour).convert("P", palette=Image.Palette.ADAPTIVE)


def sixteen(value: int) -> Image.Image:
    return Image.fromarray(np.full((40, 40), value, np.uint16))


ODD = {
    # file name: (picture, RGB that must come out)
    "a.JPG": (solid("RGB", (200, 100, 50)), (200, 100, 50)),
    "b.PnG": (solid("RGB", (200, 100, 50)), (200, 100, 50)),
    "c.webp": (solid("RGB", (200, 100, 50)), (200, 100, 50)),
    "d.bmp": (solid("RGB", (200, 100, 50)), (200, 100, 50)),
    "e.gif": (palette((200, 100, 50)), (200, 100, 50)),
    "grey.png": (solid("L", 77), (77, 77, 77)),
    "bit.png": (solid("1", 1), (255, 255, 255)),
    "palette.png": (palette((10, 20, 30)), (10, 20, 30)),
    "clear.png": (solid("RGBA", (0, 0, 0, 0)), (255, 255, 255)),
    "half.png": (solid("RGBA", (0, 0, 0, 51)), (204, 204, 204)),  # 255 * (1 - 51/255)
    "la.png": (solid("LA", (0, 0)), (255, 255, 255)),
    "sixteen.png": (sixteen(32896), (128, 128, 128)),  # 32896 = 128 * 257
    "dark16.tif": (sixteen(257 * 3), (3, 3, 3)),
    "float.tif": (solid("F", 0.5), (128, 128, 128)),
    "cmyk.jpg": (solid("CMYK", (255, 0, 0, 0)), (0, 255, 255)),
    "cmyk.tiff": (solid("CMYK", (0, 255, 0, 0)), (255, 0, 255)),
}


def test_every_kind_of_picture(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "class 1" / "deep").mkdir(parents=True)
    for i, (name, (picture, _)) in enumerate(ODD.items()):
        picture.save((folder, folder / "class 1", folder / "class 1" / "deep")[i % 3] / name)
    images = opened(folder, tmp_path / "cache")
    assert images.array.shape == (len(ODD), 3, 32, 32)
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.is_file()
    )
    for name, picture in zip(names, images.array, strict=True):
        expected = np.array(ODD[name.split("/")[-1]][1]).reshape(3, 1, 1)
        off = np.abs(picture.astype(int) - expected).max()
        assert off <= 3, f"{name}: {picture[:, 0, 0]} instead of {expected.ravel()}"


def test_the_picture_is_upright_and_cut_from_the_centre(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    # left half red, right half blue, twice as wide as high; the file says "rotate by 90 degrees"
    picture = solid("RGB", "red", (80, 40))
    picture.paste("blue", (40, 0, 80, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "rotated.png", exif=exif)
    picture.save(folder / "wide.png")
    rotated, wide = opened(folder, tmp_path / "cache").array
    assert tuple(rotated[:, 2, 16]) == (255, 0, 0)  # rotated clockwise: red on top
    assert tuple(rotated[:, 29, 16]) == (0, 0, 255)
    assert tuple(wide[:, 16, 2]) == (255, 0, 0)
    assert tuple(wide[:, 16, 29]) == (0, 0, 255)


def test_shrinking_averages_instead_of_picking_pixels(tmp_path: Path) -> None:
    stripes = np.zeros((320, 320), np.uint8)
    stripes[:, ::2] = 255
    (tmp_path / "in").mkdir()
    Image.fromarray(stripes).save(tmp_path / "in" / "stripes.png")
    picture = opened(tmp_path / "in", tmp_path / "cache").array[0].astype(int)
    assert np.abs(picture - 127.5).max() <= 4  # at the borders; picking gives 0 or 255


def test_one_channel(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    solid("RGB", (255, 0, 0)).save(tmp_path / "in" / "red.png")
    array = opened(tmp_path / "in", tmp_path / "cache", channels=1).array
    assert array.shape == (1, 1, 32, 32)
    assert array[0, 0, 5, 5] == 76  # 0.299 * 255


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """Three good pictures among hostile files."""
    folder = tmp_path / "messy"
    folder.mkdir()
    for i in range(3):
        solid("RGB", (i, i, i)).save(folder / f"good{i}.png")
    whole = (folder / "good0.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    noise.save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-900])
    (folder / "text.jpg").write_text("<html>not found</html>")
    (folder / "empty.png").write_bytes(b"")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "notes.txt").write_text("not a picture at all")
    (folder / "._good0.png").write_bytes(b"resource fork")
    (folder / "loop").symlink_to(folder)
    return folder


BROKEN = {"cut.png", "cut.jpg", "text.jpg", "empty.png", "gone.png"}


def test_broken_files_are_skipped_counted_and_named(
    messy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = opened(messy, tmp_path / "cache")
    assert len(images) == 3
    assert set(images.skipped) == BROKEN
    listed = (images.folder / "skipped.txt").read_text()
    assert all(name in listed for name in BROKEN)
    said = capsys.readouterr()
    assert "5 unreadable pictures skipped" in said.err
    assert "skipped.txt" in said.err
    assert "2 files that are no pictures" in said.out


def test_file_names_need_not_be_text(messy: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"b\xe9.png")
    (messy / name).write_text("broken")
    images = opened(messy, tmp_path / "cache")
    assert name in images.skipped
    assert "b\\udce9.png" in (images.folder / "skipped.txt").read_text()


def test_fewer_images_than_a_batch(messy: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"--batch-size=4: only 3 usable .*--batch-size=3 or less"):
        opened(messy, tmp_path / "cache", batch_size=4)
    for name in ("good0.png", "good1.png"):
        (messy / name).unlink()
    with pytest.raises(Refused, match=r"only 1 usable image in .*; please add images"):
        opened(messy, tmp_path / "cache", batch_size=4)


@pytest.mark.parametrize("content", [{}, {"a.txt": "x"}])
def test_nothing_to_train_on(tmp_path: Path, content: dict[str, str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    with pytest.raises(Refused, match="no pictures"):
        opened(folder, tmp_path / "cache")
    (folder / "bad.png").write_text("x")
    with pytest.raises(Refused, match="only 0 usable"):
        opened(folder, tmp_path / "cache")
    with pytest.raises(Refused, match="no such folder or zip"):
        opened(tmp_path / "none", tmp_path / "cache")
    with pytest.raises(Refused, match="neither a folder nor a zip"):
        opened(folder / "bad.png", tmp_path / "cache")


def test_a_zip_gives_what_its_folder_gives(messy: Path, tmp_path: Path) -> None:
    archive = tmp_path / "faces.zip"
    with zipfile.ZipFile(archive, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in sorted(messy.glob("*.*")):
            if path.exists() and path.is_file():
                file.write(path, f"faces/{path.name}")
        file.write(messy / "good0.png", "__MACOSX/good9.png")
    images = opened(archive, tmp_path / "cache")
    assert images.digest == opened(messy, tmp_path / "cache").digest
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(Refused, match="neither a folder nor a zip"):
        opened(archive, tmp_path / "cache")


def test_the_cache_is_reused_and_follows_the_folder(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(4):
        Image.open(faces / f"{i:03}.png").save(folder / f"{i}.png")
    first = opened(folder, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(data, "_build", lambda *_: pytest.fail("decoded again"))
        again = opened(folder, tmp_path / "cache")
    assert np.array_equal(first.array, again.array)
    os.utime(folder / "0.png", ns=(1, 1))  # touched: another cache, the same pixels
    touched = opened(folder, tmp_path / "cache")
    assert touched.folder != first.folder
    assert touched.digest == first.digest
    (folder / "3.png").unlink()
    assert len(opened(folder, tmp_path / "cache")) == 3
    # a cache cut short by a full disk is made again
    (folder / "0.png").unlink()
    cut = opened(folder, tmp_path / "cache")
    with open(cut.folder / "images.u8", "rb+") as file:
        file.truncate(100)
    assert opened(folder, tmp_path / "cache").digest == cut.digest
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_cache_of_this_version_is_read(tmp_path: Path) -> None:
    """Its name and its index, written by hand; its pixels are not those of the files."""
    files = {f"{k}/{i}.bmp": noise(i) for k in "01" for i in range(2)}
    folder = dated(save(tmp_path / "faces", files))
    old = tmp_path / "cache" / "faces-32px-3ch-c0deab193471"
    old.mkdir(parents=True)
    (old / "images.u8").write_bytes(bytes([7]) * (4 * 3 * 32 * 32))
    np.save(old / "split.npy", np.array([[1, 2, 3, 4], [0, 0, 1, 1]], np.uint64))
    index = json.loads(
        '{"shape": [4, 3, 32, 32], "digest": "abc", "names": ["0/0.bmp", "0/1.bmp", "1/0.bmp", '
        '"1/1.bmp"], "labels": ["10", "10", "9", "9"], "parts": null, "skipped": {"x": "y"}, '
        f'"overview": {OVERVIEW}}}'
    )
    container.seal(old, ["images.u8", "split.npy"], index)
    images = opened(folder, tmp_path / "cache", dedup=True)
    assert images.folder == old
    assert (images.array == 7).all()
    assert (images.digest, images.skipped, len(images)) == ("abc", {"x": "y"}, 2)
    assert images.class_names == ("9", "10")
    assert images.train_class_indices is not None
    assert images.train_class_indices.tolist() == [1, 1, 0, 0]
    assert images.features_file == old / "features.npz"


def test_a_cache_of_an_earlier_version_is_not_misread(tmp_path: Path) -> None:
    files = {f"{k}/{i}.bmp": noise(i) for k in "01" for i in range(2)}
    folder = dated(save(tmp_path / "faces", files))
    old = tmp_path / "cache" / "faces-32px-3ch-62aebd88bf93"
    old.mkdir(parents=True)
    (old / "index.json").write_text('{"shape": [4, 3, 32, 32]}')
    images = opened(folder, tmp_path / "cache")
    assert images.folder != old
    assert np.array_equal(images.array[0], chw(noise(0)))
    assert old.exists()


def test_a_new_reader_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_source(data_path: str, flag: str) -> Source:
        return Source("flat", ["9", "200"], flag, lambda name, size: solid("L", int(name)))

    row = Reader(lambda path: path.startswith("flat:"), open_source)
    monkeypatch.setitem(data.READERS, "flat", row)
    images = data.open_images("flat:any", 8, 1, cache=tmp_path, workers=1)
    assert images.array[:, 0, 0, 0].tolist() == [9, 200]
    with pytest.raises(Refused, match=r"^--x=none:any: no such folder or zip"):
        data.open_images("none:any", 8, 1, cache=tmp_path, flag="--x")


def test_without_a_path_the_data_are_the_avatars(monkeypatch: pytest.MonkeyPatch) -> None:
    source = find_source("", "--data-path", data.READERS)
    assert (source.label, len(source.names), source.stamp) == ("avatars", 4096, avatars.version())
    with source.open("avatar 00004", 48) as face:
        assert np.array_equal(np.asarray(face).transpose(2, 0, 1), avatars.render(4, 1, 48)[0])


def test_simple_avatars_are_a_name_unless_a_folder_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = find_source(avatars.SIMPLE, "--data-path", data.READERS)
    assert (source.label, len(source.names)) == ("simple avatars", 4096)
    assert source.stamp.startswith(avatars.version())
    assert source.stamp != avatars.version()
    faces = {kind: avatars.render_one(1, 48, kind) for kind in (False, True)}
    with source.open("simple avatar 00001", 48) as face:
        assert face.tobytes() == faces[True].tobytes() != faces[False].tobytes()
    save(tmp_path / avatars.SIMPLE, {"mine.bmp": noise(1)})
    source = find_source(avatars.SIMPLE, "--data-path", data.READERS)
    assert list(source.names) == ["mine.bmp"]


def test_the_parts_of_simple_avatars_exist() -> None:
    """An unknown part would be left out of the face without a word."""
    text = resources.files("dicebear_styles").joinpath("adventurer.json").read_text("utf-8")
    components = json.loads(text)["components"]
    for key, chosen in avatars.SIMPLE_PARTS.items():
        if isinstance(chosen, list):
            variants = components[key.removesuffix("Variant")]["variants"]
            assert set(chosen) <= set(variants)
        else:
            assert key.removesuffix("Probability") in components


def test_files_too_large_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "in", {"small.bmp": noise(1, (9, 9)), "large.bmp": noise(2)})
    with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("small.bmp", "large.bmp"):
            archive.write(folder / name, name)
    monkeypatch.setattr(readers, "MAX_FILE_BYTES", 2000)  # 32 * 32 * 3 are more
    for path in (folder, tmp_path / "in.zip"):
        skipped = opened(path, tmp_path / path.name.replace(".", "")).skipped
        assert skipped == {"large.bmp": "ValueError: larger than 0 MiB"}


def test_a_damaged_cache_is_made_again(messy: Path, tmp_path: Path) -> None:
    first = opened(messy, tmp_path / "cache")
    digest = first.digest
    for damage, left in (("images.u8", 10), ("index.json", 10), ("split.npy", 0)):
        with open(first.folder / damage, "rb+") as file:
            file.truncate(left)
        assert opened(messy, tmp_path / "cache").digest == digest


def test_many_processes_give_what_one_gives(faces: Path, tmp_path: Path) -> None:
    one = data.open_images(str(faces), 32, 3, cache=tmp_path / "one", workers=1)
    two = data.open_images(str(faces), 32, 3, cache=tmp_path / "two", workers=2)
    assert one.digest == two.digest


def test_the_avatars_are_rendered_in_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(avatars, "COUNT", 128)
    images = data.open_images("", 16, 3, cache=tmp_path, workers=2)
    assert np.array_equal(images.array[:2], avatars.render(0, 2, 16))


def test_every_image_once_an_epoch_in_an_order_of_its_own(images: data.Images) -> None:
    count, batch = len(images), 30
    steps = count // batch
    assert (count, steps) == (200, 6)
    orders = [data.order(7, epoch, count)[0] for epoch in range(3)]
    for order in orders:
        assert sorted(order) == list(range(count))
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], data.order(8, 0, count)[0])
    for step in (0, 5, 6, 17):  # the last 20 images of each epoch are dropped
        epoch, i = divmod(step, steps)
        expected = images.array[orders[epoch][i * batch : (i + 1) * batch]]
        assert np.array_equal(images.batch_at(step, batch, 7), expected)


def test_an_avatar_is_a_function_of_its_index() -> None:
    faces = avatars.render(3, 2, 48)
    assert faces.shape == (2, 3, 48, 48)
    assert np.array_equal(faces[1], avatars.render(4, 1, 48)[0])
    assert not np.array_equal(faces[0], faces[1])
    assert faces.std() > 30  # not blank


def test_an_epoch_shows_one_of_each_group_of_near_duplicates(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "doubled"
    folder.mkdir()
    files = sorted(faces.iterdir())[:40]
    for file in files:
        shutil.copy(file, folder / file.name)
    for copy in range(60):  # one face 61 times, half of them mirrored and all compressed anew
        face = Image.open(files[0]).convert("RGB")
        face = ImageOps.mirror(face) if copy % 2 else face
        face.save(folder / f"copy {copy}.jpg", quality=90 + copy % 5)
    plain = opened(folder, tmp_path / "cache")
    one = opened(folder, tmp_path / "another", dedup=True)
    assert (
        "61 of those to train on are near-duplicates, in 1 group, the largest of 61"
        in capsys.readouterr().out
    )
    assert (len(plain), len(one)) == (100, 40)
    shown = [one.batch_at(step, 40, 0) for step in range(30)]  # an epoch each
    seen = {x.tobytes() for batch in shown for x in batch}
    members = {one.array[i].tobytes() for i in [0, *range(40, 100)]}  # 11 different ones
    assert len(members & seen) > 5, "every member has its turn"
    for batch in shown:
        assert len({x.tobytes() for x in batch}) == 40


def test_a_named_pipe_is_skipped_not_waited_for(faces: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3):
        shutil.copy(faces / f"{i:03}.png", folder)
    os.mkfifo(folder / "pipe.png")
    images = data.open_images(str(folder), 28, 3, cache=tmp_path / "cache", workers=1)
    assert len(images.train) == 3
    assert "no regular file" in images.skipped["pipe.png"]


def test_pictures_are_decoded_in_several_processes(faces: Path, tmp_path: Path) -> None:
    """All that decoding needs can be sent to another process."""
    here, there = (
        data.open_images(str(faces), 28, 3, cache=tmp_path / str(workers), workers=workers)
        for workers in (1, 2)
    )
    assert here.digest == there.digest


def test_images_of_later_steps_are_asked_for(
    images: data.Images, tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    class File:
        def madvise(self, advice: int, start: int, length: int) -> None:
            assert advice == mmap.MADV_WILLNEED
            assert start % mmap.PAGESIZE == 0
            asked.append((start, start + length))

    class Mapped:
        _mmap = File()

        def __getitem__(self, index: int) -> np.ndarray:
            return np.zeros((3, 100, 100), np.uint8)

    data.read_ahead(Mapped(), np.array([0, 7]))  # type: ignore[arg-type]
    assert asked[0] == (0, 30_000)
    assert asked[1][0] <= 210_000 < asked[1][0] + mmap.PAGESIZE
    assert asked[1][1] == 240_000
    data.read_ahead(np.zeros((9, 3, 4, 4), np.uint8), np.array([1]))  # no file: nothing to ask
    data.read_ahead(images.array, np.array([0, len(images.array) - 1]))  # of a real file
    later: list[list[int]] = []
    monkeypatch.setattr(feed, "read_ahead", lambda array, x: later.append(x.tolist()))
    config = tiny()
    fed = feed.NoiseFeed(config, RunFacts(), images, torch.device("cpu"))
    fed.batch(2)
    assert later == [images.indices_at(2 + data.AHEAD, config.batch_size, config.seed).tolist()]
