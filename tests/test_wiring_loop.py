"""What the loop does, by hand: logs, saves and scores (`toy.py`)."""

import dataclasses
import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from conftest import Clock
from runs_before import data
from toy import (
    average,
    best_of,
    evaluate,
    feed_of,
    fit,
    log_of,
    save,
    score_of,
    set_weight,
    steps_of,
    weight,
)

from gan import checkpoint, loop
from gan.errors import Refused
from gan.losses import clip_weights
from gan.state import SCORE_VERSION

Open = Callable[..., loop.Session]


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


def test_what_is_due_is_done(tmp_path: Path) -> None:
    # ten steps an epoch; 20 images a step
    scores = score_of([0.5, 0.4, 0.3])
    fit(tmp_path, score=scores, max_images=500, log_every=7, eval_every=200, save_every=2)
    assert [line["step"] for line in log_of(tmp_path)] == [7, 14, 21]
    assert [line["step"] for line in log_of(tmp_path, "score")] == [10, 20, 25]
    assert [line["step"] for line in log_of(tmp_path, "save")] == [20, 25]


def test_without_a_score_nothing_is_scored(tmp_path: Path) -> None:
    fit(tmp_path, max_images=60, eval_every=20)
    assert log_of(tmp_path, "score") == []


def test_a_save_starts_the_minutes_to_the_next_one(session: Open, clock: Clock) -> None:
    run = session(save_minutes=3.0)
    clock.now += 180
    assert run.schedule.save_due(7, clock.now)
    run.state.step = 7
    save(run)
    assert not run.schedule.save_due(8, clock.now + 179)


def test_the_time_and_the_place_of_a_score_are_kept(session: Open, clock: Clock) -> None:
    def score(fake: Any) -> dict[str, float]:
        clock.now += 4
        return {"score": 0.5}

    run = session(max_images=2000, score=score, eval_every=20)  # 100 steps
    for step, seconds in ((1, 4), (2, 8)):
        run.step()
        run.write_due(stopped=False)
        assert (run.schedule.scored_at, run.schedule.scores.seconds) == (step / 100, seconds)
    assert run.schedule.scores.next == 4


