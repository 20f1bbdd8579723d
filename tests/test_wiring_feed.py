"""What the feed takes from the data and from the config: seeds, classes, sides, previews."""

from pathlib import Path

import numpy as np
import pytest
import torch
from picture_files import save, solid
from torch import Tensor
from wiring import (
    NZ,
    SIDE,
    Feed,
    Images,
    Net,
    both_ways,
    cell,
    condition_of,
    d_calls,
    fed_to_g,
    feed_of,
    given_of,
    image_set,
    initial_weights,
    inputs_of,
    losses_of,
    make_config,
    mirrored,
    nets_and_batch,
    noise_of_candidates,
    numbered,
    numbers,
    open_data,
    pairs_of,
    patch_score,
    picture_set,
    pictures_of,
    real_of,
)


def feed_of_task(task: str, **given: object) -> Feed:
    config = make_config(**{"batch_size": 10, **given})
    direction = str(given.get("direction", "AtoB"))
    data = image_set(numbered(100)) if task == "noise" else pairs_of(100, direction=direction)
    return feed_of(task, config, data)


# --- seeds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["noise", "paired", "unpaired"])
def test_the_order_of_images_is_a_function_of_the_seed(task: str) -> None:
    first, again, other = (
        [numbers(real_of(feed_of_task(task, seed=seed).batch(step))) for step in range(3)]
        for seed in (1, 1, 2)
    )
    assert first == again
    assert all(mine != others for mine, others in zip(first, other, strict=True))
    assert len({n for batch in first for n in batch}) == 30  # a step's images are its own


def test_noise_is_a_function_of_the_seed_and_of_the_step() -> None:
    found: dict[tuple[int, int], Tensor] = {}
    for seed in (1, 2):
        for step in (0, 1):
            for disturbance in (5, 6):
                torch.manual_seed(disturbance)
                noise = fed_to_g(feed_of_task("noise", seed=seed).batch(step))[0]
                assert noise.shape == (10, NZ)
                assert torch.equal(noise, found.setdefault((seed, step), noise))
    assert len({tuple(noise.flatten().tolist()) for noise in found.values()}) == 4


@pytest.mark.parametrize("task", ["noise", "paired", "unpaired"])
def test_chance_in_a_step_is_a_function_of_the_seed_and_of_the_step(task: str) -> None:
    """What D sees: which images are mirrored, moved, and where their holes are."""
    found: dict[tuple[int, int], Tensor] = {}
    for seed in (1, 2):
        for step in (0, 10):  # of two epochs
            for disturbance in (5, 6):
                torch.manual_seed(disturbance)
                batch = feed_of_task(task, seed=seed, augment=0.9, flip=True).batch(step)
                nets, _ = nets_and_batch(
                    task, 1, 3, 10
                )  # fakes are all the same but for augmentation
                losses_of(task, "hinge")[1](nets, batch, make_config())
                holed = d_calls(nets)[0][0][0][:, -1:]
                seen = torch.cat([real_of(batch), holed])
                assert torch.equal(seen, found.setdefault((seed, step), seen))
    assert len({tuple(seen[10:].flatten().tolist()) for seen in found.values()}) == 4


def test_initial_weights_are_a_function_of_the_seed() -> None:
    assert torch.equal(initial_weights(1), initial_weights(1))
    assert not torch.equal(initial_weights(1), initial_weights(2))


# --- noise, mirroring, crops ---------------------------------------------------------------------


def test_noise_is_of_the_distribution_asked_for() -> None:
    for kind, bounds in {"uniform": (0.95, 1), "normal": (2, 6)}.items():
        feed = feed_of_task("noise", noise=kind, batch_size=100)
        for noise in (fed_to_g(feed.batch(0))[0], inputs_of(feed, 0, 200)[0]):
            assert bounds[0] < float(noise.abs().max()) <= bounds[1]
            assert float(noise.min()) < 0 < float(noise.max())


@pytest.mark.parametrize(("task", "jitter"), [("noise", False), ("paired", True)])
def test_half_are_mirrored_but_not_without_flip(task: str, jitter: bool) -> None:
    for flip, share in ((True, 0.5), (False, 0.0)):
        feed = feed_of_task(task, flip=flip, jitter=jitter, batch_size=100)
        images = real_of(feed.batch(0))
        assert np.mean(mirrored(images)) == pytest.approx(share, abs=0.2)  # 4 deviations
        left = images[:, 0, 0, 0] == 1
        assert [not x for x in left.tolist()] == mirrored(images)  # mirrored, not rolled


