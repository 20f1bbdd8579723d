"""Faults by the hundred: what is lost, and how long it takes.

python benchmarks/soak.py PART [TRIALS] [--folder=FOLDER] [--results=FILE] [--minutes=N]

kills      SIGKILL at random moments of trainings; the resumed run is the run
background the same while saves are written beside the steps
builds     the same while caches are built by several processes
commands   the same of commands that write files
disk       the disk is full for a while (needs the right to mount)
flips      a byte is damaged in each kind of file
fuzz       inputs as hypothesis draws them: words, pictures, archives, settings, states, commands
moments    clocks that jump, SIGSTOP and SIGCONT, folders deleted in mid-run
checkout   the program's own folder is read-only (needs the right to mount)
hours      a training with scores and saves: memory, files, threads
table      docs/faults.md, of the results

Each trial is on record in --folder (benchmarks/work/soak) when it is over, so what was killed goes
on; --minutes ends a sitting. A line for each fault is added to --results (docs/faults.jsonl). A
trial is a whole program in a fork of this process, in a folder with a space and a letter that is
not ASCII in its name.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import soak_flips
import soak_fuzz
import soak_hours
import soak_kills
import soak_room
import torch
from common import ROOT, print_header, print_row, run, take_flag
from soak_work import OutOfTime, Record

from gan.errors import Refused

FOLDER, RESULTS = ROOT / "benchmarks" / "work" / "soak", ROOT / "docs" / "faults.jsonl"
PARTS: dict[str, tuple[Callable[[Record, int], None], int]] = {
    **soak_kills.PARTS,
    **soak_flips.PARTS,
    **soak_room.PARTS,
    **soak_fuzz.PARTS,
    **soak_hours.PARTS,
}


def in_words(outcomes: dict[str, int]) -> str:
    return "; ".join(f"{count:,} {outcome}" for outcome, count in outcomes.items())


def table(results: Path) -> None:
    """The newest line of each fault, as rows of Markdown; those of `hours` as their own table."""
    lines = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
    newest = {line["fault"]: line for line in lines}
    print_header(["fault", "trials", "lost", "what became of the others", "seconds"])
    for line in newest.values():
        if "outcomes" in line:
            told = in_words(line["outcomes"])
            seconds = f"{line['seconds']:,.0f}"
            print_row([line["fault"], f"{line['trials']:,}", line["lost"], told, seconds])
    for line in newest.values():
        if "rows" in line:
            print(f"\n{line['fault']}:\n")
            print_header(line["columns"])
            for row in line["rows"]:
                print_row(row)


def soak(part: str, *words: str) -> None:
    """One of the parts, so many trials."""
    torch.set_num_threads(1)
    left, folder = take_flag("folder", words)
    left, results = take_flag("results", left)
    left, minutes = take_flag("minutes", left)
    if part == "table":
        return table(Path(results or RESULTS))
    if part not in PARTS or len(left) > 1:
        raise Refused(f"{part}: give one of {', '.join(PARTS)}, table; and a number of trials")
    work, trials = PARTS[part]
    deadline = time.monotonic() + 60 * float(minutes or math.inf)
    record = Record(Path(folder or FOLDER).resolve(), Path(results or RESULTS).resolve(), deadline)
    try:
        work(record, int(left[0]) if left else trials)
    except OutOfTime:
        print(f"{part}: this sitting is over; the same command goes on", file=sys.stderr)


if __name__ == "__main__":
    run(soak)
