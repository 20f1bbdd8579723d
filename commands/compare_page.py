"""Several runs side by side, from their logs alone: a table, curves, previews, one page."""

import base64
import html
import io
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from gan.checkpoint import write_beside
from gan.curves import FINISHED, Preview, Run, Told, by_setting, colours, draw, read
from gan.report import aligned

SHARES = (0.25, 0.5, 0.75, 1.0)  # of the shortest run: where previews are put side by side
COLUMNS = (
    "setting",
    "finished",
    "final score",
    "best score",
    "at images",
    "at minutes",
    "images/s",
    "images",
    "minutes",
    "alarms",
    "rescues",
)


def spread(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def _mean(values: Iterable[float]) -> float | None:
    kept = list(values)
    return statistics.fmean(kept) if kept else None


def _best(told: Iterable[Told]) -> dict[str, Any] | None:
    """The lowest score of all, and where it was."""
    scores = [
        {"score": value, "images": images, "seconds": seconds, "seed": one.run.seed}
        for one in told
        for images, seconds, value in one.curves.get("score", [])
    ]
    return min(scores, key=lambda score: score["score"], default=None)


def _numbers(told: Sequence[Told]) -> dict[str, Any]:
    """The numbers of one run, or of the runs of one setting."""
    finals = [one.final for one in told if one.final is not None]
    whole = [one for one in told if one.run.state == FINISHED and one.images]
    counted = whole or [one for one in told if one.images]
    return {
        "final": _mean(finals),
        "spread": spread(finals),
        "best": _best(told),
        "images/s": _mean(statistics.median(one.speeds) for one in counted if one.speeds),
        "images": _mean(one.images for one in counted),
        "seconds": _mean(one.seconds for one in counted),
        "alarms": sum(one.alarms for one in told),
        "rescues": sum(len(one.marks) - one.alarms for one in told),
    }


def summary(told: Sequence[Told]) -> list[dict[str, Any]]:
    """A row a setting, ready for JSON: mean and spread over its seeds, and each run by itself."""
    return [
        {
            "setting": setting,
            "finished": sum(one.run.state == FINISHED for one in group),
            "of": len(group),
            **_numbers(group),
            "runs": [
                {
                    "name": one.run.name,
                    "seed": one.run.seed,
                    "state": one.run.state,
                    **_numbers([one]),
                    "events": [asdict(mark) for mark in one.marks],
                }
                for one in group
            ],
        }
        for setting, group in by_setting(told).items()
    ]


def cells(rows: Iterable[dict[str, Any]]) -> list[list[str]]:
    """The table for people, without its head: what there is no number for is a dash."""

    def shown(value: float | None, form: str, scale: float = 1.0) -> str:
        return "-" if value is None else format(value / scale, form)

    table = []
    for row in rows:
        best = row["best"] or {"score": None, "images": None, "seconds": None}
        deviation = "" if row["spread"] is None else f" ± {row['spread']:.3f}"
        table.append(
            [
                row["setting"],
                f"{row['finished']} of {row['of']}",
                shown(row["final"], ".3f") + deviation,
                shown(best["score"], ".3f"),
                shown(best["images"], ",.0f"),
                shown(best["seconds"], ".1f", 60),
                shown(row["images/s"], ".1f"),
                shown(row["images"], ",.0f"),
                shown(row["seconds"], ".1f", 60),
                str(row["alarms"]),
                str(row["rescues"]),
            ]
        )
    return table


def text_table(rows: Iterable[dict[str, Any]]) -> str:
    """The table for a terminal."""
    return aligned([COLUMNS, *cells(rows)])


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 84rem; margin: 2rem auto;
  padding: 0 1rem }}
