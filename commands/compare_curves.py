"""The logs of the runs that are compared: read line by line, and plotted as curves."""

import math
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
from numpy.typing import NDArray

from gan import report
from gan.filesystem import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES = {  # a name in the log -> the title of its panel
    "loss_d": "loss of D",
    "loss_g": "loss of G",
    "D(x)": "D(x): how real the real images look to D",
    "D(G(z))": "D(G(z)): how real the generated images look to D",
    "pair_auc": "pair_auc: share of pairs (real, generated) that D ranks right; 0.5 is guessing",
    "score": "score (of pairs: L1); lower is better",
}
LITE0 = "score (lite0)"  # a part of the score; in logs of earlier versions it was the score
MAX_POINTS = 200  # of a plotted curve; more would be a black band
FINISHED = "finished"
TIME_UNITS = ((3600, "hours"), (60, "minutes"))  # seconds in a unit, the longest unit first
Line = NDArray[np.float64]
Curve = tuple[Line, Line]  # x and y, of equal length
Point = tuple[int, float, float]  # images, seconds, value
Colour = tuple[float, float, float]  # red, green, blue, each 0..1


@dataclass(frozen=True)
class Run:
    """A run to compare: its setting and seed, and where its log and previews are."""

    name: str
    setting: str  # runs of one setting differ only in the seed
    seed: int
    log: Path  # log.jsonl
    imgs: Path  # the folder of its previews
    state: str = FINISHED  # or why it is not finished, in words for the page


@dataclass(frozen=True)
class Event:
    """An alarm or a rescue: its message, and the images and seconds of training before it."""

    images: int
    seconds: float
    line: str
    rescue: bool


@dataclass(frozen=True)
class Preview:
    """An image grid of samples, saved after this many images and seconds of training."""

    images: int
    seconds: float
    path: Path


@dataclass
class RunLog:
    """The log of a run."""

    run: Run
    curves: dict[str, list[Point]] = field(default_factory=dict)  # by names of CURVES, and LITE0
    events: list[Event] = field(default_factory=list)
    previews: dict[str, Preview] = field(default_factory=dict)  # by file name
    speeds: list[float] = field(default_factory=list)  # images a second of training
    machines: list[str] = field(default_factory=list)  # that it was trained on, in their order
    pauses: dict[str, float] = field(default_factory=dict)  # seconds of scoring, of saving
    images: int = 0
    seconds: float = 0.0

    @property
    def final(self) -> float | None:
        """The last score, if the run is finished and has scores."""
        scores = self.curves.get("score", [])
        return scores[-1][2] if scores and self.run.state == FINISHED else None

    @property
    def alarms(self) -> int:
        """How many events are alarms; the others are rescues."""
        return sum(not event.rescue for event in self.events)


