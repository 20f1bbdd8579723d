"""Does a set face one way? The asymmetry that `--flip=auto` decides by.

    python benchmarks/mirror.py [FOLDER_OR_ZIP ...]

A row for the rendered avatars and each set named, at 96 px: asymmetry, and in brackets how many
standard deviations that is off, seen by the untrained network that decides and by
EfficientNet-Lite0; then how many of eight random choices of fewer images are found to face one way.
"""

import contextlib
import dataclasses
import io
from pathlib import Path

import common
import numpy as np

from gan import data, mirror

SIZES = (30, 50, 100, 286)
CHOICES = 8


def count_one_way(images: data.Images, size: int) -> int:
    """How many of the random choices of `size` images are found to face one way."""
    found = 0
    for seed in range(CHOICES):
        chosen = np.random.default_rng(seed).choice(images.train, size, replace=False)
        part = dataclasses.replace(images, train=np.sort(chosen))
        with contextlib.redirect_stdout(io.StringIO()):
            found += not mirror.may_mirror(part)
    return found


def main(*paths: str) -> None:
    names = [f"{size} images" for size in SIZES]
    common.print_header(["set", "untrained network", "lite0", *names])
    for path in ("", *paths):
        images = data.open_images(path, 96, 3, held_out=0.1)
        found = [mirror.measure_asymmetry(images, network) for network in ("random", "lite0")]
        shown = [f"{share:.4f} ({deviations:.1f})" for share, deviations in found]
        counts = [f"{count_one_way(images, size)} of {CHOICES}" for size in SIZES]
        common.print_row([Path(path).stem or "avatars", *shown, *counts])


if __name__ == "__main__":
    common.run(main)