def test_scores_and_saves_are_beside_the_budget(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes 10 seconds, a score 100 and a preview 1,000: a minute has six steps."""

    def step(self: toy.ToyFeed, step: int) -> Any:
        clock.now += 10
        return toy.make_batch(2 * toy.RAMP, toy.RAMP)

    def preview(self: toy.ToyFeed, G: Any) -> torch.Tensor:
        clock.now += 1000
        return torch.zeros(3, 4, 4, dtype=torch.uint8)

    def score(fake: Any) -> dict[str, float]:
        clock.now += 100
        return {"score": 0.5}

    monkeypatch.setattr(toy.ToyFeed, "batch", step)
    monkeypatch.setattr(toy.ToyFeed, "preview", preview)
    more = {"max_images": 0, "max_minutes": 1.0, "eval_every": 60}
    done = fit(tmp_path, score=score, **more)
    assert (done.images, done.seconds) == (120, 60)
    assert (done.scoring, done.saving) == (200, 1000)
    assert checkpoint.load(done.state)["seconds"] == 60
    assert [line["seconds"] for line in log_of(tmp_path, "score")] == [30, 60]


def test_what_is_no_training_does_not_count_in_the_speed(
    session: Open, clock: Clock, tmp_path: Path
) -> None:
    run = session(log_every=2)
    clock.now += 4
    with run.pause(run.schedule.saves):
        clock.now += 50
    run.state.step = 2
    run.log(run.feed.batch(0))
    clock.now += 5
    run.state.step = 4
    run.log(run.feed.batch(0))
    # two steps of 20 images in 4 seconds; in 5
    assert [line["images/s"] for line in log_of(tmp_path)] == pytest.approx([10, 8])


def test_scores_and_saves_do_not_count_in_the_speed(session: Open, clock: Clock) -> None:
    def score(fake: Any) -> dict[str, float]:
        clock.now += 7
        return {"score": 0.5}

    run = session(max_images=20, score=score)
    run.step()
    clock.now += 1
    run.write_due(stopped=False)
    assert clock.now - run.speed_from[0] == 1


def test_the_end_of_the_budget_is_scored_and_saved(tmp_path: Path) -> None:
    fit(tmp_path, score=score_of([0.5]), max_images=60, eval_every=10**6)
    assert [line["step"] for line in log_of(tmp_path, "score")] == [3]
    assert steps_of(tmp_path / "c") == [3]  # in the middle of an epoch of ten


def test_a_step_that_scores_and_saves_makes_one_sampler(
    session: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = session(score=score_of([0.5]), max_images=60, eval_every=10**6)
    calls = toy.count_calls(run.state, "sampler", monkeypatch.setattr)
    run.run()
    assert [line["step"] for line in log_of(tmp_path, "score")] == [3]
    assert [line["step"] for line in log_of(tmp_path, "save")] == [3]
    assert len(calls) == 1


def test_a_step_without_a_score_or_a_save_makes_no_sampler(
    session: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = session(score=score_of([]), eval_every=10**6, log_every=1)
    calls = toy.count_calls(run.state, "sampler", monkeypatch.setattr)
    run.step()
    run.write_due(stopped=False)
    assert calls == []


# --- what is saved -------------------------------------------------------------------------------


def test_the_average_is_previewed_and_saved(session: Open, tmp_path: Path) -> None:
    run = session()
    set_weight(average(run.state), 5.0)
    set_weight(run.state.nets.D, 3.0)
    run.state.step, run.state.best = 7, 0.25
    save(run)
    assert feed_of(run).previewed == [5.0]
    files = {path.name: checkpoint.load(path) for path in (tmp_path / "c").glob("*.pth")}
    assert set(files) == {"netg_1.pth", "netd_1.pth", "state_00000007.pth"}
    assert files["netg_1.pth"]["weight"].item() == 5.0
    assert files["netd_1.pth"]["weight"].item() == 3.0
    state = files["state_00000007.pth"]
    saved = [state["nets"]["G"], state["nets"]["D"], state["ema"]]
    assert [net["weight"].item() for net in saved] == [1.0, 3.0, 5.0]
    assert (state["step"], state["best"], state["data"]) == (7, 0.25, "toy")


def test_without_an_average_g_is_previewed_and_saved(session: Open, tmp_path: Path) -> None:
    run = session(ema=False)
    run.state.step = 7
    save(run)
    assert feed_of(run).previewed == [1.0]
    assert checkpoint.load(tmp_path / "c" / "netg_1.pth")["weight"].item() == 1.0
    assert checkpoint.load(tmp_path / "c" / "state_00000007.pth")["ema"] is None


def test_files_are_numbered_by_the_epoch_they_are_of(session: Open, tmp_path: Path) -> None:
    run = session()
    for step, epoch in ((1, 1), (10, 1), (11, 2), (20, 2), (21, 3)):
        run.state.step = step
        assert run.epoch == epoch
    save(run)
    assert [path.name for path in (tmp_path / "i").iterdir()] == ["3.png"]
    assert {path.name for path in (tmp_path / "c").glob("net*")} == {"netg_3.pth", "netd_3.pth"}


def test_two_states_are_kept(tmp_path: Path) -> None:
    fit(tmp_path, max_images=1000, save_every=1)
    assert [line["step"] for line in log_of(tmp_path, "save")] == [10, 20, 30, 40, 50]
    assert steps_of(tmp_path / "c") == [40, 50]


@pytest.mark.parametrize(
    ("keep", "states", "epochs"),
    [(1, [50], [5]), (3, [40, 50], [2, 4, 5]), ("all", [40, 50], [1, 2, 3, 4, 5])],
)
def test_what_is_kept_of_earlier_saves(
    keep: int | str, states: list[int], epochs: list[int], tmp_path: Path
) -> None:
    fit(tmp_path, max_images=1000, save_every=1, keep=keep)
    assert steps_of(tmp_path / "c") == states
    for player in "gd":
        found = (tmp_path / "c").glob(f"net{player}_*.pth")
        assert sorted(int(path.stem[5:]) for path in found) == epochs
    assert len(list((tmp_path / "i").iterdir())) == 5  # all previews


def test_a_state_that_is_the_best_takes_no_room_of_its_own(tmp_path: Path) -> None:
    done = fit(tmp_path, score=score_of([0.5, 0.4]), max_images=400, eval_every=200)
    best = tmp_path / "c" / checkpoint.BEST
    assert best.samefile(done.state)
    assert checkpoint.load(best)["best"] == 0.4
    fit(tmp_path / "b", score=score_of([0.5, 0.6]), max_images=400, eval_every=200)
    best, (state,) = tmp_path / "b" / "c" / checkpoint.BEST, checkpoint.states(tmp_path / "b" / "c")
    assert [checkpoint.load(path)["step"] for path in (best, state)] == [10, 20]


def test_without_links_the_state_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    done = fit(tmp_path, score=score_of([0.5]), max_images=20)
    best = tmp_path / "c" / checkpoint.BEST
    assert not best.samefile(done.state)
    assert checkpoint.load(best)["step"] == checkpoint.load(done.state)["step"] == 1


def test_a_disk_that_fills_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    fit(tmp_path, max_images=1000, save_every=1)
    # each of the two weights 4 bytes: with 2 moments and the average 28 of a state, 8 beside it
    line = "disk: 0.0 MB are free, and the next save takes 0.0 MB"
    assert capsys.readouterr().out.count(line) == 1
    assert toy.make_state().size_of_save() == 36


def test_the_best_state_is_replaced_by_better_ones_only(session: Open, tmp_path: Path) -> None:
    run = session(score=score_of([0.5, 0.7, 0.5, 0.4]))
    found = []
    for step in (1, 2, 3, 4):
        run.state.step = step
        evaluate(run)
        found.append((best_of(tmp_path)["step"], best_of(tmp_path)["best"]))
    assert found == [(1, 0.5), (1, 0.5), (1, 0.5), (4, 0.4)]


def test_the_average_is_scored(session: Open) -> None:
    seen = []

    def score(fake: Any) -> dict[str, float]:
        seen.append(fake)
        return {"score": 0.5}

    run = session(score=score)
    set_weight(average(run.state), 0.6)
    evaluate(run)
    assert feed_of(run).scored == loop.SCORED_FAKES
    assert seen[0].shape == (4, 3, 2, 2)
    assert set(seen[0].ravel().tolist()) == {204}  # (0.6 + 1) * 127.5


# --- going on ------------------------------------------------------------------------------------


def test_earlier_minutes_count(tmp_path: Path) -> None:
    first = fit(tmp_path, max_images=20)
    saved = {**checkpoint.load(first.state), "seconds": 100.0}
    done = fit(tmp_path, saved=saved, max_images=40, max_minutes=60.0)
    assert 100 <= done.seconds < 130
    assert 100 <= checkpoint.load(done.state)["seconds"] < 130
    with pytest.raises(Refused, match="the budget of this run is spent"):
        fit(tmp_path, saved=saved, max_images=40, max_minutes=1.0)


def test_the_score_to_beat_is_that_of_the_best_state_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "best.pth"
    checkpoint.save(path, {**toy.make_state().state_dict(), "data": "toy", "best": 0.3})
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


def test_the_score_of_an_earlier_version_is_not_to_be_beaten(tmp_path: Path) -> None:
    """It was KID (lite0), which is lower: no state would ever be better."""
    path = tmp_path / "best.pth"
    before = {**toy.make_state().state_dict(), "data": "toy", "best": 0.3}
    del before["score_version"]
    checkpoint.save(path, before)
    for own in (None, 0.5):
        state = toy.make_state()
        state.best = own
        loop.keep_best(state, path, "toy")
        assert state.best == own


def test_a_resumed_run_of_an_earlier_version_has_a_best_state_by_its_new_score(
    tmp_path: Path,
) -> None:
    first = fit(tmp_path, score=score_of([0.3]), max_images=20)
    for path in (first.state, tmp_path / "c" / checkpoint.BEST):
        saved = checkpoint.load(path)
        assert (saved["best"], saved.pop("score_version")) == (0.3, SCORE_VERSION)
        checkpoint.save(path, saved)
    second = fit(tmp_path, saved=checkpoint.load(first.state), score=score_of([4.0]), max_images=40)
    assert (best_of(tmp_path)["step"], best_of(tmp_path)["best"]) == (2, 4.0)
    # the next one is compared with that
    fit(tmp_path, saved=checkpoint.load(second.state), score=score_of([5.0]), max_images=60)
    assert (best_of(tmp_path)["step"], best_of(tmp_path)["best"]) == (2, 4.0)


def test_the_best_on_disk_is_beaten_by_a_resumed_run(tmp_path: Path) -> None:
    first = fit(tmp_path, score=score_of([0.3]), max_images=20)
    saved = {**checkpoint.load(first.state), "best": None}  # killed before it was saved again
    fit(tmp_path, saved=saved, score=score_of([0.4]), max_images=40)
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


# --- the end -------------------------------------------------------------------------------------


def test_a_signal_saves_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    def score(fake: Any) -> dict[str, float]:
        signal.raise_signal(signal.SIGTERM)
        return {"score": 0.5}

    done = fit(tmp_path, score=score, eval_every=60)
    assert (done.signal, done.images, done.epoch) == (signal.SIGTERM, 60, 1)
    saved = checkpoint.load(done.state)
    assert saved["step"] == 3
    whole = fit(tmp_path / "whole", max_images=100)
    again = fit(tmp_path, saved=saved, max_images=100)
    nets = [checkpoint.load(run.state)["nets"]["G"]["weight"] for run in (whole, again)]
    assert torch.equal(*nets)
    assert [run.images for run in (whole, again)] == [100, 100]


def test_the_start_of_a_run_is_on_disk(tmp_path: Path) -> None:
    first = fit(tmp_path, events=[{"event": "start"}], max_images=20)
    assert [line["step"] for line in log_of(tmp_path, "start")] == [0]
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert (config["max_images"], config["lr1"]) == (20, 0.1)
    state = toy.make_state()
    loop.resume(state, checkpoint.load(first.state), toy.ToyData(), toy.folders(tmp_path))  # type: ignore[arg-type]
    assert (state.step, weight(state.nets.G)) == (1, pytest.approx(0.9))
