"""Scores of generated images: features -> statistics -> named scores, and memorisation.

A score is named after its features, as in "KID (lite0)". Only those of "inception" can be compared
with papers. A new score is one function and one row in `FEATURE_SCORES` or `IMAGE_SCORES`. Nothing
here uses a global random generator.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gan.errors import Refused
from gan.features import (
    Features,
    Images,
    Reference,
    Subset,
    batches,
    double,
    extract,
    extract_together,
    resized,
    spaced,
)
from gan.mmd import energy_distance, kid
from gan.swd import swd
from gan.whitened import NETWORK, Whitening, fit_whitenings

MIN_IMAGES = 8  # fewer fakes, training or held-out images are not scored
SCALES = {1: "", 2: " half size"}  # images are scored at 1/scale of their size; suffix of the name
SECOND_OPINION = "random"  # features beside the ones asked for: see `evaluate`
HEADLINE = "score"  # what chooses `best.pth` and orders runs
HEADLINE_FEATURES = "lite0"  # the only ones that have it
ENERGY_WEIGHT = 20.0  # of the energy distance in it; docs/scores.md says why
NEIGHBOURS = 5  # k of precision, recall, density and coverage
LARGEST_PART = 5000  # images of a side among which neighbours are sought: distances take its square
TIE_TOLERANCE = 1e-9  # of a squared radius, as a share of the features' mean squared norm
COPY_QUANTILE = 0.01  # nearer to a training image than this share of new images: a copy


class _Value(TypedDict):
    value: float


class Entry(_Value, total=False):
    """One score as it is written to JSON."""

    error: float  # standard error, of KID and "score"
    floor: float  # the same score of real images, see `evaluate`


Scores = dict[str, Entry]  # by name
Whitenings = dict[int, Whitening]  # by key of SCALES
ByScale = dict[int, Features]  # by key of SCALES


class ImagePair(TypedDict):
    """A fake and the training image nearest to it."""

    fake: int  # index
    train: int  # index
    mirrored: bool  # whether the fake, mirrored, is nearer
    distance: float  # 0..2, see `nearest`


class Memorisation(TypedDict):
    """See `memorisation`."""

    ratio: float
    copied: float
    pairs: list[ImagePair]


class Evaluation(TypedDict):
    """See `evaluate`."""

    features: str
    n_fake: int
    n_train: int
    n_held_out: int
    n_floor: int
    scores: Scores
    memorisation: Memorisation


class Comparison(TypedDict):
    """See `compare`."""

    features: str
    n_fake: int
    n_real: int
    scores: Scores


# ---- statistics --------------------------------------------------------------------------------


def fid(fake: Features, real: Features) -> float:
    """Frechet distance of two Gaussians (Heusel et al. 2017, eq. 6) fitted to [m, d] and [n, d].

    At least 0, lower is better. Its bias depends on m and n, so compare values of equal m and n
    only, and with the floor. With the covariances S1 = A^T A and S2 = B^T B of centred features,
    tr sqrt(S1 S2) is the sum of the singular values of A B^T. torch-fidelity takes the eigenvalues
    of S1 S2, which give the same number in 18 s, and this in 0.1 s.
    """
    x, y = double(fake), double(real)
    gap = x.mean(0) - y.mean(0)
    a, b = ((z - z.mean(0)) / math.sqrt(len(z) - 1) for z in (x, y))
    traces = float((a**2).sum() + (b**2).sum())
    a, b = (torch.linalg.qr(z, mode="r")[1] for z in (a, b))  # same A^T A, at most d rows
    return float(gap @ gap) + traces - 2 * float(torch.linalg.svdvals(a @ b.T).sum())


def _equal_parts(fake: Features, real: Features) -> Iterator[tuple[Features, Features]]:
    """Yield (fakes, reals) of equal number, at most LARGEST_PART; together they are all images.

    Precision and coverage depend on the ratio of the numbers: with 2,000 fakes every ball of 240
    reals holds one. The parts are random, since sorted files have all images of a class in a row.
    """
    size = min(len(fake), len(real), LARGEST_PART)
    shape = (math.ceil(max(len(fake), len(real)) / size), size)
    # np.resize starts again at the first where a permutation ends
    fakes, reals = (
        np.resize(np.random.RandomState(seed).permutation(len(side)), shape)
        for seed, side in enumerate((fake, real))
    )
    for a, b in zip(fakes, reals, strict=True):
        yield fake[a], real[b]


def _inside_balls(points: Features, centres: Features, k: int) -> Tensor:
    """Whether point i is in the k-NN ball of centre j: bool [points, centres].

    Balls are closed, as in both papers below: one of radius 0 holds the points equal to its centre.
    Without the tolerance, rounding would decide about these.
    """
    x, y = double(points), double(centres)
    tolerance = TIE_TOLERANCE * float(torch.cat([x, y]).square().sum(1).mean())
    radius = torch.cdist(y, y).kthvalue(k + 1).values  # +1: itself
    return torch.cdist(x, y).square() <= radius.square() + tolerance


def precision_recall(fake: Features, real: Features, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Precision and recall of [m, d] against [n, d], both 0..1 (Kynkaanniemi et al. 2019).

    Precision is the share of fakes within a real's k-NN ball, recall that of reals within a fake's.
    Averaged over parts with as many fakes as reals. Precision judges each fake alone, so dropped
    modes do not lower it. They lower recall if the features separate the modes.
    """
    found = []
    for a, b in _equal_parts(fake, real):
        order = min(k, len(a) - 1)
        within = (_inside_balls(a, b, order), _inside_balls(b, a, order))
        found.append([float(inside.any(1).double().mean()) for inside in within])
    precision, recall = np.mean(found, axis=0)
    return float(precision), float(recall)


