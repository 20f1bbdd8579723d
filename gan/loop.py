"""*The* training loop: `fit` plays any family's game within a budget, saves, logs, resumes."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gan import checkpoint, health, sample
from gan.budget import Budget, Stop
from gan.data import Images
from gan.errors import Refused
from gan.feed import FEEDS, Feed
from gan.losses import Batch
from gan.pairs import Sides
from gan.report import Report
from gan.state import State

KEEP = 2  # states: the newest, and the one before it should the newest be damaged
EVAL_FAKES = 256  # drawn for a score in mid-run
EVAL_SHARE = 0.05  # of the budget between two scores, and of the time that scoring may take
MAX_RESCUES = 3
FREE_SAVES = 20  # of a session; after these, saves by epochs are a minute apart at least
GAP_EVERY = 10  # readings from one look at held-out images to the next

Data = Images | Sides
Score = Callable[[Any], dict[str, float]]  # uint8 [N, C, H, W] -> named scores; "score": the less


@dataclass(frozen=True)
class Folders:
    """Where a run writes."""

    checkpoints: Path
    imgs: Path
    runs: Path


@dataclass(frozen=True)
class Outcome:
    """How `fit` ended."""

    state: Path
    epoch: int
    images: int
    seconds: float
    signal: int | None  # what stopped it before its budget was spent


def update(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def train_step(family: Any, state: State, batch: Batch) -> dict[str, Tensor]:
    """One batch: D if `step % d_every == 0`, then G if it is due.

    The fakes of a batch are drawn once, with a graph only if G is due; D's weights ask for no
    gradients in G's update, which spares a third of D's backward pass.
    """
    nets, config = state.nets, state.config
    g_due = state.g_due
    nets.G.requires_grad_(g_due)
    logs: dict[str, Tensor] = {}
    # bfloat16 keeps float32's range, so no loss has to be scaled
    mixed = (
        torch.autocast(state.device.type, torch.bfloat16)
        if config.amp is True
        else contextlib.nullcontext()
    )
    if state.step % config.d_every == 0:
        nets.D.requires_grad_(True)
        with mixed:
            loss, more = family.d_loss(nets, batch, config)
        update(loss, state.opt_d)
        logs |= more
        if family.after_d:
            family.after_d(nets, config)
    if g_due:
        nets.D.requires_grad_(False)
        with mixed:
            loss, more = family.g_loss(nets, batch, config)
        update(loss, state.opt_g)
        logs |= more
    state.step += 1
    if state.ema:
        state.ema.update(nets.G, config.batch_size, state.images)
    return logs


def rehearse(family: Any, config: Any, data: Data, device: torch.device) -> None:
    """The first step, thrown away; raises whatever it does, such as MemoryError."""
    state = State(family, config, device)
    train_step(family, state, FEEDS[family.data](config, data, device).batch(0))


class Run:
    """One session of a run: its state, its clock, what it watches and what it writes."""

    def __init__(
        self,
        state: State,
        data: Data,
        feed: Feed,
        folders: Folders,
        score: Score | None,
        events: Iterable[dict[str, Any]],
    ) -> None:
        self.state, self.data, self.folders, self.score = state, data, folders, score
        config = state.config
        self.feed = feed
        self.steps_per_epoch = len(data) // config.batch_size
        self.budget = Budget(config, self.steps_per_epoch)
        self.began = time.monotonic()
        self.started = self.began - state.seconds
        self.saved_at = self.began
        self.saved: tuple[int, Path] | None = None
        self.saves = 0
        if self.fraction() >= 1:
            raise Refused(
                f"--resume: the budget of this run is spent ({state.images:,} images, "
                f"{state.seconds / 60:.1f} minutes); give a larger --max-epoch, --max-images or "
                "--max-minutes"
            )
        checkpoint.write_beside(folders.checkpoints / "config.json", config.save)
        self.report = Report(folders.runs, state.step, state.images, self.fraction())
        for event in events:
            self.report.event(state.step, event)
        self.window = (self.began, state.step)
        self.scored_at = self.fraction()
        self.scoring = 0.0  # seconds of this session

    def fraction(self) -> float:
        return self.budget.fraction(self.state.images, self.state.seconds)

    @property
    def epoch(self) -> int:
        """The pass over the data that the last step was part of, from 1."""
        return -(-self.state.step // self.steps_per_epoch)

    def aside(self, began: float) -> None:
        """Leave the time since `began`, which was no training, out of the images/s."""
        self.window = (self.window[0] + time.monotonic() - began, self.window[1])

    def log_due(self) -> bool:
        """Every `log_every` steps, in one that updated G: in others there is less to look at."""
        step, every = self.state.step, self.state.config.log_every
        period = self.state.g_period(step - 1)
        return (step - 1) % period == 0 and step >= every and step % every < period

    def log(self, batch: Batch) -> None:
        """Write the averages since the last log, and act on what they say of the game's health."""
        state, now = self.state, time.monotonic()
        finite = state.meters.finite()
        reading = self.look(batch, finite)
        means = {name: mean for name, mean in state.meters.read().items() if finite}
        reading.pair_auc = means.get("pair_auc")
        then, step = self.window
        speed = (state.step - step) * state.config.batch_size / max(now - then, 1e-9)
        signals = {"diversity": reading.diversity, "gradient": reading.gradient, "gap": reading.gap}
        values = {
            "epoch": state.step / self.steps_per_epoch,
            "seconds": round(state.seconds, 1),
            "images/s": speed,
            **means,
            **{name: value for name, value in signals.items() if value is not None},
        }
        self.report.scalars(state.step, state.images, values)
        self.window = (now, state.step)
        for alarm in state.monitor.read(reading):
            self.report.say(f"health: {alarm.line}")
            self.report.event(state.step, {"event": "health", **dataclasses.asdict(alarm)})
            if alarm.rescue:
                self.rescue(alarm)

    def look(self, batch: Batch, finite: bool) -> health.Reading:
        """The signals of the game's health that the losses do not hold."""
        state = self.state
        reading = health.Reading(state.step, finite)
        if not finite or batch.drawn is None:
            return reading
        fake = batch.drawn.detach()
        if len(fake) > 1:
            reading.diversity = float(
                health.spread(fake) / health.spread(batch.real).clamp(min=1e-6)
            )
        if batch.drawn.requires_grad:  # G was updated with it
            reading.gradient = float(health.gradient_norm(state.nets.G))
        spacing = max(state.config.log_every, state.g_period(state.step - 1))
        if len(fake) > 1 and state.step // spacing % GAP_EVERY == 0:
            unseen = self.feed.unseen()
            if unseen is not None:
                looks = [(images, *batch.condition) for images in (batch.real, fake)]
                reading.gap = health.memory_gap(state.nets.D, looks[0], unseen, looks[1])
        return reading

    def rescue(self, alarm: health.Alarm) -> None:
        """Go back to the best state, or the newest, and on from there at half the rates."""
        state = self.state
        best = self.folders.checkpoints / checkpoint.BEST
        # after a kill the best on disk may be of a step that is still to be done again
        states = checkpoint.states(self.folders.checkpoints)
        paths = [best] if checkpoint.step_of(best) <= state.step else states[:1]
        if not state.config.rescue or not paths or state.rescues == MAX_RESCUES:
            if alarm.kind != "nan":
                return  # a line is all that can be done
            tried = f" after {state.rescues} rescues" if state.rescues else ""
            raise Refused(
                f"step {state.step}: {alarm.line}{tried}; "
                f"{'--resume' if paths else 'start again'} with lower --lr1 and --lr2"
            )
        state.rescues += 1
        state.load_players(checkpoint.load(paths[0]))
        state.monitor.forget()
        scale = 0.5**state.rescues
        self.report.say(
            f"rescue {state.rescues} of {MAX_RESCUES}: back to {paths[0]}, learning rates x {scale}"
        )
        self.report.event(
            state.step, {"event": "rescue", "state": str(paths[0]), "rates": scale, **vars(alarm)}
        )

    def payload(self, G: nn.Module) -> dict[str, Any]:
        """The whole state, with the average as it is drawn from."""
        saved = {**self.state.state_dict(), "data": self.data.digest}
        return {**saved, "ema": G.state_dict()} if self.state.ema else saved

    def save(self) -> None:
        """Preview, weights and state; the state last, so that whatever it names exists."""
        state = self.state
        began = time.monotonic()
        G = state.sampler(self.feed.inputs)
        preview = self.feed.preview(G)
        sample.save_picture(sample.as_picture(preview), self.folders.imgs / f"{self.epoch}.png")
        self.report.picture("preview", preview, state.images)
        when = {"images": state.images, "seconds": round(state.seconds, 1)}
        self.report.event(state.step, {"event": "save", **when, "preview": f"{self.epoch}.png"})
        folder = self.folders.checkpoints
        checkpoint.save(folder / f"netg_{self.epoch}.pth", G.state_dict())
        checkpoint.save(folder / f"netd_{self.epoch}.pth", state.nets.D.state_dict())
        path = checkpoint.state_of(folder, state.step)
        checkpoint.save(path, self.payload(G))
        checkpoint.prune(path, KEEP)
        self.saved, self.saved_at = (state.step, path), time.monotonic()
        self.saves += 1
        self.aside(began)

    def save_due(self) -> bool:
        config, since = self.state.config, time.monotonic() - self.saved_at
        by_epochs = self.state.step % (config.save_every * self.steps_per_epoch) == 0
        if by_epochs and (self.saves < FREE_SAVES or since >= 60):
            return True
        return since >= 60 * config.save_minutes

    def evaluate(self) -> None:
        """Score the average against held-out images; keep the state if it is the best so far."""
        assert self.score is not None
        state, config = self.state, self.state.config
        began = time.monotonic()
        G = state.sampler(self.feed.inputs)
        z = self.feed.to_score(EVAL_FAKES)
        scores = self.score(sample.draw_uint8(G, z, config.batch_size, state.device).numpy())
        if state.best is None or scores["score"] < state.best:
            state.best = scores["score"]
            checkpoint.save(self.folders.checkpoints / checkpoint.BEST, self.payload(G))
        self.report.scores(state.step, state.images, state.seconds, scores)
        self.scored_at = self.fraction()
        self.scoring += time.monotonic() - began
        self.aside(began)

    def evaluate_due(self) -> bool:
        if self.score is None:
            return False
        config, images = self.state.config, self.state.images
        if config.eval_every:  # whatever was scored before: a resumed run scores where it would
            return images % config.eval_every < config.batch_size
        spent = self.scoring / (time.monotonic() - self.began)
        return self.fraction() - self.scored_at >= EVAL_SHARE and spent < EVAL_SHARE

    def play(self, family: Any) -> Outcome:
        """Train until the budget is spent or a signal comes; then save."""
        state = self.state
        with Stop() as stop:
            while self.fraction() < 1 and stop.signal is None:
                state.set_rates(self.fraction())
                batch = self.feed.batch(state.step)
                state.meters.add(train_step(family, state, batch))
                state.seconds = time.monotonic() - self.started
                spent = self.fraction() >= 1
                save = self.save_due() or spent or stop.signal is not None
                evaluate = self.evaluate_due() or (spent and self.score is not None)
                # whatever is to be saved is looked at first: no state of NaN replaces a good one
                doubt = (save or evaluate) and not state.meters.finite()
                if self.log_due() or doubt:
                    self.log(batch)
                if evaluate:
                    self.evaluate()
                if save:
                    self.save()
                self.report.progress(self.fraction())
            if self.saved is None or self.saved[0] != state.step:  # a signal while scoring
                if not state.meters.finite():
                    self.log(batch)
                self.save()
        assert self.saved is not None
        return Outcome(self.saved[1], self.epoch, state.images, state.seconds, stop.signal)


