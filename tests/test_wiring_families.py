"""What each row of FAMILIES plays and with which settings, against formulas and numbers by hand.

The nets are toys whose scores can be computed on paper; the formulas are written out again here,
in plain Python, so that a row with another game, penalty, weight or default fails.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from config import Config
from gan.families import ROWS
from gan.losses import Batch, Nets, clip_weights
from gan.schedule import alternate, critic_first
from models import FAMILIES


def settings(name: str, **flags: Any) -> Config:
    """The config a user gets who gives `--family=name` and these flags."""
    return Config(**{**FAMILIES[name].defaults, "family": name, **flags})


def play(name: str, nets: Nets, batch: Batch, **flags: Any) -> tuple[Tensor, Tensor]:
    """D's loss and G's loss of the family on one batch."""
    config = settings(name, **flags)
    d_loss, _ = FAMILIES[name].d_loss(nets, batch, config)
    g_loss, _ = FAMILIES[name].g_loss(nets, batch, config)
    return d_loss, g_loss


# The formulas, over lists of scores


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def d_logistic(real: list[float], fake: list[float]) -> float:
    return mean([softplus(-r) for r in real]) + mean([softplus(f) for f in fake])


def d_hinge(real: list[float], fake: list[float]) -> float:
    return mean([max(0, 1 - r) for r in real]) + mean([max(0, 1 + f) for f in fake])


def d_squares(real: list[float], fake: list[float]) -> float:
    return mean([(r - 1) ** 2 for r in real]) / 2 + mean([f**2 for f in fake]) / 2


def d_critic(real: list[float], fake: list[float]) -> float:
    return mean(fake) - mean(real)


def g_logistic(real: list[float], fake: list[float]) -> float:
    return mean([softplus(-f) for f in fake])


def g_squares(real: list[float], fake: list[float]) -> float:
    return mean([(f - 1) ** 2 for f in fake]) / 2


def g_linear(real: list[float], fake: list[float]) -> float:
    return -mean(fake)


def d_relativistic(real: list[float], fake: list[float]) -> float:
    return mean([softplus(f - r) for r, f in zip(real, fake, strict=True)])


def g_relativistic(real: list[float], fake: list[float]) -> float:
    return mean([softplus(r - f) for r, f in zip(real, fake, strict=True)])


FORMULAS: dict[str, tuple[Callable[..., float], Callable[..., float]]] = {
    "logistic": (d_logistic, g_logistic),
    "hinge": (d_hinge, g_linear),
    "least-squares": (d_squares, g_squares),
    "critic": (d_critic, g_linear),
    "relativistic": (d_relativistic, g_relativistic),
}
PICTURE_FORMULAS = {  # of translations: no halves (Zhu et al. 2017, section 4)
    **FORMULAS,
    "least-squares": (lambda *x: 2 * d_squares(*x), lambda *x: 2 * g_squares(*x)),
}
GAME_OF = {
    "modern": "hinge",
    "unmodulated": "hinge",
    "rpgan": "relativistic",
    "dcgan": "logistic",
    "dcgan-64": "logistic",
    "dcgan-144": "logistic",
    "mlp": "logistic",
    "mlp-tiny": "logistic",
    "lsgan": "least-squares",
    "hinge": "hinge",
    "wgan": "critic",
    "wgan-gp": "critic",
    "pix2pix": "logistic",
    "cyclegan": "least-squares",
}
OF_NOISE = [name for name in GAME_OF if name not in ("pix2pix", "cyclegan")]
SLOPES = (0.5, 3.0)  # |dD/dx| of the toy D, by class
PENALTIES: dict[str, tuple[float, Callable[[float], float]]] = {
    # weight, and the penalty of a slope: (s - 1)^2; s^2 / 2 at the reals and as much at the fakes,
    # of four times the weight, since it is there in every fourth update
    "wgan-gp": (10.0, lambda s: (s - 1) ** 2),
    "rpgan": (4 * 5.0, lambda s: s**2 / 2 + s**2 / 2),
}


def penalty_of(name: str, slopes: Sequence[float]) -> float:
    weight, penalty = PENALTIES.get(name, (0.0, abs))
    return weight * mean([penalty(slope) for slope in slopes])


class ToyG(nn.Module):
    """Noise [N, 4, ...] -> pictures [N, 1, 2, 2]: the first four numbers themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.conditions: list[tuple[Tensor, ...]] = []

    def forward(self, noise: Tensor, *condition: Tensor) -> Tensor:
        self.conditions.append(condition)
        return self.scale * noise[:, :4].reshape(-1, 1, 2, 2)


