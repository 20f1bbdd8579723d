"""The training loop: `fit` trains any family within its budget, and logs, scores and saves."""

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import nn

from config import write_config
from gan import checkpoint, distributed, filesystem, health, job, sample, validate
from gan.errors import Refused
from gan.evaluation import Score
from gan.losses import Batch
from gan.reading import take_reading
from gan.report import Report, Silent
from gan.saves import Folders, Saves
from gan.schedule import PAUSE_SHARE, Pauses, Schedule, Stop
from gan.state import SavedState, State, comparable_best
from gan.step import train_step
from gan.tasks import Data

SCORED_FAKES = 256  # generated for a score in mid-run
LITE0_SECONDS = 5.0  # a guess: features of that many images at both sizes, on a CPU
ANNOUNCED_SECONDS = 5.0  # of training, after which its speed is known
MAX_RESCUES = 3


@dataclass(frozen=True)
class Outcome:
    """How `fit` ended."""

    state: Path
    epoch: int
    images: int
    seconds: float  # of training, all sessions of the run together
    scoring: float  # seconds of this session
    saving: float  # the same
    signal: int | None  # that stopped it before its budget was spent


class Due(NamedTuple):
    """What is due after a step."""

    save: bool
    score: bool
    spent: bool  # whether the budget is
    signal: int  # that stops the run, 0 for none