def keep_best(state: State, path: Path, digest: str) -> None:
    """Take over the score of the best state on disk, which may be later than the newest."""
    try:
        best = checkpoint.load(path)
    except Refused:
        return
    if best.get("data") == digest:
        state.best = min(score for score in (best["best"], state.best) if score is not None)


def fit(
    family: Any,
    config: Any,
    data: Data,
    folders: Folders,
    device: torch.device,
    *,
    saved: dict[str, Any] | None = None,
    start: Callable[[Any], None] | None = None,
    score: Score | None = None,
    events: Iterable[dict[str, Any]] = (),
) -> Outcome:
    """Train `family` on `data` within the budget of `config`.

    `saved` is a state to go on from; `start(nets)` loads given weights into a new run; `score`
    rates drawn pictures in mid-run; `events` are written to the log first. Raises Refused if the
    state belongs to other images.
    """
    if saved is not None and saved["data"] != data.digest:
        raise Refused(
            f"--resume: the run was trained on other images than the {len(data):,} in "
            f"{data.folder}; start a new run from its weights with --netg-path and --netd-path"
        )
    state = State(family, config, device)
    if start:
        start(state.nets)
        state.restart()
    if saved is not None:
        try:
            state.load_state_dict(saved)
        except (KeyError, RuntimeError, ValueError) as error:
            raise Refused(
                f"--resume: this state does not fit, it may be of another version of the toolkit "
                f"({str(error).strip().splitlines()[-1].strip()}); start a new run with --name=..."
            ) from None
        keep_best(state, folders.checkpoints / checkpoint.BEST, data.digest)
    feed = FEEDS[family.data](config, data, device)
    run = Run(state, data, feed, folders, score, events)
    try:
        return run.play(family)
    finally:
        run.report.close()
