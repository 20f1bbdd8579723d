"""Which images are near-duplicates, and which are held out to score with. Numpy only, no files."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_HELD_OUT = 28  # images; a score of fewer says little
THUMB_SIZE = 16  # pixels on a side of the thumbnails that are compared
WEAK_COSINE = 0.05  # JPEG at quality 80 changes 99 % of the cosines of the avatars by less

Images = NDArray[np.uint8]  # [N, C, H, W]


def _averaging(side: int, count: int) -> NDArray[np.float32]:
    """The matrix [count, side] that averages `side` pixels into `count` of equal width."""
    edges = np.linspace(0, side, count + 1)[:, None]
    pixels = np.arange(side)[None]
    overlap = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return (overlap.clip(min=0) * count / side).astype(np.float32)


def _signatures(images: Images) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Signs of the 8 x 8 lowest cosines of the mean channel [N, 64]; thumbnails [N, 256 C].

    The signs are -1, 0 or 1: 0 for the mean, and for a cosine below WEAK_COSINE (of a symmetric
    or flat image), whose sign noise would decide. The thumbnails are THUMB_SIZE squared, uint8.
    """
    height, width = images.shape[-2:]
    wave = np.cos(np.pi / 64 * np.arange(8)[:, None] * (2 * np.arange(32) + 1)) / 4
    tall, wide = (wave @ _averaging(side, 32) for side in (height, width))
    short, slim = _averaging(height, THUMB_SIZE), _averaging(width, THUMB_SIZE)
    signs, thumbs = [], []
    for start in range(0, len(images), 256):
        x = np.asarray(images[start : start + 256], dtype=np.float32)
        cosines = tall @ (x.mean(1) / 255) @ wide.T  # [n, 8, 8]
        cosines[:, 0, 0] = 0
        signs.append(np.sign(cosines * (np.abs(cosines) > WEAK_COSINE)).reshape(len(x), 64))
        thumbs.append((short @ x @ slim.T).round().reshape(len(x), -1))
    return np.concatenate(signs).astype(np.float32), np.concatenate(thumbs).astype(np.uint8)


def _union(label: NDArray[np.int64], i: NDArray[np.int64], j: NDArray[np.int64]) -> None:
    """Union of i[n] and j[n], for every n, in place: label[x] becomes the least of its set."""
    while len(i):
        a, b = label[i], label[j]
        np.minimum.at(label, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(label, label[label]):
            label[:] = label[label]
        differ = label[i] != label[j]
        i, j = i[differ], j[differ]


def near_duplicates(
    images: Images, bits: int = 4, mean: float = 0.02, most: float = 0.1
) -> NDArray[np.int64]:
    """Clusters of images that are equal but for compression and mirroring: numbers [N] 0, 1, ...

    Two are near-duplicates if at most `bits` of 63 signs of a perceptual hash (Zauner 2010, pHash)
    differ *and* their thumbnails by at most `mean` of 0..1 on average and `most` anywhere; a
    cluster is what near-duplicates connect. The hash alone would put recoloured images together,
    the average alone two drawings that differ by a mouth.

    The thresholds fit 1,000 avatars of 64 pixels. Their copies as JPEG of quality 80 differ in no
    sign, by at most 0.012 on average, and by at most 0.09 anywhere (99 % of them). Of the pairs of
    different avatars 6,496 pass `bits` and 47 of these `mean`; all 47 differ by 0.28 or more
    somewhere, so none passes `most`.

    Exact, in blocks: the means of two such thumbnails differ by at most `mean`, so in the order
    of means only neighbours are compared.
    """
    if not len(images):
        return np.zeros(0, np.int64)
    signs, thumbs = _signatures(images)
    rows = np.concatenate([signs.astype(np.int8).view(np.uint8), thumbs], axis=1)
    packed = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1]))).ravel()
    _, first, group = np.unique(packed, return_index=True, return_inverse=True)
    order = np.argsort(thumbs[first].mean(1), kind="stable")
    signs, thumbs = signs[first[order]], thumbs[first[order]]
    label = np.arange(len(order))
    for i, j in _near_pairs(signs, thumbs, bits, 255 * mean, 255 * most):
        _union(label, i, j)
    found = np.empty_like(label)
    found[order] = label
    return np.unique(found[group], return_inverse=True)[1]


def clusters_of_several(clusters: NDArray[np.integer]) -> list[NDArray[np.int64]]:
    """The indices of each cluster [N] of two or more, ascending."""
    order = np.argsort(clusters, kind="stable").astype(np.int64)
    ends = np.flatnonzero(np.diff(clusters[order])) + 1
    return [group for group in np.split(order, ends) if len(group) > 1]


