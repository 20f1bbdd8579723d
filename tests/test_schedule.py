"""When things are due, by hand: a toy run has 10 steps of 20 images in an epoch."""

from collections.abc import Callable
from typing import Any

import pytest
from toy import make_config

from config import Config
from gan.families import ROWS
from gan.schedule import Budget, Schedule, Updates, alternate, critic_first, learning_rate_scale

STEPS = 10  # per epoch
Rule = Callable[[Config, int], Updates]


def make_schedule(
    updates: Rule = alternate, now: float = 0.0, steps: int = STEPS, **settings: Any
) -> Schedule:
    return Schedule(make_config(**settings), updates, steps, now)


# --- budget and learning rates -------------------------------------------------------------------


def test_the_first_limit_counts() -> None:
    limits = {"max_epoch": 2, "max_images": 1000, "max_minutes": 1.0}
    budget = Budget(make_config(batch_size=10, **limits), 30)
    assert budget.fraction(300, 0.0) == pytest.approx(0.5)  # 2 epochs of 300 come before 1,000
    assert budget.fraction(300, 45.0) == pytest.approx(0.75)


def test_each_part_of_the_budget_counts() -> None:
    parts = {"max_epoch": 0, "max_images": 0, "max_minutes": 0.0}
    for more, images, seconds in (
        ({"max_epoch": 2}, 200, 0.0),  # 10 steps of 20 images an epoch
        ({"max_images": 400}, 200, 0.0),
        ({"max_minutes": 2.0}, 0, 60.0),
        ({"max_epoch": 9, "max_images": 400}, 200, 0.0),
    ):
        budget = Budget(make_config(**{**parts, **more}), STEPS)
        assert budget.fraction(images, seconds) == pytest.approx(0.5), more


@pytest.mark.parametrize(
    ("step", "fraction", "scale"),
    [
        (0, 0.0, 0.01),  # 1 of 100 steps of warm-up
        (49, 0.0, 0.5),
        (99, 0.1, 1.0),
        (500, 0.5, 1.0),
        (750, 0.75, 0.6),  # half-way down from 1 to 0.2
        (1000, 1.0, 0.2),
        (1100, 1.1, 0.2),
    ],
)
def test_the_scale_of_the_learning_rates_by_hand(step: int, fraction: float, scale: float) -> None:
    assert learning_rate_scale(step, fraction, 100, 0.2) == pytest.approx(scale)


def test_without_warm_up_and_fall_the_learning_rates_stay() -> None:
    assert {learning_rate_scale(step, step / 9, 0, 1.0) for step in range(10)} == {1.0}


# --- updates -------------------------------------------------------------------------------------


def test_who_is_updated_in_which_step() -> None:
    config = make_config(d_every=2, g_every=3, d_lead=30)
    assert [step for step in range(13) if alternate(config, step).d] == [0, 2, 4, 6, 8, 10, 12]
    assert [step for step in range(13) if alternate(config, step).g] == [0, 3, 6, 9, 12]
    assert [step for step in range(60, 67) if critic_first(config, step).d] == [60, 62, 64, 66]
    assert alternate(config, 3) == Updates(d=False, g=True)


def test_g_waits_for_a_critic() -> None:
    config = make_config(d_lead=30, g_every=5)
    due = [step for step in range(51) if critic_first(config, step).g]
    assert due == [0, 25, 30, 35, 40, 45, 50]


def test_families_with_a_critic_first_are_those_with_the_flag() -> None:
    leads = {name for name, row in ROWS.items() if "d_lead" in row.settings}
    assert leads == {name for name, row in ROWS.items() if row.updates is critic_first}
    assert leads == {"wgan"}


