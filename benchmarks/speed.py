"""What a step of every family does with the device there is: a CPU, or a GPU that PyTorch finds.

    python benchmarks/speed.py                        all families
    python benchmarks/speed.py cyclegan --ngf=32      one, with other settings
    python benchmarks/speed.py cyclegan --into=docs/speed.md    and its rows into that table
    python benchmarks/speed.py --gpu=False            on the CPU of a machine with a GPU

Random pictures, an otherwise idle machine; a few minutes. For float32 and bfloat16 (--amp):

- images/s, by the median step;
- floating-point operations of a step that updates both players, as PyTorch counts them
  (convolutions and products of matrices), and how many of them a second that makes, as a share of
  what the product of two large matrices reaches in the same precision;
- memory: weights, moments and average, and on top the peak of what the step allocates;
- where the time of a step goes. What no operation accounts for is Python and launching: on a GPU,
  the time in which it computes nothing.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median_high

import common
import torch
from common import CPU
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from commands import flags, train
from config import RunFacts, Settings, resolve
from gan import loop, machine
from gan.errors import Refused
from gan.losses import Batch
from gan.state import State
from models import FAMILIES, find_family

Step = Callable[[], object]


class Unnamed:
    """In place of a `ModuleTracker`: all operations are of the whole."""

    parents = ("Global",)

    def __enter__(self) -> None:
        """Nothing to begin."""

    def __exit__(self, *exc: object) -> None:
        """Nothing to end."""


TIMED_SECONDS = 4.0  # of steps
UNTIMED_STEPS = 2  # before them
MATRIX_SIDE = 2048  # of the product that the speed is compared with
MATRIX_TRIES = 20
PROFILED_STEPS = 4
KINDS = {  # part of the name of an operation -> what it is called here
    "conv": "convolutions",
    "norm": "norms",
    "mm": "dense layers",
    "gemm": "dense layers",
    "adam": "optimiser",
    "rmsprop": "optimiser",
    "relu": "activations",
    "pad": "padding",
}
PYTHON = "Python"
LEAST_SHARE = 0.05  # of a kind that is printed
COLUMNS = [
    "family", "size", "batch", "precision", "images/s", "GFLOP a step", "GFLOP/s", "MB",
    "where the time goes",
]  # fmt: skip


def make_step(
    name: str, settings: Settings, mixed_precision: bool, device: torch.device = CPU
) -> tuple[Step, State]:
    """One training step of family `name` on random pictures, and the state that it updates."""
    family = find_family(name)
    config = resolve(family.defaults, {"gpu": device.type != "cpu"}, settings)
    state = State(family, config, RunFacts(mixed_precision=mixed_precision), device)
    n, size = config.batch_size, config.img_size
    from_noise = family.task.name == "noise"
    channels = config.channels if from_noise else config.channels_wanted

    def pictures(channels: int) -> torch.Tensor:
        return torch.rand(n, channels, size, size, device=device) * 2 - 1

    def step() -> None:
        real = pictures(channels)
        noise = (n, config.nz)
        given = torch.randn(noise, device=device) if from_noise else pictures(config.channels_given)
        loop.train_step(state, Batch(real, given, augment=config.augment, step=state.step))

    return step, state


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def images_per_second(step: Step, images: int, device: torch.device = CPU) -> float:
    """By the median time of the steps that fit into TIMED_SECONDS."""

    def once() -> None:
        step()
        wait_for(device)

    for _ in range(UNTIMED_STEPS):
        once()
    spent: list[float] = []
    while sum(spent) < TIMED_SECONDS:
        spent.append(common.seconds(once))
    return images / median_high(spent)


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations a second of one product of large matrices."""
    a, b = (torch.randn(MATRIX_SIDE, MATRIX_SIDE, device=device).to(dtype) for _ in range(2))

    def product() -> None:
        a @ b
        wait_for(device)

    product()
    return 2 * MATRIX_SIDE**3 / min(common.seconds(product) for _ in range(MATRIX_TRIES))


def operations(step: Step, state: State) -> int:
    """Floating-point operations of the first step from here on that updates both players."""
    while True:
        both = all(state.due)
        counter = FlopCounterMode(display=False)
        # its table by modules asks the autograd engine what gradients of gradients do not tell
        setattr(counter, "mod_tracker", Unnamed())  # noqa: B010  # a name that mypy holds fast
        with counter:
            step()
        if both:
            return int(counter.get_total_flops())


