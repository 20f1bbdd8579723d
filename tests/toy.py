"""A game of two numbers: every weight, rate and loss of a run can be worked out by hand.

G is one weight w, generating w x from an input x; D is one weight v, scoring v times the mean of a
picture. Both losses have slope 1, and without betas Adam takes a step of exactly its rate: so D
goes down by `lr2` and G by `lr1` in each of their updates. All access to the toolkit's names for
these things is here.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from states import new_state
from torch import Tensor, nn

from config import Config
from gan import checkpoint, health, loop
from gan.evaluation import Score
from gan.families import CLASSIC
from gan.family import Family
from gan.losses import Batch, Nets
from gan.sample import Inputs
from gan.state import SavedState, State
from gan.tasks import TASKS

COUNT = 200  # images; with batches of 20 an epoch has 10 steps
SHAPE = (20, 3, 2, 2)
RAMP = torch.linspace(-1, 1, SHAPE[0])[:, None, None, None].expand(SHAPE)
AUC = 0.75  # the pair_auc that D's loss logs


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
    batch.generate(nets)
    loss = nets.D.get_parameter("weight").sum()
    return loss, {"loss_d": loss.detach(), "pair_auc": torch.tensor(AUC)}


def g_loss(nets: Nets, batch: Batch, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    loss = batch.generate(nets).mean() * 0 + nets.G.get_parameter("weight").sum()
    return loss, {"loss_g": loss.detach()}


class ToyData:
    """What the loop asks of a data set."""

    digest = "toy"
    folder = Path("toy")

    def __len__(self) -> int:
        return COUNT


class ToyFeed:
    """Reals twice as far apart as the inputs of G; keeps G's weight of each preview."""

    def __init__(self, *_: Any) -> None:
        self.previewed: list[float] = []
        self.scored = 0
        self.unseen: tuple[Tensor, ...] | None = None

    def inputs(self, first: int, count: int) -> Inputs:
        return (torch.full((count, 1), 3.0),)

    def scored_inputs(self, count: int) -> Inputs:
        self.scored = count
        return (torch.ones(4, 3, 2, 2),)

    def batch(self, step: int) -> Batch:
        return make_batch(2 * RAMP, RAMP)

    def preview(self, G: nn.Module) -> Tensor:
        self.previewed.append(weight(G))
        return torch.zeros(3, 4, 4, dtype=torch.uint8)

    def held_out(self) -> tuple[Tensor, ...] | None:
        return self.unseen


TOY = Family(
    lambda config, classes: make_nets(),
    d_loss,
    g_loss,
    task=dataclasses.replace(TASKS["noise"], feed=ToyFeed),
)


def poisoned(*steps: int) -> Family:
    """The same game with a D loss of NaN in these of its updates, counted from 1."""
    count = 0

    def bad(nets: Nets, batch: Batch, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal count
        count += 1
        loss, logs = d_loss(nets, batch, config)
        return loss, {**logs, "loss_d": loss.detach() * float("nan" if count in steps else 1)}

    return dataclasses.replace(TOY, d_loss=bad)


def weight(net: nn.Module) -> float:
    return net.get_parameter("weight").item()


def set_weight(net: nn.Module, value: float) -> None:
    nn.init.constant_(net.get_parameter("weight"), value)


def average(state: State) -> nn.Module:
    assert state.ema is not None
    return state.ema.module


def make_config(**more: Any) -> Config:
    """No schedule, no betas, no limit but 10,000 images; rates 0.1 of G and 0.01 of D."""
    plain = {
        "batch_size": SHAPE[0], "lr1": 0.1, "lr2": 0.01, "beta1": 0.0, "beta2": 0.0,
        "gpu": False, "max_epoch": 0, "max_images": 10_000,
    }  # fmt: skip
    return Config(**{**CLASSIC, **plain, **more})


def make_state(family: Family = TOY, **more: Any) -> State:
    return new_state(make_config(**more), family=family)


def train_steps(state: State, count: int) -> None:
    for _ in range(count):
        loop.train_step(state, ToyFeed().batch(state.step))


def folders(top: Path) -> loop.Folders:
    return loop.Folders(top / "c", top / "i", top / "r")


def make_session(top: Path, score: Score | None = None, **more: Any) -> loop.Session:
    """A session that has not trained yet; to be closed."""
    return loop.Session(make_state(**more), ToyData(), folders(top), score, [])  # type: ignore[arg-type]


def feed_of(session: loop.Session) -> ToyFeed:
    assert isinstance(session.feed, ToyFeed)
    return session.feed


def fit(
    top: Path,
    family: Family = TOY,
    *,
    saved: SavedState | None = None,
    score: Score | None = None,
    events: Iterable[dict[str, object]] = (),
    **settings: Any,
) -> loop.Outcome:
    """A whole run, new or from a `saved` state."""
    state, data = make_state(family, **settings), ToyData()
    if saved is not None:
        loop.resume(state, saved, data, folders(top))  # type: ignore[arg-type]
    return loop.fit(state, data, folders(top), score=score, events=events)  # type: ignore[arg-type]


def score_of(values: list[float]) -> Score:
    """Scores one after the other."""
    left = iter(values)

    def score(fake: NDArray[Any]) -> dict[str, float]:
        return {"score": next(left)}

    return score


def alarm(kind: str, rescue: bool) -> health.Alarm:
    return health.Alarm(kind, f"{kind}: by hand", rescue)


def readings_of(session: loop.Session, *answers: health.Alarm) -> list[health.Reading]:
    """From now on the session's monitor raises these alarms; the readings it is given."""
    seen: list[health.Reading] = []

    def read(reading: health.Reading) -> list[health.Alarm]:
        seen.append(reading)
        return list(answers)

    session.state.monitor.read = read  # type: ignore[method-assign]
    return seen


def count_calls(owner: object, name: str, patch: Callable[..., None]) -> list[tuple[Any, ...]]:
    """The arguments of each call of `owner.name` from now on; `patch` is monkeypatch.setattr."""
    calls: list[tuple[Any, ...]] = []
    own = getattr(owner, name)

    def counted(*given: Any) -> Any:
        calls.append(given)
        return own(*given)

    patch(owner, name, counted)
    return calls


def log_of(top: Path, event: str | None = None) -> list[dict[str, Any]]:
    """The lines of a log: of one event, or those of losses."""
    lines = [json.loads(line) for line in (top / "r" / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("event") == event]


def steps_of(folder: Path, pattern: str = "state_*.pth") -> list[int]:
    return sorted(checkpoint.load(path)["step"] for path in folder.glob(pattern))


def best_of(top: Path) -> Any:
    return checkpoint.load(top / "c" / checkpoint.BEST)


def save(run: loop.Session) -> None:
    run.saves.save(run.state.sampler(run.feed.inputs))


def evaluate(run: loop.Session) -> None:
    run.evaluate(run.state.sampler(run.feed.inputs))
