"""Several runs compared, from their logs alone: the table, the page, the curves, the numbers."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict

from commands.compare_curves import (
    FINISHED,
    Preview,
    Run,
    RunLog,
    distinct_colours,
    group_by_setting,
    plot_curves,
    read_run,
    use_one_score,
)
from gan import pages

SHARES = (0.25, 0.5, 0.75, 1.0)  # of the images of the shortest run: where previews are compared
LARGE_PREVIEW_BYTES = 100_000  # larger previews are shrunk, or a page of many would have 100 MB
PREVIEW_SIDE = 640  # pixels, of a preview that is shrunk
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
MOST_IMPORTANT = ("setting", "final score", "best score", "finished", "images", "minutes", "alarms")


EARLIER_SCORE = (
    "Some runs are of an earlier version, whose score was KID (lite0) alone. It is the score of "
    "all runs here."
)


class BestScore(TypedDict):
    """The lowest score, and where it was reached."""

    score: float
    images: int
    seconds: float
    seed: int


class LoggedEvent(TypedDict):
    """An alarm or a rescue, ready for JSON: the fields of `compare_curves.Event`."""

    images: int
    seconds: float
    line: str
    rescue: bool


Numbers = TypedDict(
    "Numbers",
    {
        "final": float | None,  # mean over finished seeds
        "spread": float | None,  # sample standard deviation over finished seeds
        "best": BestScore | None,
        "images/s": float | None,
        "images": float | None,
        "seconds": float | None,
        "alarms": int,
        "rescues": int,
    },
)


class RunRow(Numbers):
    """The numbers of one run, ready for JSON."""

    name: str
    seed: int
    state: str
    events: list[LoggedEvent]


class SettingRow(Numbers):
    """The numbers of one setting over its seeds, ready for JSON."""

    setting: str
    finished: int
    of: int
    runs: list[RunRow]


def sample_deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def _mean(values: Iterable[float]) -> float | None:
    kept = list(values)
    return statistics.fmean(kept) if kept else None


def _best_score(logs: Iterable[RunLog]) -> BestScore | None:
    scores: list[BestScore] = [
        {"score": value, "images": images, "seconds": seconds, "seed": log.run.seed}
        for log in logs
        for images, seconds, value in log.curves.get("score", [])
    ]
    return min(scores, key=lambda best: best["score"], default=None)


def _numbers(logs: Sequence[RunLog]) -> Numbers:
    """The numbers of one run, or of the runs of one setting."""
    finals = [log.final for log in logs if log.final is not None]
    finished = [log for log in logs if log.run.state == FINISHED and log.images]
    counted = finished or [log for log in logs if log.images]
    return {
        "final": _mean(finals),
        "spread": sample_deviation(finals),
        "best": _best_score(logs),
        "images/s": _mean(statistics.median(log.speeds) for log in counted if log.speeds),
        "images": _mean(log.images for log in counted),
        "seconds": _mean(log.seconds for log in counted),
        "alarms": sum(log.alarms for log in logs),
        "rescues": sum(len(log.events) - log.alarms for log in logs),
    }


def _run_row(log: RunLog) -> RunRow:
    events: list[LoggedEvent] = [
        {"images": e.images, "seconds": e.seconds, "line": e.line, "rescue": e.rescue}
        for e in log.events
    ]
    return {
        "name": log.run.name,
        "seed": log.run.seed,
        "state": log.run.state,
        **_numbers([log]),
        "events": events,
    }


def summarise(logs: Sequence[RunLog]) -> list[SettingRow]:
    """A row for each setting: mean and deviation over its seeds, and each run by itself."""
    return [
        {
            "setting": setting,
            "finished": sum(log.run.state == FINISHED for log in group),
            "of": len(group),
            **_numbers(group),
            "runs": [_run_row(log) for log in group],
        }
        for setting, group in group_by_setting(logs).items()
    ]


def table_rows(rows: Iterable[SettingRow]) -> list[list[str]]:
    """The texts of the table, a row for each setting; "-" where there is no number."""

    def form(value: float | None, spec: str, scale: float = 1.0) -> str:
        return "-" if value is None else format(value / scale, spec)

    table = []
    for row in rows:
        best = row["best"]
        deviation = "" if row["spread"] is None else f" ± {row['spread']:.3f}"
        table.append(
            [
                row["setting"],
                f"{row['finished']} of {row['of']}",
                form(row["final"], ".3f") + deviation,
                form(best and best["score"], ".3f"),
                form(best and best["images"], ",.0f"),
                form(best and best["seconds"], ".1f", 60),
                form(row["images/s"], ".1f"),
                form(row["images"], ",.0f"),
                form(row["seconds"], ".1f", 60),
                str(row["alarms"]),
                str(row["rescues"]),
            ]
        )
    return table


def summary(rows: Iterable[SettingRow]) -> list[list[str]]:
    """The table for a terminal: a narrow one shows the first columns alone."""
    table = [dict(zip(COLUMNS, row, strict=True)) for row in table_rows(rows)]
    order = [*MOST_IMPORTANT, *(name for name in COLUMNS if name not in MOST_IMPORTANT)]
    return [order, *([row[name] for name in order] for row in table)]


def _preview_uri(path: Path) -> str | None:
    """A preview as a data URI, a large one shrunk to a JPEG; None if it cannot be read."""
    return pages.small_uri(path, PREVIEW_SIDE, LARGE_PREVIEW_BYTES)


def _format_time(images: float, seconds: float) -> str:
    return f"{images:,.0f} images, {seconds / 60:.1f} minutes"


def preview_points(logs: Sequence[RunLog]) -> list[int]:
    """Where previews are compared: SHARES of the images of the shortest finished run.

    If none is finished: of the shortest run that has begun. If none has begun: no points.
    """
    finished = [log.images for log in logs if log.run.state == FINISHED and log.images]
    shortest = min(finished or [log.images for log in logs if log.images], default=0)
    return [round(share * shortest) for share in SHARES] if shortest else []


def nearest_preview(
    previews: Iterable[Preview], images: int, max_distance: float
) -> Preview | None:
    """The preview nearest to `images`, if it is at most `max_distance` images away."""
    best = min(previews, key=lambda preview: abs(preview.images - images), default=None)
    return best if best and abs(best.images - images) <= max_distance else None


PreviewCell = tuple[str, str] | None  # when, and the data URI
PreviewRow = tuple[str, str, list[PreviewCell]]  # colour, name, a picture for each point


def _preview_cell(preview: Preview | None) -> PreviewCell:
    uri = _preview_uri(preview.path) if preview else None
    return (_format_time(preview.images, preview.seconds), uri) if preview and uri else None


def _preview_table(
    logs: Sequence[RunLog], colours: dict[str, str]
) -> tuple[list[list[str]], list[PreviewRow]]:
    """The head (lines of text for each column) and a row for the first seed of each setting."""
    points = preview_points(logs)
    firsts = [group[0] for group in group_by_setting(logs).values()]
    if not points or not any(log.previews for log in firsts):
        return [], []
    head = [[f"{share:.0%}", f"{at:,} images"] for share, at in zip(SHARES, points, strict=True)]
    runs_differ = any(log.images > 1.05 * points[-1] for log in firsts)
    if runs_differ:
        head.append(["at its own end"])
    rows = []
    for log in firsts:
        previews = list(log.previews.values())
        chosen = [nearest_preview(previews, at, max_distance=points[-1] / 4) for at in points]
        if runs_differ:
            chosen.append(max(previews, key=lambda preview: preview.images, default=None))
        name = f"{log.run.setting}, seed {log.run.seed}"
        rows.append((colours[log.run.setting], name, [_preview_cell(p) for p in chosen]))
    return head, rows


def _css_colours(settings: Sequence[str]) -> dict[str, str]:
    """Setting -> the colour of its curves, for a style sheet."""
    colours = distinct_colours(len(settings))
    return {
        setting: f"rgb({255 * red:.0f} {255 * green:.0f} {255 * blue:.0f})"
        for setting, (red, green, blue) in zip(settings, colours, strict=True)
    }


def write_comparison(
    path: Path, runs: Iterable[Run], title: str, command: str, notes: Sequence[str] = ()
) -> list[SettingRow]:
    """Write the page of `runs` to `path`, and beside it its curves (PNG) and its numbers (JSON).

    `command` makes the page again. Returns the rows of the table. Raises OSError if a file cannot
    be written.
    """
    logs = [read_run(run) for run in runs]
    if use_one_score(logs):
        notes = [*notes, EARLIER_SCORE]
    rows = summarise(logs)
    plot_curves(logs, path.with_suffix(".png"))
    pages.write_json(path.with_suffix(".json"), {"command": command, "settings": rows})
    colours = _css_colours(list(group_by_setting(logs)))
    finished = sum(log.run.state == FINISHED for log in logs)
    preview_head, previews = _preview_table(logs, colours)
    events = [
        (log.run.name, [f"at {_format_time(e.images, e.seconds)}: {e.line}" for e in log.events])
        for log in logs
        if log.events
    ]
    pages.write_page(
        path,
        "compare.html",
        title=title,
        command=command,
        notes=[f"{finished} of {len(logs)} runs are finished.", *notes],
        unfinished=[(log.run.name, log.run.state) for log in logs if log.run.state != FINISHED],
        head=COLUMNS,
        rows=[(colours[texts[0]], texts) for texts in table_rows(rows)],
        curves=pages.data_uri(path.with_suffix(".png")),
        preview_head=preview_head,
        previews=previews,
        events=events,
    )
    return rows