def density_coverage(fake: Features, real: Features, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Density (>= 0) and coverage (0..1) of [m, d] against [n, d] (Naeem et al. 2020, eq. 4, 6).

    Density is the mean number of reals' k-NN balls that a fake is in, divided by k; coverage is the
    share of these balls that hold a fake. Averaged over the same parts as precision. Equal
    distributions have density 1 and coverage 1 - 2^-k = 0.97 (eq. 9, large n). Where all features
    are equal, coverage is 1 and density n / k.
    """
    found = []
    for a, b in _equal_parts(fake, real):
        order = min(k, len(b) - 1)
        inside = _inside_balls(a, b, order)  # [fakes, reals]
        found.append((float(inside.sum()) / (order * len(a)), float(inside.any(0).double().mean())))
    density, coverage = np.mean(found, axis=0)
    return float(density), float(coverage)


# ---- memorisation ------------------------------------------------------------------------------


def _thumbnails(images: Images) -> Iterator[Tensor]:
    """Yield 16 x 16 thumbnails as rows of mean 0 and norm 1: [<= 256, 768].

    Normalised like this, brightness and contrast make no difference.
    """
    for x in batches(images, 256):
        x = resized(x, (16, 16)).flatten(1)
        yield F.normalize(x - x.mean(1, keepdim=True))


@torch.inference_mode()
def nearest(
    queries: Images, pool: Images
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
    """Nearest image of `pool` to each query: distance (0..2) [Q], index [Q], mirrored or not [Q].

    Distances are between thumbnails: a copy with a little noise is no longer near by lite0's
    features ("ratio" of `memorisation` 0.96; here 0.03). Queries are mirrored, not the pool, which
    may be large: it is read once, in blocks.
    """
    x = torch.cat(list(_thumbnails(queries)))  # [Q, 768]
    flipped = F.normalize(x.view(-1, 3, 16, 16).flip(3).flatten(1))
    both = torch.cat([x, flipped])
    best = torch.full((len(both),), -2.0)
    index = torch.zeros(len(both), dtype=torch.int64)
    start = 0
    for block in _thumbnails(pool):
        value, column = (both @ block.T).max(1)
        better = value > best
        best, index = torch.where(better, value, best), torch.where(better, start + column, index)
        start += len(block)
    plain, mirrored = best.view(2, -1)
    flip = mirrored > plain
    distance = (2 - 2 * torch.maximum(plain, mirrored)).clamp(min=0).sqrt()
    return (
        distance.numpy(),
        torch.where(flip, index[len(x) :], index[: len(x)]).numpy(),
        flip.numpy(),
    )


def memorisation(fake: Images, train: Images, held_out: Images, pairs: int = 16) -> Memorisation:
    """Whether fakes are nearer to training images than new real images are.

    "ratio": median distance from a fake to its nearest training image, over the same of held-out
    images: about 1 without memorisation, 0 for copies. "copied": share of fakes that are nearer to
    a training image than 99 % of held-out images are: about 0.01 without copies; 20 % of copies,
    which do not change a median, show as 0.2. "pairs": the nearest `pairs` of fake and training
    image. A simplified C_T (Meehan et al. 2020).
    """
    distance, index, mirrored = nearest(fake, train)
    usual = nearest(held_out, train)[0]
    closest: list[ImagePair] = [
        {
            "fake": int(i),
            "train": int(index[i]),
            "mirrored": bool(mirrored[i]),
            "distance": float(distance[i]),
        }
        for i in np.argsort(distance, kind="stable")[:pairs]
    ]
    return {
        "ratio": float(np.median(distance) / max(np.median(usual), 1e-6)),
        "copied": float(np.mean(distance < np.quantile(usual, COPY_QUANTILE))),
        "pairs": closest,
    }


# ---- scores ------------------------------------------------------------------------------------


def _kid_score(fake: Features, real: Features) -> Scores:
    value, error = kid(fake, real)
    return {"KID": {"value": value, "error": error}}


def _coverage_score(fake: Features, real: Features) -> Scores:
    return {"coverage": {"value": density_coverage(fake, real)[1]}}


def _fid_score(fake: Features, real: Features) -> Scores:
    return {"FID": {"value": fid(fake, real)}}


def _precision_recall_scores(fake: Features, real: Features) -> Scores:
    precision, recall = precision_recall(fake, real)
    return {"precision": {"value": precision}, "recall": {"value": recall}}


def _density_score(fake: Features, real: Features) -> Scores:
    return {"density": {"value": density_coverage(fake, real)[0]}}


def _swd_scores(fake: Images, real: Images) -> Scores:
    levels = swd(fake, real)
    found: Scores = {f"SWD {level} px": {"value": value} for level, value in levels.items()}
    return found | {"SWD": {"value": sum(levels.values()) / len(levels)}}


@dataclass(frozen=True)
class FeatureScore:
    """A row of `FEATURE_SCORES`: one or more scores computed from features."""

    measure: Callable[[Features, Features], Scores]  # (fakes [m, d], reals [n, d]) -> by short name
    scales: tuple[int, ...] = (1,)  # keys of SCALES
    quick: bool = False  # also measured in mid-run, and by the second opinion


FEATURE_SCORES = (
    FeatureScore(_kid_score, scales=tuple(SCALES), quick=True),
    FeatureScore(_coverage_score, scales=tuple(SCALES), quick=True),
    FeatureScore(_fid_score),
    FeatureScore(_precision_recall_scores),
    FeatureScore(_density_score),
)
QUICK_SCORES = tuple(row for row in FEATURE_SCORES if row.quick)
IMAGE_SCORES: tuple[Callable[[Images, Images], Scores], ...] = (_swd_scores,)  # (fakes, reals)


def _mean_entry(entries: Iterable[Entry]) -> Entry:
    """The mean value, and the mean error: an upper bound on the error of the mean.

    It is one because all entries are of the same images.
    """
    rows = list(entries)
    return {
        "value": sum(row["value"] for row in rows) / len(rows),
        "error": sum(row["error"] for row in rows) / len(rows),
    }


def score_features(fake: ByScale, real: ByScale, name: str, rows: Sequence[FeatureScore]) -> Scores:
    """The scores `rows` of features `name`, given by scale, and their mean KID before them."""
    found: Scores = {}
    for row in rows:
        for scale in row.scales:
            for short, entry in row.measure(fake[scale], real[scale]).items():
                found[f"{short} ({name}){SCALES[scale]}"] = entry
    kids = (row for score, row in found.items() if score.startswith("KID "))
    return {f"score ({name})": _mean_entry(kids), **found}


def whitenings(
    train: Images, reference: Reference | None = None, device: str = "cpu"
) -> Whitenings:
    """What `quality` needs to know of the training images; of other real images if there are none.

    Raises Refused as `extractor`.
    """
    return fit_whitenings(train, SCALES, reference or Reference(), device)


def _energy_scores(
    fake: Images, real: Images, whiten: Whitenings, reference: Reference, device: str
) -> Scores:
    """Energy distance of whitened untrained features, at all sizes."""
    found: Scores = {}
    for scale, suffix in SCALES.items():
        x = whiten[scale](extract_together(fake, NETWORK, scale, device))
        y = whiten[scale](reference.features(real, NETWORK, scale, device))
        value, error = energy_distance(x, y)
        found[f"energy ({NETWORK}){suffix}"] = {"value": value, "error": error}
    return found


def _headline(found: Scores, name: str) -> Scores:
    """The score, if `found` is of lite0's features: KID of lite0 + 20 * energy distance, means.

    Two views that do not share their blindness. Lite0 sees what a face is made of, and noise; it
    prefers some pictures that a person rejects at once, and misses colours. Untrained layers see
    those.
    """
    if name != HEADLINE_FEATURES:
        return {}
    kids = found[f"score ({name})"]
    energy = _mean_entry(row for key, row in found.items() if key.startswith("energy "))
    return {
        HEADLINE: {
            "value": kids["value"] + ENERGY_WEIGHT * energy["value"],
            "error": kids["error"] + ENERGY_WEIGHT * energy["error"],
        }
    }


def quality(
    fake: Images,
    real: Images,
    whiten: Whitenings,
    name: str = "lite0",
    reference: Reference | None = None,
    device: str = "cpu",
) -> Scores:
    """The quick part of `evaluate`, for a running training: the score and what it is made of.

    All at full and half size: KID at full size alone saturates early in training, and then depends
    on fine texture only. Extracts 4 * len(fake) features; those of `real` are looked up in
    `reference`. Raises Refused as `extractor` and `kid`.
    """
    reference = reference or Reference()
    found = score_features(
        {scale: extract_together(fake, name, scale, device) for scale in SCALES},
        {scale: reference.features(real, name, scale, device) for scale in SCALES},
        name,
        QUICK_SCORES,
    )
    found |= _energy_scores(fake, real, whiten, reference, device)
    return _headline(found, name) | found


def check(fake: int, train: int, held_out: int) -> None:
    """Raise Refused if there are fewer than MIN_IMAGES images of one kind."""
    if min(fake, train, held_out) < MIN_IMAGES:
        raise Refused(
            f"evaluate needs {MIN_IMAGES} images of each kind; there are {fake} generated, "
            f"{train} training and {held_out} held-out ones"
        )


def _all_scores(
    fake: Images,
    real: Images,
    whiten: Whitenings,
    name: str,
    reference: Reference,
    device: str,
    keep: bool = False,
) -> Scores:
    """Every score of `fake` against `real`, and the quick ones by SECOND_OPINION.

    With `keep` the features of `fake` are looked up in `reference` too.
    """
    read = reference.features if keep else extract
    found: Scores = {}
    for net, rows in {SECOND_OPINION: QUICK_SCORES, name: FEATURE_SCORES}.items():
        generated = {scale: read(fake, net, scale, device) for scale in SCALES}
        known = {scale: reference.features(real, net, scale, device) for scale in SCALES}
        found = score_features(generated, known, net, rows) | found
    found = _energy_scores(fake, real, whiten, reference, device) | found
    found = _headline(found, name) | found
    for measure in IMAGE_SCORES:
        found |= measure(fake, real)
    return found


def evaluate(
    fake: Images,
    train: Images,
    held_out: Images,
    name: str = "lite0",
    reference: Reference | None = None,
    device: str = "cpu",
) -> Evaluation:
    """All scores of `fake` against `held_out`, ready for JSON.

    The quick scores are also taken with the untrained network, as a second opinion: it is nearly
    blind to noise but sees missing colours, which ImageNet's networks hardly do.
    "scores": by name; the floor of a score is the same score of as many training images, evenly
    spaced: what a perfect generator gets with these numbers of images. "memorisation": see there.
    "n_fake", "n_train", "n_held_out", "n_floor": numbers of images. Raises Refused if there are
    fewer than MIN_IMAGES of a kind, and as `extractor`.
    """
    check(len(fake), len(train), len(held_out))
    reference = reference or Reference()
    count = min(len(fake), len(train))
    sample = Subset(train, spaced(len(train), count))
    whiten = whitenings(train, reference, device)
    scores = _all_scores(fake, held_out, whiten, name, reference, device)
    floor = _all_scores(sample, held_out, whiten, name, reference, device, keep=True)
    for key, entry in scores.items():
        entry["floor"] = floor[key]["value"]
    return {
        "features": name,
        "n_fake": len(fake),
        "n_train": len(train),
        "n_held_out": len(held_out),
        "n_floor": count,
        "scores": scores,
        "memorisation": memorisation(fake, train, held_out),
    }


def compare(
    fake: Images,
    real: Images,
    name: str = "lite0",
    reference: Reference | None = None,
    device: str = "cpu",
) -> Comparison:
    """The scores of `evaluate` for two sets, all of both, ready for JSON.

    KID and FID are the same with the sets swapped. SWD is too where both have the same contrast,
    since its unit is the deviation of `real`, by which the energy distance is whitened too. There
    are no other real images, hence no floor and no memorisation. Raises Refused as `evaluate`.
    """
    if min(len(fake), len(real)) < MIN_IMAGES:
        raise Refused(
            f"evaluate needs {MIN_IMAGES} images on each side; there are {len(fake)} and "
            f"{len(real)}"
        )
    reference = reference or Reference()
    whiten = whitenings(real, reference, device)
    scores = _all_scores(fake, real, whiten, name, reference, device)
    return {"features": name, "n_fake": len(fake), "n_real": len(real), "scores": scores}
