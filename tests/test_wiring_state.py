"""The state of a run by hand: updates, the average, the learning rates; and Ctrl-C."""

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy import TOY, average, make_nets, make_state, set_weight, train_steps, weight

import models
from config import Config
from gan import checkpoint
from gan.losses import clip_weights
from gan.sample import Inputs
from gan.schedule import Stop, critic_first
from gan.state import Ema, State


def rates(state: State) -> tuple[float, float]:
    """The learning rates of G and of D."""
    return state.opt_g.param_groups[0]["lr"], state.opt_d.param_groups[0]["lr"]


def clipped_after_each(steps: int, **more: Any) -> list[float]:
    """D's weight after every step of a game in which it is bound to 0.5."""
    family = dataclasses.replace(TOY, after_d=clip_weights)
    state = make_state(family, clip=0.5, **more)
    found = []
    for _ in range(steps):
        train_steps(state, 1)
        found.append(weight(state.nets.D))
        set_weight(state.nets.D, 7.0)
    return found


def test_a_step_takes_g_and_d_down_by_their_own_rates() -> None:
    state = make_state()
    train_steps(state, 3)
    assert state.step == 3
    assert weight(state.nets.G) == pytest.approx(1 - 3 * 0.1)
    assert weight(state.nets.D) == pytest.approx(1 - 3 * 0.01)


def test_gradients_are_those_of_one_step() -> None:
    state = make_state()
    train_steps(state, 3)
    assert state.nets.G.get_parameter("weight").grad == 1
    assert state.nets.D.get_parameter("weight").grad == 1


@pytest.mark.parametrize(
    ("more", "moved"),
    [
        # moments of 0.9 leave 0.1 of the first gradient, and Adam divides that by 0.1 again
        ({"optimizer": "adam", "beta1": 0.9, "beta2": 0.99}, 0.1),
        ({"optimizer": "rmsprop"}, 0.1 / 0.01**0.5),  # its mean square starts with 1 % of 1
    ],
)
def test_the_optimizer_is_the_one_asked_for(more: dict[str, Any], moved: float) -> None:
    state = make_state(**more)
    train_steps(state, 1)
    assert 1 - weight(state.nets.G) == pytest.approx(moved, rel=1e-5)


def test_the_betas_are_those_of_the_config() -> None:
    state = make_state(beta1=0.25, beta2=0.75)
    for optimizer in (state.opt_g, state.opt_d):
        assert optimizer.param_groups[0]["betas"] == (0.25, 0.75)


def test_d_is_clipped_after_each_of_its_updates() -> None:
    # 7 comes down by the rate, then to the bound
    assert clipped_after_each(3) == [0.5, 0.5, 0.5]
    # nothing is clipped where D is not updated
    assert clipped_after_each(3, d_every=2) == [0.5, 7.0, 0.5]


def test_the_family_says_who_is_updated() -> None:
    # G in steps 0, 25, 30 and 35 of a critic; in every fifth of another game
    for updates, moves in ((critic_first, 4), (TOY.updates, 8)):
        state = make_state(dataclasses.replace(TOY, updates=updates), d_lead=30, g_every=5)
        train_steps(state, 36)
        assert weight(state.nets.G) == pytest.approx(1 - 0.1 * moves)
        assert weight(state.nets.D) == pytest.approx(1 - 0.01 * 36)


# --- the average ---------------------------------------------------------------------------------


def test_the_average_halves_over_5_percent_of_the_images_seen() -> None:
    net = nn.Linear(1, 1, bias=False)
    ema = Ema(net, cap=100)
    found = []
    # seen -> half-life: (a copy), 0.05 * 1,000 = 50, 0.05 * 2,000 = 100, the cap of 100
    for value, seen in ((1.0, 500), (2.0, 1000), (4.0, 2000), (8.0, 4000)):
        nn.init.constant_(net.weight, value)
        ema.update(50, seen)
        found.append(weight(ema.module))
    half, root = 0.5, 0.5**0.5
    second = half * 1 + (1 - half) * 2
    third = root * second + (1 - root) * 4
    assert found == pytest.approx([1.0, second, third, root * third + (1 - root) * 8])


def test_every_step_updates_the_average() -> None:
    # G is 0.9, 0.8, 0.7; a batch of one image is one half-life of one image
    state = make_state(batch_size=1, ema_images=1)
    state.step = 100
    train_steps(state, 3)
    assert weight(average(state)) == pytest.approx(0.25 * 0.9 + 0.25 * 0.8 + 0.5 * 0.7)


def test_the_average_depends_on_the_images_seen_and_the_batch() -> None:
    state = make_state(batch_size=10)
    state.step = 38  # the second update comes at 400 images: a half-life of 20, two batches
    train_steps(state, 2)
    d = 0.5**0.5
    assert weight(average(state)) == pytest.approx(d * 0.9 + (1 - d) * 0.8)


def test_a_loaded_average_goes_on() -> None:
    state = make_state(batch_size=1, ema_images=1)
    state.step = 100
    saved = state.state_dict()
    saved["ema"] = {"weight": torch.tensor([0.5])}
    state.load_state_dict(saved)
    train_steps(state, 1)
    assert weight(average(state)) == pytest.approx((0.5 + 0.9) / 2)


