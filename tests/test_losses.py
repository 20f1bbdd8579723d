"""Losses by hand."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from states import new_state
from torch import Tensor, nn

from config import Config
from gan.loop import train_step
from gan.losses import (
    Batch,
    Loss,
    Nets,
    adversarial,
    clip_weights,
    critic_d,
    cycle,
    fake_label,
    gradient_penalty,
    hinge_d,
    hinge_g,
    least_squares_d,
    least_squares_g,
    logistic_d,
    logistic_g,
    paired,
    r1,
    r2,
    relativistic_d,
    relativistic_g,
)
from gan.translation import CycleD, Pool, ThereAndBack
from models import FAMILIES

NO_REALS = torch.empty(0)  # of a G's loss that does not look at them


def test_at_zero_scores_each_term_is_log_2() -> None:
    zero = torch.zeros(4)
    assert logistic_d(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert logistic_g(NO_REALS, zero).item() == pytest.approx(math.log(2))


def test_against_cross_entropy_with_labels_1_and_0() -> None:
    # s(log 3) = 3/4, so a real at log 3 costs log 4/3 and a fake at log 3 costs log 4
    score = torch.tensor([math.log(3)])
    assert logistic_d(score, score).item() == pytest.approx(math.log(4 / 3) + math.log(4))
    assert logistic_g(NO_REALS, score).item() == pytest.approx(math.log(4 / 3))


def test_d_is_pushed_up_on_reals_and_down_on_fakes_and_g_up() -> None:
    real, fake = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    logistic_d(real, fake).backward()
    assert real.grad is not None
    assert fake.grad is not None
    # descent moves against the gradient: -(-1/2)/2 on reals, -(+1/2)/2 on fakes
    assert torch.allclose(real.grad, torch.full((2,), -0.25))
    assert torch.allclose(fake.grad, torch.full((2,), 0.25))
    score = torch.zeros(2, requires_grad=True)
    logistic_g(NO_REALS, score).backward()
    assert torch.allclose(score.grad, torch.full((2,), -0.25))  # type: ignore[arg-type]


def test_extreme_scores_stay_finite() -> None:
    far = torch.tensor([-1e4, 1e4])
    assert torch.isfinite(logistic_d(far, far))
    assert torch.isfinite(logistic_g(NO_REALS, far))


def test_hinge_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, -0.5, 1.0])
    # reals cost 0, 0.5 and 2; fakes 0, 0.5 and 2
    assert hinge_d(real, fake).item() == pytest.approx(2 * 2.5 / 3)
    assert hinge_g(NO_REALS, fake).item() == pytest.approx(0.5)


def test_least_squares_and_critic_by_hand() -> None:
    real, fake = torch.tensor([2.0, 1.0]), torch.tensor([0.0, -2.0])
    assert least_squares_d(real, fake).item() == pytest.approx((0.5 + 2) / 2)
    assert least_squares_g(NO_REALS, fake).item() == pytest.approx((1 + 9) / 4)
    assert critic_d(real, fake).item() == pytest.approx(-1 - 1.5)


def test_relativistic_by_hand() -> None:
    # pair by pair; softplus(-log 3) = log 4/3, softplus(log 3) = log 4, softplus(0) = log 2
    real, fake = torch.tensor([math.log(3), 0, 5]), torch.tensor([0.0, 0, 5])
    terms = math.log(4 / 3) + 2 * math.log(2)
    assert relativistic_d(real, fake).item() == pytest.approx(terms / 3)
    terms = math.log(4) + 2 * math.log(2)
    assert relativistic_g(real, fake).item() == pytest.approx(terms / 3)


class Linear(nn.Module):
    """D(x) = w x, with a w for each image so that nothing can be averaged unseen."""

    def __init__(self, *norms: float) -> None:
        super().__init__()
        direction = torch.tensor([0.6, 0.0, 0.8, 0.0])
        self.weight = nn.Parameter(torch.stack([n * direction for n in norms]))

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        return (x.flatten(1) * self.weight).sum(1)


def test_the_penalty_of_a_linear_critic_is_that_of_its_slope_image_by_image() -> None:
    real, fake = torch.randn(2, 1, 2, 2), torch.randn(2, 1, 2, 2)
    assert gradient_penalty(Linear(1, 1), real, fake).item() == pytest.approx(0, abs=1e-10)
    # slopes 3 and 1: (2^2 + 0) / 2; one norm over the batch would give (sqrt(10) - 1)^2
    assert gradient_penalty(Linear(3, 1), real, fake).item() == pytest.approx(2)


def test_the_penalty_is_taken_between_a_real_and_a_fake() -> None:
    seen = []

    def look(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.flatten(1).sum(1)

    gradient_penalty(look, torch.full((500, 1, 2, 2), 3.0), torch.full((500, 1, 2, 2), 1.0))
    mix = seen[0]
    assert torch.allclose(mix, mix[:, :, :1, :1].expand_as(mix))  # one share for a whole picture
    assert float(mix.min()) >= 1
    assert float(mix.max()) <= 3
    assert float(mix.mean()) == pytest.approx(2, abs=0.1)


class Quadratic(nn.Module):
    """D(x) = a |x|^2 / 2, times 3 for the second of two classes; its gradient is a x, or 3 a x."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        scores = self.a * x.flatten(1).square().sum(1) / 2
        return scores * (condition[0] @ torch.tensor([1.0, 3.0])) if condition else scores