class ToyD(nn.Module):
    """Score = slope x (0.6 first pixel + 0.8 third one); the class sets the slope."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.6, 0.0, 0.8, 0.0]))

    def forward(self, images: Tensor, *condition: Tensor) -> Tensor:
        slope = condition[0] @ torch.tensor(SLOPES) if condition else SLOPES[0]
        return slope * (images.flatten(1) @ self.weight)


# First and third pixel are what D sees: reals score 5, 1 and -0.5, fakes 2, -1 and -3, halved.
REAL = torch.tensor([[5, 9, 2.5, 9], [1, 9, 0.5, 9], [1.5, 9, -1.75, 9]]).view(3, 1, 2, 2)
NOISE = torch.tensor([[2, 7, 1, 7], [1, 7, -2, 7], [-1, 7, -3, 7.0]])
REAL_SCORES, FAKE_SCORES = [2.5, 0.5, -0.25], [1.0, -0.5, -1.5]
ONE_HOT = torch.tensor([[1.0, 0], [0, 1], [0, 1]])


def toys() -> Nets:
    return Nets(ToyG(), ToyD())


def test_the_toy_scores_are_those_on_paper() -> None:
    nets = toys()
    assert nets.D(REAL).tolist() == pytest.approx(REAL_SCORES)
    assert nets.D(nets.G(NOISE)).tolist() == pytest.approx(FAKE_SCORES)


def test_every_family_is_in_this_file() -> None:
    assert list(FAMILIES) == list(GAME_OF) == list(DEFAULTS) == list(FLAGS)


@pytest.mark.parametrize("loss", ["", *FORMULAS])
@pytest.mark.parametrize("name", OF_NOISE)
def test_the_game_of_noise(name: str, loss: str) -> None:
    """Its own game, or the one `--loss` names; wgan-gp and rpgan keep their penalties in any."""
    nets = toys()
    d_loss, g_loss = play(name, nets, Batch(REAL, NOISE), loss=loss)
    by_d, by_g = FORMULAS[loss or GAME_OF[name]]
    penalty = penalty_of(name, SLOPES[:1])
    assert d_loss.item() == pytest.approx(by_d(REAL_SCORES, FAKE_SCORES) + penalty, rel=1e-5)
    assert g_loss.item() == pytest.approx(by_g(REAL_SCORES, FAKE_SCORES), rel=1e-5)


@pytest.mark.parametrize("name", OF_NOISE)
def test_the_game_of_noise_with_classes(name: str) -> None:
    """G gets the class; D gets it with the real, with the fake, in the penalty, in G's loss."""
    G, D = ToyG(), ToyD()
    d_loss, g_loss = play(name, Nets(G, D), Batch(REAL, NOISE, (ONE_HOT,)))
    assert [list(map(id, condition)) for condition in G.conditions] == [[id(ONE_HOT)]]
    slopes = [0.5, 3.0, 3.0]
    real = [2 * s * score for s, score in zip(slopes, REAL_SCORES, strict=True)]
    fake = [2 * s * score for s, score in zip(slopes, FAKE_SCORES, strict=True)]
    by_d, by_g = FORMULAS[GAME_OF[name]]
    penalty = penalty_of(name, slopes)
    assert d_loss.item() == pytest.approx(by_d(real, fake) + penalty, rel=1e-5)
    assert g_loss.item() == pytest.approx(by_g(real, fake), rel=1e-5)


@pytest.mark.parametrize("name", OF_NOISE)
def test_flags_of_the_losses_of_noise(name: str) -> None:
    batch = Batch(REAL, NOISE)
    plain, _ = play(name, toys(), batch)
    shift = play(name, toys(), batch, penalty=14.0)[0] - plain
    share = 14.0 / settings(name).penalty - 1  # that its weight grows by
    expected = share * penalty_of(name, SLOPES[:1])
    assert shift.item() == pytest.approx(expected, abs=1e-5)
    if "fake_label" in ROWS[name].uses:  # cross-entropy with label t: softplus(s) - t s
        shift = play(name, toys(), batch, fake_label=0.3)[0] - plain
        assert shift.item() == pytest.approx(-0.3 * mean(FAKE_SCORES), abs=1e-5)


@pytest.mark.parametrize("name", OF_NOISE)
def test_d_does_not_train_g_and_g_is_trained_through_d(name: str) -> None:
    G, D = ToyG(), ToyD()
    d_loss, g_loss = play(name, Nets(G, D), Batch(REAL, NOISE))
    d_loss.backward(retain_graph=True)
    assert G.scale.grad is None
    assert D.weight.grad is not None
    g_loss.backward()
    assert G.scale.grad is not None
    assert G.scale.grad.abs() > 0