def peak_bytes(step: Step, state: State) -> int:
    """What a step has in memory at most, with the weights, the moments and the average."""
    held = state.size_on_disk()
    if state.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    assert profiled.profiler is not None
    assert profiled.profiler.kineto_results is not None
    found = [x for x in profiled.profiler.kineto_results.events() if x.name() == "[memory]"]
    now = peak = 0
    for event in sorted(found, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return held + peak


def time_shares(step: Step, device: torch.device = CPU) -> dict[str, float]:
    """Kind of operation -> its share of the time of a step, 0 to 1, the largest first."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    began = time.perf_counter()
    with profile(activities=activities) as profiled:
        began = time.perf_counter()
        for _ in range(PROFILED_STEPS):
            step()
        wait_for(device)
        total = 1e6 * (time.perf_counter() - began)
    spent = [
        (row.key, row.self_device_time_total if on_gpu else row.self_cpu_time_total)
        for row in profiled.key_averages()
    ]
    return shares_of(spent, total)


def shares_of(spent: Iterable[tuple[str, float]], total: float) -> dict[str, float]:
    """Kind of operation -> its share of `total`, 0 to 1, the largest first.

    `spent` are names of operations and their own times, in the unit of `total`.
    """
    by_kind: dict[str, float] = {}
    for name, own in spent:
        kind = next((kind for part, kind in KINDS.items() if part in name.lower()), "the rest")
        by_kind[kind] = by_kind.get(kind, 0.0) + own
    by_kind[PYTHON] = max(total - sum(by_kind.values()), 0.0)
    total = sum(by_kind.values())
    return {k: v / total for k, v in sorted(by_kind.items(), key=lambda item: -item[1])}


def row_of(
    name: str, settings: Settings, mixed: bool, device: torch.device, best: float
) -> list[object]:
    """A row of the table; `best` is the rate of products of matrices."""
    step, state = make_step(name, settings, mixed, device)
    config = state.config
    rate = images_per_second(step, config.batch_size, device)
    count = operations(step, state)
    reached = count * rate / config.batch_size
    shares = [f"{k} {v:.0%}" for k, v in time_shares(step, device).items() if v >= LEAST_SHARE]
    return [
        f"`{name}`",
        config.img_size,
        config.batch_size,
        "bfloat16" if mixed else "float32",
        f"{rate:.1f}",
        f"{count / 1e9:.1f}",
        f"{reached / 1e9:.0f} ({reached / best:.0%})",
        f"{peak_bytes(step, state) / 1e6:.0f}",
        ", ".join(shares),
    ]


def write_rows(file: Path, rows: list[list[object]]) -> None:
    """Put rows into the table of `file` that has these columns, in place of those of one family
    and precision; those of others go to its end. Raises Refused if there is no such table.
    """
    lines = file.read_text("utf-8").splitlines()
    head = common.row(COLUMNS)
    if head not in lines:
        raise Refused(f"--into={file}: no table of the columns {', '.join(COLUMNS)}")
    end = begin = lines.index(head) + 2
    while end < len(lines) and lines[end].startswith("|"):
        end += 1
    table = {_key(line): line for line in lines[begin:end]}
    table |= {_key(text): text for text in map(common.row, rows)}
    file.write_text("\n".join([*lines[:begin], *table.values(), *lines[end:]]) + "\n", "utf-8")


def _key(line: str) -> tuple[str, str]:
    """Family and precision of a row."""
    cells = [cell.strip() for cell in line.split("|")]
    return cells[1], cells[4]


def main(*words: str) -> None:
    machine.reuse_freed_memory()
    kept, into = common.take_flag("into", words)
    words = tuple(kept)
    names = [word for word in words if not word.startswith("--")]
    given = [word[2:].partition("=") for word in words if word.startswith("--")]
    texts = {name.replace("-", "_"): text for name, _, text in given}
    settings = flags.read(train.FLAGS, (), texts).settings
    device = machine.pick_device(settings.get("gpu", "auto"))  # type: ignore[arg-type]
    kinds = {False: torch.float32, True: torch.bfloat16}
    best = {mixed: matrix_rate(dtype, device) for mixed, dtype in kinds.items()}
    print(f"{machine.describe()}, {torch.get_num_threads()} threads; computes on {device}")
    print(
        f"a product of two {MATRIX_SIDE} x {MATRIX_SIDE} matrices: {best[False] / 1e9:.0f} GFLOP/s "
        f"in float32, {best[True] / 1e9:.0f} in bfloat16\n"
    )
    common.print_header(COLUMNS)
    rows = []
    for name in names or FAMILIES:
        for mixed in kinds:
            rows.append(row_of(name, settings, mixed, device, best[mixed]))
            common.print_row(rows[-1])
    if into:
        write_rows(Path(into), rows)


if __name__ == "__main__":
    common.run(main)
