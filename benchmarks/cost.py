"""What watching costs: scores and health against the steps of training, on this machine.

    python benchmarks/cost.py [family]      modern, if none is named

Random pictures, exact as `train` would choose, an otherwise idle machine. Takes about a minute on
two cores.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from speed import CPU, stepper

from gan import features, health, loop, machine, metrics, sample


def seconds(call: Callable[[], Any], repeat: int = 5) -> float:
    """Median of `repeat` calls after one that is not counted."""
    call()
    found = []
    for _ in range(repeat):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return sorted(found)[repeat // 2]


def main(name: str = "modern") -> None:
    machine.keep_memory()
    train_step, state = stepper(name, {"amp": machine.has_bfloat16(CPU)})
    config = state.config
    batch, channels, size = config.batch_size, config.channels, config.img_size
    step = seconds(train_step, 50)
    print(f"{name}: a step of {batch} images {step:.3f} s, {batch / step:.1f} images/s")
    real, z = torch.rand(batch, channels, size, size) * 2 - 1, torch.randn(batch, config.nz)
    fake = state.nets.G(z).detach()

    def look() -> None:
        health.spread(fake), health.spread(real), health.gradient_norm(state.nets.G)

    gap = seconds(lambda: health.memory_gap(state.nets.D, (real,), (real,), (fake,)))
    watch = seconds(look) / config.log_every + gap / (config.log_every * loop.GAP_EVERY)
    print(f"health: {1e3 * watch:.2f} ms a step, {100 * watch / step:.2f} % of training")
    pictures = np.random.default_rng(0).integers(
        0, 256, (loop.EVAL_FAKES, channels, size, size), np.uint8
    )
    for net in ("lite0", "random"):
        spent = seconds(lambda net=net: features.extract(pictures, net), 3)
        print(f"features ({net}): {len(pictures) / spent:.0f} images/s")
    reference, held_out = features.Reference(), pictures[::-1].copy()
    rate = seconds(lambda: metrics.quality(pictures, held_out, reference=reference), 3)
    noise = sample.Source.of(config)(0, loop.EVAL_FAKES)
    draw = seconds(
        lambda: sample.draw_uint8(state.sampler(sample.Source.of(config)), noise, batch, CPU), 3
    )
    print(
        f"a score in mid-run: {draw:.1f} s to draw {loop.EVAL_FAKES}, {rate:.1f} s to rate them; "
        f"5 % of the time allows one every {(draw + rate) / loop.EVAL_SHARE:.0f} s"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
