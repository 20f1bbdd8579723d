"""A game of two numbers: every weight, rate and loss of a run can be worked out by hand.

G is one weight w, drawing w x of what it is fed; D is one weight v, scoring v times the mean of a
picture. Both losses have slope 1, and without betas Adam takes a step of exactly its rate: so D
goes down by `lr2` and G by `lr1` in each of their updates. All access to the toolkit's names for
these things is here.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from config import Config
from gan import health, loop
from gan.feed import FEEDS
from gan.losses import Batch
from gan.state import State
from models import CLASSIC, Family, Nets

CPU = torch.device("cpu")
COUNT = 200  # images; with batches of 20 an epoch has 10 steps
SHAPE = (20, 3, 2, 2)
SPREAD = torch.linspace(-1, 1, SHAPE[0])[:, None, None, None].expand(SHAPE)
AUC = 0.75  # what D says of its pairs


class Times(nn.Module):
    """w times the input."""

    def __init__(self, start: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([start]))

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        return self.weight * x


class TimesMean(Times):
    """v times the mean of each picture: [N]."""

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        return self.weight * x.flatten(1).mean(1)


def make_batch(real: Tensor, given: Tensor) -> Batch:
    return Batch(real, given)


def make_nets(g: nn.Module | None = None, d: nn.Module | None = None) -> Nets:
    return Nets(g or Times(), d or TimesMean())


def d_loss(nets: Nets, batch: Batch, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    batch.fake(nets)
    loss = nets.D.get_parameter("weight").sum()
    return loss, {"loss_d": loss.detach(), "pair_auc": torch.tensor(AUC)}


def g_loss(nets: Nets, batch: Batch, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    loss = batch.fake(nets).mean() * 0 + nets.G.get_parameter("weight").sum()
    return loss, {"loss_g": loss.detach()}


TOY = Family(lambda config: make_nets(), d_loss, g_loss)


def poisoned(*steps: int) -> Family:
    """The same game with a loss of D that is no number in these of its updates, from 1."""
    count = 0

    def bad(nets: Nets, batch: Batch, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal count
        count += 1
        loss, logs = d_loss(nets, batch, config)
        return loss, {**logs, "loss_d": loss.detach() * float("nan" if count in steps else 1)}

    return dataclasses.replace(TOY, d_loss=bad)


class ToyData:
    """What the loop asks of a data set."""

    digest = "toy"
    folder = Path("toy")

    def __len__(self) -> int:
        return COUNT


class ToyFeed:
    """Reals at twice the spread of what G is fed; G's weight as seen by each preview."""

    def __init__(self, *_: Any) -> None:
        self.previewed: list[float] = []
        self.scored = 0
        self.held_out: tuple[Tensor, ...] | None = None

    def inputs(self, first: int, count: int) -> Tensor:
        return torch.full((count, 1), 3.0)

    def to_score(self, count: int) -> Tensor:
        self.scored = count
        return torch.ones(4, 3, 2, 2)

    def batch(self, step: int) -> Batch:
        return make_batch(2 * SPREAD, SPREAD)

    def preview(self, G: nn.Module) -> Tensor:
        self.previewed.append(weight(G))
        return torch.zeros(3, 4, 4, dtype=torch.uint8)

    def unseen(self) -> tuple[Tensor, ...] | None:
        return self.held_out


def weight(net: nn.Module) -> float:
    return net.get_parameter("weight").item()


def set_weight(net: nn.Module, value: float) -> None:
    nn.init.constant_(net.get_parameter("weight"), value)


def average(state: State) -> nn.Module:
    assert state.ema is not None
    return state.ema.module


def knobs(**more: Any) -> Config:
    """No schedule, no betas, no limit but 10,000 images; rates 0.1 of G and 0.01 of D."""
    plain = {
        "batch_size": SHAPE[0], "lr1": 0.1, "lr2": 0.01, "beta1": 0.0, "beta2": 0.0, "amp": False,
        "gpu": False, "max_epoch": 0, "max_images": 10_000,
    }  # fmt: skip
    return Config(**{**CLASSIC, **plain, **more})


def make_state(family: Family = TOY, **more: Any) -> State:
    return State(family, knobs(**more), CPU)


def train_steps(state: State, count: int, family: Family = TOY) -> None:
    for _ in range(count):
        loop.train_step(family, state, ToyFeed().batch(state.step))


def folders(top: Path) -> loop.Folders:
    return loop.Folders(top / "c", top / "i", top / "r")


def make_run(top: Path, score: loop.Score | None = None, **more: Any) -> loop.Run:
    """A session that has not trained yet; to be closed by its report."""
    state = make_state(**more)
    return loop.Run(state, ToyData(), ToyFeed(), folders(top), score, [])  # type: ignore[arg-type]


def fit(top: Path, family: Family = TOY, more: Any = None, **given: Any) -> loop.Outcome:
    """A whole run; `given` are knobs, `more` the other arguments of `loop.fit`."""
    before, FEEDS["images"] = FEEDS["images"], ToyFeed
    try:
        return loop.fit(family, knobs(**given), ToyData(), folders(top), CPU, **more or {})  # type: ignore[arg-type]
    finally:
        FEEDS["images"] = before


def score_of(values: list[float]) -> loop.Score:
    """Scores one after the other."""
    left = iter(values)

    def score(fake: np.ndarray) -> dict[str, float]:
        return {"score": next(left)}

    return score


def alarm(kind: str, rescue: bool) -> health.Alarm:
    return health.Alarm(kind, f"{kind}: by hand", rescue)


def readings_of(run: loop.Run, *answers: health.Alarm) -> list[health.Reading]:
    """From now on the run's monitor raises these alarms; the readings it is given."""
    seen: list[health.Reading] = []

    def read(reading: health.Reading) -> list[health.Alarm]:
        seen.append(reading)
        return list(answers)

    run.state.monitor.read = read  # type: ignore[method-assign]
    return seen
