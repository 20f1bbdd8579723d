"""Processes against threads on this machine: images/s, bytes a step, what exchanging costs.

    python benchmarks/scale.py                        modern at batch 16 and 32
    python benchmarks/scale.py dcgan --batch-size=64  one family, with other settings

Random pictures, an otherwise idle machine; two minutes for each batch size. Rows are taken in
turn, ROUNDS times, and the median is printed. "alone" are independent trainings of one thread
each: what processes would reach if exchanging and waiting cost nothing.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median

import common
import torch
import torch.distributed as dist
from speed import make_step

from config import Settings
from gan import distributed, machine

ROUNDS = 3
TIMED_SECONDS = 8.0
UNTIMED_STEPS = 8
CORES = os.cpu_count() or 1


class Traffic:
    """Bytes that this process sends to be averaged, and seconds that it waits for the others."""

    def __init__(self) -> None:
        self.bytes, self.seconds, self.calls = 0, 0.0, 0
        self._reduce: Callable[..., object] = dist.all_reduce
        setattr(dist, "all_reduce", self._counted)  # noqa: B010  # a name that mypy holds fast

    def _counted(self, tensor: torch.Tensor, *given: object, **more: object) -> object:
        began = time.perf_counter()
        done = self._reduce(tensor, *given, **more)
        self.seconds += time.perf_counter() - began
        self.bytes += tensor.nbytes
        self.calls += 1
        return done


def measure(family: str, batch: int) -> dict[str, float]:
    """One process of a job, or one that is alone: steps for TIMED_SECONDS."""
    machine.reuse_freed_memory()
    distributed.start(on_gpu=False)
    own = batch // distributed.count()
    settings: Settings = {"batch_size": own}
    step, _ = make_step(family, settings, machine.has_bfloat16(common.CPU))
    for _ in range(UNTIMED_STEPS):
        step()
    traffic, steps, began = Traffic(), 0, time.perf_counter()
    while distributed.agree([time.perf_counter() - began])[0] < TIMED_SECONDS:
        step()
        steps += 1
    spent = time.perf_counter() - began
    return {
        "images/s": steps * own * distributed.count() / spent,
        "bytes": traffic.bytes / steps,
        "ms": 1000 * traffic.seconds / steps,
        "exchanges": traffic.calls / steps,
        "step": 1000 * spent / steps,
    }


def start(
    family: str, batch: int, processes: int, threads: int, together: bool
) -> dict[str, float]:
    """What `processes` found: the first of a job, or the sum of those that are alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for place in range(processes):
        given = {"OMP_NUM_THREADS": str(threads)}
        if together and processes > 1:
            given |= {"RANK": str(place), "LOCAL_RANK": str(place), "WORLD_SIZE": str(processes)}
            given |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, __file__, "--one", family, str(batch)]
        process = subprocess.Popen(
            command, env=os.environ | given, stdout=subprocess.PIPE, text=True
        )
        running.append(process)
    found = [json.loads(out) for process in running if (out := process.communicate()[0])]
    if not together:
        return {key: sum(one[key] for one in found) for key in found[0]}
    result: dict[str, float] = found[0]
    return result


def rows(batch: int) -> Iterator[tuple[str, int, int, bool]]:
    """(what, processes, threads of each, whether they are one job)."""
    yield f"1 process x {CORES} threads", 1, CORES, True
    if batch % CORES == 0:
        yield f"{CORES} processes x 1 thread", CORES, 1, True
    yield f"{CORES} alone x 1 thread", CORES, 1, False


def main(family: str = "modern", *words: str) -> None:
    given = {word.partition("=")[0]: word.partition("=")[2] for word in words}
    sizes = [int(given["--batch-size"])] if "--batch-size" in given else [16, 32]
    common.print_header(
        ["family", "batch", "on the CPU", "images/s", "ms a step", "of it in exchanges",
         "exchanges a step", "MB a step"]
    )  # fmt: skip
    for batch in sizes:
        found: dict[str, list[dict[str, float]]] = {}
        for _ in range(ROUNDS):
            for name, processes, threads, together in rows(batch):
                one = start(family, batch, processes, threads, together)
                found.setdefault(name, []).append(one)
        for name, values in found.items():
            mid = {key: median(one[key] for one in values) for key in values[0]}
            exchanged = ["-"] * 3
            if mid["exchanges"] and "alone" not in name:
                exchanged = [f"{mid['ms']:.1f} ms", f"{mid['exchanges']:.0f}",
                             f"{mid['bytes'] / 1e6:.2f}"]  # fmt: skip
            step = "-" if "alone" in name else f"{mid['step']:.1f}"
            common.print_row(
                [f"`{family}`", batch, name, f"{mid['images/s']:.1f}", step, *exchanged]
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        real = sys.stdout
        found = measure(sys.argv[2], int(sys.argv[3]))
        if sys.stdout is real:  # the first of a job, or alone
            print(json.dumps(found))
        real.flush()
        os._exit(0)  # the others may have left already
    else:
        common.run(main)
