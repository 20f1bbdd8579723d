"""A disk that is full for a while, folders that go, clocks that jump, programs that are stopped."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from common import ROOT
from soak_work import (
    CLOCKED,
    LOST,
    PHASES,
    Record,
    Watch,
    digest,
    fork,
    see_cheaply,
    slow_disk,
    wait,
    words_of,
    workplace,
)

from gan import saves, schedule

IN_A_MOUNT = "SOAK_MOUNTED"
ROOM = 1.4  # of the small disk, in runs
MINUTES_OF_A_RUN = 0.02  # of one with a budget of time
YEARS = 3e8  # seconds
LONGEST_WAIT_SECONDS = 0.02  # within a phase, before it is stopped
# of a state: a best state that there was no room for is not the best to go back to
UNEQUAL = CLOCKED | {"best"}


def in_own_mounts() -> None:
    """Go on in a process that may mount, where nobody else sees it; this one ends."""
    if IN_A_MOUNT not in os.environ:
        inside = ["unshare", "-rm", sys.executable, *sys.argv]
        sys.exit(subprocess.run(inside, env={**os.environ, IN_A_MOUNT: "1"}).returncode)


def fill(folder: Path) -> None:
    """Leave no byte free there."""
    with open(folder / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


@contextlib.contextmanager
def small_disk(folder: Path, room: int) -> Iterator[None]:
    """`folder` is a disk of its own, of so many bytes."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "x", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def fill_in_mid_run(
    folder: Path, words: list[str], room: int, whole: str, took: float, number: int
) -> str:
    """The disk is full from one random moment to another; the end is that of a whole run."""
    chance = random.Random(number)
    with small_disk(folder, room):
        pid = fork(folder, words)
        time.sleep(chance.uniform(0, took))
        fill(folder)
        time.sleep(chance.uniform(0, took))
        (folder / "filler").unlink()
        code, told = wait(pid), "equal"
        if code == 2:  # it was told at the start that there is no room
            told = "refused at its start; equal when there was room"
            code = wait(fork(folder, [*words, "--overwrite"]))
        if code:
            return f"{LOST}exit code {code}"
        return told if digest(folder, UNEQUAL) == whole else f"{LOST}another end"


