"""The runs of a comparison: what each one has to do, done in a process of its own, one by one."""

import contextlib
import ctypes
import dataclasses
import functools
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import config as knobs
import runs
from gan import checkpoint, compare, curves
from gan.budget import Budget
from gan.errors import Refused
from grid import Cell

TRAIN = [sys.executable, str(Path(__file__).with_name("main.py")), "train"]
PREVIEWS = 4  # that each run should have at least
DRAW_EVERY = 60.0  # seconds from one page of what there is to the next
# scores on other data do not compare
OF_DATA = (
    "data_path", "img_size", "channels", "channels_a", "channels_b", "held_out", "direction",
)  # fmt: skip


class Data(Protocol):
    """A data set: how many there are to train on, and what it is known by."""

    @property
    def digest(self) -> str: ...

    def __len__(self) -> int: ...


Tried = Callable[[knobs.Config], Data]


@dataclasses.dataclass
class Job:
    """A cell, and what is still to do for it."""

    cell: Cell
    config: knobs.Config
    words: list[str]  # what to call `train` with; none: it is finished
    plan: str
    seconds: float = 0.0  # of training that it has behind it
    state: str = "to do"


def enough_previews(config: knobs.Config, flags: dict[str, Any], data: Data) -> dict[str, Any]:
    """The knobs that make a run of `config` save often enough, where `flags` leave them open."""
    if "save_every" in flags or "save_minutes" in flags:
        return {}
    per_epoch = len(data) // config.batch_size * config.batch_size
    limits = [config.max_epoch, config.max_images / per_epoch]
    epochs = min((limit for limit in limits if limit), default=0.0)
    found: dict[str, Any] = {}
    if epochs:
        found["save_every"] = min(config.save_every, max(1, int(epochs / PREVIEWS)))
    if config.max_minutes:  # twice as many: the runs' points are equal in images, not in minutes
        found["save_minutes"] = min(config.save_minutes, config.max_minutes / (2 * PREVIEWS))
    return found


def newest(folder: Path) -> dict[str, Any] | None:
    """The newest state in `folder` that can be read."""
    for _, saved in checkpoint.newest(folder):
        if isinstance(saved, dict) and "config" in saved:
            return saved
    return None


def clash(folder: Path, saved: dict[str, Any] | None, config: knobs.Config, digest: str) -> str:
    """Why what is in `folder` is no part of the run of `config`; "" if it is."""
    if saved is not None:
        other = "" if saved.get("data") == digest else "other images"
        return knobs.difference(saved["config"], config) or other
    try:
        return knobs.difference(json.loads((folder / "config.json").read_text("utf-8")), config)
    except (OSError, ValueError, AttributeError):
        return "no config.json"


