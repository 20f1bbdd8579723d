"""No room on the disk, and folders that go: the training goes on, and what can be kept is."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from conftest import ROOT, TINY, refused
from processes import PATIENCE_SECONDS

from commands import runs
from gan import checkpoint, record, saves
from gan.errors import Refused

Patch = pytest.MonkeyPatch
Captured = pytest.CaptureFixture[str]
CAN_MOUNT = (
    shutil.which("unshare") is not None
    and not subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "x", "/mnt"], capture_output=True
    ).returncode
)


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes: the kernel cuts the write short, then refuses."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# --- the log and the curves ----------------------------------------------------------------------


def test_lines_of_a_log_wait_for_room(tmp_path: Path) -> None:
    log = record.LogFile(tmp_path / "log.jsonl")
    log.add("one\n")
    with files_at_most(6):
        for line in ("two\n", "three\n"):
            with pytest.raises(OSError, match=r"space|large"):
                log.add(line)
    assert log.path.read_text() == "one\n"  # no half a line
    log.add("four\n")
    assert log.path.read_text() == "one\ntwo\nthree\nfour\n"


def test_a_log_whose_folder_is_deleted_goes_on(tmp_path: Path) -> None:
    log = record.LogFile(tmp_path / "deep" / "log.jsonl")
    log.add("one\n")
    shutil.rmtree(tmp_path / "deep")
    log.add("two\n")
    assert log.path.read_text() == "two\n"


def scalars(folder: Path) -> dict[str, list[int]]:
    """The steps of each curve, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, list[int]] = {}
    for file in folder.glob("events*"):
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, []).extend(event.step for event in events.Scalars(tag))
    return found


def test_curves_go_on_after_a_full_disk_and_without_a_thread(tmp_path: Path) -> None:
    threads = threading.active_count()
    curves = record.Curves(tmp_path, None)
    curves.add_scalar("loss", 1.0, 1)
    with files_at_most(3):
        for step in range(2, 40):  # more than any queue holds
            with pytest.raises(OSError, match="large"):
                curves.add_scalar("loss", 1.0, step)
    assert len(list(tmp_path.iterdir())) == 1
    curves.add_scalar("loss", 1.0, 40)
    shutil.rmtree(tmp_path)
    curves.add_scalar("loss", 1.0, 41)
    curves.close()
    assert threading.active_count() == threads
    assert scalars(tmp_path) == {"loss": [41]}


def test_the_curves_before_and_after_a_full_disk_are_read(tmp_path: Path) -> None:
    curves = record.Curves(tmp_path, None)
    curves.add_scalar("loss", 1.0, 1)
    [first] = tmp_path.glob("events*")
    with files_at_most(first.stat().st_size + 3), pytest.raises(OSError, match="large"):
        curves.add_scalar("loss", 1.0, 2)
    curves.add_scalar("loss", 1.0, 3)
    curves.close()
    assert sorted(scalars(tmp_path)["loss"]) == [1, 3]


def test_a_failure_is_said_once_and_its_end_too() -> None:
    said: list[str] = []
    spare = record.Spare(said.append)
    assert spare.attempt("previews", lambda: None)
    assert not spare.attempt("previews", no_room)
    assert not spare.attempt("previews", no_room)
    assert not spare.attempt("curves", no_room)
    assert spare.attempt("previews", lambda: None)
    assert [line.split(":")[0] for line in said] == [
        "previews cannot be written",
        "curves cannot be written",
        "previews are written again",
    ]
    with pytest.raises(ValueError, match="bug"):
        spare.attempt("curves", lambda: (_ for _ in ()).throw(ValueError("bug")).__next__())


# --- the state -----------------------------------------------------------------------------------


def log_of(top: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (top / "r" / "log.jsonl").read_text().splitlines()]


