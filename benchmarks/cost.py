"""What scores and health signals cost beside the steps of training, on this machine.

    python benchmarks/cost.py [family]      modern, if none is named

Random pictures, the precision that `train` would choose, an otherwise idle machine; only the CPU
seconds hold on a busy one too. Takes about a minute on two cores.
"""

import functools
import time
from collections.abc import Callable
from statistics import median_high

import common
import numpy as np
import torch
from common import CPU
from speed import make_step

from gan import features, health, machine, metrics, sample
from gan.loop import SCORED_FAKES
from gan.schedule import HEALTH_LINES, SCORE_SHARE


def median_seconds(call: Callable[[], object], calls: int) -> float:
    """Median of `calls` calls after one that is not counted."""
    call()
    return median_high(common.seconds(call) for _ in range(calls))


def cpu_seconds(call: Callable[[], object], calls: int) -> float:
    """The fewest seconds, of all cores together, that one of `calls` calls was computed."""
    found = []
    for _ in range(calls):
        began = time.process_time()
        call()
        found.append(time.process_time() - began)
    return min(found)


def main(name: str = "modern") -> None:
    machine.reuse_freed_memory()
    train_step, state = make_step(name, {}, machine.has_bfloat16(CPU))
    config, nets = state.config, state.nets
    batch, channels, size = config.batch_size, config.channels, config.img_size
    step = median_seconds(train_step, 50)
    print(f"{name}: a step of {batch} images {step:.3f} s, {batch / step:.1f} images/s")
    real, z = torch.rand(batch, channels, size, size) * 2 - 1, torch.randn(batch, config.nz)
    fake = nets.G(z).detach()

    def read_signals() -> None:
        health.mean_pairwise_distance(fake), health.mean_pairwise_distance(real)
        health.gradient_norm(nets.G)

    signals = median_seconds(read_signals, 5)
    gap = median_seconds(lambda: health.memory_gap(nets.D, (real,), (real,), (fake,)), 5)
    watch = (signals + gap / HEALTH_LINES) / config.log_every
    print(f"health: {1e3 * watch:.2f} ms a step, {100 * watch / step:.2f} % of training")
    pictures = np.random.default_rng(0).integers(
        0, 256, (SCORED_FAKES, channels, size, size), np.uint8
    )
    for net in ("lite0", "random", "layers"):
        spent = median_seconds(functools.partial(features.extract, pictures, net), 3)
        print(f"features ({net}): {len(pictures) / spent:.0f} images/s")
    reference, held_out = features.Reference(), pictures[::-1].copy()
    whiten = metrics.whitenings(pictures, reference)
    rate = functools.partial(metrics.quality, pictures, held_out, whiten, reference=reference)
    score, cpu = median_seconds(rate, 3), cpu_seconds(rate, 5)
    source = sample.NoiseSource.of(config)
    noise = source(0, SCORED_FAKES)
    draw = median_seconds(lambda: sample.draw_uint8(state.sampler(source), noise, batch, CPU), 3)
    print(
        f"a score in mid-run: {draw:.1f} s to draw {SCORED_FAKES}, {score:.1f} s to rate them "
        f"({cpu:.2f} s of CPU); "
        f"5 % of the time allows one every {(draw + score) / SCORE_SHARE:.0f} s"
    )


if __name__ == "__main__":
    common.run(main)
