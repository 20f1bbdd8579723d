"""What only a GPU can show; skipped without CUDA. Everything else is tested on a CPU."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from config import RunFacts, resolve
from gan import loop, machine, transfer
from gan.families import ROWS
from gan.losses import Batch
from gan.state import State
from gan.tasks import TASKS
from gan.transfer import Pictures
from models import FAMILIES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
CUDA = torch.device("cuda")
Inside = Callable[..., None]
OF_NOISE = [name for name, row in FAMILIES.items() if row.task is TASKS["noise"]]


def state_of(family: str, device: torch.device, mixed: bool = False) -> State:
    row = FAMILIES[family]
    small = {"ngf": 4, "ndf": 4, "img_size": 32, "batch_size": 8, "nz": 8, "augment": 0.0}
    given = {name: value for name, value in small.items() if name not in ROWS[family].lacks}
    return State(row, resolve(row.defaults, given), RunFacts(mixed_precision=mixed), device)


def train(state: State, steps: int) -> list[float]:
    """The mean loss of D in each of some steps on the same pictures."""
    found = []
    numbers = torch.Generator().manual_seed(0)
    for _ in range(steps):
        shape = (8, state.config.channels, 32, 32)
        real = torch.rand(shape, generator=numbers) * 2 - 1
        given = torch.randn(8, 8, generator=numbers)
        state.set_rates(0.0)
        batch = Batch(real.to(state.device), given.to(state.device), step=state.step)
        logs = loop.train_step(state, batch)
        found.append(logs["loss_d"])
    return [float(value) for value in found]


@pytest.mark.parametrize("family", OF_NOISE)
def test_it_trains_as_the_cpu_does(family: str) -> None:
    """The same first losses; not the same bits."""
    twins = [state_of(family, device) for device in (torch.device("cpu"), CUDA)]
    ours, theirs = (train(state, 3) for state in twins)
    assert theirs == pytest.approx(ours, rel=0.05, abs=0.05)


@pytest.mark.parametrize("family", OF_NOISE)
@pytest.mark.parametrize("mixed", [False, True])
def test_no_step_waits_for_the_gpu(family: str, mixed: bool) -> None:
    """After the first steps, in which algorithms are chosen and memory is fetched."""
    state = state_of(family, CUDA, mixed)
    train(state, 6)
    array = np.random.default_rng(0).integers(
        0, 256, (64, state.config.channels, 32, 32), dtype=np.uint8
    )
    for room in (0, array.nbytes):
        pictures = Pictures(array, CUDA, room)
        pictures.take(np.arange(8))
        torch.cuda.set_sync_debug_mode("error")
        try:
            for step in range(6):
                real = transfer.scaled(pictures.take(np.arange(step, step + 8)))
                given = torch.randn(8, 8, device=CUDA)
                state.set_rates(0.5)
                batch = Batch(real, given, augment=0.5, step=state.step)
                state.meters.add(loop.train_step(state, batch))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert state.meters.all_finite()


def test_a_set_lies_on_the_gpu_if_it_fits() -> None:
    array = np.random.default_rng(0).integers(0, 256, (9, 3, 4, 4), np.uint8)
    pictures = Pictures(array, CUDA)
    assert pictures.resident is not None
    indices = np.array([8, 0, 8])
    assert np.array_equal(pictures.take(indices).cpu().numpy(), array[indices])
    assert np.array_equal(Pictures(array, CUDA, 0).take(indices).cpu().numpy(), array[indices])


def test_adam_is_fused_and_goes_on_after_loading() -> None:
    state = state_of("modern", CUDA)
    train(state, 2)
    saved = copy.deepcopy(state.state_dict())
    after = train(state, 2)
    other = state_of("modern", CUDA)
    other.load_state_dict(saved)
    assert all(group["fused"] for group in other.opt_g.param_groups)
    assert train(other, 2)[0] == pytest.approx(train(state, 2)[0], abs=0.5)
    assert len(after) == 2


def test_no_memory_is_known_for_what_it_is() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50, dtype=torch.uint8, device=CUDA)
    assert machine.is_out_of_memory(raised.value)


def test_from_the_command_line(inside: Inside) -> None:
    words = ["--gpu=True", "--img-size=32", "--ngf=4", "--ndf=4", "--max-images=320"]
    inside("train", *words, "--name=there", "--held-out=0")
    inside("train", "--name=there", "--resume", "--max-images=480")
    inside("generate", "--name=there", "--rank=none", "--gen-num=4", "--gen-search-num=4")
    assert Path("result.png").is_file()
