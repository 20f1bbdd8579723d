"""Broken faces among those that each ranker chooses, counted by eye. Called by ranking.py.

    python benchmarks/ranking.py sheets RUN_FOLDER NAME
    python benchmarks/ranking.py add RUN_FOLDER NAME LOOKER FILE.json
    python benchmarks/ranking.py looks RUN_FOLDER

The first draws the candidates 0 to 255 of a run as RUN_FOLDER/ranked/NAME/sheet-1.png and on, each
with its number. Whoever looks at them knows no ranker; FILE.json is the list of the numbers that
have something wrong with the face itself (an eye missing or misplaced, a smeared mouth, a torn
outline). The second keeps it in docs/blind.json. The third prints, of all runs there that
RUN_FOLDER has: broken faces of the eighth that each ranker would choose among those candidates, so
any ranker, also a later one, is judged by the same looks; and how far the shares of kinds move.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import common
import shares
import torch
from common import CPU, ROOT

from commands import runs
from commands.generate import ranking_inputs
from gan import sample, sheet
from gan.ranking import RANKERS, RankingInputs
from gan.tasks import open_images

BLIND = ROOT / "docs" / "blind.json"
LABELLED = 256  # candidates that are looked at
CHOSEN = LABELLED // 8  # of them, as `generate` keeps 64 of 512
SHEET_FACES, ENLARGED = 32, 2  # faces of a sheet, and how many times as large
SETS, CANDIDATES, KEPT = 4, 512, 64  # for the shares: choices of 64 among 512 each
Look = dict[str, object]  # of a run: "checkpoint", and "broken": looker -> numbers


def load(name: str) -> tuple[runs.LoadedRun, RankingInputs]:
    """A run of this folder, and what rankers get of it."""
    run = runs.load_run({"name": name}, ranks=True)
    images = open_images(run.config, at_least=1)
    source = sample.NoiseSource.of(run.config, len(run.facts.class_names))
    return run, ranking_inputs(run, images, source, CPU)


Choose = Callable[[int, int, int], sample.Ranked]  # see `chooser`


def chooser(ranker: str, run: runs.LoadedRun, given: RankingInputs) -> Choose:
    """(first, count, keep) -> the best `keep` of `count` candidates; indices count from `first`."""
    source = sample.NoiseSource.of(run.config, len(run.facts.class_names))
    row = RANKERS[ranker]
    judge, kind_of = row.make_judge(given), row.make_kinds(given)

    def choose(first: int, count: int, keep: int) -> sample.Ranked:
        candidates = sample.first_candidates(
            lambda at, n: source(first + at, n), count, run.config.batch_size, CPU
        )
        return sample.rank(run.nets.G, judge, candidates, keep, kind_of)

    return choose


def write_sheets(folder: str, name: str) -> None:
    """Draw the candidates, each with its number below it."""
    os.chdir(folder)
    run, given = load(name)
    faces = chooser("none", run, given)(0, LABELLED, LABELLED).images
    pictures = [sheet.enlarged(sample.as_picture(face), ENLARGED) for face in faces]
    where = Path("ranked") / name
    for start in range(0, LABELLED, SHEET_FACES):
        numbers = [str(start + i) for i in range(SHEET_FACES)]
        grid = sheet.grid(pictures[start : start + SHEET_FACES], captions=numbers)
        sample.save_picture(grid, where / f"sheet-{start // SHEET_FACES + 1}.png")
    print(f"{LABELLED} faces of {run.source}: {folder}/{where}/sheet-1.png and on")


def read_looks() -> dict[str, Look]:
    looks: dict[str, Look] = json.loads(BLIND.read_text("utf-8")) if BLIND.exists() else {}
    return looks


def broken_of(look: Look) -> dict[str, list[int]]:
    """looker -> numbers of the faces that are broken."""
    found = look["broken"]
    assert isinstance(found, dict)
    return found


def add(folder: str, name: str, looker: str, file: Path) -> None:
    """Keep one look at a run: the list of numbers in `file`."""
    numbers = sorted(set(json.loads(file.read_text("utf-8"))))
    if not all(isinstance(number, int) and 0 <= number < LABELLED for number in numbers):
        sys.exit(f"{file}: a list of numbers from 0 to {LABELLED - 1}")
    os.chdir(folder)
    checkpoint = Path(runs.load_run({"name": name}).source).name
    looks = read_looks()
    own = looks.setdefault(name, {"checkpoint": checkpoint, "broken": {}})
    if own["checkpoint"] != checkpoint:
        sys.exit(f"{BLIND}: {name} was looked at as of {own['checkpoint']}, not {checkpoint}")
    broken_of(own)[looker] = numbers
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(looks[key])}" for key in sorted(looks))
    BLIND.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def print_shares(name: str) -> None:
    """A row for each ranker: how far the shares of kinds move by its choice."""
    starts = range(0, SETS * CANDIDATES, CANDIDATES)
    run, given = load(name)
    draw = chooser("none", run, given)
    drawn = torch.cat([draw(at, CANDIDATES, CANDIDATES).images for at in starts])
    kinds = shares.kinds_of(drawn, avatars=not run.config.data_path)
    for ranker in RANKERS:
        choose = chooser(ranker, run, given)
        chosen = [at + choose(at, CANDIDATES, KEPT).indices for at in starts]
        common.print_row([name, ranker, *shares.cells(kinds, chosen, CANDIDATES)])


def print_tables(folder: str) -> None:
    """Broken faces of each ranker's choice, ranker x run; then the shares of kinds, each run."""
    os.chdir(folder)
    known = {
        name: look for name, look in read_looks().items() if Path("checkpoints", name).is_dir()
    }
    if not known:
        sys.exit(f"{BLIND}: no looks at runs of {folder}; `add` adds one")
    loaded = {name: load(name) for name in known}
    print(f"broken of {CHOSEN} chosen among {LABELLED}, by each who looked")
    common.print_header(["ranker", *known])
    broken = {
        name: [set(numbers) for numbers in broken_of(look).values()] for name, look in known.items()
    }
    by_chance = [", ".join(str(len(b) * CHOSEN // LABELLED) for b in broken[n]) for n in known]
    common.print_row(["a random choice", *by_chance])
    for ranker in RANKERS:
        cells = []
        for name, (run, given) in loaded.items():
            chosen = chooser(ranker, run, given)(0, LABELLED, CHOSEN).indices.tolist()
            cells.append(", ".join(str(len(b.intersection(chosen))) for b in broken[name]))
        common.print_row([ranker, *cells])
    print(f"\nshares of kinds among {KEPT} of {CANDIDATES}, {SETS} times. {shares.__doc__}")
    common.print_header(["run", "ranker", *shares.COLUMNS])
    for name in known:
        print_shares(name)
