"""Whether images may be mirrored: a set that faces one way is told from one that does not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from states import CPU, new_state

from commands import train
from config import Config, RunFacts
from gan import data, metrics, mirror

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
    value, error = mirror.mirror_distance(one_way)
    assert value > 20 * error
    assert not mirror.may_mirror(one_way)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("data: not mirrored, because the images differ")
    assert said.endswith("--flip=True mirrors them all the same")


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
    assert "99 images are too few to decide; --flip=False" in capsys.readouterr().out


@pytest.mark.parametrize(("value", "mirrors"), [(0.031, False), (0.029, True), (-0.5, True)])
def test_three_standard_errors_decide(
    value: float, mirrors: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = save_wedges(tmp_path / "set", both_ways=False)
    estimate = metrics.Estimate(value, 0.01)
    monkeypatch.setattr(mirror, "mirror_distance", lambda data: estimate)
    assert mirror.may_mirror(images) is mirrors


def test_the_halves_are_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A symmetric picture would else be compared with itself, which makes KID too small."""
    images = save_wedges(tmp_path / "set", both_ways=False)
    seen = []
    extract = mirror.features.extract
    monkeypatch.setattr(
        mirror.features, "extract", lambda x, *rest: seen.append(x[:]) or extract(x, *rest)
    )
    mirror.mirror_distance(images)
    plain, mirrored = seen
    assert np.array_equal(plain, images.array[0::2])
    assert np.array_equal(mirrored, images.array[1::2, :, :, ::-1])


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
