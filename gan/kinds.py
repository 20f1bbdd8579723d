"""Kinds of images, and how many of each a choice has.

A ranker prefers some kinds of faces to others: one hair colour, one background. Ranked within
their kind, the best are as various as all.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

ROUNDS = 100  # of k-means, at most


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Index of the centre nearest to each point, [n, d] and [k, d] -> int64 [n]."""
    return torch.cdist(points, centres).argmin(1)


def k_means(points: Tensor, count: int) -> Tensor:
    """Centres of `count` clusters of points [n, d]: [k, d], fewer if fewer points differ.

    Starts by k-means++ (Arthur & Vassilvitskii 2007) from one fixed seed, then Lloyd's rounds. The
    same points always have the same centres.
    """
    random = np.random.RandomState(0)  # its stream is guaranteed, unlike numpy's new generators
    centres = points[[random.randint(len(points))]]
    while len(centres) < count:
        far = torch.cdist(points, centres).amin(1).double().square()
        if not float(far.sum()) > 0:
            break
        chosen = random.choice(len(points), p=(far / far.sum()).numpy())
        centres = torch.cat([centres, points[[chosen]]])
    for _ in range(ROUNDS):
        kind = nearest(points, centres)
        moved = [
            points[kind == k].mean(0) if (kind == k).any() else c for k, c in enumerate(centres)
        ]
        if torch.equal(torch.stack(moved), centres):
            break
        centres = torch.stack(moved)
    return centres


def quotas(counts: Mapping[int, int], keep: int) -> dict[int, int]:
    """How many of each kind are kept, if all have the same share of theirs; they add up to `keep`.

    By largest remainder; of equal remainders the kind of lower number is rounded up. `counts` are
    of all candidates; if there are no more than `keep`, all are kept.
    """
    total = sum(counts.values())
    keep = min(keep, total)
    found = {kind: keep * count // total for kind, count in counts.items()}
    by_remainder = sorted(counts, key=lambda kind: (-(keep * counts[kind] % total), kind))
    for kind in by_remainder[: keep - sum(found.values())]:
        found[kind] += 1
    return found


def places(kinds: Tensor) -> Tensor:
    """How many of the same kind are before each: int64 [n] -> int64 [n], 0 for the first."""
    order = kinds.sort(stable=True).indices
    counts = kinds[order].unique_consecutive(return_counts=True)[1]
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    found = torch.empty_like(kinds)
    found[order] = torch.arange(len(kinds)) - first
    return found
