"""Is "best by D's score" better? Every ranker on one run, against a random choice.

    python benchmarks/ranking.py RUN_FOLDER NAME

RUN_FOLDER is where `train --name=NAME` was run. Draws 2,048 faces, takes the best 256 (12.5 %) by
each ranker, and scores them against the held-out images; realism looks at training images only.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

import runs
from gan import data, features, metrics, ranking, sample
from gan.augment import augment

DRAWN, KEPT = 2048, 256
VIEWS = 8


def by_views(D: nn.Module, source: sample.Source, p: float = 0.5) -> sample.Judge:
    """D's mean score of 8 augmented views of a picture, the same changes for every picture.

    A score is a noisy judgement: D is trained against exactly the picture that pleases it most.
    """

    def judge(images: Tensor, vectors: Tensor) -> Tensor:
        scores = []
        for image, vector in zip(images, vectors, strict=True):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                seen = augment(image.expand(VIEWS, -1, -1, -1), p)
            wanted = source.condition(vector.expand(VIEWS, -1))
            scores.append(D(seen, *wanted).float().mean())
        return torch.stack(scores)

    return judge


def main(folder: str, name: str) -> None:
    os.chdir(folder)
    nets, config, path = runs.trained({"name": name}, ranks=True)
    nets.G.eval(), nets.D.eval()
    cache = Path("data/cache")
    images = data.open_images(
        config.data_path, config.img_size, config.channels, cache, held_out=config.held_out
    )
    train = features.Subset(images.array, images.train)
    real = ranking.known(train)
    source = sample.Source.of(config)
    vectors = source(0, DRAWN)
    with torch.no_grad():
        drawn = torch.cat([nets.G(part) for part in vectors.split(config.batch_size)])
        judges = {
            "score": ranking.by_score(nets.D, source),
            "views": by_views(nets.D, source),
            "realism": ranking.by_realism(real),
        }
        parts = list(zip(drawn.split(256), vectors.split(256), strict=True))
        scores = {key: torch.cat([judge(*part) for part in parts]) for key, judge in judges.items()}
    scores["none"] = -torch.arange(DRAWN).float()
    best = {key: value.argsort(descending=True)[:KEPT] for key, value in scores.items()}
    without_worst = scores["views"].argsort(descending=True)[: int(0.7 * DRAWN)]
    best["views, cut 30 %"] = without_worst[torch.randperm(len(without_worst))[:KEPT]]
    middle = scores["views"].argsort(descending=True)[: DRAWN // 2]
    best["views, then realism"] = middle[scores["realism"][middle].argsort(descending=True)[:KEPT]]
    held = features.Subset(images.array, images.held_out)
    pictures = sample.to_uint8(drawn).numpy()
    reference = features.Reference(images.folder / "features.npz")
    known = {net: reference.features(held, net, 1, "cpu") for net in ("lite0", "random")}
    print(f"{path}: the best {KEPT} of {DRAWN}, {len(held)} held out")
    print("| ranker | KID (lite0) | half size | KID (random) | precision (random) | memorisation |")
    print("|---|---|---|---|---|---|")
    for key, places in best.items():
        chosen = pictures[places.numpy()]
        found = metrics.quality(chosen, held, reference=reference)
        other = metrics.kid(features.extract(chosen, "random"), known["random"])[0]
        inside = metrics.precision_recall(features.extract(chosen, "random"), known["random"])[0]
        ratio = metrics.memorisation(chosen, train, held)["ratio"]
        kid, half = found["KID (lite0)"], found["KID (lite0), half size"]
        print(
            f"| {key} | {kid['value']:.2f} ± {kid['error']:.2f} | {half['value']:.2f} | "
            f"{other:.3f} | {inside:.2f} | {ratio:.2f} |"
        )
    Path("ranked").mkdir(exist_ok=True)
    for key, places in best.items():
        grid = sample.grid(torch.from_numpy(pictures[places[:32].numpy()]))
        sample.save_picture(sample.as_picture(grid), Path("ranked") / f"{key}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