def held_out_parts(
    apart: NDArray[np.bool_], clusters: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Images to train on and those held out, where `apart` [N] says which are to score with.

    One that is in a cluster [N] with an image to train on is in neither: it would be no test.
    """
    near = np.isin(clusters, clusters[~apart])
    return np.flatnonzero(~apart), np.flatnonzero(apart & ~near)


def merge_clusters(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cluster numbers [N] 0, 1, ...: what is connected by a cluster of `a` [N] or of `b` [N]."""
    label = np.arange(len(a))
    for clusters in (a, b):
        _, first, inverse = np.unique(clusters, return_index=True, return_inverse=True)
        _union(label, np.arange(len(a)), first[inverse])
    return np.unique(label, return_inverse=True)[1]


@dataclass(frozen=True)
class Groups:
    """Images in groups, of which one image each is shown in an epoch."""

    sorted: NDArray[np.int64]  # [N] all indices 0..N-1, group by group
    starts: NDArray[np.int64]  # [groups] where each group begins in `sorted`
    sizes: NDArray[np.int64]  # [groups] images in each

    @classmethod
    def of(cls, clusters: NDArray[np.int64]) -> "Groups":
        """The groups of equal cluster numbers [N], in the order of their first images."""
        _, first, inverse = np.unique(clusters, return_index=True, return_inverse=True)
        rank = np.empty_like(first)
        rank[np.argsort(first)] = np.arange(len(first))
        group = rank[inverse]
        sizes = np.bincount(group, minlength=len(first))
        return cls(np.argsort(group, kind="stable"), np.cumsum(sizes) - sizes, sizes)

    def sample(self, groups: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """One image of each of `groups` [n], chosen by `uniform` [n] in [0, 1): indices [n]."""
        return self.sorted[self.starts[groups] + (uniform * self.sizes[groups]).astype(np.int64)]


def _near_pairs(
    signs: NDArray[np.float32], thumbs: NDArray[np.uint8], bits: int, gap: float, most: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The pairs of near-duplicates, as indices i[n] and j[n], block by block.

    The signatures are in the order of the means of their thumbnails; `gap`, `most` in 0..255.
    """
    flips = np.tile(np.array([1, -1], dtype=np.float32), 32)  # mirroring negates every odd cosine
    mirrored = thumbs.reshape(len(thumbs), -1, THUMB_SIZE)[:, :, ::-1].reshape(thumbs.shape)
    mean = thumbs.mean(1)
    for start in range(0, len(signs), 512):
        mine = signs[start : start + 512]
        end = int(np.searchsorted(mean, mean[start + len(mine) - 1] + gap, side="right"))
        for other in range(start, end, 4096):
            theirs = signs[other : min(other + 4096, end)]
            known = np.abs(mine) @ np.abs(theirs).T
            for flip, flipped in ((np.float32(1), thumbs), (flips, mirrored)):
                differ = (known - (mine * flip) @ theirs.T) / 2  # [512, 4096] bits
                for pair in np.array_split(
                    np.argwhere(differ <= bits), max(1, differ.size // 2**14)
                ):
                    i, j = pair[:, 0] + start, pair[:, 1] + other
                    i, j = i[i < j], j[i < j]
                    distance = np.abs(flipped[i].astype(np.int16) - thumbs[j])
                    near = (distance.mean(1) <= gap) & (distance.max(1) <= most)
                    yield i[near], j[near]


def content_hash(pixels: bytes) -> int:
    """64 bits of the pixels, whatever the name of the image or its position."""
    return int.from_bytes(hashlib.blake2b(pixels, digest_size=8).digest(), "big")


def held_out(
    hashes: NDArray[np.uint64],
    clusters: NDArray[np.int64],
    fraction: float = 0.1,
    minimum: int = MIN_HELD_OUT,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split images into those to train on and those held out: two ascending arrays of indices.

    `fraction` of the N images is held out (0: none), but at least `minimum` and at most half. They
    are chosen by their `content_hash` [N], so neither order nor names change the choice, and by
    whole `clusters` [N] of near-duplicates, so no held-out image has a near-duplicate in training.
    A cluster larger than what is left to hold out is trained on.
    """
    count = len(hashes)
    sizes = np.bincount(clusters)
    least = np.full(len(sizes), np.iinfo(np.uint64).max)
    np.minimum.at(least, clusters, hashes)
    # The least of many hashes is small: without mixing, large clusters would be held out first.
    rank = (least ^ (least >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    left = min(max(round(fraction * count), minimum), count // 2) if fraction else 0
    chosen = np.zeros(len(sizes), dtype=bool)
    for cluster in np.argsort(rank, kind="stable"):
        if sizes[cluster] <= left:
            chosen[cluster] = True
            left -= sizes[cluster]
    held = chosen[clusters]
    return np.flatnonzero(~held), np.flatnonzero(held)