# --- log lines -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("updates", "settings", "steps"),
    [
        (alternate, {"log_every": 4}, [4, 8, 12, 16]),
        (alternate, {"log_every": 1}, list(range(1, 17))),
        # G is updated in steps 1, 4, 7, 10, 13 and 16
        (alternate, {"log_every": 4, "g_every": 3}, [4, 10, 13, 16]),
        (alternate, {"log_every": 6, "g_every": 3}, [7, 13]),
        (alternate, {"log_every": 2, "g_every": 5}, [6, 11, 16]),
        # in steps 1, 6, 11 and 16, whenever D is
        (alternate, {"log_every": 5, "g_every": 5, "d_every": 2}, [6, 11, 16]),
        (alternate, {"log_every": 4, "d_lead": 5}, [4, 8, 12, 16]),  # there is no critic
        # up to step 5 in step 1 alone; then in all
        (critic_first, {"log_every": 4, "d_lead": 5}, [6, 8, 12, 16]),
    ],
)
def test_steps_that_are_logged(updates: Rule, settings: dict[str, int], steps: list[int]) -> None:
    schedule = make_schedule(updates, **settings)
    assert [step for step in range(1, 17) if schedule.log_due(step)] == steps


def formula(step: int, log_every: int, period: int) -> bool:
    """Log lines where G is updated every `period` steps from the first on."""
    return (step - 1) % period == 0 and step >= log_every and step % log_every < period


@pytest.mark.parametrize("g_every", range(1, 9))
def test_steps_that_are_logged_by_formula(g_every: int) -> None:
    for log_every in range(1, 13):
        schedule = make_schedule(g_every=g_every, log_every=log_every)
        for step in range(1, 150):
            due = formula(step, log_every, g_every)
            assert schedule.log_due(step) is due, (log_every, step)
            if due:
                tenth = step // max(log_every, g_every) % 10 == 0
                assert schedule.health_due(step) is tenth, (log_every, step)


@pytest.mark.parametrize("d_lead", [5, 26, 30, 51])
@pytest.mark.parametrize("g_every", [1, 3, 7])
def test_steps_that_are_logged_with_a_critic_by_formula(d_lead: int, g_every: int) -> None:
    for log_every in range(1, 13):
        every = {"g_every": g_every, "log_every": log_every}
        schedule = make_schedule(critic_first, d_lead=d_lead, **every)
        for step in range(1, 150):
            if 0 < step - d_lead <= log_every + g_every:
                continue  # the two periods meet: see the next test
            period = 25 if step <= d_lead else g_every
            assert schedule.log_due(step) is formula(step, log_every, period), (log_every, step)


