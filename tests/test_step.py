"""A batch in parts: the same game with less memory, by itself when that is short."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from commands import train
from config import Config, RunFacts, resolve
from gan import checkpoint, step
from gan.errors import Refused
from gan.losses import Batch, Logs, Nets
from gan.state import State
from models import FAMILIES

Inside = Callable[..., None]
SMALL: dict[str, Any] = {"img_size": 28, "batch_size": 12, "nz": 4, "augment": 0.0}


def state_of(family: str = "mlp-tiny", parts: int = 1, **given: Any) -> State:
    row = FAMILIES[family]
    config = resolve(row.defaults, {**SMALL, **given})
    return State(row, config, RunFacts(accumulate=parts), torch.device("cpu"))


def train_steps(state: State, count: int) -> Logs:
    logs: Logs = {}
    for _ in range(count):
        torch.manual_seed(state.step)
        size = (state.config.batch_size, state.config.channels, 28, 28)
        real, given = torch.rand(size) * 2 - 1, torch.randn(size[0], 4)
        batch = Batch(real, given, augment=state.config.augment, step=state.step)
        logs = step.train_step(state, batch)
        assert batch.fake is not None
        assert len(batch.fake) == size[0]  # for the health checks, with what they ask
        assert batch.fake.requires_grad
    return logs


def weights(state: State) -> Tensor:
    return torch.cat([x.flatten() for net in vars(state.nets).values() for x in net.parameters()])


def short_of_memory(state: State, images: int, which: str) -> None:
    """Let one of the two losses of a state fail for more than `images` at a time."""
    own = getattr(state.family, which)

    def greedy(nets: Nets, batch: Batch, config: Config) -> tuple[Tensor, Logs]:
        found: tuple[Tensor, Logs] = own(nets, batch, config)
        if len(batch.real) > images:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return found

    state.family = dataclasses.replace(state.family, **{which: greedy})


@pytest.mark.parametrize("parts", [2, 3, 12])
def test_without_batch_norm_parts_are_the_same_game(parts: int) -> None:
    whole, split = state_of(), state_of(parts=parts)
    ours, theirs = train_steps(split, 3), train_steps(whole, 3)
    assert torch.allclose(weights(split), weights(whole), atol=1e-5)
    assert float(ours["loss_d"]) == pytest.approx(float(theirs["loss_d"]), abs=1e-4)
    assert float(ours["loss_g"]) == pytest.approx(float(theirs["loss_g"]), abs=1e-4)


@pytest.mark.parametrize("which", ["d_loss", "g_loss"])
def test_out_of_memory_the_batch_is_halved_until_it_fits(which: str) -> None:
    short, roomy = state_of(), state_of()
    short_of_memory(short, 3, which)
    train_steps(short, 2), train_steps(roomy, 2)
    assert short.facts.accumulate == 4  # of 3 images, from 12 and 6
    assert short.images == 24
    assert torch.allclose(weights(short), weights(roomy), atol=1e-5)


def test_what_does_not_fit_as_single_images_is_said() -> None:
    state = state_of()
    short_of_memory(state, 0, "d_loss")
    with pytest.raises(RuntimeError, match="out of memory"):
        train_steps(state, 1)
    assert state.step == 0


def test_a_number_that_was_given_is_kept() -> None:
    state = state_of(accumulate=1)
    short_of_memory(state, 6, "d_loss")
    with pytest.raises(RuntimeError, match="out of memory"):
        train_steps(state, 1)
    assert state.facts.accumulate == 1


def test_other_errors_are_no_lack_of_memory() -> None:
    state = state_of()

    def broken(nets: Nets, batch: Batch, config: Config) -> tuple[Tensor, Logs]:
        raise RuntimeError("shapes differ")

    state.family = dataclasses.replace(state.family, d_loss=broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        train_steps(state, 1)
    assert state.facts.accumulate == 1


@pytest.mark.parametrize("family", ["modern", "mlp-tiny"])
def test_a_run_in_parts_goes_on_to_the_last_bit(family: str) -> None:
    given = {} if family == "mlp-tiny" else {"ngf": 2, "ndf": 2, "augment": 0.5}
    straight = state_of(family, 3, **given)
    train_steps(straight, 2)
    saved = copy.deepcopy(straight.state_dict())
    facts = RunFacts.of_state(saved)
    assert facts.accumulate == 3
    resumed = State(straight.family, straight.config, facts, straight.device)
    resumed.load_state_dict(saved)
    train_steps(straight, 2), train_steps(resumed, 2)
    assert torch.equal(weights(straight), weights(resumed))


def test_the_number_of_parts_is_a_fact_of_the_run(inside: Inside, tmp_path: Path) -> None:
    """Given, kept with --resume, and changed by it."""
    small = ("--family=mlp-tiny", "--img-size=28", "--batch-size=8", "--held-out=0", "--gpu=False")
    words = (*small, "--name=a", "--eval-every=100000")
    inside("train", *words, "--accumulate=2", "--max-images=16")

    def parts() -> int:
        newest = checkpoint.states(tmp_path / "checkpoints" / "a")[0]
        return RunFacts.of_state(checkpoint.load(newest)).accumulate

    assert parts() == 2
    inside("train", "--name=a", "--resume", "--accumulate=auto", "--max-images=32")
    assert parts() == 2
    inside("train", "--name=a", "--resume", "--accumulate=4", "--max-images=48")
    assert parts() == 4
    with pytest.raises(Refused, match=r"--accumulate=3: 8 images .* 4 would do|2 would do"):
        inside("train", "--name=a", "--resume", "--accumulate=3", "--max-images=64")
    assert train.find_parts(Config(batch_size=8, accumulate=8)) == 8