def test_the_sampler_is_the_average_or_without_one_g() -> None:
    for with_average, value in ((True, 5.0), (False, 1.0)):
        state = make_state(ema=with_average)
        if state.ema:
            set_weight(average(state), 5.0)
        G = state.sampler(lambda first, count: (torch.ones(count, 1),))
        assert weight(G) == value
        assert not G.training
        set_weight(G, 9.0)  # a copy: the run's own are as they were
        assert weight(state.nets.G) == 1.0


class Normed(nn.Module):
    """Batch norm, then a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        return self.weight * self.norm(x)


def test_batch_norm_of_the_average_is_measured_anew() -> None:
    family = dataclasses.replace(TOY, build=lambda config, classes: make_nets(Normed()))
    state = make_state(family)
    asked = []

    def inputs(first: int, count: int) -> Inputs:
        asked.append(count)
        return (torch.full((count, 1), 3.0),)

    norm = state.sampler(inputs).get_submodule("norm")
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean == pytest.approx(3.0)
    assert sum(asked) >= 512
    kept = average(state).get_submodule("norm")
    assert kept.running_mean == 0.0


@pytest.mark.parametrize("with_average", [True, False])
def test_a_restored_g_is_the_average_if_there_is_one(with_average: bool, tmp_path: Path) -> None:
    config = Config(family="mlp-tiny", img_size=28, channels=1, nz=2)
    nets = models.FAMILIES["mlp-tiny"].build(config, 0)
    raw = nets.G.state_dict()
    mean = {key: value + 1 for key, value in raw.items()}
    players = {"G": raw, "D": nets.D.state_dict()}
    saved = {"config": dataclasses.asdict(config), "nets": players, "ema": None}
    checkpoint.save(tmp_path / "s.pth", {**saved, "ema": mean} if with_average else saved)
    restored, _, _ = models.restore(tmp_path / "s.pth")
    for key, value in (mean if with_average else raw).items():
        assert torch.equal(restored.G.state_dict()[key], value)
    for key, value in nets.D.state_dict().items():
        assert torch.equal(restored.D.state_dict()[key], value)


# --- learning rates ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "step", "fraction", "scale"),
    [
        ({"warm_up": 4}, 0, 0.0, 1 / 4),
        ({"warm_up": 4}, 1, 0.0, 2 / 4),
        ({"warm_up": 4}, 9, 0.0, 1.0),
        ({"lr_end": 0.2}, 0, 0.5, 1.0),
        ({"lr_end": 0.2}, 0, 0.75, 0.6),  # half-way down from 1 to 0.2
        ({"lr_end": 0.2}, 0, 1.0, 0.2),
        ({"lr_end": 0.2, "lr_fall": "linear"}, 0, 0.875, 0.2 + 0.8 / 4),
        # cos 135 degrees is -0.7071: (1 - 0.7071) / 2 of the way is left
        ({"lr_end": 0.2, "lr_fall": "cosine"}, 0, 0.875, 0.2 + 0.8 * 0.146447),
    ],
)
def test_the_rates_follow_the_config(
    more: dict[str, Any], step: int, fraction: float, scale: float
) -> None:
    state = make_state(**more)
    state.step = step
    state.set_rates(fraction)
    assert rates(state) == pytest.approx((0.1 * scale, 0.01 * scale), rel=1e-4)


def test_every_rescue_halves_the_rates() -> None:
    state = make_state()
    for rescues, scale in ((1, 1 / 2), (2, 1 / 4), (3, 1 / 8)):
        state.rescues = rescues
        state.set_rates(0.0)
        assert rates(state) == pytest.approx((0.1 * scale, 0.01 * scale))


def test_what_is_saved_is_loaded() -> None:
    first, second = make_state(), make_state()
    train_steps(first, 2)
    first.seconds, first.rescues, first.best = 42.0, 2, 0.3
    first.monitor.peak_diversity = 0.9
    second.load_state_dict(first.state_dict())
    assert (second.step, second.seconds, second.rescues, second.best) == (2, 42.0, 2, 0.3)
    assert (weight(second.nets.G), weight(second.nets.D)) == pytest.approx((0.8, 0.98))
    assert weight(average(second)) == pytest.approx(weight(average(first)))
    assert second.monitor.peak_diversity == 0.9
    moments = second.opt_g.state_dict()["state"][0]
    assert moments["step"].item() == 2


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_ctrl_c_acts_as_usual_and_no_other_signal(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "isatty", lambda stream: False)  # this terminal stays open
    own = signal.signal(number, signal.default_int_handler)
    try:
        with Stop() as stop:
            assert stop.signal is None
            signal.raise_signal(number)
            assert stop.signal == number
            assert ("press Ctrl-C again" in capfd.readouterr().err) is (number == signal.SIGINT)
            if number == signal.SIGINT:
                with pytest.raises(KeyboardInterrupt):
                    signal.raise_signal(number)
            else:  # a parent that is killed sends it once for each of its threads
                signal.raise_signal(number)
                assert stop.signal == number
        assert signal.getsignal(number) is signal.default_int_handler
        with Stop():
            pass
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, own)
