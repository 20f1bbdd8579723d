"""Squared maximum mean discrepancies of two sets of features: KID and the energy distance."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gan.errors import Refused
from gan.features import Features, double

BLOCK = 1024  # rows of a kernel matrix that are in memory at once


class Estimate(NamedTuple):
    """A statistic and its standard error."""

    value: float
    error: float


def _sums(
    kernel: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Row sums [m] and column sums [n] of the kernel matrix [m, n]."""
    rows, columns = [], torch.zeros(len(y), dtype=torch.float64)
    for block in x.split(BLOCK):
        matrix = kernel(block, y)
        rows.append(matrix.sum(1))
        columns += matrix.sum(0)
    return torch.cat(rows), columns


def mmd(
    fake: Features,
    real: Features,
    kernel: Callable[[Tensor, Tensor], Tensor],
    own: Callable[[Tensor], Tensor],
) -> Estimate:
    """The unbiased estimate of MMD^2 of [m, d] and [n, d] (Gretton et al. 2012, eq. 3).

    `kernel` gives the matrix [m, n], `own` the values [m] of each row with itself. Over *all*
    pairs; the value can be below 0. The error is the jackknife's (Efron 1982, ch. 3), which leaves
    out one image at a time. Raises Refused if m or n is below 3.
    """
    x, y = double(fake), double(real)
    m, n = len(x), len(y)
    if min(m, n) < 3:
        raise Refused(f"scores need 3 fakes and 3 reals or more; there are {m} and {n}")
    rows_x, rows_y = _sums(kernel, x, x)[0] - own(x), _sums(kernel, y, y)[0] - own(y)
    cross_x, cross_y = _sums(kernel, x, y)
    xx, yy, xy = rows_x.sum(), rows_y.sum(), cross_x.sum()
    value = xx / (m * (m - 1)) + yy / (n * (n - 1)) - 2 * xy / (m * n)
    without_x = (xx - 2 * rows_x) / ((m - 1) * (m - 2)) - 2 * (xy - cross_x) / ((m - 1) * n)
    without_y = (yy - 2 * rows_y) / ((n - 1) * (n - 2)) - 2 * (xy - cross_y) / (m * (n - 1))
    variance = (m - 1) * without_x.var(correction=0) + (n - 1) * without_y.var(correction=0)
    return Estimate(float(value), math.sqrt(float(variance)))


def kid(fake: Features, real: Features) -> Estimate:
    """Kernel Inception distance of [m, d] and [n, d]: 0 for equal distributions, lower is better.

    `mmd` with the cubic kernel (x·y / d + 1)^3 (Binkowski et al. 2018, section 4). torch-fidelity
    averages 100 random subsets of equal size. With 2,000 fakes and 28 or 240 reals these leave most
    fakes out, and their standard deviation is no standard error, since they overlap.
    """
    return mmd(
        fake,
        real,
        kernel=lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3,
        own=lambda x: ((x**2).mean(1) + 1) ** 3,
    )


def energy_distance(fake: Features, real: Features) -> Estimate:
    """2 E|x - y| - E|x - x'| - E|y - y'| of [m, d] and [n, d], over sqrt(d): lower is better.

    0 for equal distributions (Szekely & Rizzo 2013, eq. 5). It is `mmd` with the kernel -|x - y|
    (Sejdinovic et al. 2013), which grows linearly: bad images have no huge values.
    """
    return mmd(
        fake,
        real,
        kernel=lambda x, y: -torch.cdist(x, y) / math.sqrt(x.shape[1]),
        own=lambda x: torch.zeros(len(x), dtype=torch.float64),
    )
