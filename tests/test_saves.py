"""States that are written in the background, by hand (`toy.py`).

A write ends only when the training waits for it, or when the test says so: no test depends on how
fast a disk is.
"""

import dataclasses
import errno
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from processes import PATIENCE_SECONDS
from toy import fit, log_of, poisoned, score_of, steps_of

from gan import checkpoint, loop, machine, saves, schedule
from gan.errors import Refused
from gan.writer import Writer

Open = Callable[..., loop.Session]
Patch = pytest.MonkeyPatch


class Disk:
    """Of a state: writes that go on until they are let go, or the training waits for them."""

    def __init__(self, patch: Patch) -> None:
        self.waited_for: set[threading.Thread] = set()
        self.changed = threading.Condition()
        self.going, self.most, self.in_threads = 0, 0, 0
        self.failing: list[BaseException] = []  # what the next writes raise
        self.own, join = checkpoint.save_all, threading.Thread.join
        patch.setattr(checkpoint, "save_all", self.save_all)
        patch.setattr(saves, "LIGHT_BYTES", 0)
        patch.setattr(schedule, "PAUSE_SHARE", float("inf"))  # no save is put off

        def joined(thread: threading.Thread, timeout: float | None = None) -> None:
            if thread.name == "writer":
                with self.changed:
                    self.waited_for.add(thread)
                    self.changed.notify()
            join(thread, timeout)

        patch.setattr(threading.Thread, "join", joined)

    def save_all(self, *given: Any) -> None:
        self.going += 1
        self.most = max(self.most, self.going)
        try:
            if threading.current_thread() is not threading.main_thread():
                self.in_threads += 1
                with self.changed:
                    mine = threading.current_thread()
                    assert self.changed.wait_for(lambda: mine in self.waited_for, PATIENCE_SECONDS)
            if self.failing:
                raise self.failing.pop(0)
            self.own(*given)
        finally:
            self.going -= 1

    def finish(self, run: loop.Session) -> None:
        """The write that is going on ends, whatever it finds."""
        thread = run.saves.writer._thread
        assert thread is not None
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


@pytest.fixture
def disk(monkeypatch: Patch) -> Disk:
    return Disk(monkeypatch)


def train(run: loop.Session, steps: int) -> None:
    for _ in range(steps):
        run.step()
        run.write_due()


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


# --- the training goes on ------------------------------------------------------------------------


def test_steps_go_on_while_a_state_is_written_as_it_was(
    disk: Disk, session: Open, tmp_path: Path
) -> None:
    run = session(save_every=1)  # ten steps
    train(run, 10)
    then = run.state.nets.G.get_parameter("weight").item()
    train(run, 5)
    assert steps_of(tmp_path / "c") == []
    assert log_of(tmp_path, "save") == []
    assert not list((tmp_path / "i").glob("*"))
    disk.finish(run)
    train(run, 1)
    saved = checkpoint.load(tmp_path / "c" / "state_00000010.pth")
    moments = saved["optimizers"]["G"]["state"][0]
    assert (saved["step"], saved["nets"]["G"]["weight"].item()) == (10, then)
    assert moments["step"].item() == 10
    assert checkpoint.load(tmp_path / "c" / "netg_1.pth")["weight"] == saved["ema"]["weight"]
    assert checkpoint.load(tmp_path / "c" / "netd_1.pth") == saved["nets"]["D"]
    [event] = log_of(tmp_path, "save")
    assert (event["step"], event["images"], event["preview"]) == (10, 200, "1.png")
    assert [path.name for path in (tmp_path / "i").iterdir()] == ["1.png"]


def test_a_run_with_a_slow_disk_is_that_with_a_fast_one(tmp_path: Path, monkeypatch: Patch) -> None:
    def end(name: str) -> Any:
        done = fit(
            tmp_path / name, score=score_of([0.5, 0.6, 0.4, 0.3, 0.7]), max_images=500,
            save_every=1, eval_every=100, keep=2,
        )  # fmt: skip
        found = checkpoint.load(done.state)
        return {**found, "seconds": 0}, sorted(p.name for p in done.state.parent.iterdir())

    fast = end("fast")
    disk = Disk(monkeypatch)
    assert end("slow") == fast
    assert disk.in_threads == 5  # three best states and two saves; the last is written at once
    assert disk.most == 1
    logs = [(name, log_of(tmp_path / name, "save")) for name in ("fast", "slow")]
    assert [[line["step"] for line in log] for _, log in logs] == [[10, 20, 25]] * 2