def disk(record: Record, trials: int) -> None:
    """A small file system that is full for a while."""
    in_own_mounts()
    see_cheaply()
    saves.ROOM_PAUSE_SECONDS = schedule.FIRST_PAUSE_SECONDS = 0.05
    with workplace() as top:
        for family in ("dcgan", "cyclegan"):
            words, began = words_of(family, top), time.monotonic()
            assert wait(fork(top / family, words)) == 0
            took, whole = time.monotonic() - began, digest(top / family, UNEQUAL)
            files = [path for path in (top / family).rglob("*") if path.is_file()]
            room = int(ROOM * sum(path.stat().st_blocks * 512 for path in files))

            def attempt(number: int) -> str:
                folder = top / str(number)
                return fill_in_mid_run(folder, words, room, whole, took, number)  # noqa: B023

            record.try_all(f"the disk full for a while, {family}", trials // 2, attempt)


# --- clocks and signals --------------------------------------------------------------------------


def jumping_clock(number: int) -> Callable[[], None]:
    """The wall clock jumps by years, back and forth, whenever it is read."""

    def install() -> None:
        chance, real = random.Random(number), time.time
        time.time = lambda: real() + chance.uniform(-YEARS, YEARS)

    return install


def jump(folder: Path, words: list[str], whole: str, number: int) -> str:
    """A run in which the clock jumps is the run."""
    code = wait(fork(folder, words, also=jumping_clock(number)))
    same = code == 0 and digest(folder) == whole
    return "equal" if same else f"{LOST}exit code {code}, or another end"


def stop(folder: Path, words: list[str], whole: str, phase: str, number: int) -> str:
    """Stop it within a phase, let it go on after a while."""
    chance, watch = random.Random(number), Watch()
    pid = fork(folder, words, watch, also=slow_disk)
    watch.wait_for(phase, chance.randint(1, 2), pid)
    time.sleep(chance.uniform(0, LONGEST_WAIT_SECONDS))
    os.kill(pid, signal.SIGSTOP)
    hit = watch.phase()
    time.sleep(chance.uniform(0.1, 0.5))
    os.kill(pid, signal.SIGCONT)
    code = wait(pid)
    same = code == 0 and digest(folder) == whole
    return f"equal, stopped in a {hit}" if same else f"{LOST}exit code {code}, or another end"


def delete(folder: Path, words: list[str], whole: str, took: float, number: int) -> str:
    """Delete one of the folders in mid-run."""
    chance, name = random.Random(number), ("checkpoints", "imgs", "runs", "data")[number % 4]
    pid = fork(folder, words)
    time.sleep(chance.uniform(0, took))
    there = (folder / name).exists()
    shutil.rmtree(folder / name, ignore_errors=True)
    code = wait(pid)
    told = f"equal without {name}/" if there else f"equal, {name}/ not yet there"
    if code == 2 and name == "data":  # it was written when it was deleted
        told = "refused in its build; equal with the next call"
        code = wait(fork(folder, [*words, "--overwrite"]))
    same = code == 0 and digest(folder) == whole
    return told if same else f"{LOST}exit code {code}, or another end, without {name}/"


def spent_while_stopped(folder: Path, top: Path, number: int) -> str:
    """A run of a second that is stopped for longer than that trains its second all the same."""
    words = [word for word in words_of("mlp-tiny", top) if "max-images" not in word]
    watch = Watch()
    pid = fork(folder, [*words, f"--max-minutes={MINUTES_OF_A_RUN}"], watch)
    watch.wait_for("step", 5, pid)
    os.kill(pid, signal.SIGSTOP)
    before = int(watch.counts[list(PHASES).index("step")]) // 2
    time.sleep(90 * MINUTES_OF_A_RUN)
    os.kill(pid, signal.SIGCONT)
    code = wait(pid)
    more = int(watch.counts[list(PHASES).index("step")]) // 2 - before
    return "it trained on" if code == 0 and more > 20 else f"{LOST}{code}, {more} steps more"


def moments(record: Record, trials: int) -> None:
    """Clocks that jump, programs that are stopped and go on, folders deleted in mid-run."""
    see_cheaply()
    with workplace() as top:
        words, began = words_of("dcgan", top), time.monotonic()
        assert wait(fork(top / "whole", words)) == 0
        took, whole = time.monotonic() - began, digest(top / "whole")
        faults: dict[str, Callable[[Path, int], str]] = {
            "the clock jumps by years": lambda at, n: jump(at, words, whole, n),
            "SIGSTOP, SIGCONT in a step": lambda at, n: stop(at, words, whole, "step", n),
            "SIGSTOP, SIGCONT in a save": lambda at, n: stop(at, words, whole, "save", n),
            "stopped for longer than its budget": lambda at, n: spent_while_stopped(at, top, n),
            "a folder deleted in mid-run": lambda at, n: delete(at, words, whole, took, n),
        }
        for fault, attempt in faults.items():

            def attempt_in_folder(number: int) -> str:
                folder = top / "now"
                try:
                    return attempt(folder, number)  # noqa: B023 (called here)
                finally:
                    shutil.rmtree(folder, ignore_errors=True)

            record.try_all(fault, trials, attempt_in_folder)


# --- a checkout that cannot be written -----------------------------------------------------------


def checkout(record: Record, trials: int) -> None:
    """The program's own folder is read-only: commands work elsewhere."""
    in_own_mounts()
    with workplace() as top:
        root = top / "check out"  # a copy, in which nobody else writes
        others = shutil.ignore_patterns(".*", "__pycache__", "work", "data", "checkpoints", "imgs")
        shutil.copytree(ROOT, root, ignore=others)
        (root / "data").mkdir()
        subprocess.run(["mount", "--bind", str(root), str(root)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(root)], check=True)
        here, before = top / "elsewhere", sorted(root.rglob("*"))
        here.mkdir()
        calls = [
            words_of("dcgan", top),
            ["generate", "--name=k", "--gpu=False", "--gen-num=4", "--gen-search-num=8"],
            ["evaluate", "--name=k", "--gpu=False", "--gen-num=8"],
            ["report", "--name=k"],
            ["film", "--name=k"],
            ["export", "--name=k", "--file=f.safetensors"],
        ]

        def attempt(number: int) -> str:
            command = [sys.executable, str(root / "main.py"), *calls[number]]
            done = subprocess.run(command, cwd=here, capture_output=True, text=True)
            if done.returncode:
                return f"{LOST}{calls[number][0]}: {done.stderr[-300:]}"
            if sorted(root.rglob("*")) != before:
                return f"{LOST}{calls[number][0]} wrote to the checkout"
            return "written to the working folder"

        if record.left("a read-only checkout", len(calls)):
            record.done["a read-only checkout"] = {}  # they build on each other
        record.try_all("a read-only checkout", min(trials, len(calls)), attempt)
        subprocess.run(["umount", str(root)], check=True)


PARTS: dict[str, tuple[Callable[[Record, int], None], int]] = {
    "disk": (disk, 50),
    "moments": (moments, 20),
    "checkout": (checkout, 6),
}