@pytest.mark.parametrize("task", ["paired", "unpaired"])
def test_crops_are_moved_with_jitter_alone(task: str) -> None:
    ramp = np.arange(12, dtype=np.uint8).repeat(12).reshape(1, 1, 12, 12).repeat(50, 0)
    tests = numbered(1)
    data = picture_set(ramp, ramp, tests, tests)
    for jitter, tops in ((True, {0, 1, 2, 3, 4}), (False, {2})):
        batch = feed_of(task, make_config(jitter=jitter, batch_size=50), data).batch(0)
        for images in (real_of(batch), given_of(batch)):
            top = ((images[:, 0, 0, 0] + 1) * 127.5).round().int()
            assert set(top.tolist()) == tops


# --- classes -------------------------------------------------------------------------------------


def of_classes(labels: list[int], held_out: int = 0, **given: object) -> tuple[Feed, Images]:
    data = image_set(numbered(len(labels)), labels, held_out)
    config = make_config(**{"batch_size": 10, "conditional": True, **given})
    return feed_of("noise", config, data), data


def test_a_batch_has_the_classes_of_its_images_and_g_is_fed_them() -> None:
    labels = [i * i % 3 for i in range(60)]
    feed, _ = of_classes(labels)
    for step in range(6):
        batch = feed.batch(step)
        expected = [labels[n] for n in numbers(real_of(batch))]
        (condition,) = condition_of(batch)
        noise, classes = fed_to_g(batch)
        assert noise.shape == (10, NZ)
        for one_hot in (condition, classes):
            assert one_hot.argmax(1).tolist() == expected
            assert one_hot.sum(1).tolist() == [1] * 10


def test_a_run_without_classes_is_fed_none_though_its_images_have_some() -> None:
    feed, _ = of_classes([0, 1] * 30, held_out=20, conditional=False)
    assert condition_of(feed.batch(0)) == ()
    assert len(fed_to_g(feed.batch(0))) == len(inputs_of(feed, 0, 4)) == 1
    held_out = feed.held_out()
    assert held_out is not None
    assert len(held_out) == 1


def test_inputs_are_of_each_class_as_often_as_the_images_to_train_on() -> None:
    # of those to train on 4 in 5 are of class 0, of all of them half, of those held out none
    feed, _ = of_classes([0] * 40 + [1] * 10 + [1] * 30, held_out=30)
    _, classes = inputs_of(feed, 0, 1000)
    assert classes.mean(0).tolist() == pytest.approx([0.8, 0.2], abs=0.01)


def test_inputs_to_score_are_the_first() -> None:
    feed, _ = of_classes([0, 1] * 30)
    scored, first = (inputs_of(feed, 0, 40), inputs_of(feed, None, 40))
    for one, other in zip(scored, first, strict=True):
        assert torch.equal(one, other)
        assert len(one) == 40


# --- held-out images -----------------------------------------------------------------------------