# Pictures to pictures


class PixelD(nn.Module):
    """One score a pixel: the channels weighted, plus a constant: [N, C, H, W] -> [N, 1, H, W]."""

    def __init__(self, weights: Sequence[float], constant: float) -> None:
        super().__init__()
        self.weights, self.constant = weights, constant

    def forward(self, images: Tensor) -> Tensor:
        channels = zip(self.weights, images.unbind(1), strict=True)
        return sum((w * x for w, x in channels), torch.tensor(self.constant))[:, None]


class Affine(nn.Module):
    """a x + b, pixel by pixel."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), b

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x + self.b


GIVEN, WANTED = [0.5, -0.4, 0.2, -1.0], [0.1, 0.9, -0.3, -0.8]


def gap(one: Sequence[float], other: Sequence[float]) -> float:
    return mean([abs(a - b) for a, b in zip(one, other, strict=True)])


@pytest.mark.parametrize("loss", ["", *FORMULAS])
def test_the_game_of_pix2pix(loss: str) -> None:
    """D sees the given picture first and its loss is halved; G's has 100 |fake - real|."""
    G = Affine(0.5, 0.3)
    nets = Nets(G, PixelD((2.0, -3.0), 0.25))
    batch = Batch(torch.tensor(WANTED).view(2, 1, 2, 1), torch.tensor(GIVEN).view(2, 1, 2, 1))
    fake = [0.5 * x + 0.3 for x in GIVEN]
    real_scores = [2 * x - 3 * y + 0.25 for x, y in zip(GIVEN, WANTED, strict=True)]
    fake_scores = [2 * x - 3 * y + 0.25 for x, y in zip(GIVEN, fake, strict=True)]
    by_d, by_g = PICTURE_FORMULAS[loss or "logistic"]
    for l1 in (100.0, 7.0):
        d_loss, g_loss = play(
            "pix2pix", nets, batch, loss=loss, **({} if l1 == 100 else {"l1": l1})
        )
        assert d_loss.item() == pytest.approx(by_d(real_scores, fake_scores) / 2, rel=1e-5)
        expected = by_g(real_scores, fake_scores) + l1 * gap(fake, WANTED)
        assert g_loss.item() == pytest.approx(expected, rel=1e-5)
    assert not d_loss.requires_grad  # D's loss does not reach G, and this D has no weights
    g_loss.backward()
    assert G.a.grad is not None
    assert G.a.grad.abs() > 0


