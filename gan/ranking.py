"""Which drawn faces are the best: judges that score pictures, and a choice without near-copies.

D's score is not what it is taken for: the faces it likes best are hardly better than any others
(docs/recipe.md). Those that lie deep among real ones in the eyes of a fixed network are; and those
that have least of what sets a run's faces apart are, as a set, most like real ones.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gan import features, metrics, sample

NEIGHBOURS = 5  # k of the reals' balls
LIMIT = 1000  # reals that a judge compares with
ASKED = 256  # fakes that tell it what sets a run's faces apart
ELSEWHERE = 2**48  # where these are taken from: beyond all that are ranked, which would lose by it
SHRINK = 10.0  # how far the covariance is drawn to a multiple of the identity


def by_score(D: nn.Module, source: sample.Source) -> sample.Judge:
    """D's own score, a logit (a critic's or least-squares score as it is)."""
    D.eval()
    return lambda images, vectors: D(images, *source.condition(vectors)).float()


def realism(fake: Tensor, real: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """max over reals i of r_i / |fake - real_i|, features [n, d] and [m, d] -> [n], > 0.

    r_i is the distance of real i to its k-th neighbour; the half of the reals with the larger r,
    the odd ones, has no say (Kynkaanniemi et al. 2019, arXiv:1904.06991, eq. 3). >= 1: within.
    """
    radius = torch.cdist(real, real).kthvalue(min(k, len(real) - 1) + 1).values  # +1: itself
    usual = radius <= radius.median()
    return (radius[usual] / torch.cdist(fake, real[usual]).clamp(min=1e-9)).amax(1)


def discriminant(real: Tensor, fake: Tensor, shrink: float = SHRINK) -> tuple[Tensor, Tensor]:
    """(w [d], b) of features [m, d] and [n, d]: x @ w + b is the log of how much likelier x is
    among the reals than among the fakes, if both are normal with one covariance.

    Fisher's linear discriminant. The covariance is S + shrink * tr(S) / d * I, for there are fewer
    pictures than features (Friedman 1989, regularized discriminant analysis).
    """
    means = real.mean(0), fake.mean(0)
    apart = torch.cat([real - means[0], fake - means[1]])
    covariance = apart.T @ apart / len(apart)
    covariance.diagonal().add_(shrink * covariance.diagonal().mean().clamp(min=1e-9))
    w = torch.linalg.solve(covariance, means[0] - means[1])
    return w, -(means[0] + means[1]) @ w / 2


def in_order(images: Tensor, vectors: Tensor) -> Tensor:
    """No judgement: candidates stay as they are drawn."""
    return torch.zeros(len(images))


def known(real: features.Images, cache: Path | None = None) -> NDArray[np.floating]:
    """lite0 features of up to 1,000 of the pictures, kept in `cache`: [m, d]."""
    return features.Reference(cache).features(
        features.Subset(real, features.spaced(len(real), LIMIT)), "lite0"
    )


def seen(images: Tensor, device: str = "cpu") -> Tensor:
    """uint8 [n, C, H, W] -> lite0 features, float64 [n, d]."""
    return torch.from_numpy(features.extract(images.numpy(), "lite0", device=device)).double()


def by_realism(real: NDArray[np.floating], device: str = "cpu") -> sample.Judge:
    """How deep a picture lies among real ones, whose lite0 features `real` [m, d] are."""
    reals = torch.from_numpy(np.asarray(real, np.float64))
    return lambda images, vectors: realism(seen(sample.to_uint8(images), device), reals).float()


def by_ratio(real: NDArray[np.floating], fakes: Tensor, device: str = "cpu") -> sample.Judge:
    """The log of the density ratio of real and drawn pictures, in lite0 features.

    `real` is [m, d], features of real pictures; `fakes` are as many as `ASKED` of the run, uint8
    [n, C, H, W]. A classifier that is fitted when training is over, of which G knows nothing (cf.
    Azadi et al. 2019, arXiv:1810.06758; Grover et al. 2019, arXiv:1906.09531).
    """
    w, b = discriminant(torch.from_numpy(np.asarray(real, np.float64)), seen(fakes, device))
    return lambda images, vectors: (seen(sample.to_uint8(images), device) @ w + b).float()


def spread_out(points: Tensor, count: int) -> Tensor:
    """Places of `count` of the points [n, d]: the first, then each time the one farthest from all.

    Gonzalez 1985: no choice of as many has a smallest distance more than twice as large.
    """
    chosen = [0]
    distance = torch.cdist(points[:1], points)[0]
    while len(chosen) < min(count, len(points)):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, torch.cdist(points[chosen[-1:]], points)[0])
    return torch.tensor(chosen)


def newness(images: features.Images, train: features.Images) -> NDArray[np.float32]:
    """How far each picture is from the training images [n]: below 0 it is nearly one of them.

    0 is where 1 % of training images lie, which a sample of them and all others tell.
    """
    asked = features.spaced(len(train), min(LIMIT, max(1, len(train) // 4)))
    others = np.setdiff1d(np.arange(len(train)), asked)
    usual = metrics.nearest(features.Subset(train, asked), features.Subset(train, others))[0]
    return metrics.nearest(images, train)[0] - np.quantile(usual, 0.01).astype(np.float32)


def apart(best: sample.Ranked, count: int, train: features.Images) -> sample.Ranked:
    """`count` of the faces, best first, that are copies neither of each other nor of `train`.

    Of those that are new, in lite0 features, the ones that are farthest from each other.
    """
    distance = newness(best.images.numpy(), train)
    new = np.flatnonzero(distance >= 0)
    new = new if len(new) >= count else np.argsort(-distance, kind="stable")[:count]
    new_ones = torch.from_numpy(np.sort(new))
    places = new_ones[spread_out(seen(best.images[new_ones]).float(), count)]
    return sample.Ranked(*(part[places.sort().values] for part in best))
