"""What it costs to compare the sums of a cache at a start: CPU seconds, and the share of a start.

    python benchmarks/verification.py [ANIME_ZIP]

Without a zip, images of noise. A start is `train` with one step of a batch, from a cache that is
there, without a score. Seconds of the processor, which hold on a busy machine too; the least of
three.
"""

import contextlib
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import ROOT, print_header, print_row, run
from PIL import Image

from gan import container, data

SIZE = 96  # pixels on a side
NOISE_IMAGES = 2_400  # where no zip is given
COPIES = (1, 8)  # of the pixels, to be summed
TRIES = 3
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # several wait for each other, at full speed


def processor_seconds(call: Callable[[], object]) -> float:
    """The least of TRIES calls, all threads together."""
    found = []
    for _ in range(TRIES):
        began = time.process_time()
        call()
        found.append(time.process_time() - began)
    return min(found)


def start(source: Path, folder: Path, tries: int = TRIES) -> float:
    """Seconds of the processor of a training of one step, its processes too: the least."""
    words = ["train", f"--data-path={source}", f"--img-size={SIZE}", "--overwrite", "--gpu=False"]
    words += ["--batch-size=16", "--max-images=16", "--ngf=8", "--ndf=8", "--held-out=0"]
    found = []
    for _ in range(tries):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, str(ROOT / "main.py"), *words]
        subprocess.run(command, cwd=folder, env=ONE_THREAD, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def noise(folder: Path) -> Path:
    """A folder of pictures that are all different."""
    folder.mkdir()
    chance = np.random.default_rng(0)
    for index in range(NOISE_IMAGES):
        small = chance.integers(0, 256, (6, 6, 3), np.uint8)
        picture = Image.fromarray(small).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        picture.save(folder / f"{index:05}.bmp")
    return folder


def compared(cache: Path, whole: float) -> None:
    """Rows: images, MB, seconds of both sums, and the share of a start."""
    print_header(["images", "MB", "SHA-256, s", "CRC-32, s", "share of a start before", "now"])
    with tempfile.TemporaryDirectory() as top:
        pixels = (cache / "images.u8").read_bytes()
        for copies in COPIES:
            part = Path(top) / "images.u8"
            part.write_bytes(pixels * copies)
            size = part.stat().st_size
            container.sums(part, size)  # it is in memory
            before = processor_seconds(lambda: container.earlier_sum(part, size))  # noqa: B023
            now = processor_seconds(lambda: container.sums(part, size))  # noqa: B023
            images = size // (3 * SIZE * SIZE)
            shares = [f"{100 * each / (whole + each):.1f} %" for each in (before, now)]
            print_row([f"{images:,}", f"{size / 1e6:,.0f}", f"{before:.3f}", f"{now:.3f}", *shares])


def main(anime: str = "") -> None:
    """Both sums of the images, and of eight times as many, and a start with them."""
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top)
        source = Path(anime).resolve() if anime else noise(folder / "noise")
        os.chdir(folder)
        start(source, folder, 1)  # it builds the cache
        whole = start(source, folder)
        with contextlib.redirect_stdout(io.StringIO()):
            cache = data.open_images(str(source), SIZE, 3, held_out=0.0).folder
        own = processor_seconds(lambda: container.opened(cache))
        print(
            f"a start takes {whole:.2f} s of the processor; opening its cache {own:.3f} of them\n"
        )
        compared(cache, whole - own)


if __name__ == "__main__":
    run(main)
