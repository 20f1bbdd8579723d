"""The page of `report`: its numbers from the logs, its pictures, and what it says of a run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from commands.compare_curves import Preview, RunLog, name_scores
from gan import pages, report

MOST_PREVIEWS = 60  # of a run on the page, evenly spaced
PREVIEW_SIDE = 640  # pixels
CHARTS = {  # title -> names in the log, lower is better or not said
    "Losses": ("loss_d", "loss_g"),
    "D(x) and D(G(z)): how real real and generated images look to D": ("D(x)", "D(G(z))"),
    "Share of pairs that D ranks right; 0.5 is guessing": ("pair_auc",),
    "Score: lower is better": ("score",),
    "Score (lite0): lower is better": ("score (lite0)",),
    "KID: lower is better": ("KID (lite0)", "KID (lite0) half size"),
    "Coverage: higher is better": ("coverage (lite0)", "coverage (lite0) half size"),
    "L1 of test pictures: lower is better": ("L1",),
    "Diversity of a batch": ("diversity",),
    "Images per second": ("images/s",),
}
SPARSE = (  # taken now and then: with dots
    "score",
    "score (lite0)",
    "KID (lite0)",
    "coverage (lite0)",
    "L1",
)
MOST_POINTS = 600  # of a curve; more are thinned out


@dataclass
class RunPart:
    """What the page shows of one run."""

    name: str
    facts: list[tuple[str, str]]
    settings: list[tuple[str, str, str]]  # name, value, default
    scores: Sequence[Sequence[str]] = ()  # its head first
    score_notes: Sequence[str] = ()
    pictures: list[tuple[str, str, str]] = field(default_factory=list)  # title, note, data URI
    notes: list[str] = field(default_factory=list)


Points = dict[int, float]  # images -> value
Lines = dict[str, Points]  # name in the log -> its values


def read_lines(path: Path) -> Lines:
    """All numbers of a log, by name."""
    found: Lines = {}
    images = 0
    for line in report.read_log(path):
        if line.get("event") == "score":
            line = name_scores(line)  # earlier versions had other names
        images = line.get("images", images)
        for name, value in line.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value:
                found.setdefault(name, {})[images] = float(value)
    return found


def _thinned(points: Points) -> Points:
    """At most MOST_POINTS of them, evenly spaced, the last one among them."""
    step = -(-len(points) // MOST_POINTS)
    kept = sorted(points)[::-1][::step]
    return {images: points[images] for images in kept}


def make_charts(lines: dict[str, Lines]) -> list[dict[str, object]]:
    """The charts that have something to show: x, values and a line of text each."""
    charts = []
    for title, names in CHARTS.items():
        curves = {
            (f"{run} {name}" if len(lines) > 1 else name): _thinned(found[name])
            for run, found in lines.items()
            for name in names
            if name in found
        }
        if not curves:
            continue
        x = sorted(set().union(*curves.values()))
        values = [[curve.get(images) for images in x] for curve in curves.values()]
        flat = [value for curve in curves.values() for value in curve.values()]
        ends = ", ".join(f"{name} {curve[max(curve)]:.4g}" for name, curve in curves.items())
        charts.append(
            {
                "title": title,
                "series": list(curves),
                "x": x,
                "values": values,
                "dots": names[0] in SPARSE,
                "log": min(flat) > 0 and max(flat) > 8 * min(flat) and names[0] in SPARSE,
                "text": f"At the end: {ends}.",
            }
        )
    return charts


def _previews(log: RunLog) -> list[dict[str, object]]:
    """The previews of a run, in order, as JPEG; damaged ones are left out."""
    ordered: list[Preview] = sorted(log.previews.values(), key=lambda each: each.images)
    step = -(-len(ordered) // MOST_PREVIEWS) or 1
    kept = ordered[::-1][::step][::-1]
    found = []
    for preview in kept:
        uri = pages.small_uri(preview.path, PREVIEW_SIDE)
        if uri:
            found.append({"images": preview.images, "uri": uri})
    return found


def write(path: Path, parts: Sequence[RunPart], logs: Sequence[RunLog], command: str) -> None:
    """Write the page of these runs, atomically."""
    lines = {part.name: read_lines(log.run.log) for part, log in zip(parts, logs, strict=True)}
    charts = make_charts(lines)
    longest = max(logs, key=lambda log: log.images)
    seconds = _thinned(read_lines(longest.run.log).get("seconds", {}))
    previews = [
        {"name": part.name, "all": found}
        for part, log in zip(parts, logs, strict=True)
        if (found := _previews(log))
    ]
    data = {
        "charts": charts,
        "end": longest.images,
        "minutes": {
            "x": sorted(seconds),
            "y": [seconds[images] / 60 for images in sorted(seconds)],
        },
        "events": [
            {"images": event.images, "rescue": event.rescue} for log in logs for event in log.events
        ],
        "previews": previews,
    }
    names = ", ".join(part.name for part in parts)
    plots = pages.TEMPLATES / "uplot"
    pages.write_page(
        path,
        "report.html",
        title=f"Report on {names}",
        runs=parts,
        charts=charts,
        events=[
            (
                part.name,
                [
                    f"at {e.images:,} images, {e.seconds / 60:.1f} minutes: {e.line}"
                    for e in log.events
                ],
            )
            for part, log in zip(parts, logs, strict=True)
            if log.events
        ],
        command=command,
        data=pages.markup(json.dumps(data).replace("<", "\\u003c")),
        plot_script=pages.markup((plots / "uPlot.iife.min.js").read_text(encoding="utf-8")),
        plot_style=pages.markup((plots / "uPlot.min.css").read_text(encoding="utf-8")),
        script=pages.markup((pages.TEMPLATES / "report.js").read_text(encoding="utf-8")),
    )
