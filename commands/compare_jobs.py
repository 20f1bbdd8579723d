"""The jobs of a comparison: what is left of each run, trained one by one in child processes.

The children say only what went wrong; how far they are stands in their logs, and is shown here.
"""

import contextlib
import ctypes
import functools
import io
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from commands import compare_curves, compare_page, places, runs, train
from commands.compare_curves import FINISHED
from commands.compare_plan import Plan, PlannedRun
from config import OPERATIONAL, Config, RunFacts, Settings, Value, difference, flag
from gan import checkpoint, console
from gan.console import result, say, say_table, shown
from gan.errors import Refused, counted
from gan.progress import Progress
from gan.schedule import Budget
from models import read_state_to_resume, settings_of

if TYPE_CHECKING:
    from gan.state import SavedState
    from gan.tasks import Data

MAIN = Path(__file__).resolve().parent.parent / "main.py"
TRAIN = [sys.executable, str(MAIN), "train"]
MIN_PREVIEWS = 4  # of each run
PAGE_SECONDS = 60.0  # between two updates of the page
LOOK_SECONDS = 1.0  # between two looks at the log of a run that trains
LOG_BYTES = 2**16  # at the end of a log, in which the newest line of each kind is
CLOSED = getattr(signal, "SIGHUP", signal.SIGTERM)  # of a closed terminal; Windows has none
SIGKILL = 9  # nor this one
# settings of the data: scores on different data are not comparable
OF_DATA = (
    "data_path", "img_size", "channels", "channels_a", "channels_b", "held_out", "direction",
)  # fmt: skip


@dataclass
class Job:
    """A run of the comparison, and what is left to do for it."""

    run: PlannedRun
    config: Config
    words: list[str]  # arguments for `train`; empty if the run is finished
    todo: str
    budget: Budget
    images: int = 0  # that D has been shown
    seconds: float = 0.0  # of training so far
    state: str = "to do"

    @property
    def share(self) -> float:
        """How much of it is done, 0 to 1; what has failed is done with."""
        if self.state != "to do":
            return 1.0
        return min(self.budget.fraction(self.images, self.seconds), 1.0)

    def look(self) -> list[str]:
        """Read how far it is in its log; returns that in words."""
        newest: dict[str, float] = {}
        for line in last_lines(places.folder_of("runs", self.run.name) / "log.jsonl"):
            for name in ("images", "seconds", "score"):
                if isinstance(value := line.get(name), int | float):
                    newest[name] = value
        if "images" not in newest:
            return []
        self.images, self.seconds = int(newest["images"]), newest.get("seconds", self.seconds)
        score = [f"score {newest['score']:.3f}"] if "score" in newest else []
        return [counted(self.images, "image"), *score]