class Session:
    """One session of a run: its state, its data, what it writes, and when."""

    def __init__(
        self,
        state: State,
        data: Data,
        folders: Folders,
        score: Score | None,
        events: Iterable[dict[str, object]],
    ) -> None:
        self.state, self.score = state, score
        config = state.config
        self.stopped, self.looked = 0.0, time.monotonic()
        self.began = self.now()
        self.feed = state.family.task.feed(config, state.facts, data, state.device)
        steps = len(data) // config.batch_size
        self.schedule = Schedule(config, state.family.updates, steps, self.began)
        self.schedule.scored_at = self.schedule.begun_at = self.fraction
        self.trained_before, self.images_before = state.seconds, state.images
        self.started = self.began - state.seconds
        self.batch: Batch  # of the last step
        self.announced = False  # when the training will end
        if self.fraction >= 1:
            raise Refused(
                f"--resume: the budget of this run is spent ({state.images:,} images, "
                f"{state.seconds / 60:.1f} minutes); give a larger --max-epoch, --max-images or "
                "--max-minutes"
            )
        self.report: Report = Silent()
        if job.is_first():
            filesystem.atomic_write(
                folders.checkpoints / "config.json",
                lambda part: write_config(config, state.facts, part),
            )
            self.report = Report(folders.runs, state.step, state.images, self.fraction)
        self.saves = Saves(state, self.feed, folders, self.schedule, self.report, data.digest)
        self.report.log_settings(vars(config), state.images)
        for event in events:
            self.report.log_event(state.step, event)
        self.speed_from = (self.began, state.step)  # where the next images/s start to count

    @property
    def fraction(self) -> float:
        """How much of the budget is spent, 0 to 1."""
        return self.schedule.budget.fraction(self.state.images, self.state.seconds)

    @property
    def epoch(self) -> int:
        return self.schedule.epoch(self.state.step)

    def now(self) -> float:
        """Seconds on a clock that stands still while the process does (Ctrl-Z)."""
        self.looked = time.monotonic()
        return self.looked - self.stopped

    def note_continued(self) -> None:
        """The process was stopped and goes on; since when is known to a step or a pause."""
        self.stopped += time.monotonic() - self.looked
        self.looked = time.monotonic()

    @contextlib.contextmanager
    def pause(self, pauses: Pauses) -> Iterator[None]:
        """A context whose time counts in `pauses`, neither in the budget nor in the images/s."""
        began = self.now()
        yield
        seconds = self.now() - began
        pauses.add(seconds)
        took = {"event": "pause", "what": pauses.what, "took": round(seconds, 2)}
        self.report.log_event(self.state.step, took)
        self.leave_out(seconds)

    def leave_out(self, seconds: float) -> None:
        """Count `seconds` until now neither in the budget nor in the images/s."""
        self.started += seconds
        then, step = self.speed_from
        self.speed_from = (then + seconds, step)

    def settle(self) -> None:
        """Tell what became of a save that was written in the background, if it has ended."""
        if self.saves.writer.is_busy:
            began = self.now()
            self.saves.settle(wait=False)
            self.leave_out(self.now() - began)

    def log(self, batch: Batch) -> None:
        """Write the averages since the last log line, and act on the health alarms they raise."""
        state, now = self.state, self.now()
        reading = take_reading(state, batch, self.feed, self.schedule.health_due(state.step))
        means = {name: mean for name, mean in state.meters.read().items() if reading.finite}
        reading.pair_auc = means.get("pair_auc")
        then, step = self.speed_from
        speed = (state.step - step) * state.config.batch_size / max(now - then, 1e-9)
        signals = {"diversity": reading.diversity, "gradient": reading.gradient, "gap": reading.gap}
        values = {
            "epoch": state.step / self.schedule.steps_per_epoch,
            "seconds": round(state.seconds, 1),
            "images/s": speed,
            **means,
            **{name: value for name, value in signals.items() if value is not None},
        }
        self.report.log_scalars(state.step, state.images, values)
        self.speed_from = (now, state.step)
        for alarm in state.monitor.read(reading):
            self.report.print_line(f"health: {alarm.line}", "yellow")
            self.report.log_event(state.step, {"event": "health", **dataclasses.asdict(alarm)})
            if alarm.rescue:
                self.rescue(alarm)

    def rescue(self, alarm: health.Alarm) -> None:
        """Load the best state, or the newest, and go on from there at half the learning rates."""
        state = self.state
        found = distributed.from_first(lambda: next(self.saves.earlier_states(), None))
        if not state.config.rescue or not found or state.rescues == MAX_RESCUES:
            if alarm.kind != "nan":
                return  # the line is all that can be done
            tried = f" after {state.rescues} rescues" if state.rescues else ""
            raise Refused(
                f"step {state.step}: {alarm.line}{tried}; "
                f"{'--resume' if found else 'start again'} with lower --lr1 and --lr2"
            )
        state.rescues += 1
        path, saved = found
        state.load_players(saved)
        state.monitor.forget()
        scale = 0.5**state.rescues
        line = f"rescue {state.rescues} of {MAX_RESCUES}: back to {path}"
        self.report.print_line(f"{line}, learning rates x {scale}", "yellow")
        self.report.log_event(
            state.step, {"event": "rescue", "state": str(path), "rates": scale, **vars(alarm)}
        )

    def evaluate(self, G: nn.Module) -> None:
        """Score the average against held-out images; keep the state if it is the best so far."""
        assert self.score is not None
        state = self.state
        inputs = self.feed.scored_inputs(SCORED_FAKES)
        fakes = sample.draw_together(G, inputs, state.config.batch_size, state.device)
        scores = self.score(fakes.numpy())
        self.saves.keep_if_best(G, scores["score"])
        self.report.log_scores(state.step, state.images, state.seconds, scores)
        self.schedule.scored_at = self.fraction

    def step(self) -> None:
        """Train on one batch."""
        state = self.state
        state.set_rates(self.fraction)
        self.batch = self.feed.batch(state.step)
        parts = state.facts.accumulate
        state.meters.add(train_step(state, self.batch))
        if state.facts.accumulate > parts:
            self.note_parts()
        state.seconds = self.now() - self.started
        schedule = self.schedule
        schedule.trained = state.seconds - self.trained_before
        if not schedule.scores.seconds:  # drawing takes about an eighth of a step
            seconds_per_image = schedule.trained / (state.images - self.images_before)
            schedule.scores.next = LITE0_SECONDS + SCORED_FAKES * seconds_per_image / 8

    def note_parts(self) -> None:
        """Say that memory was short, and that each step now takes the batch in parts."""
        config, parts = self.state.config, self.state.facts.accumulate
        line = (
            f"out of memory: {config.batch_size} images a step as before, "
            f"{config.batch_size // parts} at a time (--accumulate={parts})"
        )
        self.report.print_line(line, "yellow")
        self.report.log_event(self.state.step, {"event": "accumulate", "parts": parts})

    def decide(self, signal: int) -> Due:
        """What is due after this step: for all processes, by the clock of the first one.

        A `signal` to any of them, 0 if there was none, stops all.
        """
        state, schedule = self.state, self.schedule
        mine = [0.0, 0.0, 0.0]
        if job.is_first():
            save = schedule.save_due(state.step, time.monotonic())
            score = schedule.score_due(state.images, self.fraction)
            mine = [state.seconds, save, score]
        *mine, any_signal = distributed.agree([*mine, signal])
        state.seconds, save, score = mine[0], bool(mine[1]), bool(mine[2])
        spent = self.fraction >= 1
        return Due(save or spent or any_signal > 0, score or spent, spent, int(any_signal))

    def write_due(self, stopped: int = 0) -> int:
        """Log, score and save what is due after a step; the last step is scored and saved.

        `stopped` is the signal that came, 0 for none; returns that of any process.
        """
        self.settle()
        state, schedule, due = self.state, self.schedule, self.decide(stopped)
        evaluate = self.score is not None and due.score
        # check first what is to be saved: a state of NaN must not replace a good one
        risky = (due.save or evaluate) and not state.meters.all_finite()
        if schedule.log_due(state.step) or risky:
            self.log(self.batch)
        if evaluate:
            what = f"taking the {'last ' * due.spent}score"
            self.report.show_pause(self.fraction, what, schedule.scores.next)
            with self.pause(schedule.scores):
                G = state.sampler(self.feed.inputs)
                self.evaluate(G)
        if due.save:
            last = due.spent or due.signal > 0
            seconds = schedule.saves.next + self.saves.behind * last
            self.report.show_pause(self.fraction, "saving", seconds)
            with self.pause(schedule.saves):
                G = G if evaluate else state.sampler(self.feed.inputs)
                self.saves.try_save(G, last=last)
        self.show_progress()
        return due.signal

    def show_progress(self) -> None:
        """Show how far the training is and, once its speed is known, when it will end."""
        state, schedule = self.state, self.schedule
        left = schedule.seconds_left(min(self.fraction, 1.0))
        if not self.announced and schedule.trained >= ANNOUNCED_SECONDS and self.fraction < 1:
            self.announced = True
            speed = (state.images - self.images_before) / schedule.trained
            pauses = PAUSE_SHARE * left + schedule.scores.next + schedule.saves.next
            self.report.announce_end(speed, left, pauses)
        self.report.show_progress(self.fraction, state.images, left)

    def run(self) -> Outcome:
        """Train until the budget is spent or a signal comes; then save."""
        state = self.state
        with Stop(self.note_continued) as stop:
            signal = 0
            while self.fraction < 1 and not signal:
                self.step()
                signal = self.write_due(stop.signal or 0)
                if distributed.count() == 1 and stop.signal:  # it came while scoring
                    signal = stop.signal
            if self.saves.writer.is_busy:
                with self.pause(self.schedule.saves):
                    self.saves.settle(wait=True)
            if self.saves.last is None or self.saves.last.step != state.step:
                if not state.meters.all_finite():
                    self.log(self.batch)
                with self.pause(self.schedule.saves):
                    self.saves.try_save(state.sampler(self.feed.inputs), last=True)
        saved = self.saves.last
        assert saved is not None
        stopped = signal if self.fraction < 1 and signal else None  # a finished run cannot go on
        scoring, saving = self.schedule.scores.seconds, self.schedule.saves.seconds
        epoch = self.epoch
        return Outcome(saved.path, epoch, state.images, state.seconds, scoring, saving, stopped)

    def close(self) -> None:
        """Wait for what is being written, and close the report."""
        try:
            self.saves.settle(wait=True)
        finally:
            self.report.close()


