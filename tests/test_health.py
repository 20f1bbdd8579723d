"""Signals by hand, and what each rule of the monitor raises, when, and how often."""

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gan import health
from gan.losses import pair_auc

HEALTHY: dict[str, float | None] = {
    "pair_auc": 0.85,
    "diversity": 0.9,
    "gradient": 1.0,
    "gap": 0.1,
}


def readings(count: int, first_step: int = 1000, **signals: float | None) -> list[health.Reading]:
    """`count` equal readings, one a step, of a healthy training except for `signals`."""
    values = HEALTHY | signals
    return [health.Reading(first_step + i, True, **values) for i in range(count)]


def alarms(
    course: list[health.Reading], monitor: health.Monitor | None = None
) -> list[health.Alarm]:
    monitor = monitor or health.Monitor()
    return [alarm for reading in course for alarm in monitor.read(reading)]


def kinds(course: list[health.Reading], monitor: health.Monitor | None = None) -> list[str]:
    return [alarm.kind for alarm in alarms(course, monitor)]


# ---- signals -----------------------------------------------------------------------------------


def test_pair_auc_by_hand() -> None:
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0, 2.0])
    # 1 > 0, 1 = 1 (half), 1 < 2; 3 > 0, 3 > 1, 3 > 2: 4.5 of 6
    assert pair_auc(real, fake).item() == pytest.approx(0.75)
    assert pair_auc(fake, fake).item() == pytest.approx(0.5)
    assert pair_auc(fake + 9, fake).item() == 1.0


def test_mean_pairwise_distance_by_hand() -> None:
    # two images that differ by 2 in every pixel: 2 * sqrt(3 * 12 * 12) at 12 x 12
    images = torch.stack([torch.ones(3, 24, 24), -torch.ones(3, 24, 24)])
    assert health.mean_pairwise_distance(images).item() == pytest.approx(2 * (3 * 144) ** 0.5)
    same = images[:1].expand(5, -1, -1, -1)
    assert health.mean_pairwise_distance(same).item() == pytest.approx(0, abs=0.05)
    assert health.mean_pairwise_distance(images[:1]).item() == 0
    # of three images, two alike: 4 of the 6 ordered pairs differ
    three = images[[0, 0, 1]]
    assert health.mean_pairwise_distance(three).item() == pytest.approx(
        4 / 6 * 2 * (3 * 144) ** 0.5, rel=1e-3
    )


def test_gradient_norm_by_hand() -> None:
    net = nn.Linear(2, 1)
    net(torch.tensor([[3.0, 4.0]])).sum().backward()  # gradients 3, 4 and 1
    assert health.gradient_norm(net).item() == pytest.approx(26**0.5)
    assert health.gradient_norm(nn.Linear(2, 1)).item() == 0


class MeanD(nn.Module):
    """Scores an image by its mean, plus what the class adds; only in evaluation mode."""

    def forward(self, images: Tensor, *condition: Tensor) -> Tensor:
        assert not self.training
        return images.mean(1) + sum(one.mean(1) for one in condition)


def test_memory_gap_by_hand() -> None:
    D = MeanD()
    train, held_out, fake = (torch.full((4, 2), value) for value in (3.0, 2.0, 1.0))
    assert health.memory_gap(D, (train,), (held_out,), (fake,)) == pytest.approx(0.5)
    assert health.memory_gap(D, (train,), (train,), (fake,)) == 0
    zero, one = torch.zeros(4, 2), torch.ones(4, 2)  # conditions; D(held out) becomes 2 + 1
    assert health.memory_gap(D, (train, zero), (held_out, one), (fake, zero)) == 0
    assert D.training, "the mode that D had before"


def test_no_memory_gap_where_d_cannot_tell_fakes() -> None:
    train = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    std = float(train.mean(1).std())
    for lead, gap in ((0.09, 0.0), (0.11, 1 / (0.11 * std))):  # in standard deviations of D(train)
        found = health.memory_gap(MeanD(), (train,), (train - 1,), (train - lead * std,))
        assert found == pytest.approx(gap, rel=1e-3)


# ---- rules -------------------------------------------------------------------------------------


def test_a_healthy_training_raises_nothing() -> None:
    assert kinds(readings(50)) == []