pre {{ background: #f4f4f4; padding: .6rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere }}
.wide {{ overflow-x: auto }}
table {{ border-collapse: collapse }}
th, td {{ padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: right;
  vertical-align: top; white-space: nowrap }}
th:first-child, td:first-child {{ text-align: left; white-space: normal; overflow-wrap: anywhere }}
.previews td, .previews th {{ border: 0 }}
.previews th, .previews img + small {{ display: table-cell; text-align: left }}
.previews img {{ width: 15rem; display: block }}
.curves {{ max-width: 100% }}
.colour {{ display: inline-block; width: .8em; height: .8em; margin-right: .4em }}
small {{ color: #555 }}
.bad {{ color: #a00 }}
</style></head><body><h1>{title}</h1>
<pre>{command}</pre>
<p>{notes}</p>
{failed}<div class="wide"><table>{table}</table></div>
<p><small>Score: lower is better; KID of drawn pictures against held-out ones, mean of two
sizes, or for a network trained on pairs the L1 of test pictures.
"Final score" is the mean over the finished seeds of a setting ± their sample standard deviation;
one seed has no spread. "Best score" is the lowest of all seeds, and where it was. Images/s (the
median, scoring and saving left out), images and minutes are means over the finished seeds; alarms
and rescues are sums.</small></p>
<h2>Curves</h2>
<p><small>Left against images, right against time. A thin line is a seed, a thick one the mean of a
setting, as far as all its seeds go. D(x) and D(G(z)) are the sigmoid of D's score, a probability
only where D's loss is cross-entropy; for least squares and critics they are the score
itself.</small></p>
<img class="curves" alt="curves" src="{curves}">
<h2>Previews at equal points</h2>
{previews}
<h2>Alarms and rescues</h2>
{events}
</body></html>
"""


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _picture(path: Path) -> str:
    """A preview as a data URI; a large one smaller, or a page of many would be 100 MB."""
    data = path.read_bytes()
    if len(data) < 100_000:
        return _uri(data, "png")
    file = io.BytesIO()
    with Image.open(path) as picture:
        small = picture.convert("RGB")
        small.thumbnail((640, 640))
        small.save(file, "JPEG", quality=88)
    return _uri(file.getvalue(), "jpeg")


def _when(images: float, seconds: float) -> str:
    return f"{images:,.0f} images, {seconds / 60:.1f} minutes"


def equal_points(told: Sequence[Told]) -> list[int]:
    """Quarters of the images of the shortest finished run; without one, of the shortest."""
    done = [one.images for one in told if one.run.state == FINISHED and one.images]
    shortest = min(done or [one.images for one in told if one.images], default=0)
    return [round(share * shortest) for share in SHARES] if shortest else []


def nearest(previews: Iterable[Preview], images: int, within: float) -> Preview | None:
    """The preview nearest to `images`, if it is no further off than `within`."""
    best = min(previews, key=lambda preview: abs(preview.images - images), default=None)
    return best if best and abs(best.images - images) <= within else None


def _previews(told: Sequence[Told], swatch: dict[str, str]) -> str:
    """A table of previews: a row a setting (its first seed), a column a point."""
    points = equal_points(told)
    firsts = [group[0] for group in by_setting(told).values()]
    if not points or not any(one.previews for one in firsts):
        return "<p>There are none yet.</p>"
    heads = [f"{share:.0%}<br>{at:,} images" for share, at in zip(SHARES, points, strict=True)]
    ends = any(one.images > 1.05 * points[-1] for one in firsts)
    heads += ["at its own end"] if ends else []
    rows = []
    for one in firsts:
        kept = list(one.previews.values())
        chosen = [nearest(kept, at, within=points[-1] / 4) for at in points]
        if ends:
            chosen.append(max(kept, key=lambda preview: preview.images, default=None))
        pictures = [
            f'<td><img alt="" src="{_picture(preview.path)}">'
            f"<small>{_when(preview.images, preview.seconds)}</small></td>"
            if preview
            else "<td>-</td>"
            for preview in chosen
        ]
        name = f"{swatch[one.run.setting]}{html.escape(one.run.setting)}, seed {one.run.seed}"
        rows.append(f'<tr><td colspan="{len(heads)}">{name}</td></tr>')
        rows.append(f"<tr>{''.join(pictures)}</tr>")
    head = "".join(f"<th>{head}</th>" for head in heads)
    table = f'<table class="previews"><tr>{head}</tr>{"".join(rows)}</table>'
    return f'<div class="wide">{table}</div>'


def _events(told: Sequence[Told]) -> str:
    """What happened in each run, and when."""
    parts = []
    for one in told:
        lines = [
            f"<li>at {_when(mark.images, mark.seconds)}: {html.escape(mark.line)}</li>"
            for mark in one.marks
        ]
        if lines:
            parts.append(f"<p>{html.escape(one.run.name)}</p><ul>{''.join(lines)}</ul>")
    return "".join(parts) or "<p>There were none.</p>"


def _failed(told: Iterable[Told]) -> str:
    """The runs that are not finished, and why."""
    lines = [
        f'<li class="bad">{html.escape(one.run.name)}: {html.escape(one.run.state)}</li>'
        for one in told
        if one.run.state != FINISHED
    ]
    return f"<ul>{''.join(lines)}</ul>\n" if lines else ""


def write_page(
    path: Path, runs: Iterable[Run], title: str, command: str, notes: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """One self-contained page of `runs`, its curves as PNG and its numbers as JSON beside it.

    `command` is what makes the page again. Returns the rows of the table.
    """
    told = [read(run) for run in runs]
    rows, groups = summary(told), by_setting(told)
    picture = path.with_suffix(".png")
    draw(told, picture)
    swatch = {}
    for setting, (red, green, blue) in zip(groups, colours(len(groups)), strict=True):
        code = f"rgb({255 * red:.0f} {255 * green:.0f} {255 * blue:.0f})"
        swatch[setting] = f'<span class="colour" style="background: {code}"></span>'
    lines = ["".join(f"<th>{head}</th>" for head in COLUMNS)]
    for setting, *others in cells(rows):
        data = "".join(f"<td>{html.escape(text)}</td>" for text in others)
        lines.append(f"<td>{swatch[setting]}{html.escape(setting)}</td>{data}")
    finished = sum(one.run.state == FINISHED for one in told)
    text = PAGE.format(
        title=html.escape(title),
        command=html.escape(command),
        notes="<br>".join(
            map(html.escape, [f"{finished} of {len(told)} runs are finished.", *notes])
        ),
        failed=_failed(told),
        table="".join(f"<tr>{line}</tr>" for line in lines),
        curves=_uri(picture.read_bytes(), "png"),
        previews=_previews(told, swatch),
        events=_events(told),
    )
    numbers = json.dumps({"command": command, "settings": rows}, indent=1) + "\n"
    write_beside(path.with_suffix(".json"), lambda part: part.write_text(numbers, encoding="utf-8"))
    write_beside(
        path, lambda part: part.write_text(text, encoding="utf-8", errors="backslashreplace")
    )
    return rows