def resume(state: State, saved: SavedState, data: Data, folders: Folders) -> None:
    """Load a saved state; raises Refused if it is of other images or does not fit."""
    if saved["data"] != data.digest:
        raise Refused(
            f"--resume: the run was trained on other images than the {len(data):,} in "
            f"{data.folder}; start a new run from its weights with --netg-path and --netd-path"
        )
    try:
        state.load_state_dict(saved)
    except Exception as error:  # a state of another version may lack anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise Refused(
            f"--resume: this state does not fit, it may be of another version of the toolkit "
            f"({reason}); start a new run with --name=..."
        ) from None
    keep_best(state, folders.checkpoints / checkpoint.BEST, data.digest)


def keep_best(state: State, path: Path, digest: str) -> None:
    """Take over the score of the best state on disk, which may be later than the newest state."""
    try:
        best = checkpoint.load(path)
    except Refused:
        return
    if not validate.state_problem(best, to_resume=True) and best["data"] == digest:
        scores = (comparable_best(best), state.best)
        state.best = min((score for score in scores if score is not None), default=None)


def fit(
    state: State,
    data: Data,
    folders: Folders,
    *,
    score: Score | None = None,
    events: Iterable[dict[str, object]] = (),
) -> Outcome:
    """Train `state` on `data` within the budget of its config.

    `score` rates generated pictures during training; `events` are written to the log first. Raises
    Refused if the budget is spent already, or if the losses stay NaN.
    """
    session = Session(state, data, folders, score, events)
    try:
        return session.run()
    finally:
        session.close()
