"""Rankers, their statistics by hand, and the selection of images that differ."""

import itertools
import math
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gan import avatars, features, metrics, patches, ranking, sample
from gan.losses import pair_auc
from gan.patches import nearest_patches, unusualness
from gan.ranking import (
    RANKERS,
    RankingInputs,
    Reals,
    agreement,
    farthest_points,
    fit_discriminant,
    fit_line,
    realism,
)


def no_fakes() -> Tensor:
    raise AssertionError("this ranker must not generate images")


def inputs(
    D: nn.Module | None = None,
    real: Reals | None = None,
    sample_fakes: Callable[[], Tensor] = no_fakes,
) -> RankingInputs:
    return RankingInputs(D or nn.Identity(), real, sample_fakes, "cpu")


# ---- statistics --------------------------------------------------------------------------------


def test_realism_by_hand() -> None:
    # on a line: 0, 1, 2, 10; with k = 1 the radii are 1, 1, 1, 8, and 10 is left out as an outlier
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    fake = torch.tensor([[2.5], [4.0], [10.5], [-0.25]])
    assert realism(fake, real, k=1).tolist() == pytest.approx([2.0, 0.5, 1 / 8.5, 4.0])
    assert torch.isfinite(realism(real, real)).all(), "a copy is at distance 0"


def test_discriminant_by_hand() -> None:
    # means (3, 0) and (0, 2), variances 1 and 4, no covariance: w = (3 / 1, -2 / 4); halfway is 0
    offsets = torch.tensor([[2**0.5, 0.0], [-(2**0.5), 0.0], [0.0, 8**0.5], [0.0, -(8**0.5)]])
    real, fake = offsets + torch.tensor([3.0, 0.0]), offsets + torch.tensor([0.0, 2.0])
    weights, bias = fit_discriminant(real, fake, shrinkage=0.0)
    assert weights.tolist() == pytest.approx([3.0, -0.5])
    assert float(torch.tensor([1.5, 1.0]) @ weights + bias) == pytest.approx(0, abs=1e-5)
    # two normal densities at (3, 0): exp(0) against exp(-(9 / 1 + 4 / 4) / 2)
    assert float(torch.tensor([3.0, 0.0]) @ weights + bias) == pytest.approx(5.0)
    # tr(S) / d = 2.5: w = (3 / (1 + 2.5), -2 / (4 + 2.5))
    shrunk = fit_discriminant(real, fake, shrinkage=1.0)[0]
    assert shrunk.tolist() == pytest.approx([3 / 3.5, -2 / 6.5])


def test_reals_are_evenly_spaced_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "MAX_REALS", 3)
    faces = avatars.render(0, 5, 48)
    found = Reals(faces).lite0()
    assert np.array_equal(found, features.extract(faces[[0, 2, 4]], "lite0"))


# ---- rankers -----------------------------------------------------------------------------------


def test_realism_ranks_faces_above_noisy_ones() -> None:
    faces = avatars.render(0, 130, 64)
    judge = RANKERS["realism"].make_judge(inputs(real=Reals(faces[:100])))
    clean = torch.from_numpy(faces[100:]).float() / 127.5 - 1
    torch.manual_seed(0)
    noisy = (clean + 0.3 * torch.randn_like(clean)).clamp(-1, 1)
    scores = [judge(images, ()) for images in (clean, noisy)]
    assert scores[0].dtype == torch.float32
    assert float((scores[0] > scores[1]).float().mean()) > 0.95


def test_ratio_ranks_images_without_the_flaw_of_the_run_higher() -> None:
    faces = avatars.render(0, 190, 64)
    torch.manual_seed(0)
    images = torch.from_numpy(faces[100:]).float() / 127.5 - 1
    noisy = torch.arange(90) % 3 > 0  # a third of the run's images have no flaw
    images[noisy] += 0.2 * torch.randn_like(images[noisy])
    real = Reals(faces[:100])
    judge = RANKERS["ratio"].make_judge(
        inputs(real=real, sample_fakes=lambda: sample.to_uint8(images[:60]))
    )
    scores = judge(images[60:], ())
    assert float(pair_auc(scores[~noisy[60:]], scores[noisy[60:]])) > 0.95


def test_agreement_by_hand() -> None:
    high = torch.tensor([0.0, 3.0, 3.0, 9.0], dtype=torch.float64)
    low = torch.tensor([0.0, 3.0, -3.0, -3.0], dtype=torch.float64)
    log2 = math.log(2)
    # what one view likes beyond measure is worth no more than what it likes: -log(e^3 + e^-9)
    expected = [-log2, 3 - log2, -math.log(math.exp(-3) + math.exp(3)), -3 - math.exp(-12)]
    assert agreement(high, low).tolist() == pytest.approx(expected)
    assert torch.equal(agreement(high, low), agreement(low, high))
    assert float(agreement(high[1], low[2], 4)) == pytest.approx(
        -math.log(math.exp(-3) + 4 * math.exp(3))
    )