def last_lines(log: Path) -> Iterator[dict[str, object]]:
    """The newest lines of a log; none if it cannot be read."""
    with contextlib.suppress(OSError), open(log, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
        for text in file.read().splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                if isinstance(line := json.loads(text), dict):
                    yield line


def enough_previews(config: Config, given: Settings, images: int) -> Settings:
    """Settings with which a run of `config` has MIN_PREVIEWS, unless `given` already says when."""
    if "save_every" in given or "save_minutes" in given:
        return {}
    per_epoch = images // config.batch_size * config.batch_size
    limits = [config.max_epoch, config.max_images / per_epoch]
    epochs = min((limit for limit in limits if limit), default=0.0)
    found: Settings = {}
    if epochs:
        found["save_every"] = min(config.save_every, max(1, int(epochs / MIN_PREVIEWS)))
    # twice as many: previews are compared at equal images, not at equal minutes
    if config.max_minutes:
        found["save_minutes"] = min(config.save_minutes, config.max_minutes / (2 * MIN_PREVIEWS))
    return found


def newest_state(folder: Path) -> "SavedState | None":
    """The newest state in `folder` that can be read."""
    return next((saved for _, saved in checkpoint.newest(folder, read_state_to_resume)), None)


def saved_settings(state: "SavedState") -> Mapping[str, Value]:
    """The settings of a saved run, with what became of those that were "auto"."""
    facts = RunFacts.of_state(state)
    return {**settings_of(state), "amp": facts.mixed_precision, "flip": facts.flip}


def conflict(folder: Path, saved: "SavedState | None", config: Config, digest: str) -> str:
    """How the run in `folder` differs from the run of `config`; "" if it does not."""
    if saved is not None:
        other = "" if saved.get("data") == digest else "other images"
        return difference(saved_settings(saved), config) or other
    try:
        return difference(json.loads((folder / "config.json").read_text("utf-8")), config)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return "no config.json"


def plan_job(run: PlannedRun, config: Config, data: "Data", overwrite: bool) -> Job:
    """What is left to do for `run`, judging by its folder in checkpoints/."""
    folder, imgs = (places.folder_of(kind, run.name) for kind in ("checkpoints", "imgs"))
    start = run.words(enough_previews(config, run.given, len(data)))
    budget = Budget(config, len(data) // config.batch_size)
    saved = newest_state(folder)
    if saved is None and not [*folder.glob("*.pth"), *imgs.glob("*.png")]:
        return Job(run, config, start, "starts", budget)
    if why := conflict(folder, saved, config, data.digest):
        if not overwrite:
            raise Refused(
                f"{folder} holds another run ({why}); --name=... starts another comparison, "
                "--overwrite replaces such runs"
            )
        return Job(run, config, [*start, "--overwrite"], f"replaces another run ({why})", budget)
    if saved is None:
        again = "its states are gone, starts again"
        return Job(run, config, [*start, "--overwrite"], again, budget)
    images, seconds = saved["step"] * config.batch_size, saved["seconds"]
    if budget.fraction(images, seconds) >= 1:
        return Job(run, config, [], "finished before", budget, images, seconds, FINISHED)
    kept = [f"{flag(k)}={v}" for k, v in run.given.items() if k in OPERATIONAL]
    on = f"goes on at {images:,} images"
    return Job(run, config, ["--resume", *kept], on, budget, images, seconds)


def plan_jobs(plan: Plan) -> list[Job]:
    """The jobs of all runs; raises Refused if anything that one of them needs is missing."""
    # all configs first, so that a mistake is found before any work is done
    configs = {run.name: runs.new_config(run.given, run.config_file) for run in plan.runs}
    data: dict[str, Data] = {}
    said: set[str] = set()
    for run in plan.runs:
        if run.setting not in data:  # other seeds use the same data
            with contextlib.redirect_stdout(io.StringIO()) as out:
                data[run.setting], _ = train.prepare(configs[run.name])
            new = [line for line in out.getvalue().splitlines() if line not in said]
            for line in new:
                say(line)
            said.update(new)
    overwrite = plan.options.overwrite
    return [plan_job(run, configs[run.name], data[run.setting], overwrite) for run in plan.runs]


class Children:
    """Runs `train` in child processes. Within this context, signals go to the running child.

    Each child leads a session of its own, so that a Ctrl-C reaches it once, from here. The first
    signal makes it save and stop, the second stops it at once. `signal` is the number of the last.
    While a child trains, `look` is called now and then, and what it says on stderr goes to `write`.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.job: Job | None = None  # of the child
        self.look: Callable[[], object] = lambda: None
        self.write: Callable[[str], object] = write_to_stderr
        self.running: subprocess.Popen[str] | None = None
        self.before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        # on Windows a Ctrl-C reaches the child by itself, and cannot be sent
        if self.running and not (sys.platform == "win32" and number == signal.SIGINT):
            self.running.send_signal(signal.SIGTERM if number == CLOSED else number)

    def __enter__(self) -> "Children":
        for number in {signal.SIGINT, signal.SIGTERM, CLOSED}:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup stays nohup
                self.before[number] = signal.signal(number, self._pass_on)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def train(self, words: Sequence[str]) -> str:
        """Run `train`; "" or, if it failed, why: its last line on stderr, or the signal."""
        loud = console.level() == console.VERBOSE
        process = subprocess.Popen(
            [*TRAIN, *words, *([] if loud else [console.QUIET])],
            stdout=None if loud else subprocess.DEVNULL,  # where its state is, the plan says
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=stop_with_parent(),
        )
        self.running, last = process, ""
        if self.signal:  # one came while the process was being started
            process.send_signal(signal.SIGTERM)
        with process:
            for line in self._lines_of(process):
                self.write(line)
                last = line.strip() or last
        self.running = None
        code = process.returncode
        if code < 0 or code > 128:
            number = -code if code < 0 else code - 128
            return f"signal {number}{', often too little memory' * (number == SIGKILL)}"
        return (re.sub(r"^(main\.py|facegan): ", "", last) or f"exit code {code}") if code else ""

    def _lines_of(self, process: "subprocess.Popen[str]") -> Iterator[str]:
        """What a child says on stderr, line by line; in between there are looks."""
        lines: queue.Queue[str] = queue.Queue()  # an empty one is the end

        def listen() -> None:
            for line in process.stderr or ():
                lines.put(line)
            lines.put("")

        threading.Thread(target=listen, daemon=True).start()
        while True:
            try:
                line = lines.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                self.look()
                continue
            if not line:
                return
            yield line


def write_to_stderr(line: str) -> None:
    print(line, end="", file=sys.stderr, flush=True)


def stop_with_parent() -> Callable[[], object] | None:
    """What a child calls first: if its parent is killed, Linux sends it SIGTERM, and it saves."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
    return functools.partial(prctl, 1, signal.SIGTERM) if prctl else None  # PR_SET_PDEATHSIG


def announce(jobs: Sequence[Job]) -> None:
    """Print what is about to be done."""
    settings = len({job.run.setting for job in jobs})
    todo = [job for job in jobs if job.words]
    text = f"{len(jobs)} runs, {settings} settings: {len(jobs) - len(todo)} finished before"
    if todo:
        text += f", {len(todo)} to do"
        if all(job.config.max_minutes for job in todo):
            minutes = sum(job.config.max_minutes - job.seconds / 60 for job in todo)
            text += f" in about {minutes:.0f} minutes"
        text += "; Ctrl-C saves and stops"
    say(f"compare: {text}")


def write_page(
    path: Path, jobs: Sequence[Job], name: str, command: str
) -> list[compare_page.SettingRow]:
    """Write the page of all runs so far; returns the rows of its table."""
    shown = [
        compare_curves.Run(
            job.run.name,
            job.run.setting,
            job.run.seed,
            places.folder_of("runs", job.run.name) / "log.jsonl",
            places.folder_of("imgs", job.run.name),
            job.state,
        )
        for job in jobs
    ]
    notes = []
    if len({tuple(getattr(job.config, name) for name in OF_DATA) for job in jobs}) > 1:
        notes.append("The settings differ in their data: their scores are not comparable.")
    return compare_page.write_comparison(path, shown, f"Comparison: {name}", command, notes)


def train_jobs(jobs: Sequence[Job], children: Children, write: Callable[[], object]) -> None:
    """Train the unfinished runs one after the other; `write` the page every PAGE_SECONDS or so."""
    written = time.monotonic()
    with watching(jobs, children) as tell:
        for number, job in enumerate(jobs, 1):
            tell(f"compare: [{number}/{len(jobs)}] {job.run.name}: {job.todo}")
            if not job.words:
                continue
            if children.signal:
                return
            children.job = job
            error = children.train(job.words)
            job.state = f"failed: {error}" if error else FINISHED
            if children.signal:
                job.state = "stopped half-way" if error else FINISHED
                return
            if error:
                tell(f"compare: {job.run.name} failed: {error}")
            if time.monotonic() - written > PAGE_SECONDS:
                write()
                written = time.monotonic()


@contextlib.contextmanager
def watching(jobs: Sequence[Job], children: Children) -> Iterator[Callable[[str], object]]:
    """Within it, how far all jobs are is shown while the children train; yields what prints a line.

    With `--verbose` each child shows how far it is.
    """
    if console.level() == console.VERBOSE:
        yield say
        return

    def share() -> float:
        return sum(job.share for job in jobs) / len(jobs)

    def look() -> None:
        assert children.job
        facts = children.job.look()
        run = f"run {jobs.index(children.job) + 1} of {len(jobs)}"
        progress.show(share(), lambda: [run, *facts])

    progress = Progress("compare", 1.0, done=share(), lines=sys.stdout)
    children.look = look
    children.write = lambda line: progress.write(line.rstrip("\n"), sys.stderr)
    try:
        yield lambda line: None if console.is_quiet() else progress.write(line)
    finally:
        progress.close()


def run(plan: Plan, path: Path, command: str, shared: str) -> int:
    """Train the unfinished runs and write the page; returns the exit code.

    `command` does so again; `shared` is how the page, which may go to others, shows it.
    """
    jobs = plan_jobs(plan)
    path.parent.mkdir(parents=True, exist_ok=True)
    announce(jobs)
    with Children() as children:
        train_jobs(jobs, children, lambda: write_page(path, jobs, plan.name, shared))
    rows = write_page(path, jobs, plan.name, shared)
    say_table(compare_page.summary(rows))
    files = (path, path.with_suffix(".png"), path.with_suffix(".json"))
    result("compare: page {}, curves {}, numbers {}".format(*map(shown, files)), path)
    unfinished = [job for job in jobs if job.state != FINISHED]
    if children.signal and unfinished:
        say(f"stopped; go on with: {command}")
        return 128 + children.signal
    if unfinished:
        say(f"compare: {len(unfinished)} of {len(jobs)} failed; the same command tries again")
    return 1 if unfinished else 0