def test_saves_that_come_due_meanwhile_wait(disk: Disk, tmp_path: Path) -> None:
    fit(tmp_path, max_images=1000, save_every=1, keep=3)
    assert [line["step"] for line in log_of(tmp_path, "save")] == [10, 20, 30, 40, 50]
    assert steps_of(tmp_path / "c") == [40, 50]
    assert (disk.in_threads, disk.most) == (4, 1)
    weights = {path.name for path in (tmp_path / "c").glob("netg_*.pth")}
    assert weights == {"netg_2.pth", "netg_4.pth", "netg_5.pth"}


def test_a_save_by_the_clock_is_due_once(disk: Disk, session: Open, tmp_path: Path) -> None:
    run = session(save_every=10**6, save_minutes=1.0)
    run.schedule.saved_at -= 60
    train(run, 3)
    assert disk.in_threads == 1
    disk.finish(run)
    train(run, 1)
    assert steps_of(tmp_path / "c") == [1]


def test_light_states_and_those_that_memory_is_short_for_are_written_at_once(
    disk: Disk, session: Open, tmp_path: Path, monkeypatch: Patch
) -> None:
    size = toy.make_state().size_of_save()
    for light, memory, threads in ((size + 1, 2**40, 0), (0, 8 * size - 1, 0), (0, 8 * size, 1)):
        monkeypatch.setattr(saves, "LIGHT_BYTES", light)
        monkeypatch.setattr(machine, "memory_bytes", lambda memory=memory: memory)
        run = session(save_every=1)
        train(run, 10)
        assert disk.in_threads == threads

    def no_memory(payload: object) -> None:
        raise MemoryError

    monkeypatch.setattr(checkpoint, "copied", no_memory)
    run = session(save_every=1)
    train(run, 10)
    assert (disk.in_threads, run.saves.may_copy) == (1, False)
    assert steps_of(tmp_path / "c") == [10]


def test_a_copy_has_tensors_of_its_own_once() -> None:
    w = torch.arange(6.0).reshape(1, 2, 3, 1).to(memory_format=torch.channels_last)
    found = checkpoint.copied({"a": w, "b": [{"c": w}, ("x", 1)]})
    w.zero_()
    assert found["a"].flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert found["b"][0]["c"] is found["a"]  # type: ignore[index]
    assert found["a"].stride() == w.stride()
    assert found["b"][1] == ("x", 1)


# --- what goes wrong -----------------------------------------------------------------------------


