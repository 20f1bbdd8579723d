"""One arm of the ablation on one set with one seed: trains it, scores it, keeps the line.

    python benchmarks/ablation.py run ARM SET SEED IMAGES --anime=anime-faces-128.zip
    python benchmarks/ablation.py table

SET: a 4,096 rendered avatars; b all of the zip; c its first 286 pictures and f its first 50, scored
against the others; u 4,096 avatars of a style that nothing was tuned on. Budgets are counted in
images, so that a busy machine spoils no comparison. A killed run is resumed; one that is in the
table is not run again. 96 px, 1,000 fakes of the final average. Runs are trained in
benchmarks/work, or in the folder that ABLATION_WORK names.
"""

import io
import json
import os
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
from arms import ARMS
from common import CPU, LITE0, ROOT, SCORE

import main as toolkit
import models
from commands import runs
from config import Config
from gan import avatars, checkpoint, data, features, filesystem, metrics, report, sample
from gan.errors import Refused
from gan.families import ROWS, Row
from gan.tasks import open_images

Line = dict[str, Any]  # Any: a row of JSON
LINES = ROOT / "docs" / "ablation.jsonl"
WORK = Path(os.environ.get("ABLATION_WORK", ROOT / "benchmarks" / "work")).resolve()
FAKES = 1000
OTHERS = 1000  # images of the zip that runs on set c are scored against, at most
FIRST = {"c": 286, "f": 50}  # images of the zip that are trained on
UNTUNED_STYLE = "lorelei"  # by Lisa Wischofsky, CC0 1.0
SCORE_IMAGES = 25_000  # images from one score in mid-run to the next, at most
COLUMNS = {
    "score": SCORE,
    "score (lite0)": LITE0,
    "KID 96": "KID (lite0)",
    "KID 48": "KID (lite0) half size",
    "KID (random)": "KID (random)",
    "coverage": "coverage (lite0)",
    "coverage 48": "coverage (lite0) half size",
    "recall": "recall (lite0)",
    "SWD": "SWD",
    "memorisation": "memorisation",
}


@dataclass(frozen=True)
class Run:
    """What one line of the table is of."""

    arm: str  # a row of ARMS
    data_set: str  # a key of PATHS
    seed: int
    images: int

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.data_set}-{self.seed}-{self.images}"

    @property
    def folder_name(self) -> str:
        """Of the run in checkpoints, imgs and runs.

        Where learning rates do not fall with the budget, a longer run resumes a shorter one.
        """
        rates_fall = ARMS[self.arm][1].defaults.get("lr_end", Config.lr_end) != 1
        return self.name if rates_fall else f"{self.arm}-{self.data_set}-{self.seed}"


def read_lines() -> list[Line]:
    """The table so far, all scores by the names that they have today."""
    if not LINES.exists():
        return []
    lines = LINES.read_text(encoding="utf-8").replace("), half size", ") half size")
    return [json.loads(line) for line in lines.splitlines()]


def find_line(run: Run) -> Line | None:
    return next((line for line in read_lines() if line["name"] == run.name), None)


def make_zip(path: Path, fill: Callable[[zipfile.ZipFile], object]) -> Path:
    """A zip in the working folder, filled when it is first asked for."""

    def write(part: Path) -> None:
        with zipfile.ZipFile(part, "w") as archive:
            fill(archive)

    if not path.exists():
        filesystem.atomic_write(path, write)
    return path


def zip_of_first(archive: Path, count: int) -> Path:
    """A zip of the first `count` pictures of another."""

    def fill(first: zipfile.ZipFile) -> None:
        with zipfile.ZipFile(archive) as whole:
            names = sorted(i.filename for i in whole.infolist() if not i.is_dir())
            for name in names[:count]:
                first.writestr(name, whole.read(name))

    return make_zip(Path(f"first-{count}.zip"), fill)


def zip_of_style(name: str) -> Path:
    """A zip of as many faces of another style as there are avatars, 96 px, on their backgrounds."""

    def fill(archive: zipfile.ZipFile) -> None:
        style = avatars.load_style(name)
        for index in range(avatars.COUNT):
            face = io.BytesIO()
            avatars.draw(style, index, 96, {}).save(face, "PNG")
            archive.writestr(f"{index:04}.png", face.getvalue())

    return make_zip(Path(f"{name}.zip"), fill)


PATHS: dict[str, Callable[[Path], Path | None]] = {  # set -> what --data-path names, of the zip
    "a": lambda anime: None,
    "b": lambda anime: anime,
    "c": lambda anime: zip_of_first(anime, FIRST["c"]),
    "f": lambda anime: zip_of_first(anime, FIRST["f"]),
    "u": lambda anime: zip_of_style(UNTUNED_STYLE),
}


