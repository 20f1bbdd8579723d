"""How good pictures are, and whether they are copies: features -> statistics -> scores.

A score carries the name of its features, "KID (lite0)"; only Inception's numbers can be compared
with papers. Nothing here draws from a global random generator.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gan.errors import Refused
from gan.features import Features, Images, Reference, Subset, batches, extract, resized, spaced

SCALES = {1: "", 2: ", half size"}  # a score is taken of the pictures at 1/scale of their size
SECOND_OPINION = "random"
NEIGHBOURS = 5  # k of precision, recall, density and coverage

Scores = dict[str, dict[str, float]]  # name -> {"value", "error" where there is one}


# ---- statistics --------------------------------------------------------------------------------


def _double(x: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.asarray(x, dtype=np.float64))


def _kernel_sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column sums of k(x, y) = (x·y / d + 1)^3, in blocks: [m], [n]."""
    rows, columns = [], torch.zeros(len(y), dtype=torch.float64)
    for block in x.split(1024):
        kernel = (block @ y.T / x.shape[1] + 1) ** 3
        rows.append(kernel.sum(1))
        columns += kernel.sum(0)
    return torch.cat(rows), columns


def kid(fake: Features, real: Features) -> tuple[float, float]:
    """Kernel Inception distance and its standard error: 0 for equal distributions, even < 0.

    The unbiased MMD^2 with the cubic kernel (Binkowski et al. 2018, eq. 4 and section 4) of *all*
    pairs. torch-fidelity averages 100 random subsets of equal size instead: with 28 or 240 reals
    and 2,000 fakes these waste most fakes, and their spread is no error bar since they overlap.
    The error here is the jackknife's (Efron 1982, ch. 3): subsets that leave one image out.
    """
    x, y = _double(fake), _double(real)
    m, n = len(x), len(y)
    if min(m, n) < 3:
        raise Refused(f"KID needs 3 images on either side; there are {m} and {n}")
    own_x = ((x**2).mean(1) + 1) ** 3
    own_y = ((y**2).mean(1) + 1) ** 3
    rows_x, rows_y = _kernel_sums(x, x)[0] - own_x, _kernel_sums(y, y)[0] - own_y
    cross_x, cross_y = _kernel_sums(x, y)
    xx, yy, xy = rows_x.sum(), rows_y.sum(), cross_x.sum()
    value = xx / (m * (m - 1)) + yy / (n * (n - 1)) - 2 * xy / (m * n)
    without_x = (xx - 2 * rows_x) / ((m - 1) * (m - 2)) - 2 * (xy - cross_x) / ((m - 1) * n)
    without_y = (yy - 2 * rows_y) / ((n - 1) * (n - 2)) - 2 * (xy - cross_y) / (m * (n - 1))
    spread = (m - 1) * without_x.var(correction=0) + (n - 1) * without_y.var(correction=0)
    return float(value), math.sqrt(float(spread))


def fid(fake: Features, real: Features) -> float:
    """Frechet distance of two Gaussians (Heusel et al. 2017, eq. 6), >= 0.

    Biased by n: compare only values of equal n, and with the floor. tr sqrt(S1 S2) is the sum of
    the singular values of A B^T, for centred features S1 = A^T A and S2 = B^T B; torch-fidelity
    takes the eigenvalues of S1 S2 (the same number), 18 s where this takes a tenth of one.
    """
    x, y = _double(fake), _double(real)
    gap = x.mean(0) - y.mean(0)
    a, b = ((z - z.mean(0)) / math.sqrt(len(z) - 1) for z in (x, y))
    spread = float((a**2).sum() + (b**2).sum())
    a, b = (torch.linalg.qr(z, mode="r")[1] for z in (a, b))  # the same A^T A, at most d rows
    return float(gap @ gap) + spread - 2 * float(torch.linalg.svdvals(a @ b.T).sum())


