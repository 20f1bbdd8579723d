"""Batches of pairs and of two folders: their order, their crops, and both directions."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from picture_files import (
    SIZE,
    STORED,
    Pixels,
    as_pairs,
    chw,
    noise,
    opened,
    save,
    side_by_side,
    solid,
)
from PIL import Image

from gan import pairs
from gan.errors import Refused


def coordinates() -> Image.Image:
    """A picture of the stored size: red is x, green is y."""
    y, x = np.mgrid[:STORED, :STORED]
    return Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))


def window(picture: Pixels) -> tuple[int, int, bool]:
    """Top, left and whether mirrored of a crop of `coordinates`, checked pixel by pixel."""
    x, y = picture[0].astype(int), picture[1].astype(int)
    mirrored = bool(x[0, 0] > x[0, 1])
    top, left = int(y.min()), int(x.min())
    columns = np.arange(left, left + SIZE)
    assert (x == (columns[::-1] if mirrored else columns)).all()
    assert (y == np.arange(top, top + SIZE)[:, None]).all()
    return top, left, mirrored


def test_both_sides_of_a_pair_are_cropped_and_mirrored_alike(tmp_path: Path) -> None:
    a = coordinates()
    b = Image.fromarray(255 - np.asarray(a))
    data = opened(save(tmp_path / "in", {"1.png": side_by_side(a, b)}), tmp_path / "c", jitter=True)
    assert data.given.shape == (1, 3, STORED, STORED)
    assert data.test_given.shape == (0, 3, SIZE, SIZE)
    seen = set()
    for step in range(300):
        x, y = data.batch_at(step, 1, 0, True)
        assert x.shape == (1, 3, SIZE, SIZE)
        assert np.array_equal(x, 255 - y)
        seen.add(window(x[0]))
        plain, _ = data.batch_at(step, 1, 0, True, flip=False)
        assert window(plain[0]) == (*window(x[0])[:2], False)
        assert window(data.batch_at(step, 1, 0, False)[0][0]) == (2, 2, False)
    assert len(seen) >= 48  # of 5 * 5 places, mirrored or not; all 50 but for bad luck
    assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(5))


def test_two_folders_are_cropped_and_mirrored_one_by_one(tmp_path: Path) -> None:
    folder = save(tmp_path / "in", {"trainA/1.png": coordinates(), "trainB/2.png": coordinates()})
    data = opened(folder, tmp_path / "cache", paired=False, jitter=True)
    seen = [[window(x[0]) for x in data.batch_at(step, 1, 0, True)] for step in range(200)]
    assert 70 < sum(a[2] == b[2] for a, b in seen) < 130
    assert 20 < sum(a[0] == b[0] for a, b in seen) < 60  # one in five
    assert 0 < sum(a == b for a, b in seen) < 15  # one in fifty


def test_without_jitter_pictures_are_those_of_the_files(tmp_path: Path) -> None:
    folder = save(tmp_path / "in", {"A/1.png": noise(1), "B/1.png": noise(2)})
    for paired in (True, False):
        data = opened(folder, tmp_path / "cache", paired=paired)
        for batch, seed in zip(data.batch_at(5, 1, 0, False), (1, 2), strict=True):
            assert np.array_equal(batch[0], chw(noise(seed)))
        larger = opened(folder, tmp_path / "cache", paired=paired, jitter=True)
        assert larger.given.shape[-1] == STORED
        assert larger.folder != data.folder


def numbered(path: Path, folder: str, count: int) -> None:
    save(path, {f"{folder}/{i}.png": solid((10 * i, 0, 0)) for i in range(count)})


def shown(
    data: pairs.PictureSet, steps: int, batch: int, seed: int = 0
) -> Iterator[NDArray[np.int64]]:
    """Which pictures of A and of B came, in their order."""
    batches = [data.batch_at(step, batch, seed, True) for step in range(steps)]
    for side in range(2):
        yield np.concatenate([batch[side][:, 0, 0, 0] for batch in batches]).astype(int) // 10


def test_every_pair_once_an_epoch_in_an_order_of_its_own(tmp_path: Path) -> None:
    numbered(tmp_path / "in", "A", 9)
    numbered(tmp_path / "in", "B", 9)
    data = opened(tmp_path / "in", tmp_path / "cache")
    a, b = shown(data, 40, 4)  # two steps an epoch: one pair is left out
    assert np.array_equal(a, b)
    epochs = a.reshape(20, 8)
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 20
    assert set(a) == set(range(9))
    assert sorted(next(shown(data, 1, 9))) == list(range(9))
    assert np.array_equal(a, next(shown(data, 40, 4)))
    assert not np.array_equal(a, next(shown(data, 40, 4, seed=1)))
    again = opened(tmp_path / "in", tmp_path / "cache")
    assert np.array_equal(data.batch_at(37, 4, 5, True), again.batch_at(37, 4, 5, True))


@pytest.mark.parametrize("larger", ["A", "B"])
def test_the_smaller_side_wraps_around(larger: str, tmp_path: Path) -> None:
    numbered(tmp_path / "in", "trainA", 7 if larger == "A" else 3)
    numbered(tmp_path / "in", "trainB", 7 if larger == "B" else 3)
    data = opened(tmp_path / "in", tmp_path / "cache", paired=False)
    assert len(data) == 7
    many, few = shown(data, 60, 7) if larger == "A" else reversed(list(shown(data, 60, 7)))
    assert all(sorted(epoch) == list(range(7)) for epoch in many.reshape(60, 7))
    turns = few.reshape(140, 3)  # they do not end where an epoch does
    assert all(sorted(turn) == [0, 1, 2] for turn in turns)
    assert len({tuple(turn) for turn in turns}) == 6
    # with equal numbers the two orders have nothing to do with each other
    numbered(tmp_path / "in", "trainA", 7)
    numbered(tmp_path / "in", "trainB", 7)
    data = opened(tmp_path / "in", tmp_path / "cache", paired=False)
    a, b = shown(data, 60, 7)
    assert 30 < (a == b).sum() < 100  # one in seven: 60


FROZEN = {
    # paired: SHA-256 of the batches (wanted first) of steps 0 to 11 before there was a `direction`,
    # and which pictures of B and of A were in the first four
    True: (
        "c9bd2d9aee6934edbfaf50bedffeb94d049aa3220874acf35a807fb1b164e104",
        [([3, 6], [3, 6]), ([5, 4], [5, 4]), ([0, 2], [0, 2]), ([3, 6], [3, 6])],
    ),
    False: (
        "d1fb1ebe0dd2565a61eedbaea85f3f1a9d5ad4aa1cf104569198920c8468839e",
        [([1, 0], [3, 6]), ([2, 1], [5, 4]), ([0, 2], [0, 2]), ([0, 1], [3, 6])],
    ),
}


@pytest.mark.parametrize("paired", FROZEN)
def test_b_to_a_is_the_swapped_batch_of_a_to_b(paired: bool, tmp_path: Path) -> None:
    """A run from B to A that was begun by an earlier version goes on with the same pictures."""
    a, b = ("A", "B") if paired else ("trainA", "trainB")
    files = {f"{a}/{i}.bmp": noise(i, (STORED, STORED)) for i in range(7)}
    files |= {f"{b}/{i}.bmp": noise(100 + i, (STORED, STORED)) for i in range(7 if paired else 3)}
    folder = save(tmp_path / "in", files)
    forth = opened(folder, tmp_path / "cache", paired=paired, jitter=True)
    back = opened(folder, tmp_path / "cache", paired=paired, jitter=True, direction="BtoA")
    assert np.array_equal(back.given, forth.wanted)
    assert np.array_equal(back.wanted, forth.given)
    assert (back.folder, len(back)) == (forth.folder, 7)
    swapped, straight = hashlib.sha256(), hashlib.sha256()
    for step in range(12):
        for batch in back.batch_at(step, 2, 5, True):
            swapped.update(batch.tobytes())
        for batch in forth.batch_at(step, 2, 5, True)[::-1]:
            straight.update(batch.tobytes())
    digest, first = FROZEN[paired]
    where = [
        [
            back._sample(n, s, step, 2, 5)[0].tolist()
            for n, s in zip((len(back.given), len(back.wanted)), back.streams, strict=True)
        ]
        for step in range(4)
    ]
    assert where == [list(map(list, pair)) for pair in first]
    assert straight.hexdigest() == digest
    assert swapped.hexdigest() == digest


def test_the_test_pictures_are_turned_too(tmp_path: Path) -> None:
    folder = as_pairs(tmp_path / "in", "trainA")
    forth = opened(folder, tmp_path / "cache", channels=(3, 1))
    back = opened(folder, tmp_path / "cache", channels=(3, 1), direction="BtoA")
    assert np.array_equal(back.test_given, forth.test_wanted)
    assert np.array_equal(back.test_wanted, forth.test_given)
    assert back.test_names_given == ("testB/6.bmp", "testB/7.bmp")
    assert back.test_names_wanted == ("testA/6.png", "testA/7.png")
    assert (back.given.shape[1], back.wanted.shape[1]) == (1, 3)
    with pytest.raises(Refused, match=r"^--direction=BtoB: give one of AtoB, BtoA"):
        opened(folder, tmp_path / "cache", direction="BtoB")
