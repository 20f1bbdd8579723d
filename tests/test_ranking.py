"""Judges and the choice without near-copies, by hand."""

import numpy as np
import pytest
import torch

from gan import avatars, ranking, sample
from gan.losses import pair_auc
from gan.ranking import discriminant, realism, spread_out


def test_realism_by_hand() -> None:
    # on a line: 0, 1, 2, 10; with k = 1 the radii are 1, 1, 1, 8, and 10, the odd one, has no say
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    fake = torch.tensor([[2.5], [4.0], [10.5], [-0.25]])
    assert realism(fake, real, k=1).tolist() == pytest.approx([2.0, 0.5, 1 / 8.5, 4.0])


def test_faces_are_more_real_than_noise_and_half_finished_ones() -> None:
    faces = avatars.draw(0, 130, 64)
    judge = ranking.by_realism(ranking.known(faces[:100]))
    fresh = torch.from_numpy(faces[100:]).float() / 127.5 - 1
    torch.manual_seed(0)
    noisy = (fresh + 0.3 * torch.randn_like(fresh)).clamp(-1, 1)
    scores = [judge(images, images) for images in (fresh, noisy)]
    assert float((scores[0] > scores[1]).float().mean()) > 0.95


def test_the_discriminant_by_hand() -> None:
    # means (3, 0) and (0, 2), variances 1 and 4, no covariance: w = (3 / 1, -2 / 4); halfway is 0
    spread = torch.tensor([[2**0.5, 0.0], [-(2**0.5), 0.0], [0.0, 8**0.5], [0.0, -(8**0.5)]])
    real, fake = spread + torch.tensor([3.0, 0.0]), spread + torch.tensor([0.0, 2.0])
    w, b = discriminant(real, fake, shrink=0.0)
    assert w.tolist() == pytest.approx([3.0, -0.5])
    assert float(torch.tensor([1.5, 1.0]) @ w + b) == pytest.approx(0, abs=1e-5)
    # two normal densities at (3, 0): exp(0) against exp(-(9 / 1 + 4 / 4) / 2)
    assert float(torch.tensor([3.0, 0.0]) @ w + b) == pytest.approx(5.0)
    # tr(S) / d = 2.5: w = (3 / (1 + 2.5), -2 / (4 + 2.5))
    assert discriminant(real, fake, shrink=1.0)[0].tolist() == pytest.approx([3 / 3.5, -2 / 6.5])


def test_the_best_have_least_of_what_sets_a_run_apart() -> None:
    faces = avatars.draw(0, 190, 64)
    torch.manual_seed(0)
    images = torch.from_numpy(faces[100:]).float() / 127.5 - 1
    noisy = torch.arange(90) % 3 > 0  # a third of what this run draws is flawless
    images[noisy] += 0.2 * torch.randn_like(images[noisy])
    judge = ranking.by_ratio(ranking.known(faces[:100]), sample.to_uint8(images[:60]))
    scores = judge(images[60:], images[60:])  # new ones
    assert float(pair_auc(scores[~noisy[60:]], scores[noisy[60:]])) > 0.95


def test_d_is_asked_in_evaluation_mode_and_about_the_class() -> None:
    class D(torch.nn.Module):
        def forward(self, images: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            assert not self.training
            return images.mean((1, 2, 3)) + wanted[:, 1]

    judge = ranking.by_score(D(), sample.Source(0, 2, classes=2))
    vectors = torch.tensor([[5.0, 5.0, 1.0, 0.0], [5.0, 5.0, 0.0, 1.0]])
    assert judge(torch.full((2, 1, 2, 2), 0.5), vectors).tolist() == [0.5, 1.5]


def test_spread_out_takes_the_farthest_each_time() -> None:
    points = torch.tensor([[0.0], [1.0], [10.0], [5.2], [9.0]])
    assert spread_out(points, 3).tolist() == [0, 2, 3]
    assert sorted(spread_out(points, 9).tolist()) == [0, 1, 2, 3, 4]


def test_apart_has_no_copies_of_each_other_or_of_training_images() -> None:
    faces = avatars.draw(0, 300, 48)
    train, new = faces[:200], faces[200:]
    copied = train[:20].copy()
    candidates = np.concatenate([new[:30], new[:30], copied])  # every new one twice
    count = len(candidates)
    best = sample.Ranked(
        torch.from_numpy(candidates), torch.linspace(1, 0, count), torch.arange(count)
    )
    chosen = ranking.apart(best, 25, train)
    places = chosen.numbers.tolist()
    assert len(places) == 25
    assert max(places) < 60, "no copy of a training image"
    assert len({place % 30 for place in places}) == 25, "none twice"
    assert chosen.scores.tolist() == sorted(chosen.scores.tolist(), reverse=True)


def test_new_faces_are_new_however_many_were_trained_on() -> None:
    """Of fresh pictures about 1 % are as near to a training image as 1 % of these are."""
    random = np.random.RandomState(0)
    codes = random.randn(6_500, 8) @ random.randn(8, 3 * 16 * 16)
    faces = (128 + 15 * codes).clip(0, 255).astype(np.uint8).reshape(-1, 3, 16, 16)
    fresh, train = faces[:500], faces[500:]
    assert np.mean(ranking.newness(fresh, train) < 0) < 0.03
    assert (ranking.newness(train[7:9], train) < 0).all()
