"""What a run tells: JSON lines, TensorBoard, the progress bar. The log is a function of the run."""

import base64
import html
import io
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tensorboardX import SummaryWriter
from torch import Tensor
from torchnet.meter import AverageValueMeter
from tqdm import tqdm

from gan.checkpoint import atomic_write

PLAIN_EVERY = 30.0  # seconds from one line to the next where there is no terminal for a bar


class Meters:
    """Averages of what the losses log, over the steps since the last reading.

    Values stay on the training device until `read`, so that no step waits for the host.
    """

    def __init__(self) -> None:
        self.meters: dict[str, AverageValueMeter] = {}
        self.pending: dict[str, list[Tensor]] = {}

    def add(self, logs: dict[str, Tensor]) -> None:
        for name, value in logs.items():
            self.pending.setdefault(name, []).append(value)

    def _fetch(self) -> None:
        for name, values in self.pending.items():
            meter = self.meters.setdefault(name, AverageValueMeter())
            for value in torch.stack(values).tolist():
                meter.add(value)
        self.pending.clear()

    def read(self) -> dict[str, float]:
        """The averages, and start anew."""
        self._fetch()
        means = {name: float(meter.value()[0]) for name, meter in self.meters.items()}
        self.meters.clear()
        return means

    def finite(self) -> bool:
        """Whether every value since the last reading is a number."""
        self._fetch()
        return all(math.isfinite(meter.sum) for meter in self.meters.values())

    def state_dict(self) -> dict[str, dict[str, float]]:
        self._fetch()
        return {
            name: {key: float(value) for key, value in vars(meter).items()}
            for name, meter in self.meters.items()
        }

    def load_state_dict(self, state: dict[str, dict[str, float]]) -> None:
        for name, values in state.items():
            vars(self.meters.setdefault(name, AverageValueMeter())).update(values)


class Report:
    """The log of one run in `folder`: `log.jsonl` and TensorBoard's events, from step `step` on.

    Lines later than `step` are cut off: they come from steps that a killed run did not save and
    that are now done again.
    """

    def __init__(self, folder: Path, step: int, images: int, fraction: float) -> None:
        path = folder / "log.jsonl"
        kept = [line for line in lines(path) if line["step"] <= step] if step else []
        text = "".join(json.dumps(line) + "\n" for line in kept)
        atomic_write(path, lambda part: part.write_text(text, encoding="utf-8"))
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self.board = SummaryWriter(str(folder), purge_step=images + 1 if images else None)
        self.bar = tqdm(
            total=1.0,
            initial=fraction,
            disable=None,  # no bar where there is no terminal: then `say` prints lines
            bar_format="{percentage:3.0f}%|{bar:20}| {elapsed}<{remaining} {postfix}",
        )
        self.last_line = time.monotonic()
        self.score = ""

    def scalars(self, step: int, images: int, values: dict[str, float]) -> None:
        """One line of the log, and a point on each of TensorBoard's curves (against images)."""
        self.event(step, {"images": images, **values})
        for name, value in values.items():
            if name not in ("epoch", "seconds"):
                self.board.add_scalar(name, value, images)
        shown = {
            name: f"{values[name]:.3g}"
            for name in ("images/s", "loss_d", "loss_g", "D(x)", "D(G(z))")
            if name in values
        }
        text = " ".join(f"{name} {value}" for name, value in shown.items()) + self.score
        self.bar.set_postfix_str(text, refresh=False)
        if self.bar.disable and time.monotonic() - self.last_line > PLAIN_EVERY:
            self.say(f"epoch {values['epoch']:.1f}, {images:,} images, {text}")

    def scores(self, step: int, images: int, seconds: float, scores: dict[str, float]) -> None:
        """A score in mid-run, to the log, TensorBoard, and people."""
        when = {"images": images, "seconds": round(seconds, 1)}
        self.event(step, {"event": "score", **when, **scores})
        for name, value in scores.items():
            self.board.add_scalar(f"score/{name}", value, images)
        text = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        self.score = f" score {scores['score']:.3f}"
        self.say(f"score at {images:,} images: {text}")

    def event(self, step: int, values: dict[str, Any]) -> None:
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()

    def picture(self, tag: str, grid: Tensor, images: int) -> None:
        """Show `grid`, uint8 [3, H, W], in TensorBoard."""
        self.board.add_image(tag, grid.numpy(), images)

    def progress(self, fraction: float) -> None:
        """`fraction` of the budget, 0 to 1, is used."""
        self.bar.update(min(fraction, 1.0) - self.bar.n)

    def say(self, text: str) -> None:
        """A line for people, above the bar."""
        self.last_line = time.monotonic()
        self.bar.write(text, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        self.bar.close()
        self.board.close()
        self.file.close()


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; one cut off by a kill is dropped."""
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


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in padded)


def table(found: dict[str, Any]) -> str:
    """The scores of `gan.metrics.evaluate` for a terminal: value, floor, and on how many images."""
    rows = [("score", "value", "floor", "images")]
    count = f"{found['n_fake']} / {found['n_held_out']}"
    for name, row in found["scores"].items():
        error = f" ± {row['error']:.4f}" if "error" in row else ""
        rows.append((name, f"{row['value']:.4f}{error}", f"{row['floor']:.4f}", count))
    copies = found["memorisation"]
    count = f"{found['n_fake']} / {found['n_train']}"
    rows.append(("memorisation ratio", f"{copies['ratio']:.4f}", "1.0000", count))
    rows.append(("copied share", f"{copies['copied']:.4f}", "0.0100", count))
    return aligned(rows)


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto }}
img {{ max-width: 100%; image-rendering: pixelated }}
pre {{ background: #f4f4f4; padding: 1rem; overflow-x: auto }}
</style></head><body><h1>{title}</h1>
<p>{count} pictures, data: {data}.</p>
<pre>{table}</pre>
<p>{notes}</p>
{pictures}</body></html>
"""
NOTES = """KID and SWD: 0 is equal, lower is better. Precision, recall, density and coverage:
higher is better. "floor" is what as many training images score against the same held-out ones:
a perfect generator. "images" is fakes / reals. A memorisation ratio well below 1 means copies."""


def write_page(
    path: Path, found: dict[str, Any], scores: str, notes: str, pictures: dict[str, Image.Image]
) -> None:
    """One self-contained HTML page of scores and pictures, and the numbers beside it as JSON.

    `found` holds at least "drawn_by", "n_fake" and "data"; `scores` is the table for people.
    """
    parts = []
    for title, picture in pictures.items():
        file = io.BytesIO()
        picture.save(file, "PNG")
        code = base64.b64encode(file.getvalue()).decode()
        parts.append(f'<h2>{html.escape(title)}</h2><img src="data:image/png;base64,{code}">\n')
    text = PAGE.format(
        title=html.escape(f"Scores of {found['drawn_by']}"),
        count=found["n_fake"],
        data=html.escape(found["data"]),
        table=html.escape(scores),
        notes=html.escape(notes),
        pictures="".join(parts),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
