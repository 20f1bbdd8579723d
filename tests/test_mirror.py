"""Whether images may be mirrored: a set that faces one way is told from one that does not."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from states import CPU, new_state

from commands import train
from config import Config, RunFacts
from gan import data, mirror

COUNT = 240


def save_wedges(folder: Path, both_ways: bool, count: int = COUNT) -> data.Images:
    """Random grey pictures with a bright left half; if `both_ways`, every other one mirrored."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(count):
        pixels = random.integers(0, 100, (28, 28, 3), np.uint8)
        pixels[:, :14] += 100
        pixels = pixels[:, ::-1] if both_ways and random.random() < 0.5 else pixels
        Image.fromarray(pixels).save(folder / f"{index:03}.png")
    return data.open_images(str(folder), 28, 3, cache=folder / "cache", workers=1)


def test_a_set_that_faces_one_way_is_not_mirrored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_way = save_wedges(tmp_path / "one", both_ways=False)
    share, deviations = mirror.measure_asymmetry(one_way)
    assert 0.5 < share < 1
    assert deviations > 50
    assert not mirror.may_mirror(one_way)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("data: not mirrored, because the images face one way")
    assert said.endswith("--flip=True mirrors them anyway")


@pytest.mark.parametrize(
    ("rows", "share", "deviations"),
    [
        # each d_i is 2: 12 products of 4, so their mean is |d_i|^2, and 48 / sqrt(2 * 12 * 16)
        ([2.0, 2.0, 2.0, 2.0], 1.0, 48 / 384**0.5),
        # signs in turn: of 12 products 8 are -4 and 4 are 4
        ([2.0, -2.0, 2.0, -2.0], -1 / 3, -16 / 384**0.5),
        ([0.0, 0.0, 0.0, 0.0], 0.0, 0.0),
    ],
)
def test_asymmetry_by_hand(
    rows: list[float],
    share: float,
    deviations: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = save_wedges(tmp_path / "set", both_ways=False, count=4)
    images = dataclasses.replace(images, train=np.arange(4))
    plain = np.array(rows, np.float32)[:, None]
    answers = iter([plain, np.zeros_like(plain)])
    monkeypatch.setattr(mirror.features, "extract", lambda *rest: next(answers))
    found = mirror.measure_asymmetry(images)
    assert found == pytest.approx((share, deviations))


def test_a_symmetric_set_is_mirrored_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = save_wedges(tmp_path / "both", both_ways=True)
    capsys.readouterr()
    assert mirror.may_mirror(both)
    assert capsys.readouterr().out == ""


def test_too_few_images_are_mirrored_and_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = save_wedges(tmp_path / "few", both_ways=False, count=mirror.MIN_IMAGES - 1)
    assert mirror.may_mirror(few)
    assert "19 images are too few to decide; --flip=False" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("share", "deviations", "mirrors"),
    [(0.011, 3.1, False), (0.009, 50.0, True), (0.5, 2.9, True), (-0.5, -9.0, True)],
)
def test_a_large_and_significant_asymmetry_decides(
    share: float, deviations: float, mirrors: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = save_wedges(tmp_path / "set", both_ways=False, count=60)
    found = mirror.Asymmetry(share, deviations)
    monkeypatch.setattr(mirror, "measure_asymmetry", lambda data: found)
    assert mirror.may_mirror(images) is mirrors


def test_each_image_is_compared_with_its_own_mirror_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = save_wedges(tmp_path / "set", both_ways=False, count=60)
    seen = []
    extract = mirror.features.extract
    monkeypatch.setattr(
        mirror.features, "extract", lambda x, *rest: seen.append(x[:]) or extract(x, *rest)
    )
    mirror.measure_asymmetry(images)
    plain, mirrored = seen
    assert np.array_equal(plain, images.array)
    assert np.array_equal(mirrored, images.array[..., ::-1])


@pytest.mark.parametrize(("flip", "found"), [("auto", False), (True, True), (False, False)])
def test_a_run_finds_out_once_and_keeps_it(flip: bool | str, found: bool, tmp_path: Path) -> None:
    images = save_wedges(tmp_path / "set", both_ways=False)
    config = Config(family="dcgan", flip=flip, gpu=False, img_size=28)
    state = new_state(config)
    assert train.find_facts(config, images, CPU).flip is found
    assert state.state_dict()["config"]["flip"] == flip  # what was asked stays what it is
    saved = {"facts": {"class_names": [], "mixed_precision": False, "flip": found}}
    assert RunFacts.of_state(saved).flip is found
    before = {"config": {"classes": "", "amp": False, "flip": found}}
    assert RunFacts.of_state(before).flip is found
