"""The record of a run: its log as JSON lines, TensorBoard's events, and the progress bar."""

import functools
import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchnet.meter import AverageValueMeter
from tqdm import tqdm

from gan.checkpoint import atomic_write
from gan.record import Curves, LogFile, Spare

PRINT_SECONDS = 30.0  # between two lines of progress where there is no terminal for a bar
BAR_VALUES = ("images/s", "loss_d", "loss_g", "D(x)", "D(G(z))")  # shown behind the bar


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
        self.spare = Spare(self.print_line)
        self.bar = tqdm(
            total=1.0,
            initial=fraction,
            disable=None,  # no bar where there is no terminal: progress is printed as lines
            bar_format="{percentage:3.0f}%|{bar:20}| {elapsed}<{remaining} {postfix}",
        )
        self.last_print = time.monotonic()
        self.last_score = ""

    def log_scalars(self, step: int, images: int, values: dict[str, float]) -> None:
        """Log `values`, add them to TensorBoard (against images) and show some with the bar."""
        self.log_event(step, {"images": images, **values})
        for name, value in values.items():
            if name not in ("epoch", "seconds"):
                self._add_scalar(name, value, images)
        shown = [f"{name} {values[name]:.3g}" for name in BAR_VALUES if name in values]
        text = " ".join(shown) + self.last_score
        self.bar.set_postfix_str(text, refresh=False)
        if self.bar.disable and time.monotonic() - self.last_print > PRINT_SECONDS:
            self.print_line(f"epoch {values['epoch']:.1f}, {images:,} images, {text}")

    def log_scores(self, step: int, images: int, seconds: float, scores: dict[str, float]) -> None:
        """Log the scores of an evaluation during training; add them to TensorBoard; print them."""
        when = {"images": images, "seconds": round(seconds, 1)}
        self.log_event(step, {"event": "score", **when, **scores})
        for name, value in scores.items():
            self._add_scalar(f"score/{name}", value, images)
        text = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        self.last_score = f" score {scores['score']:.3f}"
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

    def set_progress(self, fraction: float) -> None:
        """Set the bar to `fraction` (0..1) of the budget."""
        self.bar.update(min(fraction, 1.0) - self.bar.n)

    def print_line(self, text: str) -> None:
        """Print `text` to stdout, above the bar."""
        self.last_print = time.monotonic()
        self.bar.write(text, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Close the bar and the files."""
        self.bar.close()
        self.tensorboard.close()


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
        except ValueError:
            continue
    return [line for line in found if isinstance(line, dict) and "step" in line]
