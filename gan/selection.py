"""Which pictures of a preparation are kept, and why not the others.

The examination is not repeated for this: what --keep, --drop, --min-size and --dedup say can be
changed at any time. Nothing here imports torch.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gan import examine, split
from gan.errors import Refused, plain
from gan.intake import Intake
from gan.readers import expanded

KEPT, SKIPPED, FOLDED, DROPPED = "kept", "skipped", "folded", "dropped"
DUPLICATE = "near-duplicate"
BATCH = 4096  # rows written at a time


@dataclass(frozen=True)
class Rules:
    """What decides."""

    least: int  # pixels of the shorter side
    dedup: bool
    keep: frozenset[str] = frozenset()  # names, whatever else is said
    drop: frozenset[str] = frozenset()


def read_list(file: str, flag: str) -> frozenset[str]:
    """The names in a list, one a line, up to the first tab; raises Refused if it cannot be read."""
    if not file:
        return frozenset()
    try:
        lines = expanded(file).read_text("utf-8", "surrogateescape").splitlines()
    except OSError as error:
        raise Refused(f"{flag}={file}: {error.strerror}") from error
    return frozenset(line.split("\t")[0].strip() for line in lines) - {""}


def check_lists(intake: Intake, rules: Rules) -> None:
    """Raises Refused for a name in both lists, or one that no picture has."""
    if both := rules.keep & rules.drop:
        raise Refused(f"--keep, --drop: both name {plain(min(both))}; take it out of one")
    for flag, names in (("--keep", rules.keep), ("--drop", rules.drop)):
        unknown = [name for name in sorted(names) if not intake.count("name = ?", name)]
        if unknown:
            raise Refused(
                f"{flag}: no picture is called {plain(unknown[0])} ({len(unknown):,} such names); "
                "names are those of the list beside --out"
            )
        broken = [
            name for name in sorted(names)
            if flag == "--keep" and not intake.count("name = ? and bytes > 0", name)
        ]  # fmt: skip
        if broken:
            raise Refused(f"{flag}: {plain(broken[0])} cannot be read, so it cannot be kept")


def _verdict(intake: Intake, rules: Rules, row: tuple[object, ...]) -> tuple[str, str, str]:
    """Verdict, reason and details of one picture, near-duplicates apart."""
    name, side, kind, detail = row[1:5]
    if name in rules.drop:
        return DROPPED, "--drop", ""
    if name in rules.keep:
        return KEPT, "--keep", ""
    if kind:
        return SKIPPED, str(kind), str(detail)
    treatment = intake.treatment
    size = treatment.size if treatment.crop != "none" else 0
    if fault := examine.size_fault(int(str(side)), rules.least, size):
        return SKIPPED, *fault
    return KEPT, "", ""


def _rows(intake: Intake) -> Iterator[list[tuple[object, ...]]]:
    last = -1
    while True:
        rows = intake.db.execute(
            "select id, name, side, kind, detail from pictures where id > ? order by id limit ?",
            (last, BATCH),
        ).fetchall()
        if not rows:
            return
        last = rows[-1][0]
        yield rows


def select(intake: Intake, rules: Rules) -> None:
    """Write the verdict of every picture; raises Refused for a list with a mistake."""
    check_lists(intake, rules)
    for rows in _rows(intake):
        verdicts = [(*_verdict(intake, rules, row), row[0]) for row in rows]
        intake.db.execute("begin")
        intake.db.executemany(
            "update pictures set verdict = ?, reason = ?, why = ?, cluster = null where id = ?",
            verdicts,
        )
        intake.db.execute("commit")
    if rules.dedup:
        _fold(intake)


def _signatures(intake: Intake, file: Path) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Of the pictures kept: their ids [N] and signatures [N, B], which are on disk."""
    count = intake.count("verdict = ?", KEPT)
    ids = np.empty(count, np.int64)
    width = len(
        intake.db.execute(
            "select signature from pictures where verdict = ? limit 1", (KEPT,)
        ).fetchone()[0]
    )
    rows = intake.db.execute(
        "select id, signature from pictures where verdict = ? order by id", (KEPT,)
    )
    with open(file, "wb") as signatures:
        for index, (number, signature) in enumerate(rows):
            ids[index] = number
            signatures.write(signature)
    return ids, np.memmap(file, np.uint8, "r", shape=(count, width))


def _fold(intake: Intake) -> None:
    """Keep one picture of each cluster of near-duplicates: the largest, or those in --keep."""
    if intake.count("verdict = ?", KEPT) < 2:
        return
    with tempfile.TemporaryDirectory(dir=intake.folder) as folder:
        ids, signatures = _signatures(intake, Path(folder) / "signatures.u8")
        groups = split.clusters_of_several(split.clusters_of(signatures))
        del signatures  # some systems delete no file that is mapped
    intake.db.execute("begin")
    for number, group in enumerate(groups):
        _fold_group(intake, number, ids[group].tolist())
    intake.db.execute("commit")


def _fold_group(intake: Intake, number: int, ids: list[int]) -> None:
    rows = []
    for start in range(0, len(ids), 500):
        some = ids[start : start + 500]
        marks = ", ".join("?" * len(some))
        rows += intake.db.execute(
            f"select id, name, side, reason from pictures where id in ({marks})", some
        ).fetchall()
    best = max(rows, key=lambda row: (row[3] == "--keep", row[2], -row[0]))
    intake.db.executemany(
        "update pictures set cluster = ? where id = ?", [(number, row[0]) for row in rows]
    )
    intake.db.executemany(
        "update pictures set verdict = ?, reason = ?, why = ? where id = ?",
        [
            (FOLDED, DUPLICATE, f"of {best[1]}", row[0])
            for row in rows
            if row is not best and row[3] != "--keep"
        ],
    )


def summary(intake: Intake) -> list[tuple[str, str, int]]:
    """Verdict, reason and number of pictures, the most frequent first within each verdict."""
    found = intake.db.execute(
        "select verdict, reason, count(*) from pictures group by verdict, reason"
    ).fetchall()
    order = (KEPT, FOLDED, SKIPPED, DROPPED)
    return sorted(found, key=lambda row: (order.index(row[0]), -row[2], row[1]))


def notes(intake: Intake) -> list[tuple[str, int]]:
    """Each kind of notes about pictures that are kept, and how many have it."""
    found = intake.db.execute(
        "select json_extract(note.value, '$[0]') as noted, count(*) from pictures,"
        " json_each(pictures.notes) as note where verdict = ? group by noted order by 2 desc, 1",
        (KEPT,),
    ).fetchall()
    return [(str(kind), int(count)) for kind, count in found]
