"""What was understood of a data set: lines to say before a training, and `report.txt`.

`report.txt` is in the cache beside the pixels and names every file that the lines only count.
Nothing here imports torch.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median_low
from typing import TypedDict

from gan.errors import counted, plain

FILE = "report.txt"
MOST_CLASSES = 12  # that a line names

Seen = Sequence[tuple[str, str, int, int]]  # name, mode, width and height of each picture


class Overview(TypedDict):
    """What `index.json` holds of it."""

    pictures: int
    folders: int
    modes: dict[str, int]  # Pillow's, the most frequent first
    median: list[int]  # width and height
    smallest: list[int]  # of the picture with the fewest pixels
    enlarged: int  # pictures that are smaller than what was made of them
    values: list[str]  # a line for each kind of pictures with more than 8 bits


def overview_of(seen: Seen, side: int, values: list[str]) -> Overview:
    """Of pictures, each made into a square of `side` pixels."""
    sizes: list[tuple[int, int]] = [(width, height) for _, _, width, height in seen]
    modes = Counter(mode for _, mode, _, _ in seen)
    return {
        "pictures": len(seen),
        "folders": len({name.rpartition("/")[0] for name, *_ in seen}),
        "modes": dict(modes.most_common()),
        "median": [median_low([size[axis] for size in sizes] or [0]) for axis in (0, 1)],
        "smallest": list(min(sizes, key=math.prod, default=(0, 0))),
        "enlarged": sum(min(size) < side for size in sizes),
        "values": values,
    }


def describe(found: Overview) -> str:
    """One clause: how many, from where, which modes and sizes."""
    if not found["pictures"]:
        return "no pictures"
    modes = " and ".join(
        f"{count:,} {mode}" if len(found["modes"]) > 1 else mode
        for mode, count in found["modes"].items()
    )
    (width, height), (least_width, least_height) = found["median"], found["smallest"]
    sizes = f"median {width:,} x {height:,}, smallest {least_width:,} x {least_height:,} pixels"
    where = f" in {found['folders']:,} folders" if found["folders"] > 1 else ""
    return f"{counted(found['pictures'], 'picture')}{where} ({modes}; {sizes})"


def describe_changes(found: Overview | None, side: int, ignored: int) -> list[str]:
    """Clauses: what was enlarged, what was passed over."""
    clauses = []
    if found and found["enlarged"]:
        clauses.append(f"{found['enlarged']:,} enlarged to {side} px")
    if ignored:
        which = "file that is no picture" if ignored == 1 else "files that are no pictures"
        clauses.append(f"{ignored:,} {which} passed over")
    return clauses


def describe_classes(counts: Mapping[str, int]) -> str:
    """Each class with its number of pictures; of many, the first MOST_CLASSES."""
    named = [f"{plain(name)} {count:,}" for name, count in counts.items()]
    more = f" and {len(named) - MOST_CLASSES:,} more" if len(named) > MOST_CLASSES else ""
    return f"{len(named):,} classes: {', '.join(named[:MOST_CLASSES])}{more}"


def _section(title: str, lines: Iterable[str]) -> list[str]:
    lines = list(lines)
    return ["", f"{title}: {len(lines):,}", *(f"  {line}" for line in lines)] if lines else []


def write_report(
    folder: Path,
    found: Overview,
    seen: Seen,
    side: int,
    *,
    skipped: Mapping[str, str],
    ignored: int,
    labels: Mapping[str, Sequence[str]],
    groups: Sequence[Sequence[str]],
) -> None:
    """Write `report.txt` in `folder`.

    `labels`: what each picture is, by the kind of label ("class", "part"); `groups`: the names of
    near-duplicates, group by group.
    """
    lines = [describe(found), *found["values"]]
    if seen:
        largest = max(seen, key=lambda row: row[2] * row[3])
        lines.append(f"largest: {plain(largest[0])}, {largest[2]:,} x {largest[3]:,} pixels")
    lines += describe_changes(None, side, ignored)
    for kind, values in labels.items():
        rows = (f"{plain(name)}\t{count:,}" for name, count in sorted(Counter(values).items()))
        lines += _section(f"{kind}, and pictures of each", rows)
    lines += _section("skipped", (f"{plain(n)}\t{plain(why)}" for n, why in skipped.items()))
    lines += _section(
        f"enlarged to {side} pixels",
        (f"{plain(n)}\t{w} x {h}" for n, _, w, h in seen if min(w, h) < side),
    )
    ordered = sorted(groups, key=len, reverse=True)
    lines += _section(
        "groups of near-duplicates, an epoch shows one picture of each (--dedup=False: all)",
        (f"{len(group):,}\t" + "\t".join(map(plain, group)) for group in ordered),
    )
    (folder / FILE).write_text("\n".join(lines) + "\n", "utf-8")