@pytest.mark.parametrize(
    ("kind", "flag", "signals", "healthy"),
    [
        ("d wins", "--d-every", {"pair_auc": 0.991}, {"pair_auc": 0.989}),
        ("g wins", "--g-every", {"pair_auc": 0.49}, {"pair_auc": 0.51}),
        ("memory", "--init", {"gap": 0.51}, {"gap": 0.49}),
        ("narrow", "--lr2", {"diversity": 0.59}, {"diversity": 0.61}),
    ],
)
def test_each_alarm_names_its_flag_and_is_raised_when_it_begins(
    kind: str, flag: str, signals: dict[str, Any], healthy: dict[str, Any]
) -> None:
    assert kinds(readings(30, **healthy)) == []
    monitor = health.Monitor()
    (alarm,) = alarms(readings(30, **signals), monitor)
    assert alarm.kind == kind
    assert flag in alarm.line
    assert "\n" not in alarm.line
    assert not alarm.rescue
    # healthy, then the same again: raised again only from twice the step of the last time on
    assert kinds(readings(10, 1100) + readings(10, 1200, **signals), monitor) == []
    assert kinds(readings(10, 2100) + readings(10, 2200, **signals), monitor) == [kind]
    # one that begins too early, and stays, is raised as soon as that step has come
    assert kinds(readings(10, 2300) + readings(1999, 2400, **signals), monitor) == []
    assert kinds(readings(20, 4399, **signals), monitor) == [kind]


def test_alarms_need_the_whole_window_after_the_warm_up() -> None:
    assert kinds(readings(400, first_step=0, pair_auc=1.0)) == []
    monitor = health.Monitor()
    assert kinds(readings(400, first_step=1, pair_auc=1.0), monitor) == ["d wins"]  # at step 400
    healthy, winning = readings(1), readings(1, pair_auc=1.0)
    assert kinds((healthy * 4 + winning) * 10) == []
    assert kinds(readings(4, pair_auc=1.0)) == []


@pytest.mark.parametrize("signal", ["pair_auc", "diversity", "gradient"])
def test_a_window_that_lacks_a_signal_raises_no_alarm_about_it(signal: str) -> None:
    ill = {"pair_auc": 1.0, "diversity": 0.1, "gradient": 0.0}[signal]
    monitor = health.Monitor()
    monitor.usual_gradient = 1.0
    found: dict[str, Any] = {signal: ill}
    missing: dict[str, Any] = {signal: None}
    assert kinds(readings(4, **found) + readings(1, **missing), monitor) == []
    assert kinds(readings(5, **found), monitor) != []


def test_the_memory_gap_is_the_newest_in_the_window() -> None:
    """It is measured more rarely than the other signals."""
    rare = [*readings(1, gap=0.6), *readings(4, gap=None)]
    assert kinds(readings(10) + rare[:1] + rare[1:]) == ["memory"]
    assert kinds(readings(10) + rare[:1] + readings(1) + rare[1:]) == ["memory"]
    assert kinds([*readings(5, gap=None), *readings(5, gap=None)]) == []
    monitor = health.Monitor()
    (alarm,) = alarms(readings(4, gap=0.9) + readings(1, gap=0.7), monitor)
    assert "70 %" in alarm.line


def test_collapse_is_a_loss_of_diversity() -> None:
    assert kinds(readings(30, diversity=0.1)) == ["narrow"]  # never had any
    monitor = health.Monitor()
    assert kinds(readings(10), monitor) == []
    found = alarms(readings(10, diversity=0.1), monitor)
    assert [alarm.kind for alarm in found] == ["narrow", "collapse"]
    assert found[-1].rescue
    assert "differ 26 % as much as real ones, it had 90 %" in found[-1].line


@pytest.mark.parametrize(
    ("peak", "then", "expected"),
    [
        (0.48, 0.03, ["narrow", "collapse"]),  # the classic nets on avatars
        (0.48, 0.26, ["narrow"]),  # more than half of the peak
        (0.48, 0.23, ["narrow", "collapse"]),
        (0.25, 0.03, ["narrow"]),  # a peak below 0.3
        (0.31, 0.03, ["narrow", "collapse"]),
        (0.9, 0.36, ["narrow"]),  # less than half of the peak, but more than 0.35
        (0.9, 0.34, ["narrow", "collapse"]),
    ],
)
def test_collapse_needs_a_low_diversity_and_half_of_a_peak(
    peak: float, then: float, expected: list[str]
) -> None:
    assert kinds(readings(10, diversity=peak) + readings(9, diversity=then)) == expected