@pytest.mark.parametrize("settings", [{"d_lead": 30, "g_every": 7}, {"d_lead": 26, "g_every": 2}])
def test_the_first_update_of_g_is_logged_also_where_the_lead_ends(settings: dict[str, int]) -> None:
    for log_every in range(1, 13):
        schedule = make_schedule(critic_first, log_every=log_every, **settings)
        first: dict[int, int] = {}  # of each `log_every` steps, the one that updated G first
        for step in range(log_every, 100):
            if critic_first(schedule.config, step - 1).g:
                first.setdefault(step // log_every, step)
        due = [step for step in range(1, 100) if schedule.log_due(step)]
        assert due == list(first.values()), log_every


def test_every_tenth_log_line_has_a_health_check() -> None:
    schedule = make_schedule(log_every=2)
    lines = [step for step in range(1, 85) if schedule.log_due(step)]
    assert [step for step in lines if schedule.health_due(step)] == [20, 40, 60, 80]
    schedule = make_schedule(log_every=2, g_every=5)  # lines at 6, 11, 16, ...
    lines = [step for step in range(1, 160) if schedule.log_due(step)]
    assert [step for step in lines if schedule.health_due(step)] == [51, 101, 151]


# --- saves ---------------------------------------------------------------------------------------


def saved(schedule: Schedule, last: int) -> list[int]:
    """The steps, up to `last`, that are saved at the time 0."""
    return [step for step in range(1, last + 1) if schedule.save_due(step, 0.0)]


def test_saves_by_epochs() -> None:
    assert saved(make_schedule(save_every=2), 65) == [20, 40, 60]


def test_the_hundredth_save_and_the_thousandth_make_saves_rarer() -> None:
    expected = [*range(1, 100), *range(100, 1000, 10), *range(1000, 10_000, 100), 10_000, 11_000]
    assert saved(make_schedule(save_every=1, steps=1), 11_999) == expected
    every_third = [3 * count for count in (*range(1, 100), 100, 110)]
    assert saved(make_schedule(save_every=1, steps=3), 359) == every_third
    assert saved(make_schedule(save_every=3, steps=1), 359) == every_third


def test_saves_by_epochs_are_those_of_a_resumed_run() -> None:
    schedule = make_schedule(save_every=2, now=1e6)  # of another session, minutes after a save
    schedule.saved_at = 1e6 - 1
    assert [step for step in range(41, 65) if schedule.save_due(step, 1e6)] == [60]


def test_saves_by_the_clock() -> None:
    schedule = make_schedule(now=1000.0, save_minutes=3.0)
    assert not schedule.save_due(7, 1179.0)
    assert schedule.save_due(7, 1180.0)
    schedule.saved_at = 1180.0
    assert not schedule.save_due(8, 1359.0)
    assert schedule.save_due(8, 1360.0)


def test_a_slow_save_waits_until_there_was_twenty_times_as_much_training() -> None:
    schedule = make_schedule(save_every=1, steps=1)
    schedule.light, schedule.saves.next = False, 2.0
    found = []
    for trained in (0.0, 39.0, 41.0):
        schedule.trained = trained
        found.append(schedule.save_due(1, 0.0))
    assert found == [False, False, True]
    schedule.saves.add(3.0)  # it took 3 seconds, and so will the next one
    assert not schedule.save_due(2, 0.0)
    schedule.trained = 121.0
    assert schedule.save_due(2, 0.0)
    schedule.light, schedule.trained = True, 0.0
    assert schedule.save_due(3, 0.0)  # a function of the step alone


# --- scores --------------------------------------------------------------------------------------


def scored(schedule: Schedule, last: int, trained: float) -> list[int]:
    """The steps, up to `last`, that are scored, in a run of 100 steps."""
    schedule.trained = trained
    steps = range(1, last + 1)
    return [step for step in steps if schedule.score_due(20 * step, step / 100)]


def test_scores_by_images() -> None:
    schedule = make_schedule(eval_every=50)
    # 20 images a step: the first step at or after 50, 100, 150 and 200
    assert scored(schedule, 10, 1.0) == [3, 5, 8, 10]
    schedule.scored_at = 0.9  # whatever was scored before
    assert scored(schedule, 10, 1.0) == [3, 5, 8, 10]


def test_scores_by_share_of_the_budget() -> None:
    schedule = make_schedule()
    assert scored(schedule, 7, 100.0) == [5, 6, 7]  # 5 % are five steps
    schedule.scored_at = 0.06
    assert scored(schedule, 12, 100.0) == [11, 12]
    schedule.scores.seconds = 4.9  # of 100 seconds
    assert scored(schedule, 12, 100.0) == [11, 12]
    schedule.scores.seconds = 5.1
    assert scored(schedule, 12, 100.0) == []


def test_scores_leave_time_for_those_at_the_end() -> None:
    # 10 seconds of training make 10 %, so there are 100: 10 for all scores and saves together
    schedule = make_schedule()
    schedule.trained = 10.0
    for score, save, before, due in (
        (4.0, 1.0, 0.0, True),  # this one, the last one and the last save: 9
        (4.6, 1.0, 0.0, False),
        (4.0, 2.1, 0.0, False),
        (4.0, 1.0, 0.9, True),
        (4.0, 1.0, 1.1, False),
    ):
        schedule.scores.next, schedule.saves.next, schedule.saves.seconds = score, save, before
        assert schedule.score_due(200, 0.1) is due, (score, save, before)
    schedule.scores.next = 100.0
    assert make_schedule(eval_every=20).score_due(200, 0.1)  # whoever asks for it gets it


def test_a_resumed_run_knows_how_long_the_rest_takes() -> None:
    schedule = make_schedule()
    schedule.begun_at, schedule.trained = 0.5, 10.0
    assert schedule.seconds_left(0.75) == pytest.approx(10.0)
    assert schedule.seconds_left(0.9) == pytest.approx(2.5)


def test_steps_belong_to_epochs() -> None:
    schedule = make_schedule()
    assert [schedule.epoch(step) for step in (1, 10, 11, 20, 21)] == [1, 1, 2, 2, 3]
