"""What the loop does when, by hand: logs, saves, scores, health and rescues (`toy.py`)."""

import dataclasses
import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from runs_before import data
from toy import alarm, average, fit, poisoned, score_of, set_weight, train_steps, weight

from gan import checkpoint, loop
from gan.errors import Refused
from gan.losses import clip_weights

Session = Callable[..., loop.Run]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """`session(**knobs)` is a run of the toy game that has not begun."""
    opened = []

    def make(**more: Any) -> loop.Run:
        opened.append(toy.make_run(tmp_path, **more))
        return opened[-1]

    yield make
    for run in opened:
        run.report.close()


def log_of(top: Path, event: str | None = None) -> list[dict[str, Any]]:
    """The lines of a log: of one event, or those of losses."""
    lines = [json.loads(line) for line in (top / "r" / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("event") == event]


def steps_of(folder: Path, pattern: str = "state_*.pth") -> list[int]:
    return sorted(checkpoint.load(path)["step"] for path in folder.glob(pattern))


def best_of(top: Path) -> Any:
    return checkpoint.load(top / "c" / checkpoint.BEST)


def due(run: loop.Run, asked: Callable[[], bool], last: int) -> list[int]:
    """The steps, up to `last`, after which `asked` says yes."""
    found = []
    for step in range(1, last + 1):
        run.state.step = step
        if asked():
            found.append(step)
    return found


# --- what happens in a step ----------------------------------------------------------------------


def test_the_rates_are_set_before_every_step(tmp_path: Path) -> None:
    # a warm-up of four steps: 1/4 + 2/4 + 3/4 + 1 of 0.1
    done = fit(tmp_path / "a", max_images=80, warm_up=4)
    assert checkpoint.load(done.state)["nets"]["G"]["weight"].item() == pytest.approx(1 - 0.25)
    # down to 0 in a line from half-way on: 1 + 1 + 1 + 1/2
    done = fit(tmp_path / "b", max_images=80, lr_end=0.0, lr_fall="linear")
    assert checkpoint.load(done.state)["nets"]["G"]["weight"].item() == pytest.approx(1 - 0.35)
    assert checkpoint.load(done.state)["nets"]["D"]["weight"].item() == pytest.approx(1 - 0.035)


def test_d_is_clipped_within_the_loop(tmp_path: Path) -> None:
    family = dataclasses.replace(toy.TOY, after_d=clip_weights)
    done = fit(tmp_path, family, clip=0.5, max_images=40)
    # 1, a step of 0.01 and the bound: 0.5; another step: 0.49
    assert checkpoint.load(done.state)["nets"]["D"]["weight"].item() == pytest.approx(0.49)


def test_a_log_holds_the_means_since_the_last_one(tmp_path: Path) -> None:
    fit(tmp_path, max_images=80, log_every=2)
    lines = log_of(tmp_path)
    assert [line["step"] for line in lines] == [2, 4]
    # D is 1, 0.99 | 0.98, 0.97 before its updates, G 1, 0.9 | 0.8, 0.7
    assert [line["loss_d"] for line in lines] == pytest.approx([0.995, 0.975])
    assert [line["loss_g"] for line in lines] == pytest.approx([0.95, 0.75])
    assert [line["images"] for line in lines] == [40, 80]
    assert [line["epoch"] for line in lines] == [0.2, 0.4]


# --- when ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "steps"),
    [
        ({"log_every": 4}, [4, 8, 12, 16]),
        ({"log_every": 1}, list(range(1, 17))),
        # G is updated in steps 1, 4, 7, 10, 13 and 16
        ({"log_every": 4, "g_every": 3}, [4, 10, 13, 16]),
        ({"log_every": 6, "g_every": 3}, [7, 13]),
        ({"log_every": 2, "g_every": 5}, [6, 11, 16]),
        # in steps 1, 6, 11 and 16: D's pace does not matter
        ({"log_every": 5, "g_every": 5, "d_every": 2}, [6, 11, 16]),
        ({"log_every": 4, "d_lead": 5}, [8, 12, 16]),  # and, up to step 5, in step 1 alone
    ],
)
def test_steps_that_are_logged(knobs: dict[str, Any], steps: list[int], session: Session) -> None:
    run = session(**knobs)
    assert due(run, run.log_due, 16) == steps


