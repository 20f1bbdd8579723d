"""Batches on the device, and no step that waits for it: on a CPU, with what a GPU would ask for."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from wiring import feed_of, image_set, make_config, numbered

from config import RunFacts, resolve
from gan import loop, transfer
from gan.families import ROWS
from gan.losses import Batch
from gan.state import State
from gan.tasks import TASKS
from gan.transfer import Pictures
from models import FAMILIES

CPU = torch.device("cpu")
# what makes the host wait for a GPU: it asks for a value, or for how many there are. READS are the
# methods of a tensor that do, of which a CPU's reach no operation
WAITS = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal", "unique")


READS = ("tolist", "numpy", "cpu", "item", "__bool__", "__float__", "__int__", "__index__")


class NoWaiting(TorchDispatchMode):
    """Raises where a step on a GPU would wait for it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert func.__name__.split(".")[0] not in WAITS, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "family", [name for name, row in FAMILIES.items() if row.task is TASKS["noise"]]
)
@pytest.mark.parametrize("mixed", [False, True])
def test_no_step_waits_for_the_device(
    family: str, mixed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = FAMILIES[family]
    small = {"ngf": 2, "ndf": 2, "img_size": 32, "batch_size": 4, "augment": 0.5, "nz": 4}
    given = {name: value for name, value in small.items() if name not in ROWS[family].lacks}
    config = resolve(row.defaults, given)
    state = State(row, config, RunFacts(mixed_precision=mixed), CPU)
    real = torch.rand(4, config.channels, 32, 32) * 2 - 1

    def read(*args: object) -> None:
        raise AssertionError("a value is read in a step")

    for name in READS:
        monkeypatch.setattr(torch.Tensor, name, read)
    with NoWaiting():
        for _ in range(3):
            state.set_rates(0.5)
            batch = Batch(real, torch.randn(4, 4), augment=config.augment, step=state.step)
            state.meters.add(loop.train_step(state, batch))
    with pytest.raises(AssertionError):  # once in --log-every steps
        state.meters.all_finite()


def test_batches_are_the_same_wherever_the_pictures_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for all of them, for one less than all, copied in parts of two."""
    array = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 4), np.uint8)
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 2 * array[0].nbytes)
    indices = np.array([3, 0, 6, 3])
    there, elsewhere = Pictures(array, CPU, array.nbytes), Pictures(array, CPU, array.nbytes - 1)
    assert there.resident is not None
    assert elsewhere.resident is None
    for pictures in (there, elsewhere):
        assert np.array_equal(pictures.take(indices).numpy(), array[indices])


def test_a_cpu_keeps_no_second_copy() -> None:
    assert Pictures(np.zeros((1, 3, 4, 4), np.uint8), CPU).resident is None


def test_the_feed_takes_its_batches_from_there() -> None:
    data = image_set(numbered(20))
    feed = feed_of("noise", make_config(), data)
    real = feed.batch(0).real
    feed.pictures = Pictures(255 - data.array, CPU)  # type: ignore[attr-defined]
    assert torch.allclose(feed.batch(0).real, -real, atol=1e-6)