def _equal_parts(fake: Features, real: Features) -> Iterator[tuple[Features, Features]]:
    """Disjoint parts of equal size: balls grow and coverage saturates with unequal numbers."""
    size = min(len(fake), len(real))
    for i in range(max(len(fake), len(real)) // size):
        a, b = i % (len(fake) // size), i % (len(real) // size)
        yield fake[a * size : (a + 1) * size], real[b * size : (b + 1) * size]


def precision_recall(fake: Features, real: Features, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Share of fakes within the reals' k-NN balls, and the reverse (Kynkaanniemi et al. 2019).

    Both 0..1; by torch-fidelity, averaged over parts with as many fakes as reals. Precision judges
    pictures one by one, dropped modes do not lower it; recall sees those its features tell apart.
    """
    from torch_fidelity.metric_prc import calculate_precision_recall_part as measure

    found = [
        measure(_double(a), _double(b), neighborhood=min(k, len(a) - 1))
        for a, b in _equal_parts(fake, real)
    ]
    precision, recall = np.mean(found, axis=0)
    return float(precision), float(recall)


def density_coverage(fake: Features, real: Features, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Mean number of reals' balls a fake is in, over k (>= 0); share of balls with a fake (0..1).

    Naeem et al. 2020, eq. 4 and 6, over the same parts; torch-fidelity has neither. Equal
    distributions have density 1 and coverage 1 - 2^-k = 0.97 (their eq. 9, large n).
    """
    found = []
    for a, b in _equal_parts(fake, real):
        x, y = _double(a), _double(b)
        order = min(k, len(y) - 1)
        radius = torch.cdist(y, y).kthvalue(order + 1).values  # +1: each is its own nearest
        inside = torch.cdist(x, y) < radius  # [fakes, reals]
        found.append((float(inside.sum()) / (order * len(x)), float(inside.any(0).double().mean())))
    density, coverage = np.mean(found, axis=0)
    return float(density), float(coverage)


def _descriptors(x: Tensor, patches: int, random: np.random.RandomState) -> Tensor:
    """`patches` windows of 7 x 7 at random places of every image: [n * patches, C, 49]."""
    height, width = x.shape[-2:]
    tops = torch.from_numpy(random.randint(0, height - 6, (len(x), patches)))
    lefts = torch.from_numpy(random.randint(0, width - 6, (len(x), patches)))
    i, j = torch.meshgrid(torch.arange(7), torch.arange(7), indexing="ij")
    places = (tops[..., None, None] + i) * width + lefts[..., None, None] + j  # [n, p, 7, 7]
    flat = x.flatten(2).gather(2, places.flatten(1)[:, None].expand(-1, x.shape[1], -1))
    return flat.unflatten(2, (patches, 49)).transpose(1, 2).flatten(0, 1)


def laplacian_pyramid(images: Images) -> list[Tensor]:
    """Band-passed copies float [N, 3, side, side], full size first, the last low-passed: >= 16 px.

    Burt & Adelson 1983, with antialiased bilinear halving for the 5-tap kernel.
    """
    levels = []
    x = torch.cat(list(batches(images, 64)))
    while min(x.shape[-2:]) >= 32:
        small = resized(x, (x.shape[-2] // 2, x.shape[-1] // 2))
        levels.append(x - resized(small, (x.shape[-2], x.shape[-1])))
        x = small
    return [*levels, x]


@torch.inference_mode()
def swd(fake: Images, real: Images, limit: int = 512, patches: int = 64) -> dict[str, float]:
    """Sliced Wasserstein distance of Laplacian patches by level, e.g. {"96": 3.1, "48": 2.2}.

    Karras et al. 2018, section 5 (values x 1e3, >= 0), on `limit` evenly spread images of each.
    Both sides are divided by the reals' deviation, where the paper takes each side's own: that
    hides a change of contrast, and with it most of a blur.
    """
    n = min(len(fake), len(real), limit)
    levels = [laplacian_pyramid(side[spaced(len(side), n)]) for side in (fake, real)]
    found = {}
    for a, b in zip(*levels, strict=True):
        x, y = (_descriptors(side, patches, np.random.RandomState(0)) for side in (a, b))
        mean, deviation = y.mean((0, 2), keepdim=True), y.std((0, 2), keepdim=True) + 1e-3
        x, y = (((side - mean) / deviation).flatten(1) for side in (x, y))
        directions = torch.from_numpy(np.random.RandomState(1).randn(x.shape[1], 128)).float()
        directions /= directions.norm(dim=0)
        gaps = [
            (torch.sort(x @ part, 0).values - torch.sort(y @ part, 0).values).abs().mean()
            for part in directions.split(32, dim=1)
        ]
        found[str(a.shape[-1])] = 1e3 * float(torch.stack(gaps).mean())
    return found


# ---- memorisation ------------------------------------------------------------------------------


def _thumbnails(images: Images) -> Iterator[Tensor]:
    """16 x 16 pictures without brightness and contrast, as unit rows [<= 256, 768]."""
    for x in batches(images, 256):
        x = resized(x, (16, 16)).flatten(1)
        yield F.normalize(x - x.mean(1, keepdim=True))


@torch.inference_mode()
def nearest(
    queries: Images, pool: Images
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
    """For every query the distance (0..2) and index of the nearest in `pool`, and if mirrored.

    Distances are between thumbnails: a network's features lose a copy under a little noise (its
    ratio below: 0.96; here 0.03). The query is mirrored, not the pool, which is read once, in
    blocks, and may be large.
    """
    x = torch.cat(list(_thumbnails(queries)))  # [Q, 768]
    flipped = F.normalize(x.view(-1, 3, 16, 16).flip(3).flatten(1))
    both = torch.cat([x, flipped])
    best = torch.full((len(both),), -2.0)
    index = torch.zeros(len(both), dtype=torch.int64)
    start = 0
    for block in _thumbnails(pool):
        value, place = (both @ block.T).max(1)
        better = value > best
        best, index = torch.where(better, value, best), torch.where(better, start + place, index)
        start += len(block)
    plain, mirrored = best.view(2, -1)
    flip = mirrored > plain
    distance = (2 - 2 * torch.maximum(plain, mirrored)).clamp(min=0).sqrt()
    return (
        distance.numpy(),
        torch.where(flip, index[len(x) :], index[: len(x)]).numpy(),
        flip.numpy(),
    )


def memorisation(fake: Images, train: Images, held_out: Images, pairs: int = 16) -> dict[str, Any]:
    """Do the fakes lie closer to the training images than new pictures do?

    "ratio": median nearest-neighbour distance fake -> train over held-out -> train; 1 is honest,
    0 copies. "copied": share of fakes nearer to a training image than 99 % of the held-out ones
    are; 0.01 is honest, and 20 % of copies, which no median sees, show as 0.2. "pairs": the
    closest fake/train pairs, for a picture. After Meehan et al. 2020 (C_T), simplified.
    """
    distance, index, mirrored = nearest(fake, train)
    usual = nearest(held_out, train)[0]
    closest = [
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
        "copied": float(np.mean(distance < np.quantile(usual, 0.01))),
        "pairs": closest,
    }


# ---- scores ------------------------------------------------------------------------------------


def _quality(fake: list[Features], real: list[Features], name: str) -> Scores:
    """`quality` of features at full and half size."""
    found: Scores = {}
    pairs = list(zip(SCALES.values(), fake, real, strict=True))
    for suffix, x, y in pairs:
        value, error = kid(x, y)
        found[f"KID ({name}){suffix}"] = {"value": value, "error": error}
    kids = list(found.values())
    score = {
        "value": sum(row["value"] for row in kids) / len(kids),
        "error": sum(row["error"] for row in kids) / len(kids),  # an upper bound: same images
    }
    for suffix, x, y in pairs:
        found[f"coverage ({name}){suffix}"] = {"value": density_coverage(x, y)[1]}
    return {f"score ({name})": score, **found}


def quality(
    fake: Images,
    real: Images,
    name: str = "lite0",
    reference: Reference | None = None,
    device: str = "cpu",
) -> Scores:
    """KID and coverage at both scales, and "score", the mean of the two KID: lower is better.

    Full size alone saturates early in training and then sees fine texture only. This is the part
    of `evaluate` for a running training: 2 * len(fake) features, the reals' are in `reference`.
    """
    known = reference or Reference()
    return _quality(
        [extract(fake, name, scale, device) for scale in SCALES],
        [known.features(real, name, scale, device) for scale in SCALES],
        name,
    )


def _all_scores(fake: list[Features], real: list[Features], name: str) -> Scores:
    found = _quality(fake, real, name)
    found[f"FID ({name})"] = {"value": fid(fake[0], real[0])}
    precision, recall = precision_recall(fake[0], real[0])
    values = {"precision": precision, "recall": recall}
    values["density"] = density_coverage(fake[0], real[0])[0]
    return found | {f"{key} ({name})": {"value": value} for key, value in values.items()}


def check(fake: int, train: int, held_out: int) -> None:
    """Raises Refused if there are too few of one kind to score."""
    if min(fake, train, held_out) < 8:
        raise Refused(
            f"evaluate needs 8 images of each kind; there are {fake} generated, "
            f"{train} training and {held_out} held-out ones"
        )


def evaluate(
    fake: Images,
    train: Images,
    held_out: Images,
    name: str = "lite0",
    reference: Reference | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Every score of `fake` against `held_out`, ready for JSON.

    Beside `name`, the untrained network has its say on KID and coverage: it is nearly blind to
    noise but sees colours go missing, which ImageNet's networks hardly do.
    "scores": name -> {"value", "error" (KID), "floor"}; the floor is the same score of as many
    training images (evenly spread ones), what a perfect generator gets at these numbers.
    "memorisation": see there. "n_fake", "n_train", "n_held_out", "n_floor": how many were used.
    """
    check(len(fake), len(train), len(held_out))
    known = reference or Reference()
    count = min(len(fake), len(train))
    spread = Subset(train, spaced(len(train), count))
    scores: Scores = {}
    floor: Scores = {}
    for net, measure in {SECOND_OPINION: _quality, name: _all_scores}.items():
        real = [known.features(held_out, net, scale, device) for scale in SCALES]
        other = [known.features(spread, net, scale, device) for scale in SCALES]
        drawn = [extract(fake, net, scale, device) for scale in SCALES]
        scores, floor = measure(drawn, real, net) | scores, measure(other, real, net) | floor
    for found, images in ((scores, fake), (floor, spread)):
        levels = swd(images, held_out)
        found |= {f"SWD {level} px": {"value": value} for level, value in levels.items()}
        found["SWD"] = {"value": sum(levels.values()) / len(levels)}
    return {
        "features": name,
        "n_fake": len(fake),
        "n_train": len(train),
        "n_held_out": len(held_out),
        "n_floor": count,
        "scores": {key: row | {"floor": floor[key]["value"]} for key, row in scores.items()},
        "memorisation": memorisation(fake, train, held_out),
    }