def test_steps_that_are_saved(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    run = session(save_every=2, save_minutes=3.0)
    assert due(run, run.save_due, 60) == [20, 40, 60]  # an epoch has ten steps
    now += 179
    assert due(run, run.save_due, 21) == [20]
    now += 1  # three minutes
    assert due(run, run.save_due, 3) == [1, 2, 3]
    run.save()
    assert due(run, run.save_due, 21) == [20]
    run.saves = loop.FREE_SAVES
    now += 59
    assert due(run, run.save_due, 21) == []
    now += 1  # a minute
    assert due(run, run.save_due, 21) == [20]


def test_steps_that_are_scored(session: Session) -> None:
    run = session(eval_every=50)
    assert due(run, run.evaluate_due, 10) == []  # without a score there is nothing to do
    run.score = score_of([])
    # 20 images a step: the first step at or after 50, 100, 150 and 200
    assert due(run, run.evaluate_due, 10) == [3, 5, 8, 10]
    run.scored_at = 0.9  # whatever was scored before
    assert due(run, run.evaluate_due, 10) == [3, 5, 8, 10]


def test_scores_by_share_of_the_run(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    run = session(max_images=2000, score=score_of([0.5]))  # 100 steps: 5 % are five
    now += 100
    assert due(run, run.evaluate_due, 7) == [5, 6, 7]
    run.state.step = 6
    run.evaluate()
    assert due(run, run.evaluate_due, 12) == [11, 12]
    run.scoring = 4.9  # of 100 seconds
    assert due(run, run.evaluate_due, 12) == [11, 12]
    run.scoring = 5.1
    assert due(run, run.evaluate_due, 12) == []


def test_the_end_of_the_budget_is_scored_and_saved(tmp_path: Path) -> None:
    fit(tmp_path, more={"score": score_of([0.5])}, max_images=60, eval_every=10**6)
    assert [line["step"] for line in log_of(tmp_path, "score")] == [3]
    assert steps_of(tmp_path / "c") == [3]  # in the middle of an epoch of ten


# --- what is saved -------------------------------------------------------------------------------


def test_the_average_is_previewed_and_saved(session: Session, tmp_path: Path) -> None:
    run = session()
    set_weight(average(run.state), 5.0)
    set_weight(run.state.nets.D, 3.0)
    run.state.step, run.state.best = 7, 0.25
    run.save()
    assert run.feed.previewed == [5.0]  # type: ignore[attr-defined]
    files = {path.name: checkpoint.load(path) for path in (tmp_path / "c").glob("*.pth")}
    assert set(files) == {"netg_1.pth", "netd_1.pth", "state_00000007.pth"}
    assert files["netg_1.pth"]["weight"].item() == 5.0
    assert files["netd_1.pth"]["weight"].item() == 3.0
    state = files["state_00000007.pth"]
    saved = [state["nets"]["G"], state["nets"]["D"], state["ema"]]
    assert [net["weight"].item() for net in saved] == [1.0, 3.0, 5.0]
    assert (state["step"], state["best"], state["data"]) == (7, 0.25, "toy")


def test_without_an_average_g_is_previewed_and_saved(session: Session, tmp_path: Path) -> None:
    run = session(ema=False)
    run.state.step = 7
    run.save()
    assert run.feed.previewed == [1.0]  # type: ignore[attr-defined]
    assert checkpoint.load(tmp_path / "c" / "netg_1.pth")["weight"].item() == 1.0
    assert checkpoint.load(tmp_path / "c" / "state_00000007.pth")["ema"] is None


def test_files_are_numbered_by_the_epoch_they_are_of(session: Session, tmp_path: Path) -> None:
    run = session()
    for step, epoch in ((1, 1), (10, 1), (11, 2), (20, 2), (21, 3)):
        run.state.step = step
        assert run.epoch == epoch
    run.save()
    assert [path.name for path in (tmp_path / "i").iterdir()] == ["3.png"]
    assert {path.name for path in (tmp_path / "c").glob("net*")} == {"netg_3.pth", "netd_3.pth"}


def test_two_states_are_kept(tmp_path: Path) -> None:
    fit(tmp_path, max_images=1000, save_every=1)
    assert [line["step"] for line in log_of(tmp_path, "save")] == [10, 20, 30, 40, 50]
    assert steps_of(tmp_path / "c") == [40, 50]


def test_the_best_state_is_replaced_by_better_ones_only(session: Session, tmp_path: Path) -> None:
    run = session(score=score_of([0.5, 0.7, 0.5, 0.4]))
    found = []
    for step in (1, 2, 3, 4):
        run.state.step = step
        run.evaluate()
        found.append((best_of(tmp_path)["step"], best_of(tmp_path)["best"]))
    assert found == [(1, 0.5), (1, 0.5), (1, 0.5), (4, 0.4)]


def test_what_is_scored_is_drawn_by_the_average(session: Session) -> None:
    seen = []

    def score(fake: Any) -> dict[str, float]:
        seen.append(fake)
        return {"score": 0.5}

    run = session(score=score)
    set_weight(average(run.state), 0.6)
    run.evaluate()
    assert run.feed.scored == loop.EVAL_FAKES  # type: ignore[attr-defined]
    assert seen[0].shape == (4, 3, 2, 2)
    assert set(seen[0].ravel().tolist()) == {204}  # (0.6 + 1) * 127.5


# --- going on ------------------------------------------------------------------------------------


def test_earlier_minutes_count(tmp_path: Path) -> None:
    first = fit(tmp_path, max_images=20)
    saved = {**checkpoint.load(first.state), "seconds": 100.0}
    done = fit(tmp_path, more={"saved": saved}, max_images=40, max_minutes=60.0)
    assert 100 <= done.seconds < 130
    assert 100 <= checkpoint.load(done.state)["seconds"] < 130
    with pytest.raises(Refused, match="the budget of this run is spent"):
        fit(tmp_path, more={"saved": saved}, max_images=40, max_minutes=1.0)


def test_the_score_to_beat_is_that_of_the_best_state_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "best.pth"
    checkpoint.save(path, {"data": "toy", "best": 0.3})
    for own, expected in ((None, 0.3), (0.5, 0.3), (0.2, 0.2)):
        state = toy.make_state()
        state.best = own
        loop.keep_best(state, path, "toy")
        assert state.best == expected
    state.best = None
    loop.keep_best(state, path, "other images")
    assert state.best is None
    loop.keep_best(state, tmp_path / "none.pth", "toy")
    assert state.best is None


def test_the_best_on_disk_is_beaten_by_a_resumed_run(tmp_path: Path) -> None:
    first = fit(tmp_path, more={"score": score_of([0.3])}, max_images=20)
    saved = {**checkpoint.load(first.state), "best": None}  # killed before it was saved again
    fit(tmp_path, more={"saved": saved, "score": score_of([0.4])}, max_images=40)
    assert (best_of(tmp_path)["step"], best_of(tmp_path)["best"]) == (1, 0.3)


def test_chosen_rates_are_not_halved_by_earlier_rescues(inside: Callable[..., None]) -> None:
    data.write("images", 1, Path("pictures"))
    first = ["--family=mlp-tiny", "--data-path=pictures", "--held-out=0", "--batch-size=8"]
    inside("train", "--gpu=False", "--lr1=0.01", "--lr2=0.02", "--max-images=8", *first)
    path = Path("checkpoints/state_00000001.pth")
    checkpoint.save(path, {**checkpoint.load(path), "rescues": 2})

    def rates_after(*more: str) -> list[float]:
        inside("train", f"--resume={path}", "--max-images=16", f"--name=n{len(more)}", *more)
        new = checkpoint.load(Path(f"checkpoints/n{len(more)}/state_00000002.pth"))
        return [new["optimizers"][player]["param_groups"][0]["lr"] for player in "GD"]

    assert rates_after() == pytest.approx([0.0025, 0.005])
    assert rates_after("--lr1=0.04") == pytest.approx([0.04, 0.02])


# --- health --------------------------------------------------------------------------------------


def test_what_health_is_read_from(session: Session) -> None:
    run = session(log_every=2)
    state, feed = run.state, run.feed
    batch = feed.batch(0)
    state.meters.add(loop.train_step(toy.TOY, state, batch))
    state.step = 18
    seen = toy.readings_of(run)
    run.log(batch)
    # fakes are SPREAD as G was at first, reals twice that; both losses have slope 1
    reading = seen[0]
    assert (reading.step, reading.finite) == (18, True)
    assert reading.diversity == pytest.approx(0.5)
    assert reading.gradient == pytest.approx(1.0)
    assert reading.pair_auc == pytest.approx(toy.AUC)
    assert reading.gap is None


@pytest.mark.parametrize("step", [18, 20, 22, 38, 40])
def test_every_tenth_reading_looks_at_held_out_images(step: int, session: Session) -> None:
    run = session(log_every=2)
    picture = torch.ones(1, 3, 2, 2)
    # D scores the means: of reals 2, of fakes 1, of held-out images 1.75, a quarter of the way
    batch = toy.make_batch(torch.cat([1.9 * picture, 2.1 * picture]), torch.cat(2 * [picture]))
    batch.fake(run.state.nets)
    run.feed.held_out = (1.75 * picture,)  # type: ignore[attr-defined]
    run.state.step = step
    reading = run.look(batch, True)
    assert reading.gap == (pytest.approx(0.25) if step % 20 == 0 else None)


def test_losses_that_are_no_numbers_are_read_as_that(session: Session) -> None:
    run = session()
    run.state.meters.add({"loss_d": torch.tensor(math.inf), "pair_auc": torch.tensor(0.5)})
    seen = toy.readings_of(run)
    run.log(run.feed.batch(0))
    assert (seen[0].finite, seen[0].diversity, seen[0].pair_auc) == (False, None, None)


def rescued_to(run: loop.Run, top: Path, best_step: int) -> tuple[float, int]:
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
    session: Session, tmp_path: Path
) -> None:
    run = session()
    run.state.monitor.raised = ["collapse"]
    assert rescued_to(run, tmp_path, best_step=6) == (10.0, 8)  # images count on
    assert run.state.rescues == 1
    run.state.set_rates(0.0)
    assert run.state.opt_g.param_groups[0]["lr"] == pytest.approx(0.05)
    assert run.state.monitor.raised == []
    [event] = log_of(tmp_path, "rescue")
    assert (event["step"], event["kind"], event["rates"]) == (8, "collapse", 0.5)
    assert Path(event["state"]).name == "best.pth"


def test_a_best_state_that_is_to_come_is_not_gone_back_to(session: Session, tmp_path: Path) -> None:
    run = session()
    assert rescued_to(run, tmp_path, best_step=9) == (4.0, 8)


def test_an_alarm_is_only_told_where_rescues_are_not_wanted(
    session: Session, tmp_path: Path
) -> None:
    run = session(rescue=False)
    assert rescued_to(run, tmp_path, best_step=6) == (8.0, 8)
    assert run.state.rescues == 0
    [event] = log_of(tmp_path, "health")
    assert (event["kind"], event["line"]) == ("collapse", "collapse: by hand")


def test_an_alarm_that_asks_for_no_rescue_gets_none(session: Session, tmp_path: Path) -> None:
    run = session()
    checkpoint.save(tmp_path / "c" / "best.pth", run.state.state_dict())
    set_weight(run.state.nets.G, 8.0)
    toy.readings_of(run, alarm("narrow", False))
    run.log(run.feed.batch(0))
    assert (weight(run.state.nets.G), run.state.rescues) == (8.0, 0)


def test_there_are_three_rescues(session: Session, tmp_path: Path) -> None:
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


def test_no_state_is_written_before_it_was_looked_at(tmp_path: Path) -> None:
    # the third loss is no number; a log would be due at step 1,000, a save and a score at 3
    for folder, more in (("end", {}), ("rescued", {"save_every": 1})):
        top = tmp_path / folder
        with pytest.raises(Refused, match="no longer numbers"):
            fit(
                top, poisoned(3), {"score": score_of([])}, max_images=60, eval_every=60,
                log_every=1000, **more,
            )  # fmt: skip
        assert not list((top / "c").glob("*.pth"))


def test_no_state_is_scored_before_it_was_looked_at(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no longer numbers"):
        fit(tmp_path, poisoned(3), {"score": score_of([])}, eval_every=60, log_every=1000)
    assert not list((tmp_path / "c").glob("*.pth"))


def test_a_run_that_was_rescued_trains_on(tmp_path: Path) -> None:
    done = fit(
        tmp_path, poisoned(3), {"score": score_of([0.5, 0.4])}, max_images=80, eval_every=40,
        log_every=1,
    )  # fmt: skip
    saved = checkpoint.load(done.state)
    assert (saved["step"], saved["rescues"]) == (4, 1)
    # two steps of 0.1 were scored, the third was given up, the fourth was one of 0.05
    assert saved["nets"]["G"]["weight"].item() == pytest.approx(1 - 0.1 - 0.1 - 0.05)


def test_a_signal_saves_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    def score(fake: Any) -> dict[str, float]:
        signal.raise_signal(signal.SIGTERM)
        return {"score": 0.5}

    done = fit(tmp_path, more={"score": score}, eval_every=60)
    assert (done.signal, done.images, done.epoch) == (signal.SIGTERM, 60, 1)
    saved = checkpoint.load(done.state)
    assert saved["step"] == 3
    whole = fit(tmp_path / "whole", max_images=100)
    again = fit(tmp_path, more={"saved": saved}, max_images=100)
    nets = [checkpoint.load(run.state)["nets"]["G"]["weight"] for run in (whole, again)]
    assert torch.equal(*nets)
    assert [run.images for run in (whole, again)] == [100, 100]


def test_a_run_is_started_and_ended_in_its_log(tmp_path: Path) -> None:
    first = fit(tmp_path, more={"events": [{"event": "start"}]}, max_images=20)
    assert [line["step"] for line in log_of(tmp_path, "start")] == [0]
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert (config["max_images"], config["lr1"]) == (20, 0.1)
    train_steps(state := toy.make_state(), 1)
    state.load_state_dict(checkpoint.load(first.state))
    assert (state.step, weight(state.nets.G)) == (1, pytest.approx(0.9))
