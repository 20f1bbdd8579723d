"""Is "best by D's score" better? Every ranker on one run, against a random choice.

    python benchmarks/ranking.py RUN_FOLDER NAME [--anime=ZIP]
    python benchmarks/ranking.py RUN_FOLDER NAME --broken=3,17,40
    python benchmarks/ranking.py looks

RUN_FOLDER is where `train --name=NAME` was run. Draws 2,048 faces, takes the best 256 (12.5 %) by
each ranker, and scores them against the held-out images (with --anime, for a run on the first 286
of the zip, against others of it); the rankers look at training images only.
For the eye, every fifth of the 256 of four rankers are shuffled into ranked/NAME/blind-1.png and
on; whoever looks at them numbers the broken faces (from 0, by rows, on from sheet to sheet), and
the second command keeps that in docs/blind.json, and the third counts whose they were.
"""

import json
import os
import random
import sys
from pathlib import Path

import common
import numpy as np
import torch
from ablation import others_of
from common import CPU, ROOT
from numpy.typing import NDArray
from torch import Tensor, nn

from commands import runs
from commands.generate import make_judge
from gan import features, metrics, sample
from gan.augment import augment
from gan.data import Images
from gan.tasks import open_images

DRAWN, KEPT = 2048, 256
JUDGED_AT_ONCE = 256
VIEWS = 8
CUT_SHARE = 0.3  # of the faces, which "views, cut 30 %" leaves out
BLIND = ROOT / "docs" / "blind.json"
LOOKED_AT = ("none", "score", "realism", "ratio")
SHEET_EVERY, SHEET_FACES = 5, 32  # of the best faces every fifth is shown; faces of a sheet
COLUMNS = (
    "score", "KID (lite0)", "half size", "KID (random)", "precision (lite0)", "recall (lite0)",
    "precision (random)", "memorisation",
)  # fmt: skip
Best = dict[str, list[int]]  # ranker -> indices of its best faces