def test_consensus_is_the_agreement_of_both_realisms_and_of_patches_in_deviations_of_the_fakes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Features are one number: the first pixel by lite0, the last by the untrained network. Of an
    image's two patches the pixels between are the distances.
    """

    def pixel(place: int) -> Callable[..., Tensor]:
        return lambda images, *_: images.flatten(1)[:, [place]].double()

    class Line:
        real = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [100.0]]).double()
        __call__ = staticmethod(pixel(-1))

    class Bank:
        def distances(self, images: Tensor) -> Tensor:
            return images[:, :, :, 1:3].flatten(1).double()[:, None]

    class All(Reals):
        def lite0(self) -> Tensor:
            return Line.real

        def view(self, scale: int, components: int, device: str) -> Any:
            assert (scale, components) in ((2, 64), (1, 8))
            return Line() if scale == 2 else pixel(0)

        def patch_bank(self, device: str) -> Any:
            return Bank()

    def pictures(*rows: tuple[int, int, int, int]) -> Tensor:
        return torch.tensor(rows, dtype=torch.uint8)[:, None, None]

    monkeypatch.setattr(ranking, "lite0_features", pixel(0))
    fakes = pictures((10, 30, 2, 20), (20, 60, 2, 40), (40, 90, 8, 12))
    drawn = pictures((8, 90, 2, 30), (16, 30, 12, 16))
    judge = RANKERS["consensus"].make_judge(
        inputs(real=All(np.zeros(1)), sample_fakes=lambda: fakes)
    )
    found = judge(drawn.float() / 127.5 - 1, ())

    def log_realism(x: int) -> float:
        # of 0, 1, .. 6, 100 the fifth neighbours are 5, 4, 3, 3, 3, 4, 5, 98 away; the median is 4
        return max(math.log(r / abs(x - at)) for at, r in ((1, 4), (2, 3), (3, 3), (4, 3), (5, 4)))

    def log_usual(x: int, y: int) -> float:
        # usual distances are 60 and 2; of two places the odder one counts
        return -math.log(max(x / 60, y / 9.3))  # at least 0.3 of (60 + 2) / 2: 9.3

    def standard(values: list[float], usual: list[float]) -> list[float]:
        return [(v - statistics.mean(usual)) / statistics.pstdev(usual) for v in values]

    def agree(firsts: list[float], seconds: list[float], weight: float = 1) -> list[float]:
        pairs = zip(firsts, seconds, strict=True)
        return [-math.log(math.exp(-a) + weight * math.exp(-b)) for a, b in pairs]

    def whole(firsts: tuple[int, ...], lasts: tuple[int, ...]) -> list[float]:
        by_lite0 = standard(
            [log_realism(x) for x in firsts], [log_realism(x) for x in (10, 20, 40)]
        )
        by_other = standard([log_realism(x) for x in lasts], [log_realism(x) for x in (20, 40, 12)])
        return agree(by_lite0, by_other)

    usual = [log_usual(30, 2), log_usual(60, 2), log_usual(90, 8)]
    slope, constant = statistics.linear_regression((10, 20, 40), usual)  # of the look

    def left(values: list[float], looks: tuple[int, ...]) -> list[float]:
        return [v - slope * look - constant for v, look in zip(values, looks, strict=True)]

    by_patches = standard(
        left([log_usual(90, 2), log_usual(30, 12)], (8, 16)), left(usual, (10, 20, 40))
    )
    expected = agree(
        standard(whole((8, 16), (30, 16)), whole((10, 20, 40), (20, 40, 12))), by_patches, 4
    )
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert found.dtype == torch.float32


def test_nearest_patches_as_a_loop_finds_them() -> None:
    torch.manual_seed(0)
    own, bank = torch.randn(3, 5, 4, 6), torch.randn(3, 5, 7, 6)
    for reach in (0, 1, 2):
        found = nearest_patches(own, bank, reach)
        for y, x, n in itertools.product(range(3), range(5), range(4)):
            near = [
                float((own[y, x, n] - other).norm())
                for row, column in itertools.product(range(3), range(5))
                if max(abs(row - y), abs(column - x)) <= reach
                for other in bank[row, column]
            ]
            assert float(found[n, y, x]) == pytest.approx(min(near), rel=1e-4)


def test_unusualness_is_that_of_the_worst_places() -> None:
    usual = torch.full((10, 10), 2.0)
    usual[0, 0] = 0.0  # all images are equal there
    distance = torch.full((2, 10, 10), 2.0)
    distance[1, 2, 3], distance[1, 4, 7], distance[1, 0, 1] = 10.0, 6.0, 5.0
    distance[:, 0, 0] = torch.tensor([1.782, 0.1])
    # two of a hundred places count: 1.782 / 0.594 (0.3 of the mean) and 2 / 2; 10 / 2 and 6 / 2
    assert unusualness(distance, usual).tolist() == pytest.approx([2.0, 4.0])
    assert unusualness(torch.zeros(2, 5, 8), torch.zeros(5, 8)).tolist() == [0.0, 0.0]


def test_a_line_is_that_of_least_squares() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(30, 3).double(), torch.randn(30).double()
    found = fit_line(x, y)(x[:4])
    with_constant = torch.cat([x, torch.ones(30, 1).double()], 1)
    by_hand = torch.linalg.solve(with_constant.T @ with_constant, with_constant.T @ y)
    assert found.tolist() == pytest.approx((with_constant[:4] @ by_hand).tolist())
    assert fit_line(x[:1].expand(5, 3), y[:5])(x[:1]).tolist() == pytest.approx(
        [float(y[:5].mean())]
    )


def test_patches_tell_a_smeared_eye() -> None:
    """In a quarter of the faces, a flaw of one pixel in sixty."""
    style, hair = avatars.load_style("adventurer"), {"hairVariant": ["short04"]}
    parts = {**avatars.SIMPLE_PARTS, **hair, "skinColor": ["ecad80"], "hairColor": ["6a4e35"]}
    faces = np.stack([np.asarray(avatars.draw(style, n, 96, parts)) for n in range(140)])
    drawn = torch.from_numpy(faces.transpose(0, 3, 1, 2).copy())
    eye = drawn[:10, :, 45:57, 44:56]
    eye.copy_(eye.float().mean((2, 3), keepdim=True).expand_as(eye).byte())
    distance = patches.PatchBank(drawn[40:].numpy(), "cpu").distances(drawn[:40])
    odd = unusualness(distance, distance.median(0).values)
    assert float(pair_auc(odd[:10], odd[10:])) > 0.9
    assert distance.shape == (40, 24, 24)


@pytest.mark.parametrize(("count", "channels", "auc"), [(60, 3, 0.65), (8, 1, 0.55)])
def test_consensus_ranks_faces_above_noisy_ones(count: int, channels: int, auc: float) -> None:
    """Also by few training images, less surely."""
    faces = avatars.render(0, count + 40, 48)[:, :channels]
    clean = torch.from_numpy(faces[count:]).float() / 127.5 - 1
    torch.manual_seed(0)
    noisy = (clean + 0.4 * torch.randn_like(clean)).clamp(-1, 1)
    fakes = sample.to_uint8(torch.cat([clean[:20], noisy[:20]]))
    row = RANKERS["consensus"]
    given = inputs(real=Reals(faces[:count]), sample_fakes=lambda: fakes)
    judge, kind_of = row.make_judge(given), row.make_kinds(given)
    scores = [judge(images, ()) for images in (clean[20:], noisy[20:])]
    assert float(pair_auc(scores[0], scores[1])) > auc
    alone = torch.cat([judge(image[None], ()) for image in clean[20:24]])
    assert alone.tolist() == pytest.approx(scores[0][:4].tolist(), abs=1e-3), "of one image alone"
    assert kind_of(clean).shape == (40,)
    assert len(set(kind_of(clean).tolist())) > 1


@pytest.mark.parametrize("face", [20, 19])
def test_a_collapsed_run_is_ranked_too(face: int) -> None:
    """Also one that draws a training image, of which every patch is at distance 0."""
    faces = avatars.render(0, 30, 48)
    given = inputs(real=Reals(faces[:20]), sample_fakes=lambda: torch.from_numpy(faces[[face] * 9]))
    row, drawn = RANKERS["consensus"], torch.from_numpy(faces[18:22]).float() / 127.5 - 1
    assert torch.isfinite(row.make_judge(given)(drawn, ())).all()
    assert row.make_kinds(given)(drawn).tolist() == [0] * 4


def test_kinds_of_a_run_are_its_colours() -> None:
    """Three backgrounds, which are most of a picture."""
    faces = avatars.render(0, 120, 48)
    ground = faces[:, :, 1, 1]
    colours = [ground[0]]
    for colour in ground:
        if len(colours) < 3 and not any((colour == known).all() for known in colours):
            colours.append(colour)
    drawn = np.concatenate([faces[(ground == colour).all(1)][:12] for colour in colours])
    given = inputs(real=Reals(faces), sample_fakes=lambda: torch.from_numpy(faces))
    kind_of = RANKERS["consensus"].make_kinds(given)
    found = kind_of(torch.from_numpy(drawn).float() / 127.5 - 1).view(3, -1).tolist()
    shared = set(found[0]) & set(found[1]) | set(found[1]) & set(found[2])
    mixed = sum(kind in shared for row in found for kind in row)
    assert mixed < 12, "of 36 faces"


def test_score_calls_d_in_evaluation_mode_with_the_condition() -> None:
    class D(nn.Module):
        def forward(self, images: Tensor, condition: Tensor) -> Tensor:
            assert not self.training
            return (images.mean((1, 2, 3)) + condition[:, 1]).bfloat16()

    judge = RANKERS["score"].make_judge(inputs(D()))
    condition = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    scores = judge(torch.full((2, 1, 2, 2), 0.5), (condition,))
    assert scores.tolist() == [0.5, 1.5]
    assert scores.dtype == torch.float32


def test_none_keeps_the_order() -> None:
    judge = RANKERS["none"].make_judge(inputs())
    assert judge(torch.rand(3, 1, 2, 2), ()).tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", RANKERS)
def test_rankers_that_need_reals_say_so(name: str) -> None:
    made = RANKERS[name].make_judge
    fakes = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    if RANKERS[name].needs_reals:
        with pytest.raises(ValueError, match="needs features of training images"):
            made(inputs(sample_fakes=lambda: fakes))
    else:
        assert callable(made(inputs()))


def test_each_ranker_prints_its_own_order() -> None:
    assert {name: ranker.order for name, ranker in RANKERS.items()} == {
        "consensus": "most real first, each kind in its share",
        "realism": "most real first",
        "ratio": "most like real ones first",
        "score": "best D score first",
        "none": "as drawn",
    }


# ---- diversity ---------------------------------------------------------------------------------


def test_farthest_points_by_hand() -> None:
    points = torch.tensor([[0.0], [1.0], [10.0], [5.2], [9.0]])
    assert farthest_points(points, 3).tolist() == [0, 2, 3]
    assert sorted(farthest_points(points, 9).tolist()) == [0, 1, 2, 3, 4]


def ranked(images: np.ndarray) -> sample.Ranked:
    count = len(images)
    return sample.Ranked(
        torch.from_numpy(images), torch.linspace(1, 0, count), torch.arange(count) + 100
    )


def test_diverse_images_are_no_copies_of_each_other_or_of_training_images() -> None:
    faces = avatars.render(0, 300, 48)
    train, new = faces[:200], faces[200:]
    candidates = np.concatenate([new[:30].repeat(2, axis=0), train[:20]])  # every new image twice
    chosen = ranking.select_diverse(ranked(candidates), 25, train)
    indices = (chosen.indices - 100).tolist()
    assert len(indices) == 25
    assert max(indices) < 60, "a copy of a training image"
    assert len({index // 2 for index in indices}) == 25, "an image twice"
    assert indices == sorted(indices), "the ranked order"
    assert torch.equal(chosen.images, torch.from_numpy(candidates[indices]))
    assert torch.equal(chosen.scores, torch.linspace(1, 0, len(candidates))[indices])


def test_too_few_new_images_are_filled_up_with_the_most_novel() -> None:
    faces = avatars.render(0, 60, 48)
    train = faces[:50]
    candidates = np.concatenate([train[:6], faces[50:53]])
    distance = ranking.novelty(candidates, train)
    chosen = ranking.select_diverse(ranked(candidates), 5, train)
    indices = (chosen.indices - 100).tolist()
    assert len(indices) == 5
    assert {6, 7, 8} <= set(indices)
    assert sorted(distance[indices]) == pytest.approx(sorted(distance)[-5:])


def test_novelty_does_not_depend_on_the_number_of_training_images() -> None:
    """About 1 % of new images are as near to a training image as 1 % of training images are."""
    random = np.random.RandomState(0)
    codes = random.randn(6_500, 8) @ random.randn(8, 3 * 16 * 16)
    faces = (128 + 15 * codes).clip(0, 255).astype(np.uint8).reshape(-1, 3, 16, 16)
    new, train = faces[:500], faces[500:]
    assert np.mean(ranking.novelty(new, train) < 0) < 0.03
    assert (ranking.novelty(train[7:9], train) < 0).all()


def test_novelty_by_hand() -> None:
    faces = avatars.render(0, 60, 48)
    new, train = faces[40:], faces[:40]
    queries = features.spaced(40, 10)  # a quarter of the training images
    others = np.setdiff1d(np.arange(40), queries)
    usual = metrics.nearest(train[queries], train[others])[0]
    expected = metrics.nearest(new, train)[0] - np.quantile(usual, 0.01)
    assert ranking.novelty(new, train) == pytest.approx(expected, abs=1e-5)
