"""Which file is what: every convention of pairs, what a name says, what is left out and why."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from picture_files import (
    CONVENTIONS,
    SIZE,
    as_pairs,
    chw,
    noise,
    opened,
    save,
    side_by_side,
    solid,
    zipped,
)
from PIL import Image

from gan import layout, pairs
from gan.errors import Refused
from gan.layout import Role


@pytest.mark.parametrize("convention", ["side by side", *CONVENTIONS])
def test_every_convention_gives_the_same_pairs(convention: str, tmp_path: Path) -> None:
    folder = as_pairs(tmp_path / "in", convention)
    data = opened(folder, tmp_path / "cache")
    assert data.paired
    assert data.test_paired
    assert (len(data), data.size, data.skipped) == (6, SIZE, {})
    assert np.array_equal(data.given, [chw(noise(i)) for i in range(6)])
    assert np.array_equal(data.wanted, [chw(noise(100 + i)) for i in range(6)])
    assert np.array_equal(data.test_given, [chw(noise(i)) for i in (6, 7)])
    assert np.array_equal(data.test_wanted, [chw(noise(100 + i)) for i in (6, 7)])
    assert [Path(name).stem for name in data.test_names_given + data.test_names_wanted] == list(
        "6767"
    )
    for top in ("", "some/set/"):
        archive = zipped(folder, tmp_path / f"z{len(top)}.zip", top)
        assert opened(archive, tmp_path / "cache").digest == data.digest
    if convention != "side by side":
        two = opened(folder, tmp_path / "cache", paired=False)
        assert (two.paired, two.test_paired) == (False, True)
        assert two.digest == data.digest


def test_what_a_name_says() -> None:
    table = {
        "set/A/train/deep/x.png": Role("train", "A", False, "deep/x"),
        "set/train/B/x.png": Role("train", "B", False, "x"),
        "set/valB/0001_B.png": Role("val", "B", True, "0001"),
        "set/test-a/a_B.png": Role("test", "A", True, "a_B"),
        "set/test/test/x.png": Role("test", "", False, "test/x"),
        "set/A/b/x.png": Role("", "A", False, "b/x"),
        "set/other/A/x.png": Role("", "", False, "other/A/x"),
        "set/train.png": Role("", "", False, "train"),
    }
    assert layout.roles_of(list(table)) == table
    # a folder around all of them may have any name; one that says something is not around them
    assert layout.roles_of(["x/y/1.png", "x/z/2.png"])["x/y/1.png"].key == "y/1"
    assert layout.roles_of(["x/test/1.png"])["x/test/1.png"].part == "test"


def test_pairs_in_no_such_folders_are_all_to_train_on(tmp_path: Path) -> None:
    flat = save(
        tmp_path / "flat", {f"{i}.png": side_by_side(noise(i), noise(9 + i)) for i in range(3)}
    )
    deep = save(
        tmp_path / "deep", {f"k{i}/x.png": side_by_side(noise(i), noise(9 + i)) for i in range(3)}
    )
    apart = {f"{s}/{i}_{s}.png": noise(i + 9 * (s == "B")) for i in range(3) for s in "AB"}
    found = [opened(path, tmp_path / "cache") for path in (flat, deep, save(tmp_path / "x", apart))]
    assert [(len(x), len(x.test_given)) for x in found] == [(3, 0)] * 3
    assert len({x.digest for x in found}) == 1


def test_test_comes_before_val(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = {f"{part}/1.png": noise(i, (64, 32)) for i, part in enumerate(("train", "val"))}
    data = opened(save(tmp_path / "in", pictures), tmp_path / "cache", held_out=0.5)
    assert data.test_names_given == ("val/1.png",)
    noise(3, (64, 32)).save(tmp_path / "in" / "top.png")
    save(tmp_path / "in", {"test/2.png": noise(2, (64, 32))})
    capsys.readouterr()
    data = opened(tmp_path / "in", tmp_path / "cache", held_out=0.5)
    assert data.test_names_given == ("test/2.png",)
    assert data.skipped == {"top.png": "in none of train/, val/ and test/"}
    said = capsys.readouterr().out
    assert "1 pair (A left, B right) to train on, 1 to score with" in said
    assert "1 picture in val/ left out" in said


def test_names_by_chance_alike_make_no_pairs(tmp_path: Path) -> None:
    folder = as_pairs(tmp_path / "in", "trainA")
    (folder / "trainB" / "3.bmp").unlink()
    with pytest.raises(Refused, match=r"1 of 15 pictures is in no pair .*trainA/3.png") as refusal:
        opened(folder, tmp_path / "cache")
    assert "\n" not in str(refusal.value)
    assert len(opened(folder, tmp_path / "cache", paired=False)) == 6
    shutil.move(folder / "trainA", folder / "A")
    shutil.move(folder / "trainB", folder / "B")  # testA and testB are still in one word
    shutil.rmtree(folder / "testA")
    shutil.rmtree(folder / "testB")
    assert opened(folder, tmp_path / "cache").skipped == {"A/3.png": "no picture of this name in B"}


def test_partners_are_missing_double_broken_or_of_another_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures: dict[str, Image.Image | str] = {
        "A/good.png": noise(1, (100, 100)),
        "B/good.jpg": solid((0, 0, 99), (64, 48)),
        "A/lone.png": noise(2),
        "B/alone.png": noise(3),
        "A/twice.png": noise(4),
        "A/twice.bmp": noise(5),
        "B/twice.png": noise(6),
        "A/broken.png": "no picture",
        "B/broken.png": noise(7),
        "preview.png": noise(8),
        "notes.txt": "no picture either",
    }
    data = opened(save(tmp_path / "in", pictures), tmp_path / "cache")
    assert len(data) == 2
    assert np.array_equal(data.wanted[1], chw(noise(6)))  # keys in order: broken, good, twice
    assert np.abs(data.wanted[0].astype(int) - [[[0]], [[0]], [[99]]]).max() <= 2
    why = {
        "A/lone.png": "no picture of this name in B",
        "B/alone.png": "no picture of this name in A",
        "A/twice.png": "A/twice.bmp has this name too",
        "B/broken.png": "its partner cannot be read",
        "preview.png": "neither in A nor in B",
    }
    assert "cannot identify image" in data.skipped.pop("A/broken.png")
    assert data.skipped == why
    listed = (data.folder / "skipped.txt").read_text()
    assert all(f"{name}\t{reason}\n" in listed for name, reason in why.items())
    said = capsys.readouterr()
    assert "6 pictures skipped" in said.err
    assert "2 pairs to train on" in said.out
    assert "1 file that is no picture" in said.out


@pytest.mark.parametrize("hostile", ["../../A/evil.png", "/A/evil.png", "A/../../evil.png"])
def test_hostile_names(hostile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = "B/\x1b[31mnew\nline.png"
    folder = save(tmp_path / "deep" / "in", {"A/1.png": noise(1), "B/1.png": noise(2)})
    archive = zipped(folder, tmp_path / "deep" / "hostile.zip")
    with zipfile.ZipFile(archive, "a") as file:
        for name in (hostile, odd):
            file.writestr(zipfile.ZipInfo(name), (folder / "A" / "1.png").read_bytes())
    data = opened(archive, tmp_path / "deep" / "cache")
    assert np.array_equal(data.given, [chw(noise(1))])
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    listed = (data.folder / "skipped.txt").read_text()
    assert "B/\\x1b[31mnew\\nline.png\tno picture of this name in A\n" in listed
    assert not list(tmp_path.rglob("evil*"))
    found = dict(pairs.stream(str(archive), "--input"))
    reasons = {name: found.pop(name) for name in list(found) if isinstance(found[name], str)}
    assert list(found) == ["A/1.png", odd, "B/1.png"]
    leads_out = {hostile: "its name leads out of the folder"}
    assert reasons == (leads_out if hostile.startswith("/") else {})  # .. is as hidden as .git