def test_unseen_images_are_spread_over_those_held_out_with_their_classes() -> None:
    labels = [i % 2 for i in range(40)] + [i % 3 // 2 for i in range(19)]
    feed, _ = of_classes(labels, held_out=19)
    unseen = feed.held_out()
    assert unseen is not None
    images, condition = unseen
    assert numbers(images) == list(range(40, 59, 2))  # 10, a batch, of 40 to 58
    assert condition.argmax(1).tolist() == [labels[n] for n in range(40, 59, 2)]
    assert not any(mirrored(images))


def test_nothing_is_unseen_where_nothing_is_held_out_or_pictures_are_translated() -> None:
    assert feed_of_task("noise").held_out() is None
    assert feed_of_task("paired").held_out() is None


# --- pictures to pictures ------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["paired", "unpaired"])
@pytest.mark.parametrize(("direction", "given", "wanted"), [("AtoB", 0, 100), ("BtoA", 100, 0)])
def test_the_direction_says_which_side_is_given(
    task: str, direction: str, given: int, wanted: int
) -> None:
    feed = feed_of_task(task, direction=direction)
    batch = feed.batch(0)
    assert {n // 100 * 100 for n in numbers(given_of(batch))} == {given}
    assert {n // 100 * 100 for n in numbers(real_of(batch))} == {wanted}
    shift = wanted - given
    assert numbers(real_of(batch)) == [n + shift for n in numbers(given_of(batch))]
    # those to score with are from 50 and from 150 on
    assert numbers(pictures_of(feed, 1, 3)) == [given + n for n in (51, 52, 53)]


@pytest.mark.parametrize("task", ["paired", "unpaired"])
def test_pictures_are_opened_in_the_direction_of_the_config(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the cache is in the working directory
    for side, value in {"A": 50, "B": 200}.items():
        for part in ("train", "test"):
            picture = solid((value,) * 3)
            save(tmp_path / "data" / f"{part}{side}", {"1.png": picture, "2.png": picture})
    for direction, expected in {"AtoB": (50, 200), "BtoA": (200, 50)}.items():
        config = make_config(
            data_path=str(tmp_path / "data"), direction=direction, img_size=32, num_workers=1
        )
        data = open_data(task, config)
        assert (data.given.max(), data.wanted.max()) == expected
        assert (data.test_given.max(), data.test_wanted.max()) == expected


def test_pictures_to_score_are_spread_over_those_there_are() -> None:
    feed = feed_of("paired", make_config(), pairs_of(tests=5))
    assert numbers(pictures_of(feed, None, 3)) == [50, 52, 54]
    assert numbers(pictures_of(feed, None, 99)) == [50, 51, 52, 53, 54]
    assert numbers(pictures_of(feed, 3, 99)) == [53, 54]


def test_without_test_pictures_some_to_train_on_stand_in_unchanged() -> None:
    data = pairs_of(20, tests=0)
    config = make_config(flip=True, jitter=True, batch_size=8)
    tests = pictures_of(feed_of("paired", config, data), 0, 99)
    assert len(tests) == 8
    assert set(numbers(tests)) < set(range(20))
    assert not any(mirrored(tests))


# --- previews ------------------------------------------------------------------------------------


def paint(noise: Tensor, *classes: Tensor) -> Tensor:
    """An image whose left is its class in fifths, and whose right is the first number of noise."""
    image = torch.zeros(len(noise), 1, SIDE, SIDE)
    if classes:
        image[..., : SIDE // 2] = classes[0].argmax(1).view(-1, 1, 1, 1) / 5
    image[..., SIDE // 2 :] = noise[:, 0].tanh().view(-1, 1, 1, 1)
    return image


def shade(value: float) -> int:
    """-1..1 as a pixel."""
    return round((value + 1) * 127.5)


def test_a_preview_shows_the_first_64_candidates() -> None:
    grid = feed_of_task("noise", seed=3).preview(Net(paint))
    assert grid.shape == (3, 2 + 8 * (SIDE + 2), 2 + 8 * (SIDE + 2))
    noise = noise_of_candidates(3, 64)[:, 0].tanh().tolist()
    for n, value in enumerate(noise):
        assert cell(grid, *divmod(n, 8))[1] == pytest.approx(shade(value), abs=1)


def test_each_row_of_a_preview_is_a_class() -> None:
    feed, _ = of_classes([0] * 10 + [1] * 20 + [2] * 30, seed=3)  # rows do not go by how many
    grid = feed.preview(Net(paint))
    assert grid.shape[1:] == (2 + 3 * (SIDE + 2), 2 + 8 * (SIDE + 2))
    noise = noise_of_candidates(3, 24)[:, 0].tanh().tolist()  # candidate n is of class n % 3
    for row in range(3):
        for column in range(8):
            left, right = cell(grid, row, column)
            assert left == pytest.approx(shade(row / 5), abs=1)
            assert right == pytest.approx(shade(noise[3 * column + row]), abs=1)


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_the_third_column_of_a_preview_is_wanted_or_of_a_cycle_the_way_back(direction: str) -> None:
    data, config = pairs_of(tests=15, direction=direction), make_config(direction=direction)
    first, other = (50, 150) if direction == "AtoB" else (150, 50)
    there_and_back = both_ways(torch.neg, lambda x: x / 2, [patch_score] * 2, [torch.neg] * 2)
    for task, G in {"paired": Net(torch.neg), "unpaired": there_and_back.G}.items():
        grid = feed_of(task, config, data).preview(G)
        assert grid.shape[1:] == (2 + 8 * (SIDE + 2), 2 + 3 * (SIDE + 2))
        for row in range(8):  # test pictures 0, 2, ... 14
            given = first + 2 * row
            third = other + 2 * row if task == "paired" else 127.5 + (127.5 - given) / 2
            shown = [cell(grid, row, column)[1] for column in range(3)]
            assert shown == pytest.approx([given, 255 - given, third], abs=1)
