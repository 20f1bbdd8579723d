"""Near-duplicates and the held-out images."""

from io import BytesIO

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from gan import avatars, features, split

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def faces() -> Pixels:
    return avatars.render(0, 320, 64)


def held_out(images: Pixels, fraction: float = 0.1) -> tuple[NDArray, NDArray]:
    hashes = np.array([split.content_hash(image.tobytes()) for image in images], np.uint64)
    return split.held_out(hashes, split.near_duplicates(images), fraction)


def recompressed(images: Pixels) -> Pixels:
    found = []
    for image in images:
        file = BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG", quality=80)
        found.append(np.asarray(Image.open(file)).transpose(2, 0, 1))
    return np.stack(found)


def test_near_duplicates_are_one_and_recolours_are_not() -> None:
    faces = avatars.render(0, 6, 64)
    recoloured = faces[:, [2, 0, 1]]
    images = np.concatenate([faces, faces[..., ::-1], recompressed(faces), faces, recoloured])
    label = split.near_duplicates(images)
    assert sorted(set(label)) == list(range(12))
    assert label[:24].reshape(4, 6).tolist() == [label[:6].tolist()] * 4
    assert len(set(label[:6])) == len(set(label[24:])) == 6


def test_drawings_of_one_kind_are_not_duplicates(faces: Pixels) -> None:
    """Heads that differ in no more than a mouth or a brow; at 0.02 on average alone 90 went."""
    assert len(set(split.near_duplicates(faces))) == 320


def test_clusters_merge_by_either_side() -> None:
    a = np.array([0, 1, 1, 2, 3, 4])
    b = np.array([5, 5, 6, 7, 8, 7])  # 0-1 by b, 1-2 by a, 3-5 by b
    assert split.merge_clusters(a, b).tolist() == [0, 0, 0, 1, 2, 1]
    assert split.merge_clusters(a[:0], b[:0]).tolist() == []


def test_near_duplicates_in_blocks_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """700 smooth pictures, in many blocks: each is compared with each, the simple way."""
    coarse = np.random.RandomState(0).randint(60, 196, (175, 1, 4, 4)).astype(np.float32)
    smooth = features.resized(torch.from_numpy(coarse), (32, 32)).numpy()
    near = [smooth, smooth[..., ::-1] + 2, smooth + np.random.RandomState(1).randn(*smooth.shape)]
    images = np.concatenate([*near, 255 - smooth]).round().astype(np.uint8)
    packed = split.signatures(images)
    positive, known = np.unpackbits(packed[:, :16], axis=1).reshape(-1, 2, 64).swapaxes(0, 1)
    signs, thumbs = known.astype(np.float32) * (2.0 * positive - 1), packed[:, 16:]
    small, flips = thumbs.astype(np.float32).reshape(-1, 16, 16), np.tile([1, -1], 32)
    same = np.zeros((700, 700), dtype=bool)
    for flip, flipped in ((1, small), (flips, small[:, :, ::-1])):
        for i in range(700):
            bits = ((signs * (signs[i] * flip)) < 0).sum(1)
            distance = np.abs(small - flipped[i])
            same[i] |= (bits <= 4) & (distance.mean((1, 2)) <= 5.1) & (distance.max((1, 2)) <= 25.5)
    for _ in range(10):
        same = same.astype(np.float32) @ same > 0
    monkeypatch.setattr(split, "PAIRS", 500)
    label = split.near_duplicates(images)
    assert np.array_equal(label[:, None] == label[None], same | same.T)
    assert len(set(label)) > 300


def test_held_out_keeps_its_members_in_any_order(faces: Pixels) -> None:
    train, held = held_out(faces)
    assert sorted([*train, *held]) == list(range(320))
    assert len(held) == 32
    order = np.random.RandomState(0).permutation(320)
    _, again = held_out(faces[order])
    assert set(order[again]) == set(held)


def test_held_out_never_splits_a_cluster(faces: Pixels) -> None:
    images = np.concatenate([faces[:60], faces[:60, :, :, ::-1], faces[60:120]])
    label = split.near_duplicates(images)
    train, held = held_out(images, 0.3)
    assert not set(label[train]) & set(label[held])
    assert len(held) == 54


@pytest.mark.parametrize(("count", "expected"), [(300, 30), (100, 28), (40, 20), (3, 1), (1, 0)])
def test_held_out_is_a_tenth_at_least_28_at_most_half(count: int, expected: int) -> None:
    hashes = np.random.RandomState(0).randint(0, 2**62, count).astype(np.uint64)
    train, held = split.held_out(hashes, np.arange(count))
    assert (len(train), len(held)) == (count - expected, expected)


def test_nothing_is_held_out_where_nothing_is_asked_for() -> None:
    train, held = split.held_out(np.arange(9, dtype=np.uint64), np.arange(9), 0.0)
    assert (len(train), len(held)) == (9, 0)
    assert len(split.near_duplicates(np.zeros((0, 3, 28, 28), np.uint8))) == 0


def test_large_clusters_are_held_out_no_more_often_than_small_ones() -> None:
    """50 clusters of ten images and 500 single ones: half of the images are in each."""
    clusters = np.concatenate([np.repeat(np.arange(50), 10), np.arange(50, 550)])
    shares = []
    for seed in range(200):
        hashes = np.random.RandomState(seed).randint(0, 2**62, 1000).astype(np.uint64)
        _, held = split.held_out(hashes, clusters, 0.2)
        shares.append((clusters[held] < 50).mean())
    assert 0.45 < np.mean(shares) < 0.55


def test_groups_by_hand() -> None:
    groups = split.Groups.of(np.array([7, 3, 7, 7, 5, 3]))
    assert groups.sizes.tolist() == [3, 2, 1]  # 7, then 3, then 5: in the order of their first
    uniform = np.array([0.0, 0.34, 0.99, 0.49, 0.5, 0.7])
    which = np.array([0, 0, 0, 1, 1, 2])
    assert groups.sample(which, uniform).tolist() == [0, 2, 3, 1, 5, 4]


def test_what_is_held_out_does_not_change_with_the_version() -> None:
    """Of a run that goes on, what was held out stays held out: numbers of an earlier version."""
    step, flip = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xABCDEF0123456789)
    hashes = np.arange(40, dtype=np.uint64) * step ^ flip
    _, held = split.held_out(hashes, np.arange(40) // 2, 0.2, 6)
    assert held.tolist() == [0, 1, 4, 5, 16, 17, 38, 39]
    assert split.content_hash(b"pixels") == 4283655456954686195


def test_looks_are_those_of_all_pictures_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sides of whole and of broken pixels of a thumbnail; fewer pictures than were announced."""
    monkeypatch.setattr(split, "LOOKED_AT", 4)
    for side in (96, 45):
        images = np.random.RandomState(0).randint(0, 256, (10, 3, side, side)).astype(np.uint8)
        looks = split.Looks((3, side, side), 12)
        for image in images:
            looks.add(image.tobytes())
        assert np.array_equal(looks.signatures(), split.signatures(images))
        assert looks.hashes().tolist() == [split.content_hash(x.tobytes()) for x in images]
        mean = images.astype(np.float64).mean((2, 3))
        thumbs = looks.signatures()[:, 16:].reshape(10, 3, 256)
        assert np.abs(thumbs.mean(2) - mean).max() < 0.6  # of a byte: each is rounded


def test_clusters_of_several_by_hand() -> None:
    found = split.clusters_of_several(np.array([2, 0, 2, 1, 1, 2, 3]))
    assert [group.tolist() for group in found] == [[3, 4], [0, 2, 5]]
    assert split.clusters_of_several(np.array([], int)) == []
