"""What the loop does if a training goes wrong, by hand: signals, alarms, rescues (`toy.py`)."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import toy
from toy import alarm, feed_of, fit, log_of, poisoned, score_of, set_weight, weight

from gan import checkpoint, loop
from gan.errors import Refused
from gan.reading import take_reading

Open = Callable[..., loop.Session]


# --- health --------------------------------------------------------------------------------------


def test_what_health_is_read_from(session: Open) -> None:
    run = session(log_every=2)
    state, feed = run.state, run.feed
    batch = feed.batch(0)
    state.meters.add(loop.train_step(state, batch))
    state.step = 18
    seen = toy.readings_of(run)
    run.log(batch)
    # fakes are RAMP, as G was 1 at first, reals twice that; both losses have slope 1
    reading = seen[0]
    assert (reading.step, reading.finite) == (18, True)
    assert reading.diversity == pytest.approx(0.5)
    assert reading.gradient == pytest.approx(1.0)
    assert reading.pair_auc == pytest.approx(toy.AUC)
    assert reading.gap is None


@pytest.mark.parametrize("step", [18, 20, 22, 38, 40])
def test_every_tenth_log_line_scores_held_out_images(step: int, session: Open) -> None:
    run = session(log_every=2)
    picture = torch.ones(1, 3, 2, 2)
    # D scores the means: of reals 2, of fakes 1, of held-out images 1.75, a quarter of the way
    batch = toy.make_batch(torch.cat([1.9 * picture, 2.1 * picture]), torch.cat(2 * [picture]))
    batch.generate(run.state.nets)
    feed_of(run).unseen = (1.75 * picture,)
    run.state.step = step
    seen = toy.readings_of(run)
    run.log(batch)
    assert seen[0].gap == (pytest.approx(0.25) if step % 20 == 0 else None)


def test_a_batch_of_one_has_no_diversity_and_no_gap(session: Open) -> None:
    state, picture = session().state, torch.ones(1, 3, 2, 2)
    batch = toy.make_batch(2 * picture, picture)
    loop.train_step(state, batch)
    feed = toy.ToyFeed()
    feed.unseen = (1.75 * picture,)
    reading = take_reading(state, batch, feed, True)
    assert (reading.diversity, reading.gap) == (None, None)
    assert reading.gradient == pytest.approx(1.0)


def test_losses_that_are_no_numbers_are_read_as_that(session: Open) -> None:
    run = session()
    run.state.meters.add({"loss_d": torch.tensor(math.inf), "pair_auc": torch.tensor(0.5)})
    seen = toy.readings_of(run)
    run.log(run.feed.batch(0))
    assert (seen[0].finite, seen[0].diversity, seen[0].pair_auc) == (False, None, None)


def rescued_to(run: loop.Session, top: Path, best_step: int) -> tuple[float, int]:
    """G's weight and the step after an alarm at step 8, by a run that saved at 2 and 4.

    G is 10 in the best state, 2 and 4 in the others, 8 when it goes wrong.
    """
    folder = top / "c"
    for step, name in ((2, "state_00000002"), (4, "state_00000004"), (best_step, "best")):
        run.state.step = step
        set_weight(run.state.nets.G, 10.0 if name == "best" else float(step))
        checkpoint.save(folder / f"{name}.pth", run.state.state_dict())
    run.state.step = 8
    set_weight(run.state.nets.G, 8.0)
    toy.readings_of(run, alarm("collapse", True))
    run.log(run.feed.batch(0))
    return weight(run.state.nets.G), run.state.step


def test_an_alarm_goes_back_to_the_best_state_at_half_the_rates(
    session: Open, tmp_path: Path
) -> None:
    run = session()
    run.state.monitor.active = ["collapse"]
    assert rescued_to(run, tmp_path, best_step=6) == (10.0, 8)  # images count on
    assert run.state.rescues == 1
    run.state.set_rates(0.0)
    assert run.state.opt_g.param_groups[0]["lr"] == pytest.approx(0.05)
    assert run.state.monitor.active == []
    [event] = log_of(tmp_path, "rescue")
    assert (event["step"], event["kind"], event["rates"]) == (8, "collapse", 0.5)
    assert Path(event["state"]).name == "best.pth"


def test_a_best_state_that_is_to_come_is_not_gone_back_to(session: Open, tmp_path: Path) -> None:
    run = session()
    assert rescued_to(run, tmp_path, best_step=9) == (4.0, 8)


def test_an_alarm_is_only_logged_where_rescues_are_not_wanted(
    session: Open, tmp_path: Path
) -> None:
    run = session(rescue=False)
    assert rescued_to(run, tmp_path, best_step=6) == (8.0, 8)
    assert run.state.rescues == 0
    [event] = log_of(tmp_path, "health")
    assert (event["kind"], event["line"]) == ("collapse", "collapse: by hand")


def test_an_alarm_that_asks_for_no_rescue_gets_none(session: Open, tmp_path: Path) -> None:
    run = session()
    checkpoint.save(tmp_path / "c" / "best.pth", run.state.state_dict())
    set_weight(run.state.nets.G, 8.0)
    toy.readings_of(run, alarm("narrow", False))
    run.log(run.feed.batch(0))
    assert (weight(run.state.nets.G), run.state.rescues) == (8.0, 0)


def test_there_are_three_rescues(session: Open, tmp_path: Path) -> None:
    run = session()
    checkpoint.save(tmp_path / "c" / "best.pth", run.state.state_dict())
    lr = []
    for _ in range(4):
        run.rescue(alarm("collapse", True))
        run.state.set_rates(0.0)
        lr.append(run.state.opt_g.param_groups[0]["lr"])
    assert run.state.rescues == 3
    assert lr == pytest.approx([0.05, 0.025, 0.0125, 0.0125])
    with pytest.raises(Refused, match=r"by hand after 3 rescues; --resume with lower --lr1"):
        run.rescue(alarm("nan", True))


def test_no_state_is_written_before_it_was_checked(tmp_path: Path) -> None:
    # the third loss is NaN; a log line would be due at step 1,000, a save and a score at 3
    for save_every in (1, 10):
        top = tmp_path / str(save_every)
        with pytest.raises(Refused, match="no longer numbers"):
            fit(
                top, poisoned(3), score=score_of([]), max_images=60, eval_every=60,
                log_every=1000, save_every=save_every,
            )  # fmt: skip
        assert not list((top / "c").glob("*.pth"))


def test_no_state_is_scored_before_it_was_checked(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no longer numbers"):
        fit(tmp_path, poisoned(3), score=score_of([]), eval_every=60, log_every=1000)
    assert not list((tmp_path / "c").glob("*.pth"))


def test_a_run_that_was_rescued_trains_on(tmp_path: Path) -> None:
    done = fit(
        tmp_path, poisoned(3), score=score_of([0.5, 0.4]), max_images=80, eval_every=40,
        log_every=1,
    )  # fmt: skip
    saved = checkpoint.load(done.state)
    assert (saved["step"], saved["rescues"]) == (4, 1)
    # two steps of 0.1 were scored, the third was given up, the fourth was one of 0.05
    assert saved["nets"]["G"]["weight"].item() == pytest.approx(1 - 0.1 - 0.1 - 0.05)
