"""Which images are near-duplicates, and which are held out to score with. No files, no torch."""

import hashlib
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_HELD_OUT = 28  # images; a score of fewer says little
THUMB_SIZE = 16  # pixels on a side of the thumbnails that are compared
WEAK_COSINE = 0.05  # JPEG at quality 80 changes 99 % of the cosines of the avatars by less

# how much two near-duplicates may differ
NEAR_BITS = 4  # of 63 signs
NEAR_MEAN = 0.02 * 255  # of a thumbnail, on average
NEAR_MOST = 0.1 * 255  # of a thumbnail, anywhere
FLIPPED_SIGNS = np.uint8(0b01010101)  # of every eight cosines of a row, the odd ones
SLOW = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0))  # cosines down and across of a search
PAIRS = 2**20  # about so many a search finds at a time
BLOCK = 2**14  # pictures that are searched for at once, if they are not too alike
COUNTED = 64  # of these, whose neighbours say how many pairs to expect
NEAR_AT_ONCE = 2**10  # pairs whose thumbnails are compared; the system maps 64 kB around each
LOOKED_AT = 256  # pictures at once

Images = NDArray[np.uint8]  # [N, C, H, W]
Signatures = NDArray[np.uint8]  # [N, 16 + 256 C]: see `signatures`


def _averaging(side: int, count: int) -> NDArray[np.float32]:
    """The matrix [count, side] that averages `side` pixels into `count` of equal width."""
    edges = np.linspace(0, side, count + 1)[:, None]
    pixels = np.arange(side)[None]
    overlap = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return (overlap.clip(min=0) * count / side).astype(np.float32)


def _shrunk(images: Images) -> NDArray[np.float32]:
    """Images of 32 pixels on a side, means of whole pixels; of sides that do not fit, as they are.

    Thumbnails and cosines are means of these, and so the same: this is several times as fast.
    """
    side = images.shape[-1]
    if side != images.shape[-2] or side % 32 or side == 32:
        return np.asarray(images, dtype=np.float32)
    step = side // 32
    exact = np.uint16 if step <= 16 else np.uint32  # holds the sum of that many bytes
    short = images[..., ::step, :].astype(exact)
    for row in range(1, step):
        short += images[..., row::step, :]
    total = short[..., ::step].copy()
    for column in range(1, step):
        total += short[..., column::step]
    return total.astype(np.float32) / step**2


def _signs_and_thumbs(images: Images) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
    """Signs of the 8 x 8 lowest cosines of the mean channel [N, 64]; thumbnails [N, 256 C].

    The signs are -1, 0 or 1: 0 for the mean, and for a cosine below WEAK_COSINE (of a symmetric
    or flat image), whose sign noise would decide. The thumbnails are THUMB_SIZE squared, uint8.
    """
    wave = np.cos(np.pi / 64 * np.arange(8)[:, None] * (2 * np.arange(32) + 1)) / 4
    x = _shrunk(images)
    height, width = x.shape[-2:]
    tall, wide = (wave @ _averaging(side, 32) for side in (height, width))
    short, slim = _averaging(height, THUMB_SIZE), _averaging(width, THUMB_SIZE)
    cosines = tall @ (x.mean(1) / 255) @ wide.T  # [N, 8, 8]
    cosines[:, 0, 0] = 0
    signs = np.sign(cosines * (np.abs(cosines) > WEAK_COSINE)).reshape(len(x), 64)
    thumbs = (short @ x @ slim.T).round().reshape(len(x), -1)
    return signs.astype(np.int8), thumbs.astype(np.uint8)


def signatures(images: Images) -> Signatures:
    """What images [N, C, H, W] are compared by: uint8 [N, 16 + 256 C].

    64 bits that say which signs are positive, 64 that say which are not 0, and the thumbnail.
    """
    packed = []
    for start in range(0, len(images), 256):
        signs, thumbs = _signs_and_thumbs(images[start : start + 256])
        bits = [np.packbits(signs > 0, 1), np.packbits(signs != 0, 1)]
        packed.append(np.concatenate([*bits, thumbs], 1))
    return np.concatenate(packed) if packed else np.zeros((0, 16), np.uint8)


