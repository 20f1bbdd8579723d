"""Rankers: which generated images are the best. And a selection of images that all differ.

D's score is a poor ranker: the images that it likes best are hardly better than others
(docs/recipe.md, "Ranking"). "realism" takes images that lie among many real ones by the features
of a fixed network. "consensus" also asks a network that nothing has trained, and how unusual the
oddest patches of an image are, and ranks images within their kind. "ratio" takes those that are
likelier among real images than among the run's own; as a set they are most like real images.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gan import features, kinds, metrics, patches, sample, whitened
from gan.features import Images

NEIGHBOURS = 5  # k of the reals' k-NN balls
MAX_REALS = 1000  # real images that a judge compares with
PATCH_REALS = 500  # of them, whose patches are compared: 250 find as many broken faces
PATCH_WEIGHT = 4.0  # of patches against the whole: by looks at six runs
RATIO_SAMPLES = 256  # fakes of the run that "ratio" and "consensus" are fitted to
# Index of the first of them, beyond all that are ranked: a discriminant puts the fakes that it was
# fitted to lower than other fakes of the same run.
RATIO_FIRST_INDEX = 2**48
KINDS = 16  # clusters of the run's fakes
KIND_COMPONENTS = 8  # leading ones of the whitened features: the look of an image, mostly colours
SMALLEST_DEVIATION = 1e-6  # of the log realism: all fakes of a collapsed run are equal
# at which "consensus" looks at untrained features: half size tells more broken faces
VIEW_SCALE = 2
SHRINKAGE = 10.0  # weight of the identity in the covariance, in units of the mean variance


# ---- statistics --------------------------------------------------------------------------------


def realism(fake: Tensor, real: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """Realism score max_i r_i / |fake - real_i| (Kynkaanniemi et al. 2019, eq. 3).

    Features [n, d] and [m, d] -> [n], > 0; 1 or more: the fake lies within the k-NN ball of a real.
    r_i is the distance of real i to its k-th nearest real. The half of the reals with the larger
    r_i is left out: these are outliers, and their balls would take in poor fakes.
    """
    radius = torch.cdist(real, real).kthvalue(min(k, len(real) - 1) + 1).values  # +1: itself
    kept = radius <= radius.median()
    return (radius[kept] / torch.cdist(fake, real[kept]).clamp(min=1e-9)).amax(1)


def fit_discriminant(
    real: Tensor, fake: Tensor, shrinkage: float = SHRINKAGE
) -> tuple[Tensor, Tensor]:
    """Fisher's linear discriminant of features [m, d] and [n, d]: weights [d] and bias.

    x @ weights + bias is log p(x | real) / p(x | fake) of two normal densities with one covariance.
    There are fewer images than features, so the covariance S of the features about their class
    means is regularised: S + shrinkage * tr(S) / d * I (Friedman 1989).
    """
    means = real.mean(0), fake.mean(0)
    centred = torch.cat([real - means[0], fake - means[1]])
    covariance = centred.T @ centred / len(centred)
    covariance.diagonal().add_(shrinkage * covariance.diagonal().mean().clamp(min=1e-9))
    weights = torch.linalg.solve(covariance, means[0] - means[1])
    return weights, -(means[0] + means[1]) @ weights / 2


def fit_line(x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """The linear function [n, d] -> [n], with a constant, of least squares to [m, d] and [m]."""
    means = x.mean(0), y.mean()
    weights = torch.linalg.lstsq(x - means[0], (y - means[1])[:, None]).solution[:, 0]
    return lambda other: (other - means[0]) @ weights + means[1]


def agreement(first: Tensor, second: Tensor, weight: float = 1.0) -> Tensor:
    """-log(exp(-a) + w exp(-b)), a soft minimum of scores [n] and [n]: high where both are high."""
    return -torch.logaddexp(-first, math.log(weight) - second)


def lite0_features(images: Tensor, device: str = "cpu") -> Tensor:
    """uint8 [n, C, H, W] -> lite0 features, float64 [n, d] on the CPU."""
    return torch.from_numpy(features.extract(images.numpy(), "lite0", device=device)).double()


@dataclass(frozen=True)
class Reals:
    """Training images, whose features are kept in the file `cache`."""

    images: Images
    cache: Path | None = None

    def lite0(self) -> Tensor:
        """Features of up to MAX_REALS evenly spaced images: float64 [m, d]."""
        subset = features.Subset(self.images, features.spaced(len(self.images), MAX_REALS))
        return torch.from_numpy(features.Reference(self.cache).features(subset, "lite0")).double()

    def patch_bank(self, device: str) -> patches.PatchBank:
        """Patches of up to PATCH_REALS evenly spaced images."""
        subset = features.Subset(self.images, features.spaced(len(self.images), PATCH_REALS))
        return patches.PatchBank(subset, device)

    def view(self, scale: int, components: int, device: str) -> "View":
        """Their untrained features at 1 / scale of their size; the images are those of the score,
        so that a run has the features already."""
        reference = features.Reference(self.cache)
        subset = features.Subset(
            self.images, features.spaced(len(self.images), whitened.FITTED_IMAGES)
        )
        found = reference.features(subset, whitened.NETWORK, scale, device)
        whitening = whitened.fit_whitening(found)
        leading = whitened.Whitening(whitening.mean, whitening.directions[:, :components])
        return View(leading, torch.from_numpy(leading(found)), scale, device)


@dataclass(frozen=True)
class View:
    """Whitened untrained features: of training images, and of others."""

    whitening: whitened.Whitening
    real: Tensor  # float64 [m, k]
    scale: int
    device: str

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [n, C, H, W] -> float64 [n, k] on the CPU."""
        found = features.extract(images.numpy(), whitened.NETWORK, self.scale, self.device)
        return torch.from_numpy(self.whitening(found))