def failing(patch: Patch, *numbers: int) -> list[int]:
    """Saves of these numbers, counted from 1, find no room; the number of each save so far."""
    own, count = checkpoint.save_all, [0]

    def save(files: dict[Path, dict[str, Any]], *twins: Any) -> None:
        if any(path.name.startswith("state_") for path in files):
            count[0] += 1
            if count[0] in numbers:
                no_room()
        own(files, *twins)

    patch.setattr(checkpoint, "save_all", save)
    return count


def test_a_save_without_room_is_tried_again(
    tmp_path: Path, monkeypatch: Patch, capsys: Captured
) -> None:
    count = failing(monkeypatch, 2, 3)
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    run = toy.make_session(tmp_path, save_every=1)
    tried = []
    for _ in range(150):  # ten steps an epoch, a second each
        now[0] += 1
        run.step()
        before = count[0]
        run.write_due(stopped=False)
        tried += [run.state.step] * (count[0] - before)
    run.close()
    # saved; no room; ten seconds later; twenty seconds later saved; then by epochs again
    assert tried[:6] == [10, 20, 30, 50, 60, 70]
    out = capsys.readouterr().out
    assert "the state of step 20 is not saved: No space left on device (it needs " in out
    assert "state_00000010.pth stays; training goes on, next try in 10 s" in out
    assert "next try in 20 s" in out


def test_the_pauses_grow_to_ten_minutes_and_start_anew() -> None:
    from gan.schedule import Schedule, alternate

    schedule = Schedule(toy.make_config(save_every=1), alternate, 10, 0.0)
    pauses = []
    for _ in range(8):
        schedule.note_save(100.0, done=False)
        pauses.append(schedule.save_again - 100)
    assert pauses == [10, 20, 40, 80, 160, 320, 600, 600]
    assert not schedule.save_due(10, 699.0)
    assert schedule.save_due(11, 700.0)
    schedule.note_save(700.0, done=True)
    assert schedule.save_due(20, 701.0)
    schedule.note_save(800.0, done=False)
    assert schedule.save_again == 810


def test_the_last_state_waits_for_room(
    tmp_path: Path, monkeypatch: Patch, capsys: Captured
) -> None:
    failing(monkeypatch, 1, 2)
    monkeypatch.setattr(saves, "ROOM_PAUSE_SECONDS", 0.01)
    done = toy.fit(tmp_path, max_images=60)
    assert checkpoint.load(done.state)["step"] == 3
    assert "there is no earlier one; waiting 120 s for room" in capsys.readouterr().out


def test_without_room_to_the_end_the_rest_is_kept(tmp_path: Path, monkeypatch: Patch) -> None:
    failing(monkeypatch, *range(2, 999))
    for name in ("ROOM_SECONDS", "ROOM_PAUSE_SECONDS"):
        monkeypatch.setattr(saves, name, 0.02)
    says = r"step 15 is not saved: No space.*state_00000010.pth stays; make room, .* --resume"
    with pytest.raises(Refused, match=says):
        toy.fit(tmp_path, max_images=300, save_every=1)
    assert {path.name for path in (tmp_path / "c").iterdir()} == {
        "config.json", "state_00000010.pth", "netg_1.pth", "netd_1.pth", "netg_2.pth",
    }  # fmt: skip
    assert (tmp_path / "i" / "2.png").exists()


def test_weights_and_state_are_written_all_or_none(tmp_path: Path) -> None:
    small, large = {"w": torch.zeros(10)}, {"w": torch.zeros(9000)}
    paths = [tmp_path / name for name in ("netg_1.pth", "netd_1.pth", "state_00000001.pth")]
    checkpoint.save_all(dict.fromkeys(paths, small))
    before = [path.read_bytes() for path in paths]
    files = dict(zip(paths, (small, small, large), strict=True))
    with files_at_most(20_000), pytest.raises(OSError, match="large"):
        checkpoint.save_all({path: {**payload, "n": 1} for path, payload in files.items()})
    assert [path.read_bytes() for path in paths] == before
    assert len(list(tmp_path.iterdir())) == 3
    assert checkpoint.size_of({"a": [torch.zeros(3), {"b": torch.zeros(2).double()}], "n": 1}) == 28


