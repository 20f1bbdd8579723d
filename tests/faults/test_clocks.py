"""Clocks that jump, and processes that stand still: a budget is time of training."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import toy
from conftest import Clock, tiny_flags

from commands import runs
from gan import checkpoint

LONG_AGO = 10**9  # seconds: 2001


@pytest.mark.skipif(not hasattr(signal, "SIGCONT"), reason="this system stops no process")
def test_time_in_which_the_process_is_stopped_is_not_trained(clock: Clock, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGCONT)
    run = toy.make_session(tmp_path, max_epoch=0, max_minutes=1.0)
    train, steps = run.step, 0

    def step() -> None:
        nonlocal steps
        clock.now += 10  # seconds of a step
        if steps == 2:
            clock.now += 3600  # an hour in which it is stopped
            signal.raise_signal(signal.SIGCONT)
        steps += 1
        train()

    run.step = step  # type: ignore[method-assign]
    done = run.run()
    run.close()
    assert steps == 7  # the step in which it was stopped took no time that is known
    assert done.seconds == pytest.approx(60)
    assert signal.getsignal(signal.SIGCONT) is before


@pytest.mark.skipif(not hasattr(signal, "SIGCONT"), reason="this system stops no process")
def test_a_stop_within_a_pause_is_none_of_a_save(clock: Clock, tmp_path: Path) -> None:
    """Else the next large save would be put off by days."""
    run = toy.make_session(tmp_path)
    with run.pause(run.schedule.saves):
        clock.now += 3600
        run.note_continued()
        clock.now += 2
    assert run.schedule.saves.seconds == pytest.approx(2)
    run.step()
    assert run.state.seconds == pytest.approx(0)
    run.close()


def test_a_wall_clock_that_jumps_changes_no_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: LONG_AGO + 86400.0 * next(days) * (-1) ** next(days))
    done = toy.fit(tmp_path, max_epoch=0, max_minutes=60.0, max_images=100)
    assert done.images == 100
    assert done.seconds < 60


def test_a_clock_set_back_hides_no_state(
    inside: Callable[..., None], faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The newest state is that of the last step, though the system dates it before the others."""
    words = tiny_flags(f"--data-path={faces}", "--max-images=20", "--ema=False")
    inside("train", *words, "--name=a")
    inside("train", "--name=a", "--resume", "--max-images=40")
    newest, older = checkpoint.states(tmp_path / "checkpoints" / "a")
    os.utime(newest, (LONG_AGO, LONG_AGO))
    assert runs._state_paths({}, False, "") == [
        path.relative_to(tmp_path) for path in (newest, older)
    ]
    os.utime(older, (LONG_AGO, LONG_AGO))
    inside("train", *words, "--name=b")
    os.utime(newest, None)  # another run was written last
    assert runs._state_paths({}, False, "")[0] == newest.relative_to(tmp_path)


def test_a_state_that_is_deleted_meanwhile_stops_no_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("checkpoints")
    folder.mkdir()
    for step in (1, 2):
        checkpoint.state_of(folder, step).touch()
    gone = checkpoint.state_of(folder, 3)
    found = [gone, *checkpoint.states(folder)]
    monkeypatch.setattr(checkpoint, "states", lambda _: found)
    assert runs._state_paths({"name": ""}, False, "") == found
