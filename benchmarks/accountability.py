"""Does each score get worse when pictures get worse? Prints a table, metric x corruption.

    python benchmarks/accountability.py FOLDER_OR_ZIP [features]

Real pictures play the generator: 240 that are neither held out nor in the training set that the
memorisation is measured against. "ok": strictly worse at every step; "end": at the last
strength worse than untouched; "--": not even there. Takes about four minutes on two cores.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gan import data, features, metrics

Pixels = NDArray[np.uint8]  # [N, C, H, W]
COUNT, SIZE, MODES = 240, 96, 8


def blur(images: Pixels, deviation: float) -> Pixels:
    reach = torch.arange(-8, 9).float()
    bell = torch.exp(-(reach**2) / 2 / deviation**2)
    weight = (bell / bell.sum()).view(1, 1, 1, -1).expand(images.shape[1], 1, 1, -1)
    x = torch.from_numpy(images).float()
    for pad, kernel in (((8, 8, 0, 0), weight), ((0, 0, 8, 8), weight.transpose(2, 3))):
        x = F.conv2d(F.pad(x, pad, mode="reflect"), kernel, groups=images.shape[1])
    return x.round().clamp(0, 255).byte().numpy()


def noise(images: Pixels, deviation: float) -> Pixels:
    added = np.random.RandomState(1).randn(*images.shape) * deviation
    return np.clip(images + added, 0, 255).round().astype(np.uint8)


def grid(images: Pixels, strength: int) -> Pixels:
    """Every third row and column brighter."""
    lit = images.astype(int)
    lit[:, :, ::3, :] += strength
    lit[:, :, :, ::3] += strength
    return np.clip(lit, 0, 255).astype(np.uint8)


def modes_kept(pool: Pixels, kept: int) -> Pixels:
    """`COUNT` pictures of `kept` of the `MODES` colour modes: k-means of 8 x 8 thumbnails."""
    x = features.resized(torch.from_numpy(pool).float(), (8, 8)).flatten(1) / 255
    centres = x[np.random.RandomState(2).permutation(len(x))[:MODES]]
    for _ in range(30):
        label = torch.cdist(x, centres).argmin(1)
        centres = torch.stack([x[label == mode].mean(0) for mode in range(MODES)])
    chosen = np.isin(label.numpy(), np.random.RandomState(3).permutation(MODES)[:kept])
    return pool[np.random.RandomState(4).permutation(np.flatnonzero(chosen))[:COUNT]]


def corruptions(fresh: Pixels, train: Pixels) -> dict[str, list[Pixels]]:
    """Name -> the pictures at each strength."""
    pool = np.concatenate([fresh, train])
    return {
        "real": [fresh],
        "blur 0.7 / 1.2 / 2.5 px": [blur(fresh, s) for s in (0.7, 1.2, 2.5)],
        "noise 6 / 12 / 25": [noise(fresh, s) for s in (6, 12, 25)],
        "3-px grid 6 / 12 / 24": [grid(fresh, s) for s in (6, 12, 24)],
        "modes kept 6 / 4 / 2 of 8": [modes_kept(pool, kept) for kept in (6, 4, 2)],
        "training copies 20 / 60 / 100 %": [
            np.concatenate([train[:copies], fresh[copies:]])
            for copies in (COUNT // 5, 3 * COUNT // 5, COUNT)
        ],
        "copies mirrored / noisy / darker": [
            train[:COUNT, ..., ::-1].copy(),
            noise(train[:COUNT], 10),
            (train[:COUNT] * 0.8).astype(np.uint8),
        ],
    }


def verdict(name: str, course: list[float]) -> str:
    """Whether the course from real pictures on is one of a metric that sees what happens."""
    rises = not any(word in name for word in ("coverage", "precision", "recall", "density"))
    steps = np.diff(course) * (1 if rises else -1)
    if (steps > 0).all():
        return "ok"
    return "end" if sum(steps) > 0 else "--"


def main(path: str, name: str = "lite0") -> None:
    images = data.open_images(path, SIZE, 3, Path("data/cache"), held_out=0.1)
    held_out = images.array[images.held_out]
    order = np.random.RandomState(5).permutation(images.train)
    fresh, train = images.array[order[:COUNT]], images.array[order[COUNT:]]
    reference = features.Reference()
    found: dict[str, list[dict[str, float]]] = {}
    for corruption, levels in corruptions(fresh, train).items():
        for fake in levels:
            result = metrics.evaluate(fake, train, held_out, name, reference)
            row = {score: entry["value"] for score, entry in result["scores"].items()}
            row |= {f"memorisation {k}": result["memorisation"][k] for k in ("ratio", "copied")}
            found.setdefault(corruption, []).append(row)
    print(f"\n{len(fresh)} fakes, {len(held_out)} held-out reals, {len(train)} training images\n")
    print("| score | " + " | ".join(found) + " |\n" + "|---" * (len(found) + 1) + "|")
    for score in found["real"][0]:
        cells = []
        for corruption, rows in found.items():
            course = [row[score] for row in rows]
            text = " / ".join(f"{value:.3g}" for value in course)
            if corruption.startswith(("blur", "noise", "3-px", "modes")) and "memor" not in score:
                text += f" {verdict(score, [found['real'][0][score], *course])}"
            cells.append(text)
        print(f"| {score} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(*sys.argv[1:])