class ToyCycle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.there, self.back = Affine(0.5, 0.3), Affine(0.8, -0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.there(x)


class ToyCycleD(nn.Module):
    """The pools show other pictures than they are given, so that their use is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.there, self.back = PixelD((2.0,), 0.25), PixelD((-1.5,), 0.5)
        self.pool_there, self.pool_back = Affine(1.0, 0.125), Affine(1.0, -0.25)


@pytest.mark.parametrize("loss", ["", *FORMULAS])
def test_the_game_of_cyclegan(loss: str) -> None:
    """Both D halved, shown from their pools; G: both scores, 10 cycle and 5 identity."""
    a, b = GIVEN, WANTED
    batch = Batch(torch.tensor(b).view(2, 1, 2, 1), torch.tensor(a).view(2, 1, 2, 1))
    nets = Nets(ToyCycle(), ToyCycleD())

    def there(xs: list[float]) -> list[float]:
        return [0.5 * x + 0.3 for x in xs]

    def back(xs: list[float]) -> list[float]:
        return [0.8 * x - 0.2 for x in xs]

    def d_there(xs: list[float]) -> list[float]:
        return [2 * x + 0.25 for x in xs]

    def d_back(xs: list[float]) -> list[float]:
        return [0.5 - 1.5 * x for x in xs]

    by_d, by_g = PICTURE_FORMULAS[loss or "least-squares"]
    d_expected = by_d(d_there(b), d_there([x + 0.125 for x in there(a)])) / 2
    d_expected += by_d(d_back(a), d_back([x - 0.25 for x in back(b)])) / 2
    scores = by_g(d_there(b), d_there(there(a))) + by_g(d_back(a), d_back(back(b)))
    round_trip = gap(back(there(a)), a) + gap(there(back(b)), b)
    same = gap(there(b), b) + gap(back(a), a)
    for flags, cycle, identity in (
        ({}, 10, 0.5),
        ({"cycle": 3.0}, 3, 0.5),
        ({"identity": 0.0}, 10, 0),
        ({"identity": 2.0}, 10, 2),
    ):
        d_loss, g_loss = play("cyclegan", nets, batch, loss=loss, **flags)
        assert d_loss.item() == pytest.approx(d_expected, rel=1e-5)
        expected = scores + cycle * round_trip + cycle * identity * same
        assert g_loss.item() == pytest.approx(expected, rel=1e-5)


# The table

COLUMNS = (
    "img_size", "channels", "nz", "noise", "ngf", "ndf", "batch_size",
    "optimizer", "lr1", "lr2", "beta1", "beta2", "warm_up", "lr_end", "lr_fall",
    "augment", "d_every", "g_every", "d_lead", "ema", "flip",
)  # fmt: skip
# fmt: off
DEFAULTS = {
    # docs/recipe.md
    "modern": (96, 3, 64, "normal", 32, 32, 16,
               "adam", 8e-4, 8e-4, 0.0, 0.99, 200, 0.125, "cosine", 0.8, 1, 1, 0, True, "auto"),
    # what modern was first
    "unmodulated": (96, 3, 64, "normal", 32, 32, 16,
                    "adam", 4e-4, 4e-4, 0.0, 0.99, 200, 0.125, "cosine", 0.8, 1, 1, 0, True,
                    "auto"),
    # Huang et al. 2024 (arXiv:2501.05441) for the loss, the rest as in unmodulated
    "rpgan": (96, 3, 64, "normal", 32, 32, 16,
              "adam", 4e-4, 4e-4, 0.0, 0.99, 200, 0.125, "cosine", 0.8, 1, 1, 0, True, "auto"),
    # Radford et al. 2016 (arXiv:1511.06434), sections 4 and 4.1: batch 128 there, 64 in its code;
    # Adam 2e-4 with beta1 0.5, nz 100; the 96-pixel script: ngf = ndf = 64
    "dcgan": (96, 3, 100, "normal", 64, 64, 64,
              "adam", 2e-4, 2e-4, 0.5, 0.999, 0, 1.0, "cosine", 0.0, 1, 1, 0, True, "auto"),
    # published run: digits at 64 px, batch 100, two updates of G to one of D
    "dcgan-64": (64, 1, 100, "normal", 128, 128, 100,
                 "adam", 2e-4, 2e-4, 0.5, 0.999, 0, 1.0, "cosine", 0.0, 2, 1, 0, True, False),
    # published run: 286 faces at 144 px, D four times slower than G
    "dcgan-144": (144, 3, 40, "normal", 32, 32, 32,
                  "adam", 2e-4, 5e-5, 0.5, 0.999, 0, 1.0, "cosine", 0.0, 1, 1, 0, True, "auto"),
    # Goodfellow et al. 2014 (arXiv:1406.2661) on MNIST; Adam's own betas, 1e-4
    "mlp": (28, 1, 100, "normal", 64, 64, 16,
            "adam", 1e-4, 1e-4, 0.9, 0.999, 0, 1.0, "cosine", 0.0, 1, 1, 0, True, False),
    # the smallest published one: 100-128-784, uniform noise, Adam's own settings (1e-3)
    "mlp-tiny": (28, 1, 100, "uniform", 64, 64, 128,
                 "adam", 1e-3, 1e-3, 0.9, 0.999, 0, 1.0, "cosine", 0.0, 1, 1, 0, True, False),
    # Mao et al. 2017 (arXiv:1611.04076) for the loss, the rest as in dcgan
    "lsgan": (96, 3, 100, "normal", 64, 64, 64,
              "adam", 2e-4, 2e-4, 0.5, 0.999, 0, 1.0, "cosine", 0.0, 1, 1, 0, True, "auto"),
    # Miyato et al. 2018 (arXiv:1802.05957) for loss and norm, the rest as in dcgan
    "hinge": (96, 3, 100, "normal", 64, 64, 64,
              "adam", 2e-4, 2e-4, 0.5, 0.999, 0, 1.0, "cosine", 0.0, 1, 1, 0, True, "auto"),
    # Arjovsky et al. 2017 (arXiv:1701.07875): RMSprop, 5 of D to one of G, 25 in the first 25
    # updates of G: 625 steps; rates, uniform noise and size of a published run
    "wgan": (32, 3, 100, "uniform", 64, 64, 64,
             "rmsprop", 2e-4, 2e-4, 0.5, 0.999, 0, 1.0, "cosine", 0.0, 1, 5, 625, True, "auto"),
    # Gulrajani et al. 2017 (arXiv:1704.00028), algorithm 1: 1e-4, betas 0 and 0.9, n_critic 5
    "wgan-gp": (48, 3, 40, "normal", 64, 64, 64,
                "adam", 1e-4, 1e-4, 0.0, 0.9, 0, 1.0, "cosine", 0.0, 1, 5, 0, True, "auto"),
    # Isola et al. 2017 (arXiv:1611.07004), section 3.3: 2e-4, 0.5, 0.999, batch 1; no average
    "pix2pix": (256, 3, 100, "normal", 64, 64, 1,
                "adam", 2e-4, 2e-4, 0.5, 0.999, 0, 1.0, "cosine", 0.0, 1, 1, 0, False, "auto"),
    # Zhu et al. 2017 (arXiv:1703.10593), section 7.1: 2e-4, batch 1, falling to 0
    "cyclegan": (256, 3, 100, "normal", 64, 64, 1,
                 "adam", 2e-4, 2e-4, 0.5, 0.999, 0, 0.0, "linear", 0.0, 1, 1, 0, False, "auto"),
}
# fmt: on

# What rows share, but for EXCEPTIONS: weights of losses from their papers, the average's half-life
EVERYWHERE = {
    "penalty": 10.0,  # Gulrajani et al. 2017, algorithm 1
    "penalty_every": 1,
    "clip": 0.1,  # a published run; Arjovsky et al. 2017 have 0.01
    "l1": 100.0,  # Isola et al. 2017, section 3.4
    "cycle": 10.0,  # Zhu et al. 2017, section 4
    "identity": 0.5,  # Zhu et al. 2017, section 5.2
    "half_squares": False,
    "pool": 50,  # Zhu et al. 2017, section 4
    "spectral": False,
    "fake_label": 0.0,
    "loss": "",
    "ema_images": 20_000,
    "channels_a": 3,
    "channels_b": 3,
    "direction": "AtoB",
    "jitter": True,
    "dedup": True,
    "conditional": False,
}

EXCEPTIONS = {"rpgan": {"penalty": 5.0, "penalty_every": 4}}

LOGISTIC, PENALIZED = {"fake_label"}, {"penalty", "penalty_every"}
FLAGS: dict[str, tuple[str, set[str], set[str]]] = {  # task, flags of its losses, flags it lacks
    "modern": ("noise", set(), set()),
    "unmodulated": ("noise", set(), set()),
    "rpgan": ("noise", PENALIZED, set()),
    "dcgan": ("noise", LOGISTIC, set()),
    "dcgan-64": ("noise", LOGISTIC, set()),
    "dcgan-144": ("noise", LOGISTIC, set()),
    "mlp": ("noise", LOGISTIC, {"ngf", "ndf"}),
    "mlp-tiny": ("noise", LOGISTIC, {"ngf", "ndf"}),
    "lsgan": ("noise", set(), set()),
    "hinge": ("noise", set(), set()),
    "wgan": ("noise", {"clip", "d_lead"}, set()),
    "wgan-gp": ("noise", PENALIZED, set()),
    "pix2pix": ("paired", {"l1", "half_squares", "spectral"}, set()),
    "cyclegan": ("unpaired", {"cycle", "identity", "half_squares", "pool", "spectral"}, set()),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_those_of_the_source(name: str) -> None:
    config, exceptions = settings(name), EXCEPTIONS.get(name, {})
    expected = dict(zip(COLUMNS, DEFAULTS[name], strict=True))
    assert {field: getattr(config, field) for field in COLUMNS} == expected
    expected = {**EVERYWHERE, **exceptions}
    assert {field: getattr(config, field) for field in EVERYWHERE} == expected
    assert set(FAMILIES[name].defaults) <= {*COLUMNS, *exceptions}


@pytest.mark.parametrize("name", FLAGS)
def test_task_and_flags(name: str) -> None:
    row = ROWS[name]
    assert FAMILIES[name].task.name == row.task
    assert (row.task, set(row.uses), set(row.lacks)) == FLAGS[name]


@pytest.mark.parametrize("name", FLAGS)
def test_wgan_alone_clips_and_starts_with_its_critic(name: str) -> None:
    row = FAMILIES[name]
    expected = (clip_weights, critic_first) if name == "wgan" else (None, alternate)
    assert (row.after_d, row.updates) == expected


def test_wgan_clips_d_to_its_bound() -> None:
    G, D, clip = ToyG(), ToyD(), FAMILIES["wgan"].after_d
    assert clip is not None
    clip(Nets(G, D), settings("wgan"))
    assert D.weight.tolist() == pytest.approx([0.1, 0, 0.1, 0])
    assert G.scale.item() == 1
