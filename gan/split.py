"""Which pictures are the same, and which are held out to score with. Numpy only, no files."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HELD_OUT = 28  # at least so many, or a score of them says nothing
THUMB = 16  # pixels on a side of the pictures that are compared

Images = NDArray[np.uint8]  # [N, C, H, W]


def _cells(side: int, count: int) -> NDArray[np.float32]:
    """The matrix [count, side] that averages `side` pixels into `count` cells of equal width."""
    edges = np.linspace(0, side, count + 1)[:, None]
    pixels = np.arange(side)[None]
    overlap = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return (overlap.clip(min=0) * count / side).astype(np.float32)


def _signatures(images: Images) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Signs of the 8 x 8 lowest cosines of the luminance [N, 64]; 16 x 16 thumbnails [N, 256 C].

    A cosine too weak to have a sign (of a symmetric or flat picture) counts 0, the mean too.
    """
    height, width = images.shape[-2:]
    wave = np.cos(np.pi / 64 * np.arange(8)[:, None] * (2 * np.arange(32) + 1)) / 4
    tall, wide = (wave @ _cells(side, 32) for side in (height, width))
    short, slim = _cells(height, THUMB), _cells(width, THUMB)
    signs, thumbs = [], []
    for start in range(0, len(images), 256):
        x = np.asarray(images[start : start + 256], dtype=np.float32)
        cosines = tall @ (x.mean(1) / 255) @ wide.T  # [n, 8, 8]
        cosines[:, 0, 0] = 0
        signs.append(np.sign(cosines * (np.abs(cosines) > 0.05)).reshape(len(x), 64))
        thumbs.append((short @ x @ slim.T).round().reshape(len(x), -1))
    return np.concatenate(signs).astype(np.float32), np.concatenate(thumbs).astype(np.uint8)


def _join(label: NDArray[np.int64], i: NDArray[np.int64], j: NDArray[np.int64]) -> None:
    """Union of i[n] and j[n], for every n, in place: afterwards label[x] is its set's least."""
    while len(i):
        a, b = label[i], label[j]
        np.minimum.at(label, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(label, label[label]):
            label[:] = label[label]
        apart = label[i] != label[j]
        i, j = i[apart], j[apart]


def near_duplicates(
    images: Images, bits: int = 4, mean: float = 0.02, most: float = 0.1
) -> NDArray[np.int64]:
    """Cluster numbers [N] 0, 1, ...: pictures that are the same but for compression and mirroring.

    Two are one if at most `bits` of 63 signs of a perceptual hash (Zauner 2010, pHash) differ
    *and* their 16 x 16 thumbnails by at most `mean` of 0..1 on average and `most` anywhere:
    the hash alone would fold recoloured pictures, the average two drawings with another mouth.
    Exact, in blocks: the means of two such thumbnails differ by no more than `mean`, so sorted by
    it only neighbours have to be compared.
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
    for i, j in _close(signs, thumbs, bits, 255 * mean, 255 * most):
        _join(label, i, j)
    found = np.empty_like(label)
    found[order] = label
    return np.unique(found[group], return_inverse=True)[1]


def joined(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cluster numbers [N] 0, 1, ... of what is one by `a` [N] or `b` [N], or through others."""
    label = np.arange(len(a))
    for clusters in (a, b):
        _, first, inverse = np.unique(clusters, return_index=True, return_inverse=True)
        _join(label, np.arange(len(a)), first[inverse])
    return np.unique(label, return_inverse=True)[1]


@dataclass(frozen=True)
class Groups:
    """Images sorted into groups of equals, to draw one of a group at a time."""

    sorted: NDArray[np.int64]  # all places 0, 1, ..., group by group
    starts: NDArray[np.int64]  # of each group in `sorted`
    sizes: NDArray[np.int64]  # of each group

    @classmethod
    def of(cls, clusters: NDArray[np.int64]) -> "Groups":
        """By cluster number [N]; groups come in the order of their first images."""
        _, first, inverse = np.unique(clusters, return_index=True, return_inverse=True)
        rank = np.empty_like(first)
        rank[np.argsort(first)] = np.arange(len(first))
        group = rank[inverse]
        sizes = np.bincount(group, minlength=len(first))
        return cls(np.argsort(group, kind="stable"), np.cumsum(sizes) - sizes, sizes)

    def member(self, groups: NDArray[np.int64], lots: NDArray[np.float64]) -> NDArray[np.int64]:
        """The places of one image of each of `groups`, by lots in 0..1."""
        return self.sorted[self.starts[groups] + (lots * self.sizes[groups]).astype(np.int64)]


def _close(
    signs: NDArray[np.float32], thumbs: NDArray[np.uint8], bits: int, gap: float, most: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The pairs of `near_duplicates` among signatures sorted by the mean of their thumbnail."""
    flips = np.tile(np.array([1, -1], dtype=np.float32), 32)  # mirroring negates every odd cosine
    mirrored = thumbs.reshape(len(thumbs), -1, THUMB)[:, :, ::-1].reshape(thumbs.shape)
    mean = thumbs.mean(1)
    for start in range(0, len(signs), 512):
        mine = signs[start : start + 512]
        end = int(np.searchsorted(mean, mean[start + len(mine) - 1] + gap, side="right"))
        for other in range(start, end, 4096):
            theirs = signs[other : min(other + 4096, end)]
            known = np.abs(mine) @ np.abs(theirs).T
            for flip, pictures in ((np.float32(1), thumbs), (flips, mirrored)):
                differ = (known - (mine * flip) @ theirs.T) / 2  # [512, 4096] bits
                for pair in np.array_split(
                    np.argwhere(differ <= bits), max(1, differ.size // 2**14)
                ):
                    i, j = pair[:, 0] + start, pair[:, 1] + other
                    i, j = i[i < j], j[i < j]
                    apart = np.abs(pictures[i].astype(np.int16) - thumbs[j])
                    same = (apart.mean(1) <= gap) & (apart.max(1) <= most)
                    yield i[same], j[same]


def content_hash(pixels: bytes) -> int:
    """64 bits that depend on the picture alone."""
    return int.from_bytes(hashlib.blake2b(pixels, digest_size=8).digest(), "big")


def held_out(
    hashes: NDArray[np.uint64],
    clusters: NDArray[np.int64],
    fraction: float = 0.1,
    minimum: int = HELD_OUT,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the images to train on and of those held out, both ascending, disjoint, all.

    `fraction` of the images (0: none), at least `minimum`, at most half. Chosen by `content_hash`,
    so neither order, names nor resuming change it, and by whole clusters of near-duplicates:
    no held-out image has its like in training. A cluster too large for the rest is trained on.
    """
    count = len(hashes)
    sizes = np.bincount(clusters)
    least = np.full(len(sizes), np.iinfo(np.uint64).max)
    np.minimum.at(least, clusters, hashes)
    # The least of many hashes is small: mixed once more, or large clusters would be held out first.
    lot = (least ^ (least >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    left = min(max(round(fraction * count), minimum), count // 2) if fraction else 0
    chosen = np.zeros(len(sizes), dtype=bool)
    for cluster in np.argsort(lot, kind="stable"):
        if sizes[cluster] <= left:
            chosen[cluster] = True
            left -= sizes[cluster]
    held = chosen[clusters]
    return np.flatnonzero(~held), np.flatnonzero(held)
