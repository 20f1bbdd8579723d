"""The record of a run: its log as JSON lines, TensorBoard's events, and what is printed of it."""

import datetime
import functools
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchnet.meter import AverageValueMeter

from gan import console
from gan.errors import coloured
from gan.filesystem import atomic_write
from gan.progress import Progress, duration
from gan.record import Curves, LogFile, Spare

LONG_PAUSE_SECONDS = 10.0  # a pause that is named where there is no terminal
SHOWN_VALUES = ("images/s", "loss_d", "loss_g", "D(x)", "D(G(z))")  # the progress names them last
# the groups of TensorBoard's curves; what is not named here is a signal of the training's health
TAGS = {
    "loss_d": "loss/D",
    "loss_g": "loss/G",
    "D(x)": "D/real",
    "D(G(z))": "D/fake",
    "images/s": "speed/images per second",
}


def tag_of(name: str) -> str:
    """Where TensorBoard shows what the log calls `name`."""
    if name in TAGS:
        return TAGS[name]
    return name.replace("_", "/", 1) if name.startswith("loss_") else f"health/{name}"


class Meters:
    """Means of the scalars that the losses log, over the steps since they were last read.

    Values stay on the training device until then, so that no step waits for the host.
    """

    def __init__(self) -> None:
        self.meters: dict[str, AverageValueMeter] = {}
        self.pending: dict[str, list[Tensor]] = {}

    def add(self, logs: Mapping[str, Tensor]) -> None:
        """Add the scalars (0-dimensional tensors) of one step."""
        for name, value in logs.items():
            self.pending.setdefault(name, []).append(value)

    def _fetch(self) -> None:
        for name, values in self.pending.items():
            meter = self.meters.setdefault(name, AverageValueMeter())
            for value in torch.stack(values).tolist():
                meter.add(value)
        self.pending.clear()

    def read(self) -> dict[str, float]:
        """Return the means and reset the meters."""
        self._fetch()
        means = {name: float(meter.value()[0]) for name, meter in self.meters.items()}
        self.meters.clear()
        return means

    def all_finite(self) -> bool:
        """Whether no value since the last `read` was NaN or infinite."""
        self._fetch()
        return all(math.isfinite(meter.sum) for meter in self.meters.values())

    def state_dict(self) -> dict[str, dict[str, float]]:
        """The meters as numbers, so that a resumed run completes the means it had begun."""
        self._fetch()
        return {
            name: {key: float(value) for key, value in vars(meter).items()}
            for name, meter in self.meters.items()
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Restore what `state_dict` returned."""
        for name, values in state.items():
            vars(self.meters.setdefault(name, AverageValueMeter())).update(values)


class Report:
    """The log of one run in `folder`: `log.jsonl` and TensorBoard's events, from step `step` on.

    `images` is how many images D has been shown until then and `fraction` (0..1) the share of the
    budget that is used. Lines later than `step` are removed: they come from steps that a killed run
    did not save and that are now done again. From then on nothing that cannot be written raises:
    it is said, and tried again (`gan.record`).
    """

    def __init__(self, folder: Path, step: int, images: int, fraction: float) -> None:
        path = folder / "log.jsonl"
        kept = [line for line in read_log(path) if line["step"] <= step] if step else []
        text = "".join(json.dumps(line) + "\n" for line in kept)
        atomic_write(path, lambda part: part.write_text(text, encoding="utf-8"))
        self.log = LogFile(path)
        self.tensorboard = Curves(folder, images + 1 if images else None)
        self.spare = Spare(lambda line: self.print_line(line, "yellow"))
        self.progress = Progress("train", 1.0, done=fraction, delay=0.0, lines=sys.stdout)
        self.values: dict[str, float] = {}  # the last that were logged
        self.score: float | None = None  # the last one

    def log_scalars(self, step: int, images: int, values: dict[str, float]) -> None:
        """Log `values`, add them to TensorBoard (against images) and keep them for the progress."""
        self.log_event(step, {"images": images, **values})
        for name, value in values.items():
            if name not in ("epoch", "seconds"):
                self._add_scalar(tag_of(name), value, images)
        self.values = values
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.print_detail(f"train: step {step:,}, {images:,} images: {shown}")

    def log_scores(self, step: int, images: int, seconds: float, scores: dict[str, float]) -> None:
        """Log the scores of an evaluation during training; add them to TensorBoard.

        Those at full size are printed.
        """
        when = {"images": images, "seconds": round(seconds, 1)}
        self.log_event(step, {"event": "score", **when, **scores})
        for name, value in scores.items():
            tag = name.replace("(", "").replace(")", "")
            self._add_scalar(f"scores/{tag}", value, images)
        shown = {name: value for name, value in scores.items() if "half size" not in name}
        text = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
        self.score = scores["score"]
        self.print_line(f"score at {images:,} images: {text}")

    def log_event(self, step: int, values: Mapping[str, object]) -> None:
        """Add a line to the log."""
        line = json.dumps({"step": step, **values}) + "\n"
        self.spare.attempt("lines of the log", lambda: self.log.add(line))

    def _add_scalar(self, name: str, value: float, images: int) -> None:
        add = functools.partial(self.tensorboard.add_scalar, name, value, images)
        self.spare.attempt("curves", add)

    def log_image(self, tag: str, image: Tensor, images: int) -> None:
        """Add `image`, uint8 [3, H, W], to TensorBoard."""
        add = functools.partial(self.tensorboard.add_image, tag, image.numpy(), images)
        self.spare.attempt("curves", add)

    def log_settings(self, settings: Mapping[str, object], images: int) -> None:
        """Add the settings of the run to TensorBoard, as a table."""
        rows = [f"| {name} | {value} |" for name, value in settings.items()]
        text = "\n".join(["| setting | value |", "|---|---|", *rows])
        add = functools.partial(self.tensorboard.add_text, "config", text, images)
        self.spare.attempt("curves", add)

    def show_progress(self, fraction: float, images: int, seconds_left: float) -> None:
        """Show, if it is time to, how much of the budget is used (0..1) and what was logged."""

        def facts() -> list[str]:
            values = self.values
            score = [] if self.score is None else [f"score {self.score:.3f}"]
            shown = [f"{name} {values[name]:.3g}" for name in SHOWN_VALUES if name in values]
            return [f"{images:,} images", *score, *shown]

        if fraction < 1:
            self.progress.show(fraction, facts, seconds_left)

    def show_pause(self, fraction: float, what: str, seconds: float) -> None:
        """Say that the training now waits for `what`: always in a bar, in a line if it is long."""
        text = f"{what}, about {duration(seconds)}" if seconds >= 0.5 else what
        if self.progress.has_bar:
            self.progress.show(min(fraction, 1.0), lambda: [text], math.inf, at_once=True)
        elif seconds > LONG_PAUSE_SECONDS:
            self.print_line(f"train: {text}")

    def announce_end(self, speed: float, left: float, pauses: float) -> None:
        """Print images/s, and how long the training and its pauses (seconds) will take."""
        end = datetime.datetime.now() + datetime.timedelta(seconds=min(left + pauses, 1e9))
        form = "%H:%M" if left + pauses < 12 * 3600 else "%a %d %b %H:%M"
        self.print_line(
            f"train: {speed:.3g} images/s, about {duration(left)} left; "
            f"the end, with scores and saves, about {end.strftime(form)}"
        )

    def print_line(self, text: str, colour: str = "") -> None:
        """Print `text` to stdout, above the bar; what has a colour is an alarm.

        With `--quiet` alarms go to stderr, and nothing else is printed.
        """
        if not console.is_quiet():
            self.progress.write(coloured(text, colour, sys.stdout) if colour else text)
        elif colour:
            console.alarm(text)

    def print_detail(self, text: str) -> None:
        """Print `text` above the bar if `--verbose`."""
        if console.level() == console.VERBOSE:
            self.progress.write(text)

    def close(self) -> None:
        """Close the bar and the files."""
        self.progress.close()
        self.tensorboard.close()


class Silent(Report):
    """The report of a process that is not the first of a job: it writes and prints nothing."""

    def __init__(self) -> None:
        self.spare = Spare(lambda text: None)
        self.score: float | None = None
        self.values: dict[str, float] = {}

    def log_event(self, step: int, values: Mapping[str, object]) -> None:
        """Nothing."""

    def _add_scalar(self, name: str, value: float, images: int) -> None:
        """Nothing."""

    def log_image(self, tag: str, image: Tensor, images: int) -> None:
        """Nothing."""

    def log_settings(self, settings: Mapping[str, object], images: int) -> None:
        """Nothing."""

    def show_progress(self, fraction: float, images: int, seconds_left: float) -> None:
        """Nothing."""

    def show_pause(self, fraction: float, what: str, seconds: float) -> None:
        """Nothing."""

    def announce_end(self, speed: float, left: float, pauses: float) -> None:
        """Nothing."""

    def print_line(self, text: str, colour: str = "") -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, without one that a kill cut off; no lines if it cannot be read."""
    found = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return [line for line in found if isinstance(line, dict) and "step" in line]
