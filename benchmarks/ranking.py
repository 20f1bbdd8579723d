"""Is "best by D's score" better? Every ranker on one run, against a random choice.

    python benchmarks/ranking.py RUN_FOLDER NAME [--anime=ZIP]
    python benchmarks/ranking.py RUN_FOLDER NAME --broken=3,17,40
    python benchmarks/ranking.py looks

RUN_FOLDER is where `train --name=NAME` was run. Draws 2,048 faces, takes the best 256 (12.5 %) by
each ranker, and scores them against the held-out images (of a run on the first 286 of the zip,
against others of it); the rankers look at training images only.
For the eye, every fifth of the 256 of four rankers are shuffled into ranked/NAME/blind-1.png and
on; whoever looks at them numbers the broken faces (from 0, by rows, on from sheet to sheet), and
the second command keeps that in docs/blind.json, and the third counts whose they were.
"""

import json
import os
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ablation
import numpy as np
import runs
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gan import data, features, metrics, ranking, sample
from gan.augment import augment
from models import Nets

DRAWN, KEPT = 2048, 256
VIEWS = 8
BLIND = ablation.ROOT / "docs" / "blind.json"
LOOKED_AT = ("none", "score", "realism", "ratio")
COLUMNS = (
    "KID (lite0)", "half size", "KID (random)", "precision (lite0)", "recall (lite0)",
    "precision (random)", "memorisation",
)  # fmt: skip
Best = dict[str, list[int]]  # ranker -> places of its best faces
FIFTH, SHEET = 5, 32  # of the best; faces of a sheet


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


def ranked(
    nets: Nets, drawn: Tensor, vectors: Tensor, source: sample.Source, train: features.Subset
) -> Best:
    """Places of the best 256 faces by each ranker."""
    real, D = ranking.known(train), nets.D
    z = source(ranking.ELSEWHERE, ranking.ASKED)
    fakes = sample.draw_uint8(nets.G, z, ranking.ASKED, torch.device("cpu"))
    judges = {
        "score": ranking.by_score(D, source),
        "views": by_views(D, source),
        "realism": ranking.by_realism(real),
        "ratio": ranking.by_ratio(real, fakes),
    }
    parts = list(zip(drawn.split(256), vectors.split(256), strict=True))
    with torch.no_grad():
        scores = {key: torch.cat([judge(*part) for part in parts]) for key, judge in judges.items()}
    best = {"none": list(range(KEPT))}
    best |= {key: value.argsort(descending=True)[:KEPT].tolist() for key, value in scores.items()}
    without_worst = scores["views"].argsort(descending=True)[: int(0.7 * DRAWN)]
    best["views, cut 30 %"] = without_worst.sort().values[:KEPT].tolist()
    return best


def main(folder: str, name: str, anime: str = "") -> None:
    zipped = Path(anime).resolve()
    os.chdir(folder)
    nets, config, path = runs.trained({"name": name}, ranks=True)
    nets.G.eval(), nets.D.eval()
    images = data.open_images(
        config.data_path, config.img_size, config.channels, ablation.CACHE, held_out=config.held_out
    )
    train = features.Subset(images.array, images.train)
    held = ablation.unseen(zipped) if anime else features.Subset(images.array, images.held_out)
    source = sample.Source.of(config)
    vectors = source(0, DRAWN)
    with torch.no_grad():
        drawn = torch.cat([nets.G(part) for part in vectors.split(config.batch_size)])
    best = ranked(nets, drawn, vectors, source, train)
    pictures = sample.to_uint8(drawn).numpy()
    reference = features.Reference()
    known = {net: reference.features(held, net, 1, "cpu") for net in ("lite0", "random")}
    print(f"{path}: the best {KEPT} of {DRAWN}, {len(held)} to compare with")
    print(f"| ranker | {' | '.join(COLUMNS)} |\n|{'---|' * (1 + len(COLUMNS))}")
    for key, places in best.items():
        chosen = pictures[places]
        found = metrics.quality(chosen, held, reference=reference)
        other = features.extract(chosen, "random")
        kid, half = found["KID (lite0)"], found["KID (lite0), half size"]
        seen = features.extract(chosen, "lite0")
        precision, recall = metrics.precision_recall(seen, known["lite0"])
        print(
            f"| {key} | {kid['value']:.2f} ± {kid['error']:.2f} | {half['value']:.2f} | "
            f"{metrics.kid(other, known['random'])[0]:.3f} | {precision:.2f} | {recall:.2f} | "
            f"{metrics.precision_recall(other, known['random'])[0]:.2f} | "
            f"{metrics.memorisation(chosen, train, held)['ratio']:.2f} |"
        )
    write_sheets(pictures, {key: best[key] for key in LOOKED_AT}, Path("ranked") / name)


def write_sheets(pictures: NDArray[np.uint8], best: Best, folder: Path) -> None:
    """Faces of all rankers, shuffled, and who chose each; one that several chose is shown once."""
    chose: dict[int, list[str]] = {}
    for key, places in best.items():
        for place in places[::FIFTH]:
            chose.setdefault(place, []).append(key)
    faces = list(chose.items())
    random.Random(0).shuffle(faces)
    for start in range(0, len(faces), SHEET):
        shown = pictures[[place for place, _ in faces[start : start + SHEET]]]
        picture = sample.as_picture(sample.grid(torch.from_numpy(shown)))
        sample.save_picture(picture, folder / f"blind-{start // SHEET + 1}.png")
    (folder / "blind.json").write_text(json.dumps([keys for _, keys in faces]), encoding="utf-8")
    print(f"{len(faces)} faces, shuffled: {folder}/blind-1.png and on")


def keep_look(folder: str, name: str, broken: str) -> None:
    """Add one look at the sheets of a run: the faces that are broken."""
    faces = json.loads((Path(folder) / "ranked" / name / "blind.json").read_text(encoding="utf-8"))
    bad = sorted({int(word) for word in broken.split(",")})
    assert bad[-1] < len(faces), f"there are {len(faces)} faces"
    kept = json.loads(BLIND.read_text(encoding="utf-8")) if BLIND.exists() else {}
    own = kept.setdefault(name, {"chosen_by": faces, "broken": []})
    assert own["chosen_by"] == faces, f"{BLIND} has looks at other sheets of {name}"
    own["broken"].append(bad)
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(kept[key])}" for key in sorted(kept))
    BLIND.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def looks() -> None:
    """Of the faces of each ranker, how many are broken, by each look."""
    kept = json.loads(BLIND.read_text(encoding="utf-8"))
    print(f"| ranker | {' | '.join(kept)} |\n|{'---|' * (1 + len(kept))}")
    for key in LOOKED_AT:
        cells = []
        for run in kept.values():
            own = {place for place, keys in enumerate(run["chosen_by"]) if key in keys}
            counts = ", ".join(str(len(own.intersection(bad))) for bad in run["broken"])
            cells.append(f"{counts} of {len(own)}")
        print(f"| {key} | {' | '.join(cells)} |")


if __name__ == "__main__":
    *words, last = sys.argv[1:]
    if sys.argv[1:] == ["looks"]:
        looks()
    elif last.startswith("--broken="):
        keep_look(*words, last.removeprefix("--broken="))
    elif last.startswith("--anime="):
        main(*words, last.removeprefix("--anime="))
    else:
        main(*words, last)
