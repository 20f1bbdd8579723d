"""What the logs of several runs tell, read line by line and drawn as curves side by side."""

import math
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gan import report
from gan.checkpoint import write_beside

CURVES = {
    "loss_d": "loss of D",
    "loss_g": "loss of G",
    "D(x)": "D(x): how real the reals look to D",
    "D(G(z))": "D(G(z)): how real the drawn ones look to D",
    "pair_auc": "pair_auc: share of pairs (real, drawn) that D tells apart; 0.5 is guessing",
    "score": "score: KID over time (of pairs: L1); lower is better",
}
POINTS = 200  # of a curve that is drawn; more would be a black band
FINISHED = "finished"
Line = NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """One run to compare: whose setting it has, and where it tells of itself."""

    name: str
    setting: str  # runs of one setting differ in the seed alone
    seed: int
    log: Path  # log.jsonl
    imgs: Path  # the folder of its previews
    state: str = FINISHED  # or what it is instead: shown as it is


@dataclass(frozen=True)
class Mark:
    """Something that happened."""

    images: int
    seconds: float
    line: str
    rescue: bool


@dataclass(frozen=True)
class Preview:
    images: int
    seconds: float
    path: Path


@dataclass
class Told:
    """What the log of a run tells."""

    run: Run
    curves: dict[str, list[tuple[int, float, float]]] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)
    previews: dict[str, Preview] = field(default_factory=dict)
    speeds: list[float] = field(default_factory=list)  # images a second of training
    images: int = 0
    seconds: float = 0.0

    @property
    def final(self) -> float | None:
        """The score at the end of the budget."""
        scores = self.curves.get("score", [])
        return scores[-1][2] if scores and self.run.state == FINISHED else None

    @property
    def alarms(self) -> int:
        return sum(not mark.rescue for mark in self.marks)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def read(run: Run) -> Told:
    """What the log of `run` tells, as far as it goes; a log that is not there tells nothing."""
    told = Told(run)
    for line in report.lines(run.log):
        event = line.get("event")
        if _number(line.get("images")):
            told.images = line["images"]
        if _number(line.get("seconds")):
            told.seconds = line["seconds"]
        now = (told.images, told.seconds)
        if event in (None, "score"):
            for name in ["score"] if event else CURVES:
                if _number(line.get(name)):
                    told.curves.setdefault(name, []).append((*now, line[name]))
            if _number(line.get("images/s")):
                told.speeds.append(line["images/s"])
        elif event == "health":
            told.marks.append(Mark(*now, str(line.get("line")), rescue=False))
        elif event == "rescue":
            text = f"rescue: back to {line.get('state')}, learning rates x {line.get('rates')}"
            told.marks.append(Mark(*now, text, rescue=True))
        elif event == "save" and (run.imgs / str(line.get("preview"))).is_file():
            told.previews[line["preview"]] = Preview(*now, run.imgs / line["preview"])
    return told


def by_setting(told: Iterable[Told]) -> dict[str, list[Told]]:
    """The runs of each setting, in the order they came in."""
    groups: dict[str, list[Told]] = {}
    for one in told:
        groups.setdefault(one.run.setting, []).append(one)
    return groups


def _line(points: Sequence[tuple[int, float, float]], axis: int) -> tuple[Line, Line]:
    """x and y of a curve, its points averaged in groups so that few enough are left."""
    array = np.array(points, float)
    groups = np.array_split(array, min(len(array), POINTS))
    small = np.array([group.mean(0) for group in groups])
    return small[:, axis], small[:, 2]


def mean_line(lines: Sequence[tuple[Line, Line]]) -> tuple[Line, Line] | None:
    """The mean of curves, where all of them are; None if that is nowhere."""
    low, high = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    if not low < high:
        return None
    x = np.linspace(low, high, POINTS)
    return x, np.mean([np.interp(x, *line) for line in lines], axis=0)


