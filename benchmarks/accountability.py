"""Does each score get worse when pictures get worse? Prints a table, metric x corruption.

    python benchmarks/accountability.py FOLDER_OR_ZIP [features] [--fooled=FOLDER]

Real pictures play the generator: 240 that are neither held out nor in the training set that the
memorisation is measured against. "ok": strictly worse at every step; "end": at the last
strength worse than untouched; "--": not even there. Takes about four minutes on two cores.
With --fooled, faces of three GANs too, each worse to the eye than the one before it: modern.zip,
both-summed.zip and projected-heads.zip of FOLDER; "end" is then: the last are worse than the first.
"""

import sys
from pathlib import Path

import common
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from gan import data, features, metrics

Pixels = NDArray[np.uint8]  # [N, C, H, W]
COUNT = 240  # pictures that are scored
SIZE = 96  # pixels
MODES = 8  # colour clusters
BLUR_RADIUS = 8  # pixels of the kernel either way
# the corruptions that each score has a verdict on, by the beginning of their names
JUDGED = ("blur", "noise", "3-px", "modes")
FOOLED = "modern / both summed / projected heads"


def blur(images: Pixels, deviation: float) -> Pixels:
    """By a Gaussian of this standard deviation, pixels."""
    offset = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1).float()
    gaussian = torch.exp(-(offset**2) / 2 / deviation**2)
    kernel = (gaussian / gaussian.sum()).view(1, 1, 1, -1).expand(images.shape[1], 1, 1, -1)
    x = torch.from_numpy(images).float()
    x = F.pad(x, [BLUR_RADIUS] * 4, mode="reflect")
    for weight in (kernel, kernel.transpose(2, 3)):
        x = F.conv2d(x, weight, groups=images.shape[1])
    return x.round().clamp(0, 255).byte().numpy()


def add_noise(images: Pixels, deviation: float) -> Pixels:
    added = np.random.RandomState(1).randn(*images.shape) * deviation
    return np.clip(images + added, 0, 255).round().astype(np.uint8)


def add_grid(images: Pixels, strength: int) -> Pixels:
    """Every third row and column brighter."""
    brighter = images.astype(int)
    brighter[:, :, ::3, :] += strength
    brighter[:, :, :, ::3] += strength
    return np.clip(brighter, 0, 255).astype(np.uint8)


def keep_modes(pool: Pixels, kept: int) -> Pixels:
    """COUNT pictures of `kept` of the MODES colour clusters: k-means of 8 x 8 thumbnails."""
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
        "noise 6 / 12 / 25": [add_noise(fresh, s) for s in (6, 12, 25)],
        "3-px grid 6 / 12 / 24": [add_grid(fresh, s) for s in (6, 12, 24)],
        "modes kept 6 / 4 / 2 of 8": [keep_modes(pool, kept) for kept in (6, 4, 2)],
        "training copies 20 / 60 / 100 %": [
            np.concatenate([train[:copies], fresh[copies:]])
            for copies in (COUNT // 5, 3 * COUNT // 5, COUNT)
        ],
        "copies mirrored / noisy / darker": [
            train[:COUNT, ..., ::-1].copy(),
            add_noise(train[:COUNT], 10),
            (train[:COUNT] * 0.8).astype(np.uint8),
        ],
    }


def faces_of_gans(folder: Path) -> list[Pixels]:
    """The faces of the three GANs that FOOLED names, the best to the eye first."""
    paths = [folder / f"{name.replace(' ', '-')}.zip" for name in FOOLED.split(" / ")]
    return [np.array(data.open_images(str(path), SIZE, 3).array) for path in paths]


def verdict(name: str, values: list[float]) -> str:
    """Whether a score sees what gets worse: its values, the best pictures' first."""
    best_is_high = any(word in name for word in ("coverage", "precision", "recall", "density"))
    steps = np.diff(values) * (-1 if best_is_high else 1)
    if (steps > 0).all():
        return "ok"
    return "end" if steps.sum() > 0 else "--"


def main(*given: str) -> None:
    words, folder = common.take_flag("fooled", given)
    if not 1 <= len(words) <= 2:
        sys.exit(__doc__)
    print_table(words[0], words[1] if len(words) == 2 else "lite0", folder)


def print_table(path: str, name: str, folder: str) -> None:
    """A row for each score by features `name`; with the GANs' faces in `folder`, unless ""."""
    images = data.open_images(path, SIZE, 3, held_out=0.1)
    held_out = images.array[images.held_out]
    order = np.random.RandomState(5).permutation(images.train)
    fresh, train = images.array[order[:COUNT]], images.array[order[COUNT:]]
    reference = features.Reference()
    found: dict[str, list[dict[str, float]]] = {}  # corruption -> score -> value, each strength
    worsened = corruptions(fresh, train)
    if folder:
        worsened[FOOLED] = faces_of_gans(Path(folder))
    for corruption, strengths in worsened.items():
        for fake in strengths:
            result = metrics.evaluate(fake, train, held_out, name, reference)
            row = {score: entry["value"] for score, entry in result["scores"].items()}
            memory = result["memorisation"]
            row |= {"memorisation ratio": memory["ratio"], "memorisation copied": memory["copied"]}
            found.setdefault(corruption, []).append(row)
    print(f"\n{len(fresh)} fakes, {len(held_out)} held-out reals, {len(train)} training images\n")
    common.print_header(["score", *found])
    for score, untouched in found["real"][0].items():
        cells = [score]
        for corruption, rows in found.items():
            values = [row[score] for row in rows]
            text = " / ".join(f"{value:.3g}" for value in values)
            if "memor" not in score and corruption.startswith(JUDGED):
                text += f" {verdict(score, [untouched, *values])}"
            elif "memor" not in score and corruption == FOOLED:
                text += f" {verdict(score, values)}"
            cells.append(text)
        common.print_row(cells)


if __name__ == "__main__":
    common.run(main)