class Looks:
    """What is kept of pictures [C, H, W] that pass by one after another: hash and signature.

    A few hundred of them are in memory, however many there are, and none is read a second time.
    """

    def __init__(self, shape: tuple[int, int, int], most: int) -> None:
        self.shape = shape
        self.waiting: list[bytes] = []
        self.count = 0  # of pictures that were looked at
        self._hashes = np.empty(most, np.uint64)
        self._signatures = np.empty((most, 16 + THUMB_SIZE**2 * shape[0]), np.uint8)

    def add(self, pixels: bytes) -> None:
        """Take in the next picture: its uint8 pixels."""
        self.waiting.append(pixels)
        if len(self.waiting) == LOOKED_AT:
            self._look()

    def _look(self) -> None:
        if not self.waiting:
            return
        images = np.frombuffer(b"".join(self.waiting), np.uint8).reshape(-1, *self.shape)
        some = slice(self.count, self.count + len(images))
        self._hashes[some] = [content_hash(pixels) for pixels in self.waiting]
        self._signatures[some] = signatures(images)
        self.count += len(images)
        self.waiting.clear()

    def hashes(self) -> NDArray[np.uint64]:
        """`content_hash` of each picture: [N]."""
        self._look()
        return self._hashes[: self.count]

    def signatures(self) -> Signatures:
        """The `signatures` of all pictures."""
        self._look()
        return self._signatures[: self.count]


