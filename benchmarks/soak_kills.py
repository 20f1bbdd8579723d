"""SIGKILL at random moments: what goes on afterwards ends as if nothing had been.

`kills` of trainings in all that they do, `background` of those whose saves are written beside the
steps, `builds` of trainings while they build a cache, `commands` of the other commands that write
files.
"""

import contextlib
import hashlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from soak_work import (
    LOST,
    NOISE,
    PATIENCE_SECONDS,
    PHASES,
    PICTURES,
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

from gan import checkpoint, saves

LONGEST_PHASE_SECONDS = 0.3  # a kill comes so long after its phase began, at most
BUILT = 400  # pictures of a build that is killed: enough for two processes that decode
ATTEMPTS = 20  # at hitting a build


def resumed(folder: Path, words: list[str]) -> int:
    """The exit code of the command that a user gives after a crash."""
    if checkpoint.states(folder / "checkpoints" / "k"):
        words = ["train", "--name=k", "--resume"]
    else:
        words = [*words, "--overwrite"]
    return wait(fork(folder, words))


def kill_training(
    top: Path,
    family: str,
    whole: str,
    counts: dict[str, int],
    number: int,
    phases: Sequence[str],
    also: Callable[[], object],
) -> str:
    """Kill one in a phase, at a random moment; go on; compare."""
    chance = random.Random(f"{family} {number}")
    folder, words, watch = top / family / str(number), words_of(family, top), Watch()
    phase = phases[number % len(phases)]
    if not counts[phase]:
        phase = "step"
    pid = fork(folder, words, watch, also)
    watch.wait_for(phase, chance.randint(1, counts[phase]), pid)
    time.sleep(chance.uniform(0, LONGEST_PHASE_SECONDS) ** 2)  # mostly soon
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    hit = watch.phase() if wait(pid) == -signal.SIGKILL else "after the end"
    code = resumed(folder, words)
    if code:
        return f"{LOST}exit code {code} after a kill in {hit}"
    same = digest(folder) == whole
    left = list(folder.rglob("*.part"))
    shutil.rmtree(folder)
    if not same or left:
        return f"{LOST}another end, or {left} left, after a kill in {hit}"
    return f"equal, killed {'between them' if hit == 'between' else f'in a {hit}'}"


def kill_trainings(
    record: Record,
    top: Path,
    family: str,
    fault: str,
    trials: int,
    phases: Sequence[str] = tuple(PHASES),
    also: Callable[[], object] = int,
) -> None:
    """`kill_training` so many times, after a whole one to compare with."""
    if not record.left(fault, trials):
        return
    folder, watch = top / family / "whole", Watch()
    assert wait(fork(folder, words_of(family, top), watch, also)) == 0
    whole = digest(folder)
    counts = {name: int(n) // 2 for name, n in zip(PHASES, watch.counts, strict=True)}

    def attempt(number: int) -> str:
        return kill_training(top, family, whole, counts, number, phases, also)

    record.try_all(fault, trials, attempt)


def kills(record: Record, trials: int) -> None:
    """Of trainings: in building caches, steps, scores and saves."""
    families = [*NOISE, *PICTURES]
    see_cheaply()
    with workplace() as top:
        for place, family in enumerate(families):
            count = trials // len(families) + (place < trials % len(families))
            kill_trainings(record, top, family, f"SIGKILL of a training, {family}", count)


def background(record: Record, trials: int) -> None:
    """Of trainings whose saves, however small, are written beside the steps, to a slow disk."""
    see_cheaply()
    saves.LIGHT_BYTES = 0
    with workplace() as top:
        for family in ("dcgan", "pix2pix"):
            fault = f"SIGKILL while a save is written in the background, {family}"
            kill_trainings(record, top, family, fault, trials // 2, ("save", "step"), slow_disk)


# --- builds --------------------------------------------------------------------------------------


def children(pid: int) -> set[int]:
    """The processes that it started and that have not ended."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found |= set(map(int, (task / "children").read_text().split()))
    return found


def ends(pid: int, deadline: float) -> bool:
    """Whether the process ends by itself before time.monotonic() is `deadline`."""
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def caches(folder: Path) -> dict[str, str]:
    """All that is in the folder of caches, but for the files that are locked."""
    return {n: s for n, s in sums(folder / "data" / "cache").items() if not n.endswith(".lock")}


def kill_build(folder: Path, words: list[str], whole: dict[str, str], took: float) -> str:
    """Kill it after so many seconds of its build: no process and no file of it stays."""
    watch = Watch()
    pid = fork(folder, words, watch)
    watch.wait_for("build", 1, pid)
    time.sleep(took)
    started = children(pid)
    os.kill(pid, signal.SIGKILL)  # not waited for: it is there, if it has ended
    hit = watch.phase()
    wait(pid)
    deadline = time.monotonic() + PATIENCE_SECONDS
    stay = [child for child in started if not ends(child, deadline)]
    code = wait(fork(folder, [*words, "--overwrite"]))
    same, left = caches(folder) == whole, [*folder.rglob("*.part")]
    shutil.rmtree(folder)
    if stay or code or not same or left:
        return f"{LOST}{len(stay)} processes stay, exit code {code}, {left} left, equal: {same}"
    if hit != "build":
        return "equal, killed after its build"
    decoding = len(started) > 2  # two that decode, and Python's tracker
    return f"equal, killed {'while processes decoded' if decoding else 'beside decoding'}"


def builds(record: Record, trials: int) -> None:
    """Of trainings, all while they build a cache by two processes."""
    with workplace() as top:
        (top / "many").mkdir()
        chance = np.random.default_rng(0)
        for index in range(BUILT):
            pixels = chance.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(top / "many" / f"{index:03}.png")
        words = ["train", "--family=mlp-tiny", f"--data-path={top / 'many'}", "--name=k", "--nz=4"]
        words += ["--img-size=28", "--batch-size=4", "--max-images=8", "--gpu=False"]
        words += ["--num-workers=2", "--held-out=0.3", "--eval-every=0"]
        watch = Watch()
        pid = fork(top / "whole", words, watch)
        watch.wait_for("build", 1, pid)
        began = time.monotonic()
        watch.wait_for("step", 1, pid)
        took = time.monotonic() - began
        assert wait(pid) == 0
        whole = caches(top / "whole")

        def attempt(number: int) -> str:
            moments, told = random.Random(f"build {number}"), ""
            for _ in range(ATTEMPTS):
                told = kill_build(top / "now", words, whole, moments.uniform(0, took))
                if told != "equal, killed after its build":
                    break
            return told

        record.try_all("SIGKILL of a build by two processes", trials, attempt)


# --- other commands ------------------------------------------------------------------------------


def sums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that a command wrote there."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def commands_of(top: Path) -> dict[str, list[str]]:
    """Commands that write, all to the folder `out`."""
    run = ("--name=k",)
    return {
        "export to safetensors": ["export", *run, "--file=out/f.safetensors", "--card=False"],
        "export to TorchScript": ["export", *run, "--file=out/f.pt", "--card=False"],
        "export to a page": ["export", *run, "--file=out/f.html"],
        "generate": [
            "generate",
            *run,
            "--gpu=False",
            "--gen-num=4",
            "--gen-search-num=8",
            "--gen-img=out/f.png",
        ],
        "evaluate": ["evaluate", *run, "--gpu=False", "--gen-num=8", "--report=out/f.html"],
        "film": ["film", *run, "--output=out/f.gif"],
        "prepare": ["prepare", f"--data-path={top / 'faces'}", "--out=out/set", "--min-size=8"],
    }


def kill_command(folder: Path, words: list[str], whole: dict[str, str], moment: float) -> str:
    """Kill it after so many seconds: each file is then whole or not there; the next call ends."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out").mkdir()
    pid = fork(folder, words)
    time.sleep(moment)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    killed = wait(pid) == -signal.SIGKILL
    found = {name: sum for name, sum in sums(folder / "out").items() if name in whole}
    torn = [name for name, sum in found.items() if whole[name] != sum]
    if torn and words[0] != "prepare":  # whose folder is whole only when the command has ended
        return f"{LOST}{torn} torn"
    if code := wait(fork(folder, words)):
        return f"{LOST}exit code {code} after the kill"
    again = sums(folder / "out")
    other = sorted(name for name in whole if again.get(name) != whole[name])
    if other:
        return f"{LOST}{other} are others"
    return "whole or not there; equal with the next call" if killed else "equal, after the end"


def commands(record: Record, trials: int) -> None:
    """Of the commands that write files."""
    see_cheaply()
    with workplace() as top:
        folder = top / "run"
        assert wait(fork(folder, words_of("dcgan", top))) == 0
        table = commands_of(top)
        for place, (name, words) in enumerate(table.items()):
            count = trials // len(table) + (place < trials % len(table))
            if not record.left(f"SIGKILL of {name}", count):
                continue
            whole, took = _whole(folder, words)

            def attempt(number: int) -> str:
                moment = random.Random(f"{name} {number}").uniform(0, took)  # noqa: B023
                return kill_command(folder, words, whole, moment)  # noqa: B023 (called here)

            record.try_all(f"SIGKILL of {name}", count, attempt)


def _whole(folder: Path, words: list[str]) -> tuple[dict[str, str], float]:
    """What a command writes, byte for byte the same twice, and the seconds it takes."""
    found = []
    for _ in range(2):
        shutil.rmtree(folder / "out", ignore_errors=True)
        (folder / "out").mkdir()
        began = time.monotonic()
        assert wait(fork(folder, words)) == 0, words
        found.append((sums(folder / "out"), time.monotonic() - began))
    first, second = (each[0] for each in found)
    same = {name: sum for name, sum in second.items() if first.get(name) == sum}
    return same, found[1][1]


PARTS: dict[str, tuple[Callable[[Record, int], None], int]] = {
    "kills": (kills, 100),
    "background": (background, 20),
    "builds": (builds, 20),
    "commands": (commands, 70),
}
