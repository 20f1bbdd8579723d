"""Features of an untrained network, whitened by real images: what no trained network flatters.

A network that was trained on photographs prefers some pictures that a person rejects at once
(docs/scores.md). The layers of an untrained one are statistics of colours, edges and patches.
Whitened, each of their directions counts by how far real images vary in it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gan.features import Features, Images, Reference, Subset, double, spaced

NETWORK = "layers"  # of FEATURES
COMPONENTS = 64  # that are kept, at most
IMAGES_PER_COMPONENT = 4  # with fewer images than this for each, fewer components are kept
FITTED_IMAGES = 2000  # the most that a whitening is fitted to
SMALLEST_DEVIATION = 0.01  # of a component; one grey level moves a flat image by 0.5


@dataclass(frozen=True)
class Whitening:
    """[n, d] -> [n, k]: the first k principal components of real features, each of deviation 1."""

    mean: Tensor  # [d]
    directions: Tensor  # [d, k]

    def __call__(self, x: Features) -> NDArray[np.float64]:
        return ((double(x) - self.mean) @ self.directions).numpy()


def fit_whitening(real: Features) -> Whitening:
    """The whitening by [n, d] features: min(64, n / 4, d) components, at least one.

    A component in which equal images hardly differ keeps SMALLEST_DEVIATION, or rounding would
    count as much as what images show.
    """
    x = double(real)
    mean = x.mean(0)
    count = max(1, min(COMPONENTS, len(x) // IMAGES_PER_COMPONENT, x.shape[1]))
    variances, vectors = torch.linalg.eigh((x - mean).T @ (x - mean) / max(len(x) - 1, 1))
    deviations = variances.clamp(min=0).sqrt().clamp(min=SMALLEST_DEVIATION).flip(0)
    return Whitening(mean, vectors.flip(1)[:, :count] / deviations[:count])


def fit_whitenings(
    real: Images, scales: Iterable[int], reference: Reference, device: str
) -> dict[int, Whitening]:
    """The whitening at each scale, by at most FITTED_IMAGES evenly spaced images."""
    chosen = Subset(real, spaced(len(real), FITTED_IMAGES))
    return {s: fit_whitening(reference.features(chosen, NETWORK, s, device)) for s in scales}
