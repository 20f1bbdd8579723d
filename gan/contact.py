"""The page of `prepare`: what was kept, skipped, folded and cropped, each with its reason.

One file with small pictures in it; a person who disagrees puts names into --keep or --drop.
"""

import io
import json
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from gan import pages, selection
from gan.intake import Intake
from gan.selection import DROPPED, FOLDED, KEPT, SKIPPED

SIDE = 96  # pixels of a small picture
SHOWN_KEPT = 64
SHOWN_OTHERS = 24  # of each reason
CLUSTERS = 24  # the largest
SHOWN_OF_CLUSTER = 10
SHUFFLED = "(id * 2654435761) % 4294967296"  # an order that is the same every time


class Tile(NamedTuple):
    """A small picture on the page."""

    name: str
    source: str  # data URI; "" if there is no picture
    text: str


class Section(NamedTuple):
    """Pictures of one kind."""

    title: str
    number: int
    tiles: list[Tile]


def _small(data: bytes) -> str:
    """A picture as a data URI of JPEG, its longer side SIDE pixels; "" for none."""
    if not data:
        return ""
    with Image.open(io.BytesIO(data)) as picture:
        small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    return pages.data_uri(file.getvalue())


def _tiles(
    intake: Intake,
    condition: str,
    values: tuple[object, ...],
    most: int,
    order: str = SHUFFLED,
    note: str = "",
) -> list[Tile]:
    """At most `most` pictures for which an SQL condition holds; of a kind of `note`, its text."""
    rows = intake.db.execute(
        f"select name, blob, start, bytes, width, height, why, verdict, notes from pictures"
        f" where {condition} order by {order} limit ?",
        (*values, most),
    ).fetchall()
    tiles = []
    for name, blob, start, count, width, height, why, verdict, notes in rows:
        text = why if verdict in (SKIPPED, FOLDED) and why else f"{width} x {height}"
        text = dict(json.loads(notes)).get(note, text)
        tiles.append(Tile(name, _small(intake.read(blob, start, count) if count else b""), text))
    return tiles


def _sections(intake: Intake) -> list[Section]:
    sections = []
    for verdict, reason, count in selection.summary(intake):
        most = SHOWN_KEPT if verdict == KEPT else SHOWN_OTHERS
        condition = "verdict = ? and reason = ?"
        tiles = _tiles(intake, condition, (verdict, reason), most)
        sections.append(Section(f"{verdict}: {reason}" if reason else verdict, count, tiles))
    for kind, count in selection.notes(intake):
        condition = (
            "verdict = ? and exists (select 1 from json_each(notes) as note"
            " where json_extract(note.value, '$[0]') = ?)"
        )
        tiles = _tiles(intake, condition, (KEPT, kind), SHOWN_OTHERS, note=kind)
        sections.append(Section(f"kept, with a note: {kind}", count, tiles))
    return sections


def _clusters(intake: Intake) -> list[Section]:
    """The largest clusters of near-duplicates; the picture that is kept comes first."""
    found = intake.db.execute(
        "select cluster, count(*) from pictures where cluster is not null"
        " group by cluster order by 2 desc, 1 limit ?",
        (CLUSTERS,),
    ).fetchall()
    kept_first = f"verdict != '{KEPT}', side desc, id"
    return [
        Section(
            f"cluster of {count:,}",
            count,
            _tiles(intake, "cluster = ?", (number,), SHOWN_OF_CLUSTER, kept_first),
        )
        for number, count in found
    ]


def write_page(intake: Intake, path: Path, title: str, lines: list[str], listed: str) -> None:
    """Write the page; `lines` say what was done, `listed` is the file with every name."""
    pages.write_page(
        path,
        "prepare.html",
        title=title,
        lines=lines,
        listed=listed,
        rows=[
            row for row in selection.summary(intake) if row[0] in (KEPT, SKIPPED, FOLDED, DROPPED)
        ],
        notes=selection.notes(intake),
        sections=_sections(intake),
        clusters=_clusters(intake),
    )