def judge_by_views(D: nn.Module, p: float = 0.5) -> sample.Judge:
    """D's mean score of 8 augmented views of an image, the same changes for every image.

    A score is a noisy judgement: G is trained to draw exactly what pleases D most.
    """

    def judge(images: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        scores = []
        for i in range(len(images)):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                views = augment(images[i].expand(VIEWS, -1, -1, -1), p)
            classes = (part[i].expand(VIEWS, -1) for part in condition)
            scores.append(D(views, *classes).float().mean())
        return torch.stack(scores)

    return judge


@torch.no_grad()
def best_of_each(
    run: runs.LoadedRun,
    images: Images,
    drawn: Tensor,
    source: sample.NoiseSource,
    condition: tuple[Tensor, ...],
) -> Best:
    """Indices of the best KEPT faces by each ranker."""
    judges = {"views": judge_by_views(run.nets.D.eval())}
    judges |= {
        kind: make_judge(kind, run, images, source, CPU) for kind in LOOKED_AT if kind != "none"
    }
    batches = list(zip(*(part.split(JUDGED_AT_ONCE) for part in (drawn, *condition)), strict=True))
    best: Best = {"none": list(range(KEPT))}
    order: dict[str, Tensor] = {}
    for kind in ("score", "views", "realism", "ratio"):
        scores = torch.cat([judges[kind](batch[0], batch[1:]) for batch in batches])
        order[kind] = scores.argsort(descending=True)
        best[kind] = order[kind][:KEPT].tolist()
    without_worst = order["views"][: int((1 - CUT_SHARE) * DRAWN)]
    best["views, cut 30 %"] = without_worst.sort().values[:KEPT].tolist()
    return best


def print_scores(
    pictures: NDArray[np.uint8], best: Best, train: features.Subset, held_out: features.Subset
) -> None:
    """A row for each ranker: its best faces of `pictures` against held-out images."""
    reference = features.Reference()
    whiten = metrics.whitenings(train, reference)
    real = {net: reference.features(held_out, net, 1, "cpu") for net in ("lite0", "random")}
    common.print_header(["ranker", *COLUMNS])
    for kind, indices in best.items():
        chosen = pictures[indices]
        found = metrics.quality(chosen, held_out, whiten, reference=reference)
        fake = {net: features.extract(chosen, net) for net in real}
        kid, half = found["KID (lite0)"], found["KID (lite0) half size"]
        precision, recall = metrics.precision_recall(fake["lite0"], real["lite0"])
        cells = [
            f"{found['score']['value']:.2f}",
            f"{kid['value']:.2f} ± {kid['error']:.2f}",
            f"{half['value']:.2f}",
            f"{metrics.kid(fake['random'], real['random']).value:.3f}",
            f"{precision:.2f}",
            f"{recall:.2f}",
            f"{metrics.precision_recall(fake['random'], real['random'])[0]:.2f}",
            f"{metrics.memorisation(chosen, train, held_out)['ratio']:.2f}",
        ]
        common.print_row([kind, *cells])


def compare_rankers(folder: str, name: str, anime: str) -> None:
    """Print what the best faces of each ranker score, and write the sheets for the eye."""
    archive = Path(anime).resolve()
    os.chdir(folder)
    run = runs.load_run({"name": name}, ranks=True)
    config, classes = run.config, len(run.facts.class_names)
    images = open_images(config, at_least=1)
    train = features.Subset(images.array, images.train)
    held_out = others_of(archive) if anime else features.Subset(images.array, images.held_out)
    source = sample.NoiseSource.of(config, classes)
    inputs = source(0, DRAWN)
    drawn = torch.cat(list(sample.draw(run.nets.G, inputs, config.batch_size, CPU)))
    best = best_of_each(run, images, drawn, source, inputs[1:])
    pictures = sample.to_uint8(drawn).numpy()
    print(f"{run.source}: the best {KEPT} of {DRAWN}, {len(held_out)} to compare with")
    print_scores(pictures, best, train, held_out)
    write_sheets(pictures, {kind: best[kind] for kind in LOOKED_AT}, Path("ranked") / name)


def write_sheets(pictures: NDArray[np.uint8], best: Best, folder: Path) -> None:
    """Faces of all rankers, shuffled, and who chose each; one that several chose is shown once."""
    chosen_by: dict[int, list[str]] = {}
    for kind, indices in best.items():
        for index in indices[::SHEET_EVERY]:
            chosen_by.setdefault(index, []).append(kind)
    faces = list(chosen_by.items())
    random.Random(0).shuffle(faces)
    for start in range(0, len(faces), SHEET_FACES):
        shown = pictures[[index for index, _ in faces[start : start + SHEET_FACES]]]
        sheet = sample.as_picture(sample.image_grid(torch.from_numpy(shown)))
        sample.save_picture(sheet, folder / f"blind-{start // SHEET_FACES + 1}.png")
    (folder / "blind.json").write_text(json.dumps([kinds for _, kinds in faces]), encoding="utf-8")
    print(f"{len(faces)} faces, shuffled: {folder}/blind-1.png and on")


def keep_look(folder: str, name: str, broken: str) -> None:
    """Add one look at the sheets of a run: the numbers of the faces that are broken."""
    faces = json.loads((Path(folder) / "ranked" / name / "blind.json").read_text(encoding="utf-8"))
    numbers = sorted({int(word) for word in broken.split(",")})
    if numbers[-1] >= len(faces):
        sys.exit(f"--broken={broken}: there are {len(faces)} faces, 0 to {len(faces) - 1}")
    looks = json.loads(BLIND.read_text(encoding="utf-8")) if BLIND.exists() else {}
    own = looks.setdefault(name, {"chosen_by": faces, "broken": []})
    if own["chosen_by"] != faces:
        sys.exit(f"{BLIND} has looks at other sheets of {name}")
    own["broken"].append(numbers)
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(looks[key])}" for key in sorted(looks))
    BLIND.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def print_looks() -> None:
    """Of the faces of each ranker, how many are broken, by each look."""
    if not BLIND.exists():
        sys.exit(f"{BLIND}: no looks yet; --broken=... adds one")
    looks = json.loads(BLIND.read_text(encoding="utf-8"))
    common.print_header(["ranker", *looks])
    for kind in LOOKED_AT:
        cells = []
        for run in looks.values():
            own = {number for number, kinds in enumerate(run["chosen_by"]) if kind in kinds}
            counts = ", ".join(str(len(own.intersection(broken))) for broken in run["broken"])
            cells.append(f"{counts} of {len(own)}")
        common.print_row([kind, *cells])


def main(*given: str) -> None:
    words, broken = common.take_flag("broken", given)
    words, anime = common.take_flag("anime", words)
    if words == ["looks"]:
        print_looks()
    elif len(words) != 2:
        sys.exit(__doc__)
    elif broken:
        keep_look(words[0], words[1], broken)
    else:
        compare_rankers(words[0], words[1], anime)


if __name__ == "__main__":
    common.run(main)