def _union(label: NDArray[np.int64], i: NDArray[np.int64], j: NDArray[np.int64]) -> None:
    """Union of i[n] and j[n], for every n, in place: label[x] becomes the least of its set."""
    while len(i):
        a, b = label[i], label[j]
        np.minimum.at(label, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(label, label[label]):
            label[:] = label[label]
        differ = label[i] != label[j]
        i, j = i[differ], j[differ]


def near_duplicates(images: Images) -> NDArray[np.int64]:
    """Clusters of images that are equal but for compression and mirroring: numbers [N] 0, 1, ...

    Two are near-duplicates if at most NEAR_BITS of 63 signs of a perceptual hash (Zauner 2010,
    pHash) differ *and* their thumbnails by at most NEAR_MEAN of 0..255 on average and NEAR_MOST
    anywhere; a cluster is what near-duplicates connect. The hash alone would put recoloured images
    together, the average alone two drawings that differ by a mouth.

    The thresholds fit 1,000 avatars of 64 pixels. Their copies as JPEG of quality 80 differ in no
    sign, by at most 0.012 on average, and by at most 0.09 anywhere (99 % of them). Of the pairs of
    different avatars 6,496 pass the bits and 47 of these the mean; all 47 differ by 0.28 or more
    somewhere, so none passes the most.
    """
    return clusters_of(signatures(images))


def clusters_of(packed: Signatures) -> NDArray[np.int64]:
    """The clusters of `near_duplicates` [N] by their `signatures` [N, 16 + 256 C].

    Exact, and about n log n where few images are alike: thumbnails that differ by so little lie
    close together on a few axes, where a k-d tree finds what is close.
    """
    if not len(packed):
        return np.zeros(0, np.int64)
    _, first, group = np.unique(_hashes(packed), return_index=True, return_inverse=True)
    order = np.argsort(first)  # of the file: what is mapped is read from its start to its end
    first, group = first[order], np.argsort(order)[group]
    signs = np.concatenate([packed[start : start + 4096, :16] for start in _starts(packed)])[first]
    label = np.arange(len(first))
    for i, j in _candidates(packed, first):
        alike = _are_alike(signs[i], signs[j]) & (label[i] != label[j])
        i, j = i[alike], j[alike]  # few: their thumbnails are compared
        for start in range(0, len(i), NEAR_AT_ONCE):
            some = slice(start, start + NEAR_AT_ONCE)
            near = _are_near(packed[first[i[some]]], packed[first[j[some]]])
            _union(label, i[some][near], j[some][near])
            _let_go(packed)
    return np.unique(label[group], return_inverse=True)[1]


def _starts(packed: Signatures) -> Iterator[int]:
    """Where parts of 4,096 begin; those before are let go."""
    for start in range(0, len(packed), 4096):
        yield start
        _let_go(packed)


def _let_go(packed: Signatures) -> None:
    """Give back the memory of signatures that are mapped from a file; they are read again."""
    file = getattr(packed, "_mmap", None)
    if file is not None and hasattr(mmap, "MADV_DONTNEED"):
        file.madvise(mmap.MADV_DONTNEED)


def _hashes(packed: Signatures) -> NDArray[np.uint64]:
    """64 bits of each signature [N], so that equal ones are found without a copy of all."""
    count, width = packed.shape
    factors = np.random.default_rng(0).integers(1, 2**63, width // 8, np.uint64) * 2 + 1
    found = np.empty(count, np.uint64)
    for start in range(0, count, 4096):
        words = np.ascontiguousarray(packed[start : start + 4096]).view(np.uint64)
        words = (words ^ (words >> np.uint64(29))) * factors  # wraps around
        found[start : start + 4096] = (words ^ (words >> np.uint64(32))).sum(1, dtype=np.uint64)
        _let_go(packed)
    return found


def _mirrored(thumbs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mirrored thumbnails [n, 256 C]."""
    rows = thumbs.shape[1] // THUMB_SIZE
    return thumbs.reshape(len(thumbs), rows, THUMB_SIZE)[:, :, ::-1].reshape(thumbs.shape)


def _differing(a: Signatures, b: Signatures, flip: bool) -> NDArray[np.int64]:
    """How many signs of a[n] and b[n] differ, or of a[n] mirrored; of [n, 16 or more] the first."""
    known = a[:, 8:16] & b[:, 8:16]
    signs = a[:, :8] ^ (FLIPPED_SIGNS if flip else np.uint8(0))  # negates every odd cosine
    return np.unpackbits((signs ^ b[:, :8]) & known, axis=1).sum(1, dtype=np.int64)


def _are_alike(a: Signatures, b: Signatures) -> NDArray[np.bool_]:
    """Whether the signs of a[n] and b[n], or of a[n] mirrored, are those of near-duplicates."""
    return np.minimum(_differing(a, b, False), _differing(a, b, True)) <= NEAR_BITS


def _are_near(a: Signatures, b: Signatures) -> NDArray[np.bool_]:
    """Whether a[n] and b[n], or a[n] mirrored, are near-duplicates: [n]."""
    near = np.zeros(len(a), np.bool_)
    theirs = b[:, 16:].astype(np.int16)
    for flip in (False, True):
        thumbs = _mirrored(a[:, 16:]) if flip else a[:, 16:]
        distance = np.abs(theirs - thumbs)
        near |= (
            (_differing(a, b, flip) <= NEAR_BITS)
            & (distance.mean(1) <= NEAR_MEAN)
            & (distance.max(1, initial=0) <= NEAR_MOST)
        )
    return near


def _axes(channels: int) -> NDArray[np.float32]:
    """Orthonormal directions along which thumbnails differ much: [256 C, k].

    The slow cosines of the mean of the channels and, of colours, the means of their differences.
    """
    place = np.pi / THUMB_SIZE * (np.arange(THUMB_SIZE) + 0.5)
    waves = [np.cos(k * place) / np.linalg.norm(np.cos(k * place)) for k in range(3)]
    flat = np.ones(channels) / math.sqrt(channels)
    found = [np.kron(flat, np.outer(waves[y], waves[x]).ravel()) for y, x in SLOW]
    if channels == 3:
        for mix in ((1, -1, 0), (1, 1, -2)):
            colour = np.array(mix) / np.linalg.norm(mix)
            found.append(np.kron(colour, np.outer(waves[0], waves[0]).ravel()))
    return np.stack(found, 1).astype(np.float32)


def _candidates(
    packed: Signatures, first: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs i[n] < j[n] of positions in `first` that may be near, in blocks of about PAIRS.

    All that are near are among them, whatever the axes: a projection shortens distances.
    """
    from scipy.spatial import cKDTree

    axes = _axes((packed.shape[1] - 16) // THUMB_SIZE**2)
    points, mirrored = np.empty((2, len(first), axes.shape[1]), np.float32)
    for start in range(0, len(first), 4096):
        thumbs = packed[first[start : start + 4096], 16:]
        points[start : start + 4096] = thumbs.astype(np.float32) @ axes
        mirrored[start : start + 4096] = _mirrored(thumbs).astype(np.float32) @ axes
        _let_go(packed)
    # |a - b|^2 is at most the largest difference of a pixel times the sum of all of them
    reach = math.sqrt(NEAR_MOST * NEAR_MEAN * (packed.shape[1] - 16)) + 1  # 1: rounding
    tree = cKDTree(points)
    for queries in (points, mirrored):
        order = cKDTree(queries).indices  # who is near whom comes together
        start = 0
        while start < len(order):
            block = order[start : start + BLOCK]
            some = queries[block[:: -(-len(block) // COUNTED)]]
            found = tree.query_ball_point(some, reach, workers=-1, return_length=True)
            block = block[: max(1, PAIRS // int(found.max()))] if found.max() else block
            start += len(block)
            # two trees walk down together, for all of a block at once
            pairs = cKDTree(queries[block]).sparse_distance_matrix(
                tree, reach, output_type="ndarray"
            )
            i, j = block[pairs["i"]], pairs["j"]
            yield i[i < j], j[i < j]


def clusters_of_several(clusters: NDArray[np.integer]) -> list[NDArray[np.int64]]:
    """The indices of each cluster [N] of two or more, ascending."""
    order = np.argsort(clusters, kind="stable").astype(np.int64)
    edges = np.flatnonzero(np.diff(clusters[order])) + 1
    starts, ends = np.append(0, edges), np.append(edges, len(order))
    several = ends - starts > 1  # most are single: a list of a million arrays would be slow
    return [order[a:b] for a, b in zip(starts[several], ends[several], strict=True)]


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