def colours(count: int) -> list[Any]:
    """So many colours that can be told apart, as (red, green, blue), 0 to 1."""
    import matplotlib

    if count <= 10:
        return list(matplotlib.colormaps["tab10"].colors[:count])  # type: ignore[attr-defined]
    return [matplotlib.colormaps["turbo"](i / (count - 1))[:3] for i in range(count)]


def _plot(axes: Any, group: Sequence[Told], name: str, axis: int, unit: float, colour: Any) -> None:
    """One curve of the runs of one setting: a thin line a seed and a thick one for their mean."""
    lines = []
    for told in group:
        if name not in told.curves:
            continue
        x, y = _line(told.curves[name], axis)
        x = x / unit
        lines.append((x, y))
        alone = len(group) == 1
        dots = "." if name == "score" else ""
        axes.plot(
            x, y, dots + "-", color=colour, lw=1.6 if alone else 0.8, alpha=1 if alone else 0.5
        )
        for mark in told.marks:
            at = (mark.images, mark.seconds)[axis] / unit
            marker, size = ("X", 70) if mark.rescue else ("v", 36)
            height = np.interp(at, x, y)
            axes.scatter([at], [height], size, [colour], marker, edgecolors="black", zorder=5)
    if len(lines) > 1 and (mean := mean_line(lines)):
        axes.plot(*mean, "-", color=colour, lw=2.2)


def _frame(axes: Any, name: str, values: Line) -> None:
    """The y axis: what most values need; a log scale for scores that fall by a lot."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = np.quantile(values, [0.005, 0.995])
    if name == "score" and values.min() > 0 and values.max() > 8 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")  # no powers of ten
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif np.ptp(values) > 3 * (high - low) > 0:  # one spike would flatten all the rest
        axes.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
    axes.grid(alpha=0.3)


def _label(text: str) -> str:
    """`text` for matplotlib, which takes $ for mathematics and no half characters."""
    plain = text.encode("utf-8", "backslashreplace").decode()
    return textwrap.fill(plain, 60).replace("$", r"\$")


def draw(told: Sequence[Told], path: Path) -> None:
    """The curves as a PNG: against images on the left, against time on the right."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    groups = by_setting(told)
    shown = [name for name in CURVES if any(name in one.curves for one in told)]
    longest = max((one.seconds for one in told), default=0.0)
    units = ((3600, "hours"), (60, "minutes"))
    unit, word = next((pair for pair in units if longest > 3 * pair[0]), (1, "seconds"))
    colour = dict(zip(groups, colours(len(groups)), strict=True))
    figure = Figure(figsize=(14, 1.2 + 2.9 * max(len(shown), 1)), layout="constrained")
    panels = figure.subplots(max(len(shown), 1), 2, squeeze=False, sharex="col", sharey="row")
    for row, name in zip(panels, shown, strict=False):
        for axis, axes in enumerate(row):
            for setting, group in groups.items():
                _plot(axes, group, name, axis, (1, unit)[axis], colour[setting])
        points = [point[2] for one in told for point in one.curves.get(name, [])]
        _frame(row[0], name, np.array(points))
        row[1].grid(alpha=0.3)
        row[0].set_title(CURVES[name], loc="left", fontsize=11)
    panels[-1][0].set_xlabel("images shown to D")
    panels[-1][1].set_xlabel(f"{word} of training")
    panels[-1][0].xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    handles = [Line2D([], [], color=colour[s], lw=2.2, label=_label(s)) for s in groups]
    for rescue, marker, name in ((False, "v", "health alarm"), (True, "X", "rescue")):
        if any(mark.rescue == rescue for one in told for mark in one.marks):
            handles.append(Line2D([], [], marker=marker, c="grey", mec="black", ls="", label=name))
    widest = max(len(str(handle.get_label())) for handle in handles) if handles else 1
    figure.legend(handles=handles, loc="outside upper center", ncols=max(1, min(5, 130 // widest)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a box where the font lacks a letter
        write_beside(path, lambda part: figure.savefig(part, format="png", dpi=100))