# |x|^2 is 9 and 25 of the reals, 1 and 4 of the fakes
REALS = torch.tensor([[1.0, 2, 0, 2], [3, 0, 4, 0]]).view(2, 1, 2, 2)
FAKES = torch.tensor([[0.0, 1, 0, 0], [0, 0, 0, 2]]).view(2, 1, 2, 2)


def test_r1_and_r2_of_a_linear_d_are_half_its_squared_slope() -> None:
    for penalty in (r1, r2):  # slopes 3 and 1: (9 + 1) / 2 images / 2
        assert penalty(Linear(3, 1), REALS, FAKES).item() == pytest.approx(2.5)


def test_r1_is_taken_at_the_reals_and_r2_at_the_fakes() -> None:
    D = Quadratic()  # a = 2: a^2 |x|^2 / 2 is 18 and 50, 2 and 8
    assert r1(D, REALS, FAKES).item() == pytest.approx(34)
    assert r2(D, REALS, FAKES).item() == pytest.approx(5)
    classes = (torch.eye(2),)  # the second image's gradient is 3 times as long
    assert r1(D, REALS, FAKES, classes).item() == pytest.approx((18 + 450) / 2)
    assert r2(D, REALS, FAKES, classes).item() == pytest.approx((2 + 72) / 2)


def test_r1_and_r2_train_d() -> None:
    for penalty, size in ((r1, 17), (r2, 2.5)):
        D = Quadratic()
        penalty(D, REALS, FAKES).backward()
        assert D.a.grad is not None
        assert D.a.grad.item() == pytest.approx(2 * size)  # d/da of a^2 mean(|x|^2) / 2


@pytest.mark.parametrize(("d_every", "due"), [(1, [0, 2, 4, 6, 8, 10]), (2, [0, 4, 8])])
def test_a_penalty_is_due_every_second_update_of_d_with_twice_its_weight(
    d_every: int, due: list[int]
) -> None:
    """With `d_every` 2 D is updated in steps 0, 2, 4, 6, ..., so its third update is step 4."""
    nets, config = Nets(nn.Identity(), Quadratic()), Config(d_every=d_every, penalty=0.5)
    lazy = Config(d_every=d_every, penalty=0.5, penalty_every=2)
    d_loss, _ = adversarial("relativistic", penalties=("r1", "r2"))
    plain = relativistic_d(nets.D(REALS), nets.D(FAKES)).item()
    seen = []
    for step in range(0, 12, d_every):
        batch = Batch(REALS, FAKES, step=step)
        loss, _ = d_loss(nets, batch, config)
        assert loss.item() == pytest.approx(plain + 0.5 * 39, rel=1e-5)
        loss, logs = d_loss(nets, batch, lazy)
        if "penalty" in logs:
            seen.append(step)
            assert logs["penalty"].item() == pytest.approx(39)  # as it is, without its weight
        expected = 2 * 0.5 * 39 if step in due else 0.0
        assert loss.item() == pytest.approx(plain + expected, rel=1e-5)
    assert seen == due


