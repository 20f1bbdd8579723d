"""Is "best by D's score" better? Every ranker on one run, against a random choice.

    python benchmarks/ranking.py RUN_FOLDER NAME [--anime=ZIP]
    python benchmarks/ranking.py sheets RUN_FOLDER NAME
    python benchmarks/ranking.py add RUN_FOLDER NAME LOOKER FILE.json
    python benchmarks/ranking.py looks RUN_FOLDER

RUN_FOLDER is where `train --name=NAME` was run. The first draws 2,048 faces, takes the best 256
(12.5 %) by each ranker, and scores them against the held-out images (with --anime, for a run on the
first 286 of the zip, against others of it); the rankers look at training images only.
The others are for the eye: see looks.py.
"""

import os
import sys
from collections import Counter
from pathlib import Path

import common
import looks
import numpy as np
import torch
from ablation import FIRST, others_of
from common import CPU
from numpy.typing import NDArray
from torch import Tensor, nn

from commands import runs
from commands.generate import ranking_inputs
from gan import features, kinds, metrics, sample
from gan.augment import augment
from gan.data import Images
from gan.ranking import RANKERS
from gan.tasks import open_images

DRAWN, KEPT = 2048, 256
JUDGED_AT_ONCE = 256
VIEWS = 8
CUT_SHARE = 0.3  # of the faces, which "views, cut 30 %" leaves out
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
    given = ranking_inputs(run, images, source, CPU)
    batches = list(zip(*(part.split(JUDGED_AT_ONCE) for part in (drawn, *condition)), strict=True))

    def ordered(judge: sample.Judge) -> Tensor:
        scores = torch.cat([judge(batch[0], batch[1:]) for batch in batches])
        return scores.argsort(descending=True, stable=True)

    best: Best = {}
    for name, row in RANKERS.items():
        order, kind_of = ordered(row.make_judge(given)), row.make_kinds(given)
        own = torch.cat([kind_of(batch[0]) for batch in batches])[order]
        limits = kinds.quotas(Counter(own.tolist()), KEPT)
        chosen = kinds.places(own) < torch.tensor([limits[kind] for kind in own.tolist()])
        best[name] = order[chosen].tolist()
    order = ordered(judge_by_views(run.nets.D.eval()))
    best["views"] = order[:KEPT].tolist()
    without_worst = order[: int((1 - CUT_SHARE) * DRAWN)]
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
    """Print what the best faces of each ranker score."""
    archive = Path(anime).resolve()
    os.chdir(folder)
    run = runs.load_run({"name": name}, ranks=True)
    config, classes = run.config, len(run.facts.class_names)
    images = open_images(config, at_least=1)
    train = features.Subset(images.array, images.train)
    held_out = (
        others_of(archive, FIRST["c"]) if anime else features.Subset(images.array, images.held_out)
    )
    source = sample.NoiseSource.of(config, classes)
    inputs = source(0, DRAWN)
    drawn = torch.cat(list(sample.draw(run.nets.G, inputs, config.batch_size, CPU)))
    best = best_of_each(run, images, drawn, source, inputs[1:])
    pictures = sample.to_uint8(drawn).numpy()
    print(f"{run.source}: the best {KEPT} of {DRAWN}, {len(held_out)} to compare with")
    print_scores(pictures, best, train, held_out)


def main(*given: str) -> None:
    words, anime = common.take_flag("anime", given)
    match words:
        case ["sheets", folder, name]:
            looks.write_sheets(folder, name)
        case ["add", folder, name, looker, file]:
            looks.add(folder, name, looker, Path(file))
        case ["looks", folder]:
            looks.print_tables(folder)
        case [folder, name]:
            compare_rankers(folder, name, anime)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    common.run(main)
