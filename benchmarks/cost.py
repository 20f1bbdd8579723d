"""What watching costs: scores and health against the steps of training, on this machine.

    python benchmarks/cost.py [family]

96 px, random pictures, an otherwise idle machine. Takes about two minutes on two cores.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import config as knobs
from gan import features, health, loop, metrics, sample
from gan.losses import Batch
from models import FAMILIES

CPU = torch.device("cpu")


def seconds(call: Callable[[], Any], repeat: int = 5) -> float:
    """Median of `repeat` calls after one that is not counted."""
    call()
    found = []
    for _ in range(repeat):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return sorted(found)[repeat // 2]


def main(name: str = "dcgan") -> None:
    family = FAMILIES[name]
    config = knobs.resolve(family.defaults, {"family": name, "gpu": False})
    state = loop.State(family, config, CPU)
    batch = config.batch_size
    real, z = torch.rand(batch, 3, 96, 96) * 2 - 1, torch.randn(batch, config.nz)
    step = seconds(lambda: loop.train_step(family, state, Batch(real, z)))
    print(f"{name}: a step of {batch} images {step:.3f} s, {batch / step:.1f} images/s")
    fake = state.nets.G(z).detach()

    def look() -> None:
        health.spread(fake), health.spread(real), health.gradient_norm(state.nets.G)

    gap = seconds(lambda: health.memory_gap(state.nets.D, real, real, fake))
    watch = seconds(look) / config.log_every + gap / (config.log_every * loop.GAP_EVERY)
    print(f"health: {1e3 * watch:.2f} ms a step, {100 * watch / step:.2f} % of training")
    pictures = np.random.default_rng(0).integers(0, 256, (loop.EVAL_FAKES, 3, 96, 96), np.uint8)
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