# ---- rankers -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class RankingInputs:
    """What rankers may make a judge from."""

    D: nn.Module
    real: Reals | None  # training images
    # () -> uint8 [RATIO_SAMPLES, C, H, W] of the run, from index RATIO_FIRST_INDEX on
    sample_fakes: Callable[[], Tensor]
    device: str


def _reals(inputs: RankingInputs) -> Reals:
    """The training images; raises ValueError if there are none."""
    if inputs.real is None:
        raise ValueError("this ranker needs features of training images")
    return inputs.real


def judge_by_realism(inputs: RankingInputs) -> sample.Judge:
    """Realism among the training images, by lite0 features."""
    real = _reals(inputs).lite0()

    def judge(images: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        return realism(lite0_features(sample.to_uint8(images), inputs.device), real).float()

    return judge


Measure = Callable[[Tensor], Tensor]  # uint8 [n, C, H, W] -> float64 [n], high for good images


def _standard_by(usual: Tensor) -> Callable[[Tensor], Tensor]:
    """Values [n] in deviations from the mean of the usual ones [m]."""
    mean, deviation = usual.mean(), usual.std(correction=0).clamp(min=SMALLEST_DEVIATION)
    return lambda values: (values - mean) / deviation


def _log_realism(
    extract: Callable[[Tensor], Tensor], real: Tensor, fakes: Tensor
) -> tuple[Measure, Tensor]:
    """Log of the realism, in deviations from its mean over the run's fakes; and that of these."""
    usual = realism(extract(fakes), real).log()
    standard = _standard_by(usual)
    return lambda images: standard(realism(extract(images), real).log()), standard(usual)


def _usual_patches(bank: patches.PatchBank, look: View, fakes: Tensor) -> Measure:
    """Minus the log of how unusual the oddest patches are, in deviations likewise.

    What is usual at a place is the median distance of the run's fakes there: what G never gets
    right, such as a texture behind the face, tells no broken face from a whole one. What the look
    of a face predicts, its colours and its silhouette, is taken off: long hair has more outline
    and so odder patches than short hair, which alone would be left of a few thousand.
    """
    distance, looks = bank.distances(fakes), look(fakes)
    usual = distance.median(0).values

    def of(distance: Tensor) -> Tensor:
        return -patches.unusualness(distance, usual).double().clamp(min=1e-9).log()

    predicted = fit_line(looks, of(distance))
    standard = _standard_by(of(distance) - predicted(looks))
    return lambda images: standard(of(bank.distances(images)) - predicted(look(images)))


def judge_by_consensus(inputs: RankingInputs) -> sample.Judge:
    """The agreement of two views of the whole image, and of both with that of its patches.

    The views of the whole are realism by lite0 and by whitened untrained features: one network
    flatters some broken faces, and two that have nothing in common seldom flatter the same. Both
    are blind to a flaw of a few pixels, which the patches there show.
    """
    real, fakes = _reals(inputs), inputs.sample_fakes()
    view = real.view(VIEW_SCALE, whitened.COMPONENTS, inputs.device)
    trained = _log_realism(lambda x: lite0_features(x, inputs.device), real.lite0(), fakes)
    untrained = _log_realism(view, view.real, fakes)
    standard = _standard_by(agreement(trained[1], untrained[1]))
    look = real.view(1, KIND_COMPONENTS, inputs.device)
    by_patches = _usual_patches(real.patch_bank(inputs.device), look, fakes)

    def judge(images: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        pixels = sample.to_uint8(images)
        whole = standard(agreement(trained[0](pixels), untrained[0](pixels)))
        return agreement(whole, by_patches(pixels), PATCH_WEIGHT).float()

    return judge


def kinds_of_fakes(inputs: RankingInputs) -> sample.KindOf:
    """Clusters of the run's fakes, by the leading whitened untrained features at full size."""
    view = _reals(inputs).view(1, KIND_COMPONENTS, inputs.device)
    centres = kinds.k_means(view(inputs.sample_fakes()), KINDS)
    return lambda images: kinds.nearest(view(sample.to_uint8(images)), centres)


def judge_by_ratio(inputs: RankingInputs) -> sample.Judge:
    """Log density ratio of training images and fakes of the run, by lite0 features.

    The ratio is that of a classifier fitted after training, which G was not trained against (cf.
    Azadi et al. 2019, arXiv:1810.06758; Grover et al. 2019, arXiv:1906.09531).
    """
    real = _reals(inputs).lite0()
    weights, bias = fit_discriminant(real, lite0_features(inputs.sample_fakes(), inputs.device))

    def judge(images: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        return (lite0_features(sample.to_uint8(images), inputs.device) @ weights + bias).float()

    return judge


def judge_by_score(inputs: RankingInputs) -> sample.Judge:
    """D's score as it is, in evaluation mode: a logit, or what D's loss makes of it."""
    D = inputs.D.eval()

    def judge(images: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        return D(images, *condition).float()

    return judge


def judge_all_equal(inputs: RankingInputs) -> sample.Judge:
    """Score 0 for all, so that images keep their order."""
    return lambda images, condition: torch.zeros(len(images))


@dataclass(frozen=True)
class Ranker:
    """A row of `RANKERS`: a value of --rank-by."""

    make_judge: Callable[[RankingInputs], sample.Judge]
    needs_reals: bool  # whether `RankingInputs.real` must be there
    order: str  # what `generate` prints of the order of its images
    # what kind an image is: it is ranked among those of its kind
    make_kinds: Callable[[RankingInputs], sample.KindOf] = lambda inputs: sample.of_one_kind


RANKERS: dict[str, Ranker] = {
    "consensus": Ranker(
        judge_by_consensus,
        needs_reals=True,
        order="most real first, each kind in its share",
        make_kinds=kinds_of_fakes,
    ),
    "realism": Ranker(judge_by_realism, needs_reals=True, order="most real first"),
    "ratio": Ranker(judge_by_ratio, needs_reals=True, order="most like real ones first"),
    "score": Ranker(judge_by_score, needs_reals=False, order="best D score first"),
    "none": Ranker(judge_all_equal, needs_reals=False, order="as drawn"),
}


# ---- diversity ---------------------------------------------------------------------------------


def farthest_points(points: Tensor, count: int) -> Tensor:
    """Indices of `count` points of [n, d]: int64 [min(count, n)], the first point first.

    Each of the others is the point farthest from all before it (Gonzalez 1985): no other choice of
    as many points has a smallest distance more than twice as large.
    """
    chosen = [0]
    distance = torch.cdist(points[:1], points)[0]
    while len(chosen) < min(count, len(points)):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, torch.cdist(points[chosen[-1:]], points)[0])
    return torch.tensor(chosen)


def novelty(images: Images, train: Images) -> NDArray[np.float32]:
    """Distance of each image to the nearest training image, less that of a near-copy: [n].

    The distance of a near-copy is the 1 % quantile among training images: of a sample of them to
    all others. Below 0 an image is nearer to a training image than that.
    """
    queries = features.spaced(len(train), min(MAX_REALS, max(1, len(train) // 4)))
    others = np.setdiff1d(np.arange(len(train)), queries)
    usual = metrics.nearest(features.Subset(train, queries), features.Subset(train, others))[0]
    limit = np.quantile(usual, metrics.COPY_QUANTILE).astype(np.float32)
    return metrics.nearest(images, train)[0] - limit


def select_diverse(ranked: sample.Ranked, count: int, train: Images) -> sample.Ranked:
    """`count` of the ranked images that are copies neither of each other nor of `train`.

    Images of novelty below 0 are left out, unless fewer than `count` remain: then the `count` of
    highest novelty are taken. Of the others, those farthest apart by lite0 features are selected,
    with the best ranked as the first. They keep their order.
    """
    distance = novelty(ranked.images.numpy(), train)
    new = np.flatnonzero(distance >= 0)
    if len(new) < count:
        new = np.argsort(-distance, kind="stable")[:count]
    pool = torch.from_numpy(np.sort(new))
    chosen = farthest_points(lite0_features(ranked.images[pool]).float(), count)
    kept = pool[chosen].sort().values
    return sample.Ranked(ranked.images[kept], ranked.scores[kept], ranked.indices[kept])
