"""What WebDataset shards cost each process of a job: at its start, and in a step.

    python benchmarks/shards.py             20,000 pictures in 8 shards, 96 px
    python benchmarks/shards.py 100000

CPU seconds, which hold on a busy machine too. The pictures are decoded into the cache once for each
machine; every process lists the shards and maps the cache, and one of a machine compares the cache
with its checksums. In a step a process reads its own slice of the batch, and no more.
"""

import io
import os
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import common
import numpy as np
from PIL import Image

from gan import container, data

SHARDS = 8
SIDE = 96
BATCH, PROCESSES = 64, 8
STEPS = 200


def write_shards(top: Path, count: int) -> str:
    """`count` pictures with a class each, in SHARDS tars; the pattern that names them."""
    draws = np.random.default_rng(0)
    for shard in range(SHARDS):
        with tarfile.open(top / f"faces-{shard:03}.tar", "w") as archive:
            for index in range(shard, count, SHARDS):
                pixels = draws.integers(0, 256, (12, 12, 3), np.uint8)
                picture = Image.fromarray(pixels).resize((SIDE, SIDE))
                held = io.BytesIO()
                picture.save(held, "jpeg")
                for suffix, content in (("jpg", held.getvalue()), ("cls", b"%d" % (index % 10))):
                    member = tarfile.TarInfo(f"{index:07}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return str(top / f"faces-{{000..{SHARDS - 1:03}}}.tar")


def cpu(call: Callable[[], object]) -> float:
    """CPU seconds of this process and of those that it starts and waits for."""
    before = os.times()
    call()
    return sum(os.times()[:4]) - sum(before[:4])


def main(count: str = "20000") -> None:
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        pattern = write_shards(top, int(count))

        def open_all() -> data.Images:
            return data.open_images(pattern, SIDE, 3, cache=top / "cache", held_out=0.1)

        built = cpu(open_all)
        images = open_all()
        checked = cpu(open_all)
        with container.trusting():
            listed = cpu(open_all)
        steps = []
        for processes in (1, PROCESSES):
            own = BATCH // processes
            began = time.process_time()
            for step in range(STEPS):
                _ = images.array[images.indices_at(step, BATCH, 0)[:own]]
            steps.append(1e3 * (time.process_time() - began) / STEPS)
    size = images.array.nbytes / 1e6
    print(f"{int(count):,} pictures in {SHARDS} shards, {size:.0f} MB in the cache\n")
    common.print_header(["what", "CPU"])
    common.print_row(["decoding them into the cache, once a machine", f"{built:.1f} s"])
    common.print_row(
        ["comparing the cache with its sums, once a machine", f"{checked - listed:.2f} s"]
    )
    common.print_row(["listing the shards, each process", f"{listed:.2f} s"])
    common.print_row([f"reading a batch of {BATCH}, one process", f"{steps[0]:.2f} ms"])
    common.print_row([f"the slice of one of {PROCESSES} processes", f"{steps[1]:.2f} ms"])


if __name__ == "__main__":
    common.run(main)
