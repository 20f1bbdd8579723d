"""Images/s of every family with its defaults, and where the time of a step goes, on the CPU.

    python benchmarks/speed.py                        all families
    python benchmarks/speed.py cyclegan --ngf=32      one, with other settings

Random pictures, an otherwise idle machine; a few minutes. float32, then bfloat16 (--amp).
"""

from collections.abc import Callable
from statistics import median_high

import common
import torch
from common import CPU
from torch.profiler import ProfilerActivity, profile

from commands import flags, train
from config import RunFacts, Settings, resolve
from gan import loop, machine
from gan.losses import Batch
from gan.state import State
from gan.tasks import TASKS
from models import FAMILIES, find_family

Step = Callable[[], object]
TIMED_SECONDS = 4.0  # of steps
UNTIMED_STEPS = 2  # before them
KINDS = {  # part of the name of an operation -> what it is called here
    "convolution": "convolutions",
    "norm": "norms",
    "mm": "dense layers",
    "adam": "optimiser",
    "rmsprop": "optimiser",
    "relu": "activations",
    "pad": "padding",
}
LEAST_SHARE = 0.05  # of a kind that is printed


def make_step(name: str, settings: Settings, mixed_precision: bool) -> tuple[Step, State]:
    """One training step of family `name` on random pictures, and the state that it updates."""
    family = find_family(name)
    config = resolve(family.defaults, {"gpu": False}, settings)
    state = State(family, config, RunFacts(mixed_precision=mixed_precision), CPU)
    n, size = config.batch_size, config.img_size
    from_noise = family.task is TASKS["noise"]
    channels = config.channels if from_noise else config.channels_wanted

    def pictures(channels: int) -> torch.Tensor:
        return torch.rand(n, channels, size, size) * 2 - 1

    def step() -> None:
        real = pictures(channels)
        given = torch.randn(n, config.nz) if from_noise else pictures(config.channels_given)
        loop.train_step(state, Batch(real, given, augment=config.augment, step=state.step))

    return step, state


def images_per_second(step: Step, images: int) -> float:
    """By the median time of the steps that fit into TIMED_SECONDS."""
    for _ in range(UNTIMED_STEPS):
        step()
    spent: list[float] = []
    while sum(spent) < TIMED_SECONDS:
        spent.append(common.seconds(step))
    return images / median_high(spent)


def time_shares(step: Step) -> dict[str, float]:
    """Kind of operation -> its share of the time of a step, 0 to 1, the largest first."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step(), step()
    spent: dict[str, float] = {}
    for row in profiled.key_averages():
        name = row.key.lower()
        kind = next((kind for part, kind in KINDS.items() if part in name), "the rest")
        spent[kind] = spent.get(kind, 0.0) + row.self_cpu_time_total
    total = sum(spent.values())
    return {k: v / total for k, v in sorted(spent.items(), key=lambda item: -item[1])}


def main(*words: str) -> None:
    machine.reuse_freed_memory()
    names = [word for word in words if not word.startswith("--")]
    given = [word[2:].partition("=") for word in words if word.startswith("--")]
    texts = {name.replace("-", "_"): text for name, _, text in given}
    settings = flags.read(train.FLAGS, (), texts).settings
    common.print_header(
        ["family", "size", "batch", "images/s float32", "images/s bfloat16", "where the time goes"]
    )
    for name in names or FAMILIES:
        step, state = make_step(name, settings, mixed_precision=False)
        config = state.config
        rates = [images_per_second(step, config.batch_size)]
        shares = [f"{k} {v:.0%}" for k, v in time_shares(step).items() if v >= LEAST_SHARE]
        step, _ = make_step(name, settings, mixed_precision=True)
        rates.append(images_per_second(step, config.batch_size))
        row = [f"`{name}`", config.img_size, config.batch_size, *(f"{rate:.1f}" for rate in rates)]
        common.print_row([*row, ", ".join(shares)])


if __name__ == "__main__":
    common.run(main)