def test_previews_and_best_states_that_cannot_be_written_cost_no_state(
    tmp_path: Path, capsys: Captured
) -> None:
    run = toy.make_session(tmp_path, score=toy.score_of([0.5, 0.4]), max_images=60, eval_every=40)
    (tmp_path / "i").write_text("a file in the way")
    (tmp_path / "c" / checkpoint.BEST).mkdir()
    done = run.run()
    run.close()
    assert checkpoint.load(done.state)["step"] == 3
    assert checkpoint.load(done.state)["best"] is None  # none on disk
    out = capsys.readouterr().out
    assert out.count("previews cannot be written: ") == 1
    assert out.count("best states cannot be written: ") == 1
    assert [line["preview"] for line in log_of(tmp_path) if line.get("event") == "save"] == [
        "1.png"
    ]


def test_what_a_killed_training_was_writing_is_removed(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(PATIENCE_SECONDS)
    config = toy.make_config(name="x")
    names = (f".state_1.pth.{ended.pid}.part", f".netg_1.pth.{os.getpid()}.part", ".own.part", "a")
    for kind in ("checkpoints", "imgs", "runs"):
        (tmp_path / kind / "x").mkdir(parents=True)
        for name in names:
            (tmp_path / kind / "x" / name).touch()
    with runs.lock_run(config):
        for kind in ("checkpoints", "imgs", "runs"):
            found = {path.name for path in (tmp_path / kind / "x").iterdir()}
            assert found - {".lock"} == set(names[1:])


def test_a_folder_deleted_in_mid_run_is_made_again(tmp_path: Path) -> None:
    run = toy.make_session(tmp_path, max_images=60, log_every=1)
    run.step()
    run.write_due(stopped=False)
    for name in "cir":
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    done = run.run()
    run.close()
    assert checkpoint.load(done.state)["step"] == 3
    assert [line["step"] for line in log_of(tmp_path) if "loss_d" in line] == [2, 3]


# --- before the first step, and whole runs -------------------------------------------------------


def test_folders_are_tried_before_anything_starts(
    inside: Callable[..., None], faces: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    def read_only(dir: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    words = ("train", *TINY, f"--data-path={faces}", "--name=x")
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.TemporaryFile", read_only)
        says = "--name=x: checkpoints/x cannot be written (Read-only file system)"
        refused(inside, *words, says=says)
    assert not list(tmp_path.iterdir())


FULL_DISK = """
import os, subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", "."], check=True)
os.chdir(os.getcwd())
import main
from gan import loop, saves, schedule
saves.ROOM_PAUSE_SECONDS = schedule.FIRST_PAUSE_SECONDS = 0.05
full, free, train_step, step = int(sys.argv[1]), int(sys.argv[2]), loop.train_step, 0
sys.argv = ["main.py", *sys.argv[3:]]

def fill():
    with open("filler", "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass

def at_step(*given):
    global step
    step += 1
    if step == full:
        fill()
    if step == free:
        os.remove("filler")
    return train_step(*given)

loop.train_step = at_step
code = 0
try:
    main.main()
except SystemExit as stop:
    code = stop.code
print("states", sorted(os.listdir("checkpoints")), os.listdir("imgs"))
print("log", sum('"loss_d"' in line for line in open("runs/@default/log.jsonl")))
sys.exit(code)
"""


@pytest.mark.skipif(not CAN_MOUNT, reason="needs the right to mount a small file system")
def test_a_run_on_a_disk_that_is_full_for_a_while(faces: Path, tmp_path: Path) -> None:
    words = ["train", *TINY, f"--data-path={faces}", "--max-epoch=6", "--save-every=1"]
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", FULL_DISK, "25", "40", *words, "--log-every=1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin:/usr/sbin"},
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "is not saved: No space left on device (it needs " in said
    assert "'state_00000050.pth', 'state_00000060.pth'" in said
    assert "log 60" in said  # the lines that had waited too
    assert "curves are written again" in said
