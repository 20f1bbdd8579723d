"""A training step of this checkout against that of another one, in turns: time, and losses.

    python benchmarks/against.py OTHER_CHECKOUT
    python benchmarks/against.py OTHER_CHECKOUT dcgan --threads=1 --amp=False --rounds=40

Both sides train one family (`modern`, if none is named) on the same random pictures with its
defaults. Their processes take turns of ten steps, so that whatever else the machine does meets
both. CPU seconds hold on a busy machine too; wall-clock ones and images/s want an idle one. The
shares of convolutions, norms, optimiser and Python are those of a profiler, with one thread
(--threads=1) of CPU time.
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import IO, cast

import common
from common import ROOT
from speed import shares_of

STEPS = 10  # of a turn
ROUNDS = 20  # turns of each side that count; one before them does not
PROFILES = 5  # of each side, in turn

# The other checkout may be an older one: this asks for little, which hardly ever changes.
WORKER = """
import json, sys, time
checkout, name, threads, exact, steps = sys.argv[1:]
sys.path.insert(0, checkout)
import torch
from config import RunFacts, resolve
from gan import loop, machine
from gan.losses import Batch
from gan.state import State
from models import find_family
torch.set_num_threads(int(threads))
machine.reuse_freed_memory()
family = find_family(name)
config = resolve(family.defaults, {"gpu": False})
cpu = torch.device("cpu")
state = State(family, config, RunFacts(mixed_precision=exact == "bfloat16"), cpu)
n, side = config.batch_size, config.img_size
from_noise = family.task.command == "generate"
pictures = torch.Generator().manual_seed(0)
def batch():
    channels = config.channels if from_noise else config.channels_wanted
    real = torch.rand(n, channels, side, side, generator=pictures) * 2 - 1
    shape = (n, config.nz) if from_noise else (n, config.channels_given, side, side)
    torch.manual_seed(state.step)
    given = torch.randn(shape) if from_noise else torch.rand(shape) * 2 - 1
    return Batch(real, given, augment=config.augment, step=state.step)
print(n, flush=True)
def profiled():
    from torch.profiler import ProfilerActivity, profile
    with profile(activities=[ProfilerActivity.CPU]) as found:
        began = time.perf_counter()
        for _ in range(4):
            state.set_rates(0.0)
            loop.train_step(state, batch())
        total = time.perf_counter() - began
    rows = [(row.key, row.self_cpu_time_total / 1e6) for row in found.key_averages()]
    return {"rows": rows, "total": total}
for asked in sys.stdin:
    if asked.strip():
        print(json.dumps(profiled()), flush=True)
        continue
    losses, wall, cpu, least = {}, 0.0, 0.0, 1e9
    for _ in range(int(steps)):
        state.set_rates(0.0)
        data = batch()
        began, busy = time.perf_counter(), time.process_time()
        logs = loop.train_step(state, data)
        wall += time.perf_counter() - began
        spent = time.process_time() - busy
        cpu, least = cpu + spent, min(least, spent)
        for key, value in logs.items():
            losses[key] = losses.get(key, 0.0) + float(value) / int(steps)
    spent = {"wall": wall / int(steps), "cpu": cpu / int(steps), "least": least}
    print(json.dumps({**spent, **losses}), flush=True)
"""


class Side:
    """A process that trains with the code of one checkout, ten steps when asked to."""

    def __init__(self, checkout: Path, family: str, threads: int, exact: str) -> None:
        words = [str(checkout), family, str(threads), exact, str(STEPS)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.turns: list[dict[str, float]] = []
        self.images = int(self._read())

    def _read(self) -> str:
        line = cast(IO[str], self.process.stdout).readline()
        if not line:
            sys.exit("against.py: one side has ended; its own words are above")
        return line

    def turn(self) -> None:
        """Train on ten batches."""
        asked = cast(IO[str], self.process.stdin)
        asked.write("\n")
        asked.flush()
        self.turns.append(json.loads(self._read()))

    def shares(self) -> dict[str, float]:
        """Kind of operation -> its share of the time of four more steps."""
        asked = cast(IO[str], self.process.stdin)
        asked.write("profile\n")
        asked.flush()
        found = json.loads(self._read())
        return shares_of(found["rows"], found["total"])

    def of(self, name: str) -> list[float]:
        """One value of each turn that counts."""
        return [turn[name] for turn in self.turns[1:] if name in turn]

    def close(self) -> None:
        cast(IO[str], self.process.stdin).close()
        self.process.wait()


def print_kinds(sides: list[Side]) -> None:
    """Where the CPU time of a step goes: shares by the profiler, of the CPU time without it."""
    found: list[list[dict[str, float]]] = [[], []]
    for _ in range(PROFILES):
        for side, shares in zip(sides, found, strict=True):
            shares.append(side.shares())
    spent = []
    for side, shares in zip(sides, found, strict=True):
        kinds = dict.fromkeys(kind for one in shares for kind in one)
        step = 1e3 * median(side.of("cpu"))
        spent.append({k: step * median(one.get(k, 0.0) for one in shares) for k in kinds})
    print(f"\nwhere the CPU time of a step goes, ms; medians of {PROFILES} profiles:\n")
    common.print_header(["", "other", "here"])
    for kind in dict.fromkeys([*spent[0], *spent[1]]):
        common.print_row([kind, *(f"{side.get(kind, 0.0):.1f}" for side in spent)])


def gain(before: list[float], after: list[float]) -> float:
    """How many times as fast: the median over pairs of turns, side by side in time."""
    return median(a / b for a, b in zip(before, after, strict=True))


def main(*words: str) -> None:
    kept, threads = common.take_flag("threads", words)
    kept, rounds = common.take_flag("rounds", kept)
    kept, amp = common.take_flag("amp", kept)
    if not kept:
        sys.exit(__doc__)
    other, family = Path(kept[0]), (kept[1:] or ["modern"])[0]
    exact = "float32" if amp.lower() == "false" else "bfloat16"
    count = int(threads or 2)
    sides = [Side(checkout, family, count, exact) for checkout in (other, ROOT)]
    for _ in range(1 + int(rounds or ROUNDS)):
        for side in sides:
            side.turn()
    before, after = sides
    print(f"{family}, {before.images} images a step, {exact}, {count} threads; {other} / here\n")
    common.print_header(["a step", "other", "here", "times as fast"])
    for name, what in (("wall", "wall, ms"), ("cpu", "CPU, ms")):
        texts = [f"{1e3 * median(side.of(name)):.1f}" for side in sides]
        common.print_row([what, *texts, f"{gain(before.of(name), after.of(name)):.2f}"])
    least = [min(side.of("least")) for side in sides]
    texts = [f"{1e3 * seconds:.1f}" for seconds in least]
    common.print_row(["least CPU, ms", *texts, f"{least[0] / least[1]:.2f}"])
    rates = [f"{side.images / median(side.of('wall')):.1f}" for side in sides]
    common.print_row(["images/s", *rates, ""])
    print_kinds(sides)
    print(f"\nmeans of {STEPS} steps each, the first and the last that count:\n")
    common.print_header(["", "other", "here", "other, last", "here, last"])
    for name in (key for key in before.turns[0] if key not in ("wall", "cpu", "least")):
        values = [side.of(name) for side in sides]
        firsts, lasts = ([part[i] for part in values] for i in (0, -1))
        common.print_row([name, *(f"{value:.4f}" for value in (*firsts, *lasts))])
    for side in sides:
        side.close()


if __name__ == "__main__":
    common.run(main)