def others_of(anime: Path, first: int) -> features.Subset:
    """Images of the zip that are neither among its first nor near-duplicates of one of them."""
    images = data.open_images(str(anime), 96, 3)
    clusters = np.load(images.folder / "split.npy")[1]
    others = np.flatnonzero(~np.isin(clusters, clusters[:first]))
    # rounded down: other images would not compare with the lines that there are
    spaced = np.linspace(0, len(others) - 1, min(len(others), OTHERS)).astype(int)
    return features.Subset(images.array, others[spaced])


def score_state(state: Path, run: Run, anime: Path, grid: Path) -> Line:
    """Scores of FAKES faces that a saved state draws; the first 64, not chosen, go to `grid`."""
    nets, config, _ = models.restore(state)
    images = open_images(config, at_least=1)
    inputs = sample.NoiseSource.of(config)(0, FAKES)
    fakes = sample.draw_uint8(nets.G, inputs, config.batch_size, CPU)
    sample.save_picture(sample.as_picture(sample.image_grid(fakes[:64])), grid)
    train = features.Subset(images.array, images.train)
    held_out = features.Subset(images.array, images.held_out)
    if run.data_set in FIRST:
        held_out = others_of(anime, FIRST[run.data_set])
    reference = features.Reference(images.features_file)
    found = metrics.evaluate(fakes.numpy(), train, held_out, reference=reference)
    memory = found["memorisation"]
    return {
        **{name: round(row["value"], 3) for name, row in found["scores"].items()},
        "floor": round(found["scores"][SCORE]["floor"], 3),
        "memorisation": round(memory["ratio"], 3),
        "copied": round(memory["copied"], 3),
    }


def train(run: Run, anime: Path) -> Path:
    """Train the run, or resume it, to the end of its budget; returns its last state."""
    name, folder = run.folder_name, runs.folder_of("checkpoints", run.folder_name)
    flags, family = ARMS[run.arm]
    models.FAMILIES[run.arm] = family
    uses = ("penalty", "penalty_every")
    ROWS[run.arm] = Row("", "", uses=uses, defaults=family.defaults)
    if next(checkpoint.newest(folder, checkpoint.load), None):
        words = ["--resume", f"--name={name}"]
    else:
        score_images = min(run.images // 4, SCORE_IMAGES)
        words = [f"--family={run.arm}", f"--name={name}", "--gpu=False", f"--seed={run.seed}"]
        words += [f"--eval-every={score_images}", "--save-every=1000000", "--save-minutes=5"]
        if path := PATHS[run.data_set](anime):
            words.append(f"--data-path={path}")
        words += flags.split()
    try:
        toolkit.run(["train", *words, f"--max-images={run.images}"])
    except Refused as error:
        if "is spent" not in str(error):
            raise
    return checkpoint.states(folder)[0]


def add_line(run: Run, anime: Path) -> None:
    """Train and score a run that is not in the table yet, and put it there."""
    if find_line(run):
        return
    WORK.mkdir(parents=True, exist_ok=True)
    os.chdir(WORK)
    path = train(run, anime)
    state = checkpoint.load(path)
    batch_size = state["config"]["batch_size"]
    shown = state["step"] * batch_size
    if not 0 <= shown - run.images < batch_size:
        sys.exit(f"{run.name}: its run is at {shown:,} images; short budgets come before long ones")
    grids = WORK / "grids"
    scores = score_state(path, run, anime, grids / f"{run.name}.png")
    best = score_state(path.with_name(checkpoint.BEST), run, anime, grids / f"{run.name}-best.png")
    log = report.read_log(runs.folder_of("runs", run.folder_name) / "log.jsonl")
    line: Line = {
        "name": run.name,
        "arm": run.arm,
        "set": run.data_set,
        "seed": run.seed,
        "images": run.images,
        "rescues": state["rescues"],
        "collapsed": any(row.get("kind") == "collapse" for row in log),
        "best": best[SCORE],  # of the state that scored best on the way; if it has no
        # "score", best, curve and floor are of "score (lite0)"
        "curve": {str(row["images"]): row["score"] for row in log if row.get("event") == "score"},
        **scores,
    }
    with open(LINES, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def print_table() -> None:
    """Best first; "-" where a line is of an earlier version, which had no such score."""
    common.print_header(["set", "images", "arm", "seed", *COLUMNS])

    def rank(line: Line) -> tuple[object, ...]:
        return line["set"], line["images"], SCORE not in line, line.get(SCORE, line[LITE0])

    for line in sorted(read_lines(), key=rank):
        cells = [line["set"], f"{line['images']:,}", f"`{line['arm']}`", str(line["seed"])]
        values = [f"{line[name]:.2f}" if name in line else "-" for name in COLUMNS.values()]
        common.print_row([*cells, *values])


def main(*given: str) -> None:
    words, anime = common.take_flag("anime", given)
    if words == ["table"]:
        print_table()
    elif len(words) == 5 and words[0] == "run" and words[1] in ARMS and words[2] in PATHS and anime:
        _, arm, data_set, seed, images = words
        add_line(Run(arm, data_set, int(seed), int(images)), Path(anime).resolve())
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    common.run(main)
