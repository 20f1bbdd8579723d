"""Precision, memory layout and threads of a training step: is the default the fastest?

    python benchmarks/tuning.py                  modern, dcgan and wgan-gp
    python benchmarks/tuning.py pix2pix          one family

A step is what the family's defaults say, on random pictures. All ways of one family take turns of
STEPS steps in one process, ROUNDS times. Milliseconds are those of the median step: in CPU time for
one thread, which holds on a busy machine too, and by the clock for all, which wants an idle one.
What `train` would choose here is marked. About three minutes on an idle machine.
"""

import dataclasses
import time
from collections.abc import Callable
from statistics import median

import common
import torch
from speed import make_step

from gan import machine
from models import FAMILIES

STEPS = 3  # of a turn
ROUNDS = 5
DEFAULTS = ("modern", "dcgan", "wgan-gp")
LAYOUTS = {"channels last": torch.channels_last, "channels first": torch.contiguous_format}


@dataclasses.dataclass
class Way:
    """One way to compute a step, and what its steps took."""

    mixed: bool
    layout: str
    threads: int
    step: Callable[[], object]
    wall: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)

    def turn(self, counts: bool) -> None:
        """STEPS steps."""
        torch.set_num_threads(self.threads)
        for _ in range(STEPS):
            wall, cpu = time.perf_counter(), time.process_time()
            self.step()
            if counts:
                self.wall.append(time.perf_counter() - wall)
                self.cpu.append(time.process_time() - cpu)


def ways_of(name: str, cores: int) -> list[Way]:
    """All ways of one family."""
    own = FAMILIES[name]
    found = []
    for threads in sorted({1, cores}):
        for mixed in (False, True):
            for layout, memory_format in LAYOUTS.items():
                task = dataclasses.replace(own.task, memory_format=memory_format)
                FAMILIES[name] = dataclasses.replace(own, task=task)
                found.append(Way(mixed, layout, threads, make_step(name, {}, mixed)[0]))
    FAMILIES[name] = own
    return found


def main(*names: str) -> None:
    machine.reuse_freed_memory()
    cores = torch.get_num_threads()
    chosen = machine.has_bfloat16(common.CPU)
    print(f"{machine.describe()}\n")
    common.print_header(
        ["family", "precision", "layout", "threads", "CPU, ms", "by the clock, ms", ""]
    )
    for name in names or DEFAULTS:
        own = FAMILIES[name].task.memory_format
        ways = ways_of(name, cores)
        for counts in (False, *[True] * ROUNDS):
            for way in ways:
                way.turn(counts)
        for way in ways:
            default = (way.mixed, LAYOUTS[way.layout], way.threads) == (chosen, own, cores)
            cpu = f"{1e3 * median(way.cpu):.1f}" if way.threads == 1 else ""
            clock = f"{1e3 * median(way.wall):.1f}"
            exact = "bfloat16" if way.mixed else "float32"
            mark = "the default" if default else ""
            common.print_row([f"`{name}`", exact, way.layout, way.threads, cpu, clock, mark])


if __name__ == "__main__":
    common.run(main)
