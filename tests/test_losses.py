"""Losses by hand."""

import math

import pytest
import torch

from gan.losses import hinge_d, hinge_g, logistic_d, logistic_g


def test_at_zero_scores_each_term_is_log_2() -> None:
    zero = torch.zeros(4)
    assert logistic_d(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert logistic_g(zero).item() == pytest.approx(math.log(2))


def test_against_cross_entropy_with_labels_1_and_0() -> None:
    # s(log 3) = 3/4, so a real at log 3 costs log 4/3 and a fake at log 3 costs log 4
    score = torch.tensor([math.log(3)])
    assert logistic_d(score, score).item() == pytest.approx(math.log(4 / 3) + math.log(4))
    assert logistic_g(score).item() == pytest.approx(math.log(4 / 3))


def test_d_is_pushed_up_on_reals_and_down_on_fakes_and_g_up() -> None:
    real, fake = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    logistic_d(real, fake).backward()
    assert real.grad is not None
    assert fake.grad is not None
    # descent moves against the gradient: -(-1/2)/2 on reals, -(+1/2)/2 on fakes
    assert torch.allclose(real.grad, torch.full((2,), -0.25))
    assert torch.allclose(fake.grad, torch.full((2,), 0.25))
    score = torch.zeros(2, requires_grad=True)
    logistic_g(score).backward()
    assert torch.allclose(score.grad, torch.full((2,), -0.25))  # type: ignore[arg-type]


def test_extreme_scores_stay_finite() -> None:
    far = torch.tensor([-1e4, 1e4])
    assert torch.isfinite(logistic_d(far, far))
    assert torch.isfinite(logistic_g(far))


def test_hinge_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, -0.5, 1.0])
    # reals cost 0, 0.5 and 2; fakes 0, 0.5 and 2
    assert hinge_d(real, fake).item() == pytest.approx(2 * 2.5 / 3)
    assert hinge_g(fake).item() == pytest.approx(0.5)