def job(cell: Cell, config: knobs.Config, data: Data, overwrite: bool) -> Job:
    """What is to do for `cell`, as its folder in checkpoints/ tells."""
    folder = Path("checkpoints") / cell.name
    flags = cell.flags | enough_previews(config, cell.flags, data)
    start = [f"{knobs.flag(name)}={value}" for name, value in flags.items()]
    saved = newest(folder)
    if saved is None and not [*folder.glob("*.pth"), *(Path("imgs") / cell.name).glob("*.png")]:
        return Job(cell, config, start, "starts")
    if why := clash(folder, saved, config, data.digest):
        if not overwrite:
            raise Refused(
                f"{folder} holds another run ({why}); --name=... starts a comparison beside it, "
                "--overwrite replaces such runs"
            )
        return Job(cell, config, [*start, "--overwrite"], f"replaces another run ({why})")
    if saved is None:
        return Job(cell, config, [*start, "--overwrite"], "its states are gone, starts again")
    shown, seconds = saved["step"] * config.batch_size, saved["seconds"]
    budget = Budget(config, len(data) // config.batch_size)
    if budget.fraction(shown, seconds) >= 1:
        return Job(cell, config, [], "finished before", seconds, curves.FINISHED)
    beside = [f"{knobs.flag(k)}={v}" for k, v in cell.flags.items() if k in knobs.BESIDE]
    return Job(cell, config, ["--resume", *beside], f"goes on at {shown:,} images", seconds)


def jobs(cells: Sequence[Cell], tried: Tried, overwrite: bool) -> list[Job]:
    """All that is to do, everything it needs being there; raises Refused if something is not."""
    configs = {cell.name: runs.configured(cell.flags) for cell in cells}  # mistakes before any work
    data: dict[str, Data] = {}
    said: set[str] = set()
    for cell in cells:
        if cell.setting not in data:  # its other seeds need nothing more
            with contextlib.redirect_stdout(io.StringIO()) as out:
                data[cell.setting] = tried(configs[cell.name])
            new = [line for line in out.getvalue().splitlines() if line not in said]
            print("\n".join(new), end="\n" if new else "")
            said.update(new)
    return [job(cell, configs[cell.name], data[cell.setting], overwrite) for cell in cells]


class Children:
    """Trainings in processes of their own. Within it a signal goes to the one that is running.

    Each is the leader of a session: a Ctrl-C reaches it once, from here. The first one has it save
    and stop, a second one stops it at once; `signal` keeps the number.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.running: subprocess.Popen[str] | None = None
        self.before: dict[int, Any] = {}

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if self.running:
            self.running.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

    def __enter__(self) -> "Children":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup stays nohup
                self.before[number] = signal.signal(number, self._pass_on)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def train(self, words: Sequence[str]) -> str:
        """Train; "" or, if that did not work out, the last line it wrote to stderr."""
        process = subprocess.Popen(
            [*TRAIN, *words],
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=stop_with_parent(),
        )
        self.running, last = process, ""
        if self.signal:  # it came while the process was being made
            process.send_signal(signal.SIGTERM)
        assert process.stderr
        with process:
            for line in process.stderr:
                print(line, end="", file=sys.stderr, flush=True)
                last = line.strip() or last
        self.running = None
        code = process.returncode
        if code < 0 or code > 128:
            number = -code if code < 0 else code - 128
            return f"signal {number}{', often too little memory' * (number == signal.SIGKILL)}"
        return (last.removeprefix("main.py: ") or f"exit code {code}") if code else ""


def stop_with_parent() -> Callable[[], Any] | None:
    """What a child calls first: its parent killed, Linux sends it SIGTERM, at which it saves."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
    return functools.partial(prctl, 1, signal.SIGTERM) if prctl else None  # PR_SET_PDEATHSIG


def announce(jobs: Sequence[Job]) -> None:
    """What is about to happen."""
    settings = len({job.cell.setting for job in jobs})
    todo = [job for job in jobs if job.words]
    text = f"{len(jobs)} runs, {settings} settings: {len(jobs) - len(todo)} finished before"
    if todo:
        text += f", {len(todo)} to do"
        if all(job.config.max_minutes for job in todo):
            minutes = sum(job.config.max_minutes - job.seconds / 60 for job in todo)
            text += f" in about {minutes:.0f} minutes"
        text += "; Ctrl-C saves and stops"
    print(f"compare: {text}", flush=True)


def page(path: Path, jobs: Sequence[Job], name: str, command: str) -> list[dict[str, Any]]:
    """Write the page of what there is."""
    drawn = [
        curves.Run(
            job.cell.name,
            job.cell.setting,
            job.cell.seed,
            Path("runs") / job.cell.name / "log.jsonl",
            Path("imgs") / job.cell.name,
            job.state,
        )
        for job in jobs
    ]
    notes = []
    if len({tuple(getattr(job.config, knob) for knob in OF_DATA) for job in jobs}) > 1:
        notes.append("The settings differ in their data: their scores do not compare.")
    return compare.write_page(path, drawn, f"Comparison: {name}", command, notes)


def play(whole: dict[str, Any], cells: Sequence[Cell], tried: Tried, command: str) -> int:
    """Train what is not finished, write the page; returns the exit code."""
    path = Path(whole["report"] or "compare.html")
    if importlib.util.find_spec("matplotlib") is None:
        raise Refused("compare draws with matplotlib: pip install -r requirements.txt")
    todo = jobs(cells, tried, whole["overwrite"])
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise Refused(f"--report={path}: cannot be written")
    announce(todo)
    drawn = time.monotonic()
    with Children() as children:
        for number, job in enumerate(todo, 1):
            print(f"compare: [{number}/{len(todo)}] {job.cell.name}: {job.plan}", flush=True)
            if not job.words:
                continue
            if children.signal:
                break
            error = children.train(job.words)
            job.state = f"failed: {error}" if error else curves.FINISHED
            if children.signal:
                job.state = "stopped half-way" if error else curves.FINISHED
                break
            if error:
                print(f"compare: {job.cell.name} failed: {error}", flush=True)
            if time.monotonic() - drawn > DRAW_EVERY:
                page(path, todo, whole["name"], command)
                drawn = time.monotonic()
    rows = page(path, todo, whole["name"], command)
    print(compare.text_table(rows))
    files = (path, path.with_suffix(".png"), path.with_suffix(".json"))
    print("compare: page {}, curves {}, numbers {}".format(*files))
    open_ones = [job for job in todo if job.state != curves.FINISHED]
    if children.signal and open_ones:
        print(f"stopped; go on with: {command}")
        return 128 + children.signal
    if open_ones:
        print(f"compare: {len(open_ones)} of {len(todo)} failed; the same command tries again")
    return 1 if open_ones else 0