class Watched(nn.Module):
    """The mean of each image; keeps what it is called with, and whether a graph is made."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[float, bool]] = []

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        self.calls.append((x[0, -1, 0, 0].item(), torch.is_grad_enabled()))
        return x.flatten(1).mean(1)


def triple() -> nn.Module:
    """A G that multiplies by 3, its one weight."""
    G = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(G.weight, 3.0)
    return G


@pytest.mark.parametrize("game", ["relativistic", "logistic", "hinge", "least-squares", "critic"])
@pytest.mark.parametrize("task", ["noise", "paired", "unpaired"])
def test_only_a_relativistic_g_scores_the_reals_and_without_a_graph(task: str, game: str) -> None:
    """Reals are 7, G is fed 2 and makes 6 of it, or 21 of the 7 on the way back."""
    pair: dict[str, tuple[Loss, Loss]] = {
        "noise": adversarial(game),
        "paired": paired(game),
        "unpaired": cycle(game),
    }
    real = torch.full((2, 1, 2, 2), 7.0, requires_grad=True)
    given = torch.full((2, 1, 2, 2), 2.0)
    there, back = Watched(), Watched()
    nets = Nets(triple(), there)
    fakes = {there: (7.0, 6.0)}
    if task == "unpaired":
        pool = Pool((1, 2, 2), 0)
        nets = Nets(ThereAndBack(triple(), triple()), CycleD(there, back, pool, pool))
        fakes[back] = (2.0, 21.0)
    loss, _ = pair[task][1](nets, Batch(real, given), Config(l1=0.0, cycle=0.0, identity=0.0))
    for D, (shown_real, shown_fake) in fakes.items():
        expected = [(shown_real, False)] if game == "relativistic" else []
        assert D.calls == [*expected, (shown_fake, True)]
    if task == "noise":  # in the others G's further losses look at the pictures too
        loss.backward()
        assert real.grad is None


def test_the_relativistic_loss_of_g_by_hand() -> None:
    """Reals score 9 and 25, fakes 1 and 4; the gradient of a is that of the fakes alone."""
    D = Quadratic()
    _, g_loss = adversarial("relativistic")
    loss, logs = g_loss(Nets(nn.Identity(), D), Batch(REALS / 4, FAKES / 4), Config())
    gaps = [(9 - 1) / 16, (25 - 4) / 16]  # with a = 2 a score is |x|^2
    assert loss.item() == pytest.approx(sum(math.log1p(math.exp(g)) for g in gaps) / 2)
    assert logs["loss_g"].item() == pytest.approx(loss.item())
    loss.backward()
    pull = [1 / (1 + math.exp(-g)) for g in gaps]
    # d/da of the scores of the fakes: |x|^2 / 2
    assert D.a.grad is not None
    assert D.a.grad.item() == pytest.approx(-(pull[0] * 1 / 32 + pull[1] * 4 / 32) / 2)


def test_clipping_bounds_every_weight() -> None:
    G, D = Linear(1), Linear(5, -7, 0.001)
    clip_weights(Nets(G, D), Config(clip=0.05))
    assert D.weight.abs().max().item() == pytest.approx(0.05)
    assert D.weight[2, 0].item() == pytest.approx(0.0006)
    assert G.weight.abs().max().item() > 0.05


def test_the_label_of_a_fake_is_that_of_cross_entropy() -> None:
    nets, fake = Nets(Linear(1), Linear(*[1.0] * 4)), torch.randn(4, 1, 2, 2)
    d_loss, _ = adversarial("logistic", extra=fake_label)
    batch = Batch(torch.randn(4, 1, 2, 2), torch.zeros(4, 1), fake=fake)
    for label in (0.0, 0.3, 1.0):
        loss, _ = d_loss(nets, batch, Config(fake_label=label))
        real, scores = nets.D(batch.real), nets.D(fake)
        cross = F.binary_cross_entropy_with_logits
        expected = cross(real, torch.ones(4)) + cross(scores, torch.full((4,), label))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_penalty_enters_with_its_weight_and_its_log() -> None:
    nets, fake = Nets(Linear(1), Linear(3, 1)), torch.randn(2, 1, 2, 2)
    d_loss, _ = adversarial("critic", penalties=("gradient",))
    batch = Batch(torch.randn(2, 1, 2, 2), torch.zeros(2, 1), fake=fake)
    loss, logs = d_loss(nets, batch, Config(penalty=10.0))
    plain = critic_d(nets.D(batch.real), nets.D(fake))
    assert loss.item() == pytest.approx(plain.item() + 20, rel=1e-5)
    assert logs["penalty"].item() == pytest.approx(2)


def test_wgan_clips_after_every_update_of_d(tiny: Callable[..., Config]) -> None:
    wgan = FAMILIES["wgan"]
    small = {**wgan.defaults, "img_size": 28, "ngf": 2, "ndf": 2, "nz": 2, "batch_size": 2}
    state = new_state(tiny(**small, family="wgan", clip=0.003, d_every=2))
    largest = []
    for _ in range(4):
        train_step(state, Batch(torch.rand(2, 3, 28, 28), torch.randn(2, 2)))
        weights = list(state.nets.D.parameters())
        largest.append(max(weight.abs().max().item() for weight in weights))
        nn.init.constant_(weights[0], 1.0)
    # D is updated in the first step and the third; rmsprop's first steps are longer than the bound
    assert largest == pytest.approx([0.003, 1.0, 0.003, 1.0])