def test_a_collapsed_g_is_not_called_narrow_too() -> None:
    signals = health.Signals(0.8, 0.1, 1.0, 0.1, usual_gradient=1.0, peak_diversity=0.9)
    assert [rule.kind for rule in health.RULES if rule.applies(signals)] == ["collapse"]


def test_a_collapse_is_raised_each_time_it_begins() -> None:
    monitor = health.Monitor()
    course = readings(10) + readings(10, diversity=0.1)
    assert kinds(course + course, monitor).count("collapse") == 2


def test_a_gradient_that_vanishes_against_its_running_mean() -> None:
    assert kinds(readings(50) + readings(10, gradient=0.01)) == ["no gradient"]
    assert kinds(readings(50) + readings(10, gradient=0.2)) == []
    monitor = health.Monitor()
    kinds(readings(1, gradient=10.0) + readings(1, gradient=5.0), monitor)
    assert monitor.usual_gradient == pytest.approx(10 - 0.02 * 5)


def test_nan_is_raised_at_any_step_and_every_time() -> None:
    monitor = health.Monitor()
    found = alarms([health.Reading(1, False), health.Reading(2, False)], monitor)
    assert [alarm.kind for alarm in found] == ["nan", "nan"]
    assert all(alarm.rescue for alarm in found)
    assert "--lr1 and --lr2" in found[0].line
    assert not monitor.recent


# ---- saved states ------------------------------------------------------------------------------


def test_a_resumed_monitor_continues_in_the_middle_of_its_window() -> None:
    first, second = health.Monitor(), health.Monitor()
    course = readings(20, gradient=2.0, diversity=0.95) + readings(4, pair_auc=1.0)
    assert kinds(course, first) == []
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.state_dict() == first.state_dict()
    assert kinds(readings(1, pair_auc=1.0), first) == ["d wins"]
    assert kinds(readings(1, pair_auc=1.0), second) == ["d wins"]


def test_a_resumed_monitor_does_not_repeat_an_alarm_that_goes_on() -> None:
    first, second = health.Monitor(), health.Monitor()
    assert "collapse" in kinds(readings(10) + readings(10, diversity=0.1), first)
    second.load_state_dict(first.state_dict())
    assert kinds(readings(5, diversity=0.1), second) == []


def test_states_keep_their_format() -> None:
    """What older versions have saved, word for word."""
    reading = {"step": 7, "finite": True, "pair_auc": 0.8, "diversity": 0.5, "gradient": 3.0}
    state: Any = {
        "recent": [{**reading, "gap": None}],
        "peak": 0.7,
        "usual": 2.5,
        "raised": ["narrow"],
        "said": {"narrow": 7},
    }
    monitor = health.Monitor()
    monitor.load_state_dict(state)
    assert monitor.state_dict() == state
    del state["said"]
    older = health.Monitor()
    older.load_state_dict(state)
    assert older.raised_at == {}


def test_forget_empties_the_window_and_keeps_the_running_means() -> None:
    monitor = health.Monitor()
    assert kinds(readings(10, pair_auc=1.0), monitor) == ["d wins"]
    monitor.forget()
    assert kinds(readings(4, 1100, pair_auc=1.0), monitor) == []
    assert kinds(readings(1, 1104, pair_auc=1.0), monitor) == ["d wins"]
    assert (monitor.peak_diversity, monitor.usual_gradient) == (0.9, 1.0)


def test_kinds_of_rules_are_unique_and_never_true_of_missing_signals() -> None:
    names = [rule.kind for rule in health.RULES]
    assert len(set(names)) == len(names)
    nan = math.nan
    missing = health.Signals(nan, nan, nan, nan, usual_gradient=1.0, peak_diversity=1.0)
    assert not any(rule.applies(missing) for rule in health.RULES)
