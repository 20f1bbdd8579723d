"""Kinds: clusters, quotas by hand, and a ranking that keeps the share of each kind."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gan import sample
from gan.kinds import k_means, nearest, places, quotas

CPU = torch.device("cpu")


def test_k_means_finds_what_lies_apart_and_is_the_same_each_time() -> None:
    torch.manual_seed(3)
    means = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    points = (means.repeat_interleave(torch.tensor([5, 40, 20, 10]), 0)).double()
    points += 0.3 * torch.randn_like(points)
    centres = k_means(points, 4)
    kinds = nearest(points, centres)
    assert sorted(np.bincount(kinds).tolist()) == [5, 10, 20, 40]
    assert torch.equal(centres, k_means(points, 4))
    own = torch.stack([points[kinds == kind].mean(0) for kind in range(4)])
    assert torch.allclose(centres, own), "centres are the means"


def test_k_means_has_no_more_clusters_than_points_that_differ() -> None:
    points = torch.tensor([[1.0], [1.0], [4.0], [4.0], [4.0]])
    assert sorted(k_means(points, 9).flatten().tolist()) == [1, 4]
    assert k_means(points[:2], 3).tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("counts", "keep", "expected"),
    [
        ({0: 50, 1: 30, 2: 20}, 10, {0: 5, 1: 3, 2: 2}),
        ({0: 31, 1: 69}, 10, {0: 3, 1: 7}),
        # 6.4, 3.2, 0.4: the remainder of 0 and 2 is equal, and one place is left
        ({0: 64, 1: 32, 2: 4}, 10, {0: 7, 1: 3, 2: 0}),
        ({5: 4, 1: 64, 2: 32}, 10, {1: 7, 2: 3, 5: 0}),
        ({0: 1, 1: 1, 2: 1}, 2, {0: 1, 1: 1, 2: 0}),
        ({0: 3, 1: 2}, 9, {0: 3, 1: 2}),
        ({7: 10**6}, 64, {7: 64}),
    ],
)
def test_quotas_by_largest_remainder(
    counts: dict[int, int], keep: int, expected: dict[int, int]
) -> None:
    assert quotas(counts, keep) == expected


def test_places_within_a_kind() -> None:
    assert places(torch.tensor([4, 4, 1, 4, 0, 1])).tolist() == [0, 1, 0, 2, 0, 1]
    assert places(torch.tensor([], dtype=torch.int64)).tolist() == []


# ---- ranking within kinds ----------------------------------------------------------------------


class Echo(nn.Module):
    """Pictures [n, 1, 1, 1] that are the noise."""

    def forward(self, z: Tensor) -> Tensor:
        return z[:, :1, None, None]


def source(first: int, count: int) -> sample.Inputs:
    """Face i is -1 + i / 1000."""
    return ((torch.arange(first, first + count) / 1000 - 1)[:, None],)


def index(images: Tensor) -> Tensor:
    return ((images.flatten() + 1) * 1000).round().long()


def hashed(images: Tensor) -> Tensor:
    """Scores in another order than the faces', with many ties."""
    return (index(images) * 37 % 101).float()


def five_kinds(images: Tensor) -> Tensor:
    """Of 100: 50, 30, 10, 9 and 1."""
    bounds = torch.tensor([50, 80, 90, 99])
    return torch.searchsorted(bounds, index(images) * 53 % 100, right=True)


def in_a_row(images: Tensor) -> Tensor:
    """Of the first 900, one kind after the other."""
    return torch.searchsorted(torch.tensor([450, 700, 880]), index(images), right=True)


def chosen(keep: int, count: int, batch: int, kind_of: sample.KindOf = five_kinds) -> list[int]:
    candidates = sample.first_candidates(source, count, batch, CPU)
    best = sample.rank(Echo(), lambda images, _: hashed(images), candidates, keep, kind_of)
    assert torch.equal(
        best.images, sample.to_uint8(source(0, count)[0][best.indices][..., None, None])
    )
    return best.indices.tolist()


@pytest.mark.parametrize("kind_of", [five_kinds, in_a_row])
@pytest.mark.parametrize("keep", [1, 20, 64, 900])
def test_streaming_equals_all_at_once(keep: int, kind_of: sample.KindOf) -> None:
    """Also where what is held is sorted out dozens of times."""
    everything = source(0, 900)[0][..., None, None]
    scores, kinds = hashed(everything), kind_of(everything)
    most = quotas(dict(enumerate(np.bincount(kinds).tolist())), keep)
    order = sorted(range(900), key=lambda i: (-float(scores[i]), i))
    expected = [
        i
        for place, i in enumerate(order)
        if sum(int(kinds[j] == kinds[i]) for j in order[:place]) < most[int(kinds[i])]
    ]
    assert len(expected) == keep
    for batch in (900, 16, 7, 1):
        assert chosen(keep, 900, batch, kind_of) == expected, batch


def test_kinds_keep_their_shares_whatever_the_judge_likes() -> None:
    found = torch.tensor(chosen(40, 800, 16))
    kinds = five_kinds(source(0, 800)[0][found])
    assert np.bincount(kinds, minlength=5).tolist() == [20, 12, 4, 4, 0]  # of 20, 12, 4, 3.6, 0.4
    scores = hashed(source(0, 800)[0][found])
    assert scores.tolist() == sorted(scores.tolist(), reverse=True), "best first, all kinds mixed"


def test_what_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    most: list[int] = []
    best = sample._best

    def recorded(parts: list[tuple[Tensor, ...]], limits: dict[int, int]) -> tuple[Tensor, ...]:
        most.append(sum(len(part[0]) for part in parts))
        return best(parts, limits)

    monkeypatch.setattr(sample, "_best", recorded)
    chosen(3, 900, 10)
    assert max(most) <= 2 * 5 * 3 + 10  # five kinds, twice, and a batch
    assert len(most) > 10