def test_a_write_without_room_is_tried_again(
    disk: Disk, session: Open, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = session(save_every=1)
    train(run, 10)
    disk.finish(run)
    train(run, 9)
    disk.failing = [full(), full()]
    train(run, 4)  # the save of step 20 goes on
    assert "is not saved" not in capsys.readouterr().out
    for pause in (10, 20):
        disk.finish(run)
        train(run, 1)
        assert run.schedule.save_again < float("inf")
        run.schedule.save_again = 0.0  # the pause is over
        said = capsys.readouterr().out
        assert "is not saved: No space left on device; " in said
        line = f"state_00000010.pth stays (it needs 0.0 MB); training goes on, next try in {pause}"
        assert line in said
        train(run, 1)
    disk.finish(run)
    train(run, 1)
    assert steps_of(tmp_path / "c") == [10, 27]
    assert run.schedule.save_again == float("inf")


def test_the_last_state_is_written_after_the_one_before_it(disk: Disk, tmp_path: Path) -> None:
    disk.failing = [full()]
    done = fit(tmp_path, max_images=240, save_every=1)
    assert steps_of(tmp_path / "c") == [12]
    assert done.state.name == "state_00000012.pth"
    assert disk.in_threads == 1


def test_a_signal_waits_for_the_write_and_saves(disk: Disk, tmp_path: Path) -> None:
    family, count = toy.TOY.d_loss, 0

    def d_loss(*given: Any) -> Any:
        nonlocal count
        count += 1
        if count == 12:
            signal.raise_signal(signal.SIGTERM)
        return family(*given)

    done = fit(tmp_path, dataclasses.replace(toy.TOY, d_loss=d_loss), save_every=1)
    assert (done.signal, steps_of(tmp_path / "c")) == (signal.SIGTERM, [10, 12])


def test_a_training_that_fails_leaves_the_state_that_it_was_writing(
    disk: Disk, tmp_path: Path
) -> None:
    count = 0

    def d_loss(*given: Any) -> Any:
        nonlocal count
        count += 1
        if count == 12:
            raise Refused("by hand")
        return toy.d_loss(*given)

    with pytest.raises(Refused, match="by hand"):
        fit(tmp_path, dataclasses.replace(toy.TOY, d_loss=d_loss), save_every=1)
    assert steps_of(tmp_path / "c") == [10]
    assert [line["step"] for line in log_of(tmp_path, "save")] == [10]


def test_a_rescue_goes_back_to_the_state_that_was_being_written(disk: Disk, tmp_path: Path) -> None:
    done = fit(tmp_path, poisoned(12), save_every=1, log_every=1, max_images=260)
    [event] = log_of(tmp_path, "rescue")
    assert Path(str(event["state"])).name == "state_00000010.pth"
    assert checkpoint.load(done.state)["rescues"] == 1


def test_a_best_state_that_could_not_be_written_is_none(
    disk: Disk, session: Open, tmp_path: Path
) -> None:
    run = session(score=score_of([0.5, 0.4, 0.45]))
    for step, best in ((1, 0.5), (2, None)):
        run.state.step = step
        toy.evaluate(run)
        if step == 2:
            disk.failing = [full()]
        disk.finish(run)
        run.saves.settle(wait=True)
        assert run.state.best == (best or 0.5)
    assert run.saves.best_step == 1
    run.state.step = 3
    toy.evaluate(run)  # 0.45 is better than what is on disk
    disk.finish(run)
    run.saves.settle(wait=True)
    assert (toy.best_of(tmp_path)["step"], toy.best_of(tmp_path)["best"]) == (3, 0.45)


def test_a_state_that_is_the_best_is_a_link_to_it(disk: Disk, tmp_path: Path) -> None:
    fit(tmp_path, score=score_of([0.5, 0.6]), max_images=220, eval_every=200, save_every=1)
    best = tmp_path / "c" / checkpoint.BEST
    assert best.samefile(tmp_path / "c" / "state_00000010.pth")
    assert disk.most == 1


def test_what_is_no_fault_of_the_disk_is_raised_in_the_training(disk: Disk, tmp_path: Path) -> None:
    disk.failing = [ValueError("a bug")]
    with pytest.raises(ValueError, match="a bug"):
        fit(tmp_path, save_every=1, max_images=1000)


def test_without_threads_a_write_is_done_at_once(monkeypatch: Patch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    found: list[object] = []
    writer = Writer()
    writer.start(lambda: found.append("written"), found.append)
    writer.settle(wait=False)
    assert found == ["written", None]
    assert not writer.is_busy


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_kill_in_the_middle_of_a_write_leaves_the_state_before_it(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(saves, "LIGHT_BYTES", 0)
    monkeypatch.setattr(schedule, "PAUSE_SHARE", float("inf"))
    own, count = torch.save, 0

    def killed(payload: Any, file: Any) -> None:
        nonlocal count
        count += 1
        own(payload, file)
        if count == 6:  # the state of the second save: its weights are written, nothing has a name
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(torch, "save", killed)
    if not (pid := os.fork()):
        try:
            fit(tmp_path, save_every=1)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    monkeypatch.undo()
    assert steps_of(tmp_path / "c") == [10]
    assert {path.name for path in (tmp_path / "c").glob("net*")} == {"netg_1.pth", "netd_1.pth"}
    assert len(list((tmp_path / "c").glob(".*.part"))) == 3
    whole = fit(tmp_path / "whole", max_images=400)
    saved = checkpoint.load(tmp_path / "c" / "state_00000010.pth")
    again = fit(tmp_path, saved=saved, max_images=400)
    nets = [checkpoint.load(run.state)["nets"] for run in (whole, again)]
    assert nets[0] == nets[1]
