"""Losses by hand."""

import math
from collections.abc import Callable

import pytest
import torch

from config import Config
from gan.loop import train_step
from gan.losses import (
    Batch,
    adversarial,
    clip_weights,
    critic,
    critic_d,
    gradient_penalty,
    hinge_d,
    hinge_g,
    least_squares_d,
    least_squares_g,
    logistic_d,
    logistic_g,
    nonsaturating,
)
from gan.state import State
from models import FAMILIES, Nets


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


def test_least_squares_and_critic_by_hand() -> None:
    real, fake = torch.tensor([2.0, 1.0]), torch.tensor([0.0, -2.0])
    assert least_squares_d(real, fake).item() == pytest.approx((0.5 + 2) / 2)
    assert least_squares_g(fake).item() == pytest.approx((1 + 9) / 4)
    assert critic_d(real, fake).item() == pytest.approx(-1 - 1.5)


class Linear(torch.nn.Module):
    """D(x) = w x, with a w for each image so that nothing can be averaged unseen."""

    def __init__(self, *norms: float) -> None:
        super().__init__()
        direction = torch.tensor([0.6, 0.0, 0.8, 0.0])
        self.weight = torch.nn.Parameter(torch.stack([n * direction for n in norms]))

    def forward(self, x: torch.Tensor, *wanted: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) * self.weight).sum(1)


def test_the_penalty_of_a_linear_critic_is_that_of_its_slope_image_by_image() -> None:
    real, fake = torch.randn(2, 1, 2, 2), torch.randn(2, 1, 2, 2)
    assert gradient_penalty(Linear(1, 1), real, fake).item() == pytest.approx(0, abs=1e-10)
    # slopes 3 and 1: (2^2 + 0) / 2; one norm over the batch would give (sqrt(10) - 1)^2
    assert gradient_penalty(Linear(3, 1), real, fake).item() == pytest.approx(2)


def test_the_penalty_is_taken_between_a_real_and_a_fake() -> None:
    seen = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach())
        return x.flatten(1).sum(1)

    gradient_penalty(look, torch.full((500, 1, 2, 2), 3.0), torch.full((500, 1, 2, 2), 1.0))
    mix = seen[0]
    assert torch.allclose(mix, mix[:, :, :1, :1].expand_as(mix))  # one share for a whole picture
    assert float(mix.min()) >= 1
    assert float(mix.max()) <= 3
    assert float(mix.mean()) == pytest.approx(2, abs=0.1)


def test_clipping_bounds_every_weight() -> None:
    nets = Nets(Linear(1), Linear(5, -7, 0.001))
    clip_weights(nets, Config(clip=0.05))
    assert nets.D.weight.abs().max().item() == pytest.approx(0.05)
    assert nets.D.weight[2, 0].item() == pytest.approx(0.0006)
    assert nets.G.weight.abs().max().item() > 0.05


def test_the_label_of_a_fake_is_that_of_cross_entropy() -> None:
    nets, fake = Nets(Linear(1), Linear(*[1.0] * 4)), torch.randn(4, 1, 2, 2)
    d_loss, _ = adversarial(nonsaturating)
    batch = Batch(torch.randn(4, 1, 2, 2), torch.zeros(4, 1), drawn=fake)
    for label in (0.0, 0.3, 1.0):
        loss, _ = d_loss(nets, batch, Config(fake_label=label))
        real, scores = nets.D(batch.real), nets.D(fake)
        cross = torch.nn.functional.binary_cross_entropy_with_logits
        expected = cross(real, torch.ones(4)) + cross(scores, torch.full((4,), label))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_penalty_enters_with_its_weight_and_its_log() -> None:
    nets, fake = Nets(Linear(1), Linear(3, 1)), torch.randn(2, 1, 2, 2)
    d_loss, _ = adversarial(critic, gradient_penalty)
    batch = Batch(torch.randn(2, 1, 2, 2), torch.zeros(2, 1), drawn=fake)
    loss, logs = d_loss(nets, batch, Config(penalty=10.0))
    plain = critic_d(nets.D(batch.real), nets.D(fake))
    assert loss.item() == pytest.approx(plain.item() + 20, rel=1e-5)
    assert logs["penalty"].item() == pytest.approx(2)


def test_wgan_clips_after_every_update_of_d(tiny: Callable[..., Config]) -> None:
    wgan = FAMILIES["wgan"]
    knobs = {**wgan.defaults, "img_size": 28, "ngf": 2, "ndf": 2, "nz": 2, "batch_size": 2}
    state = State(wgan, tiny(**knobs, clip=0.003, d_every=2), torch.device("cpu"))
    largest = []
    for _ in range(4):
        train_step(wgan, state, Batch(torch.rand(2, 3, 28, 28), torch.randn(2, 2)))
        weights = list(state.nets.D.parameters())
        largest.append(max(weight.abs().max().item() for weight in weights))
        torch.nn.init.constant_(weights[0], 1.0)
    # D is updated in the first step and the third; rmsprop's first steps are longer than the bound
    assert largest == pytest.approx([0.003, 1.0, 0.003, 1.0])
