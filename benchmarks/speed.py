"""Images/s of every family at its own numbers, and where the time of a step goes, on the CPU.

    python benchmarks/speed.py                        all families
    python benchmarks/speed.py cyclegan --ngf=32      one, with other knobs

Random pictures, an otherwise idle machine; a few minutes. float32, then bfloat16 (--amp).
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.profiler import ProfilerActivity, profile

import config as knobs
from gan import loop, machine
from gan.losses import Batch
from models import FAMILIES

CPU = torch.device("cpu")
SECONDS = 4.0  # of steps that are timed
KINDS = {  # what a step's operations are called -> what they are called here
    "convolution": "convolutions",
    "norm": "norms",
    "mm": "dense layers",
    "adam": "optimiser",
    "rmsprop": "optimiser",
    "relu": "activations",
    "pad": "padding",
}


def stepper(name: str, flags: dict[str, Any]) -> tuple[Callable[[], Any], loop.State]:
    """One training step of a family on random pictures, and what it steps."""
    family = FAMILIES[name]
    config = knobs.resolve(family.defaults, {"gpu": False, **flags})
    state = loop.State(family, config, CPU)
    n, size = config.batch_size, config.img_size
    noise = family.data == "images"
    given, wanted = (0, config.channels) if noise else config.sides

    def step() -> None:
        real = torch.rand(n, wanted, size, size) * 2 - 1
        source = torch.randn(n, config.nz) if noise else torch.rand(n, given, size, size) * 2 - 1
        loop.train_step(family, state, Batch(real, source, augment=config.augment))

    return step, state


def rate(step: Callable[[], Any], images: int) -> float:
    """Images/s: the median of what fits into SECONDS, after two steps that are not counted."""
    step(), step()
    spent: list[float] = []
    while sum(spent) < SECONDS:
        began = time.perf_counter()
        step()
        spent.append(time.perf_counter() - began)
    return images / sorted(spent)[len(spent) // 2]


def shares(step: Callable[[], Any]) -> dict[str, float]:
    """Which kind of operation takes which share of a step, the largest first."""
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        step(), step()
    found: dict[str, float] = {}
    for row in watched.key_averages():
        name = row.key.lower()
        kind = next((kind for part, kind in KINDS.items() if part in name), "the rest")
        found[kind] = found.get(kind, 0.0) + row.self_cpu_time_total
    total = sum(found.values())
    return {k: v / total for k, v in sorted(found.items(), key=lambda x: -x[1])}


def main(*words: str) -> None:
    machine.keep_memory()
    options = {}
    for word in words:
        if word[:2] == "--":
            given, text = word[2:].split("=")
            options[given.replace("-", "_")] = text
    flags = {name: knobs.coerce(name, text) for name, text in options.items()}
    print("| family | size | batch | images/s float32 | images/s bfloat16 | where the time goes |")
    print("|---|---|---|---|---|---|")
    for name in [word for word in words if word[:2] != "--"] or FAMILIES:
        rates = []
        for amp in (False, True):
            step, state = stepper(name, {**flags, "amp": amp})
            config = state.config
            rates.append(f"{rate(step, config.batch_size):.1f}")
            if not amp:
                parts = [f"{k} {v:.0%}" for k, v in shares(step).items() if v >= 0.05]
        cells = [f"`{name}`", config.img_size, config.batch_size, *rates, ", ".join(parts)]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