def _is_finite(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and math.isfinite(value)


def read_run(run: Run) -> RunLog:
    """Read the log of `run`; a missing log is an empty one."""
    log = RunLog(run)
    for line in report.read_log(run.log):
        kind, images, seconds = (line.get(name) for name in ("event", "images", "seconds"))
        if _is_finite(images):
            log.images = int(images)
        if _is_finite(seconds):
            log.seconds = seconds
        if isinstance(machine := line.get("machine"), str) and machine not in log.machines:
            log.machines.append(machine)
        if kind in (None, "score"):
            values = name_scores(line) if kind else line
            for name in ["score", LITE0] if kind else CURVES:
                value = values.get(name)
                if _is_finite(value):
                    log.curves.setdefault(name, []).append((log.images, log.seconds, value))
            speed = line.get("images/s")
            if _is_finite(speed):
                log.speeds.append(speed)
        elif kind == "health":
            log.events.append(Event(log.images, log.seconds, str(line.get("line")), rescue=False))
        elif kind == "rescue":
            text = f"rescue: back to {line.get('state')}, learning rates x {line.get('rates')}"
            log.events.append(Event(log.images, log.seconds, text, rescue=True))
        elif kind == "pause" and _is_finite(took := line.get("took")):
            what = str(line.get("what"))
            log.pauses[what] = log.pauses.get(what, 0.0) + took
        elif kind == "save":
            name = str(line.get("preview"))
            if (run.imgs / name).is_file():
                log.previews[name] = Preview(log.images, log.seconds, run.imgs / name)
    return log


def name_scores(line: dict[str, object]) -> dict[str, object]:
    """A line of scores, those of earlier versions under the names that they have now."""
    if LITE0 in line or "L1" in line:
        return line
    return {**line, LITE0: line.get("score"), "score": None}


def use_one_score(logs: Sequence[RunLog]) -> bool:
    """Let the score of all be KID (lite0), if some have no other; returns whether it does."""
    scores = [log.curves.keys() & {"score", LITE0} for log in logs]
    mixed = any(found == {LITE0} for found in scores)
    if mixed:
        for log in logs:
            log.curves.pop("score", None)
            if LITE0 in log.curves:
                log.curves["score"] = log.curves[LITE0]
    return mixed


def group_by_setting(logs: Iterable[RunLog]) -> dict[str, list[RunLog]]:
    """Setting -> the logs of its runs; settings and runs keep their order."""
    groups: dict[str, list[RunLog]] = {}
    for log in logs:
        groups.setdefault(log.run.setting, []).append(log)
    return groups


def _downsample(points: Sequence[Point], axis: int) -> Curve:
    """At most MAX_POINTS means of neighbouring points; x is images (axis 0) or seconds (axis 1)."""
    array = np.array(points, float)
    groups = np.array_split(array, min(len(array), MAX_POINTS))
    means = np.array([group.mean(0) for group in groups])
    return means[:, axis], means[:, 2]


def mean_curve(curves: Sequence[Curve]) -> Curve | None:
    """The mean of curves over the range of x that all of them cover; None if there is none."""
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if not low < high:
        return None
    x = np.linspace(low, high, MAX_POINTS)
    return x, np.mean([np.interp(x, *curve) for curve in curves], axis=0)


def distinct_colours(count: int) -> list[Colour]:
    """`count` colours that are easy to distinguish."""
    import matplotlib

    if count <= 10:
        return [matplotlib.colormaps["tab10"](i)[:3] for i in range(count)]
    return [matplotlib.colormaps["turbo"](i / (count - 1))[:3] for i in range(count)]


def _plot_setting(
    axes: "Axes", group: Sequence[RunLog], name: str, axis: int, unit: float, colour: Colour
) -> None:
    """Plot one curve of one setting: a thin line for each seed, a thick one for their mean.

    x is images (axis 0) or seconds (axis 1), divided by `unit`. Events are markers on the lines.
    """
    curves = []
    width, alpha = (1.6, 1.0) if len(group) == 1 else (0.8, 0.5)
    for log in group:
        if name not in log.curves:
            continue
        x, y = _downsample(log.curves[name], axis)
        x = x / unit
        curves.append((x, y))
        dots = name == "score" or len(x) == 1  # a line of one point is invisible
        axes.plot(x, y, ".-" if dots else "-", color=colour, lw=width, alpha=alpha)
        for event in log.events:
            at = (event.images, event.seconds)[axis] / unit
            marker, size = ("X", 70) if event.rescue else ("v", 36)
            height = np.interp(at, x, y)
            axes.scatter(
                [at], [height], size, [colour], marker=marker, edgecolors="black", zorder=5
            )
    if len(curves) > 1 and (mean := mean_curve(curves)):
        axes.plot(*mean, "-", color=colour, lw=2.2)


def _set_y_axis(axes: "Axes", name: str, values: Line) -> None:
    """Fit the y axis to nearly all values; scores that fall 8-fold get a log scale."""
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


def _escape_label(text: str) -> str:
    """`text` for matplotlib, which reads $ as mathematics and refuses lone surrogates."""
    plain = text.encode("utf-8", "backslashreplace").decode()
    return textwrap.fill(plain, 60).replace("$", r"\$")


def _add_legend(figure: "Figure", logs: Sequence[RunLog], colours: dict[str, Colour]) -> None:
    """Add the settings, and the markers that were plotted, above the panels."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=c, lw=2.2, label=_escape_label(s)) for s, c in colours.items()]
    for rescue, marker, label in ((False, "v", "health alarm"), (True, "X", "rescue")):
        if any(event.rescue == rescue for log in logs for event in log.events):
            handles.append(Line2D([], [], marker=marker, c="grey", mec="black", ls="", label=label))
    widest = max((len(str(handle.get_label())) for handle in handles), default=1)
    figure.legend(handles=handles, loc="outside upper center", ncols=max(1, min(5, 130 // widest)))


def plot_curves(logs: Sequence[RunLog], path: Path) -> None:
    """Plot the curves to `path` (PNG): against images on the left, against time on the right."""
    from matplotlib.figure import Figure

    groups = group_by_setting(logs)
    shown = [name for name in CURVES if any(name in log.curves for log in logs)]
    longest = max((log.seconds for log in logs), default=0.0)
    unit, unit_name = next((u for u in TIME_UNITS if longest > 3 * u[0]), (1, "seconds"))
    colours = dict(zip(groups, distinct_colours(len(groups)), strict=True))
    figure = Figure(figsize=(14, 1.2 + 2.9 * max(len(shown), 1)), layout="constrained")
    panels = figure.subplots(max(len(shown), 1), 2, squeeze=False, sharex="col", sharey="row")
    for row, name in zip(panels, shown, strict=False):
        for axis, axes in enumerate(row):
            for setting, group in groups.items():
                _plot_setting(axes, group, name, axis, (1, unit)[axis], colours[setting])
        points = [point[2] for log in logs for point in log.curves.get(name, [])]
        _set_y_axis(row[0], name, np.array(points))
        row[1].grid(alpha=0.3)
        row[0].set_title(CURVES[name], loc="left", fontsize=11)
    panels[-1][0].set_xlabel("images shown to D")
    panels[-1][1].set_xlabel(f"{unit_name} of training")
    panels[-1][0].xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _add_legend(figure, logs, colours)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a box where the font lacks a letter
        atomic_write(path, lambda part: figure.savefig(part, format="png", dpi=100))
