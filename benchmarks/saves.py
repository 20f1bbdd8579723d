"""How long a save keeps a training from its next step: written at once, and in the background.

    python benchmarks/saves.py              modern and pix2pix
    python benchmarks/saves.py pix2pix      one family

A session of the real loop, on random pictures, with the family's defaults and one thread; its
saves go to a folder here. Both ways take turns in one process, PAIRS times. Of each save: the
seconds until the next step begins, by the clock and in CPU time of the thread that trains; what
the steps took longer until the state was on disk; both together; and the CPU time of the save in
all threads. The medians are printed, and what a save at once consists of. On an idle machine a
minute for `modern` and four for `pix2pix`; on a busy one only CPU seconds hold.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import common
import numpy as np
import torch
from PIL import Image

from config import RunFacts, Settings, resolve
from gan import checkpoint, console, loop, machine
from gan.state import State
from models import find_family

PAIRS = 5
STEPS_BEFORE = 4  # undisturbed ones, between two saves
PICTURES = 32
FEWEST_STEPS = 3  # after each save


@contextlib.contextmanager
def session_of(name: str) -> Iterator[loop.Session]:
    """A session of family `name` that has not trained yet, and writes to a folder here."""
    family = find_family(name)
    own: Settings = {"gpu": False, "dedup": False, "data_path": "pictures", "max_epoch": 10**6}
    config = resolve(family.defaults, own)
    draws = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=".") as text:
        top = Path(text).resolve()
        (top / "pictures").mkdir()
        width = config.img_size * (1 + (family.task.name == "paired"))
        for index in range(max(PICTURES, config.batch_size)):
            pixels = draws.integers(0, 256, (config.img_size, width, 3), np.uint8)
            Image.fromarray(pixels).save(top / "pictures" / f"{index}.png")
        before = os.getcwd()
        os.chdir(top)
        try:
            data = family.task.open_data(config, config.batch_size)
            exact = machine.has_bfloat16(common.CPU)
            state = State(family, config, RunFacts(mixed_precision=exact), common.CPU)
            folders = loop.Folders(top / "c", top / "i", top / "r")
            session = loop.Session(state, data, folders, None, [])
            yield session
            session.close()
        finally:
            os.chdir(before)


def spent(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a call, by the clock and in CPU time of this thread."""
    wall, cpu = time.perf_counter(), time.thread_time()
    call()
    return time.perf_counter() - wall, time.thread_time() - cpu


def measure(run: loop.Session, at_once: bool) -> dict[str, float]:
    """One save, and the steps until it is on disk."""
    plain = median(spent(run.step)[0] for _ in range(STEPS_BEFORE))

    def save() -> None:
        run.saves.save(run.state.sampler(run.feed.inputs), at_once=at_once)

    began = time.process_time()
    wall, cpu = spent(save)
    later: list[float] = []
    cpu_of_steps = 0.0
    while run.saves.writer.is_busy or len(later) < FEWEST_STEPS:
        step = spent(run.step)
        later.append(step[0])
        cpu_of_steps += step[1]
        if run.saves.writer.is_busy:
            settled = spent(lambda: run.saves.settle(wait=False))
            wall, cpu = wall + settled[0], cpu + settled[1]
    slower = sum(later) - len(later) * plain
    all_cpu = time.process_time() - began - cpu_of_steps
    return {"wall": wall, "cpu": cpu, "slower": slower, "both": wall + slower, "all": all_cpu}


def print_parts(run: loop.Session) -> None:
    """What a save at once consists of, seconds by the clock."""
    found: dict[str, float] = {}

    def timed(name: str, call: Callable[[], object]) -> object:
        kept: list[object] = []
        found[name] = spent(lambda: kept.append(call()))[0]
        return kept[0]

    G = timed("the average and its batch norm", lambda: run.state.sampler(run.feed.inputs))
    assert isinstance(G, torch.nn.Module)
    payload = run.saves.payload(G)
    timed("a copy of the state", lambda: checkpoint.copied(payload))
    timed("the state to the disk", lambda: checkpoint.save(Path("part.pth"), payload))
    timed("the preview", lambda: run.feed.preview(G))
    print("\nparts: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in found.items()))


def main(*names: str) -> None:
    machine.reuse_freed_memory()
    torch.set_num_threads(1)
    console.set_level(console.QUIET)
    print(f"{machine.describe()}, 1 thread\n")
    for name in names or ("modern", "pix2pix"):
        with session_of(name) as run:
            run.saves.may_copy = True  # also of a light state
            run.step()
            size = run.state.size_of_save() / 1e6
            found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
            for _ in range(PAIRS):
                for at_once, values in found.items():
                    values.append(measure(run, at_once))
            print(f"`{name}`, {size:.0f} MB a save\n")
            common.print_header(
                ["written", "until the next step, s", "CPU of it, s", "later steps slower by, s",
                 "together, s", "CPU of both threads, s"]
            )  # fmt: skip
            for at_once, values in found.items():
                keys = ("wall", "cpu", "slower", "both", "all")
                cells = [f"{median(one[key] for one in values):.2f}" for key in keys]
                common.print_row(["at once" if at_once else "in the background", *cells])
            print_parts(run)
            print()


if __name__ == "__main__":
    common.run(main)
