"""The loop: who is updated when, on what; and a resumed run does what a whole one does."""

import copy
import dataclasses
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from states import CPU, facts_of, new_state
from torch import Tensor, nn
from torch.optim import Optimizer

from config import Config
from gan import checkpoint, data, loop, schedule
from gan.data import Images
from gan.errors import Refused
from gan.evaluation import Score
from gan.feed import NoiseFeed, step_seed
from gan.losses import Batch, Nets, logistic_d, logistic_g
from gan.state import Ema, SavedState
from models import FAMILIES

DCGAN = FAMILIES["dcgan"]
Tiny = Callable[..., Config]


def folders(top: Path) -> loop.Folders:
    return loop.Folders(top / "checkpoints", top / "imgs", top / "runs")


def feed_of(config: Config, images: Images) -> NoiseFeed:
    return NoiseFeed(config, facts_of(config), images, CPU)


def fit(
    config: Config,
    images: Images,
    top: Path,
    saved: SavedState | None = None,
    score: Score | None = None,
) -> loop.Outcome:
    """A whole run, new or from a `saved` state."""
    state = new_state(config)
    if saved is not None:
        loop.resume(state, saved, images, folders(top))
    return loop.fit(state, images, folders(top), score=score)


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, through dicts and lists."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@pytest.mark.parametrize(
    ("d_every", "g_every", "d_steps", "g_steps"),
    [
        (1, 1, [0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6]),
        (1, 5, [0, 1, 2, 3, 4, 5, 6], [0, 5]),
        (5, 1, [0, 5], [0, 1, 2, 3, 4, 5, 6]),
        (2, 3, [0, 2, 4, 6], [0, 3, 6]),
    ],
)
def test_who_is_updated_on_which_batch(
    tiny: Tiny, images: Images, d_every: int, g_every: int, d_steps: list[int], g_steps: list[int]
) -> None:
    state = new_state(tiny(d_every=d_every, g_every=g_every))
    moved: dict[str, list[int]] = {"D": [], "G": []}
    for step in range(7):
        before = {p: copy.deepcopy(getattr(state.nets, p).main[0].weight) for p in moved}
        loop.train_step(state, feed_of(state.config, images).batch(state.step))
        for player, steps in moved.items():
            if not torch.equal(before[player], getattr(state.nets, player).main[0].weight):
                steps.append(step)
    assert moved == {"D": d_steps, "G": g_steps}


def plain_step(nets: Nets, opt_g: Optimizer, opt_d: Optimizer, batch: Batch) -> None:
    """The loop as tutorials write it: nothing shared, nothing frozen."""
    opt_d.zero_grad()
    fake = nets.G(batch.given).detach()
    logistic_d(nets.D(batch.real), nets.D(fake)).backward()
    opt_d.step()
    opt_g.zero_grad()
    logistic_g(nets.D(batch.real), nets.D(nets.G(batch.given))).backward()
    opt_g.step()


def test_sharing_and_freezing_change_nothing(tiny: Tiny, images: Images) -> None:
    ours, plain = (new_state(tiny()) for _ in range(2))
    for _ in range(3):
        batch = feed_of(ours.config, images).batch(ours.step)
        plain_step(plain.nets, plain.opt_g, plain.opt_d, Batch(batch.real, batch.given))
        loop.train_step(ours, batch)
    for player in ("G", "D"):
        a = dict(getattr(ours.nets, player).named_parameters())
        b = dict(getattr(plain.nets, player).named_parameters())
        assert same(a, b)


def test_the_work_that_is_not_done(tiny: Tiny, images: Images) -> None:
    state = new_state(tiny(g_every=2))
    made = []
    state.nets.G.register_forward_hook(lambda net, args, out: made.append(out.requires_grad))
    for _ in range(2):
        loop.train_step(state, feed_of(state.config, images).batch(state.step))
    assert made == [True, False]  # generated once a batch, with a graph only where G is due
    # D's gradients are those of its own update: G's adds nothing to them
    state = new_state(tiny())
    batch = feed_of(state.config, images).batch(state.step)
    alone = copy.deepcopy(state.nets)
    DCGAN.d_loss(alone, Batch(batch.real, batch.given), tiny())[0].backward()
    loop.train_step(state, batch)
    for ours, theirs in zip(state.nets.D.parameters(), alone.D.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)  # type: ignore[arg-type]


def test_ema_by_hand() -> None:
    net = nn.Linear(1, 1, bias=False)
    ema = Ema(net, cap=100)
    found = []
    # half-lives: none, as the first is a copy; 5 % of 1,000; 100, though 5 % would be 200
    for weight, seen in ((1.0, 500), (2.0, 1000), (4.0, 4000)):
        nn.init.constant_(net.weight, weight)
        ema.update(50, seen)
        found.append(ema.module.get_parameter("weight").item())
    d = 2**-0.5  # of a batch of 50
    assert found == pytest.approx([1.0, 1.5, d * 1.5 + (1 - d) * 4])


def test_reals_are_scaled_and_mirrored(tiny: Tiny, images: Images) -> None:
    plain = feed_of(tiny(flip=False), images).batch(0).real
    pixels = torch.from_numpy(images.array[images.indices_at(0, 20, 0)]).float()
    assert torch.allclose(plain, pixels / 127.5 - 1)
    flipped = feed_of(tiny(), images).batch(0).real
    kinds = [
        (torch.equal(f, p), torch.equal(f, p.flip(2))) for f, p in zip(flipped, plain, strict=True)
    ]
    assert all(any(kind) for kind in kinds)
    assert 4 < sum(same for same, _ in kinds) < 16  # of 20


def test_12_steps_are_5_and_7(tiny: Tiny, images: Images, tmp_path: Path) -> None:
    settings = {"max_epoch": 0, "d_every": 2, "g_every": 3, "log_every": 4}
    whole = tiny(max_images=12 * 20, **settings)
    straight = fit(whole, images, tmp_path / "a")
    part = tiny(max_images=5 * 20, **settings)
    first = fit(part, images, tmp_path / "b")
    saved = checkpoint.load(first.state)
    second = fit(whole, images, tmp_path / "b", saved=saved)
    assert straight.state.name == second.state.name == "state_00000012.pth"
    a, b = checkpoint.load(straight.state), checkpoint.load(second.state)
    for key in ("nets", "ema", "optimizers", "meters", "step", "data", "config"):
        assert same(a[key], b[key]), key
    logs = [(tmp_path / run / "runs" / "log.jsonl").read_text() for run in "ab"]
    assert strip(logs[0]) == strip(logs[1])
    for preview in ("1.png", "2.png"):  # 10 steps an epoch: step 5 is in epoch 1, 12 in 2
        assert (tmp_path / "b" / "imgs" / preview).exists()


def test_moments_of_another_layout_are_those_of_their_weights(tiny: Tiny, images: Images) -> None:
    """Fused Adam walks memory; a state of an older version has its moments in another order."""
    first, second, third = (new_state(tiny()) for _ in range(3))
    batch = feed_of(first.config, images).batch
    loop.train_step(first, batch(0))
    saved = copy.deepcopy(first.state_dict())
    plain = copy.deepcopy(saved)
    for player in plain["optimizers"].values():
        for moments in player["state"].values():
            moments.update({key: value.contiguous() for key, value in moments.items()})
    second.load_state_dict(saved)
    third.load_state_dict(plain)
    for state in (second, third):
        loop.train_step(state, batch(1))
    assert same(second.nets.G.state_dict(), third.nets.G.state_dict())


def strip(log: str) -> list[dict[str, Any]]:
    """A log without what depends on the clock, and on how often the run was stopped."""
    lines = [json.loads(line) for line in log.splitlines()]
    lines = [line for line in lines if line.get("event") not in ("save", "pause")]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images/s")} for line in lines]


def test_rates_changed_with_resume_are_used(tiny: Tiny, images: Images, tmp_path: Path) -> None:
    first = fit(tiny(max_epoch=0, max_images=40), images, tmp_path)
    state = new_state(tiny(lr1=1e-5, lr2=3e-5))
    state.load_state_dict(checkpoint.load(first.state))
    state.set_rates(0.0)
    assert state.opt_g.param_groups[0]["lr"] == 1e-5
    assert state.opt_d.param_groups[0]["lr"] == 3e-5
    assert state.step == 2


def test_a_state_of_other_images_and_a_spent_budget_are_refused(
    tiny: Tiny, images: Images, tmp_path: Path
) -> None:
    config = tiny(max_epoch=0, max_images=40)
    done = fit(config, images, tmp_path)
    saved = checkpoint.load(done.state)
    with pytest.raises(Refused, match="budget of this run is spent"):
        fit(config, images, tmp_path, saved=saved)
    with pytest.raises(Refused, match="other images"):
        fit(config, images, tmp_path, saved={**saved, "data": "another"})


def test_nan_stops_the_run_and_saves_nothing(tiny: Tiny, images: Images, tmp_path: Path) -> None:
    config = tiny(lr1=1.0, max_epoch=3, save_every=1)
    state = new_state(config)
    nn.init.constant_(state.nets.D.get_parameter("main.0.weight"), float("nan"))
    with pytest.raises(Refused, match="no longer numbers"):
        loop.fit(state, images, folders(tmp_path))
    assert not list(tmp_path.glob("checkpoints/*.pth"))


@pytest.mark.parametrize("name", ["modern", "wgan-gp"])
def test_mixed_precision_is_only_in_the_nets(
    name: str, tiny: Tiny, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held-out images are scored between steps; scores, weights and gradients are float32."""
    monkeypatch.setattr(schedule, "HEALTH_LINES", 1)
    images = data.open_images(str(faces), 28, 3, cache=tmp_path / "cache", workers=1, held_out=0.2)
    config = tiny(family=name, amp=True, max_epoch=1, log_every=2, rescue=False)
    inside = []

    def d_loss(nets: Nets, batch: Batch, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
        inside.append(nets.D(batch.real).dtype)
        return FAMILIES[name].d_loss(nets, batch, config)

    family = dataclasses.replace(FAMILIES[name], d_loss=d_loss)
    state = new_state(config, family=family, mixed_precision=True)
    done = loop.fit(state, images, folders(tmp_path))
    assert set(inside) == {torch.bfloat16}
    lines = [json.loads(line) for line in (tmp_path / "runs" / "log.jsonl").open()]
    assert all(math.isfinite(line["gap"]) for line in lines if "loss_d" in line)
    for net in checkpoint.load(done.state)["nets"].values():
        assert {value.dtype for value in net.values()} <= {torch.float32, torch.int64}
    batch = feed_of(config, images).batch(0)
    nets = FAMILIES[name].build(config, 0)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = family.d_loss(nets, batch, config)
        assert (loss.dtype, batch.generate(nets).dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_while_scoring_saves_what_there_is(
    number: signal.Signals,
    tiny: Tiny,
    images: Images,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "isatty", lambda stream: False)  # this terminal stays open
    if signal.getsignal(number) == signal.SIG_IGN:  # the tests themselves run under nohup
        monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)

    def score(fake: Any) -> dict[str, float]:
        os.kill(os.getpid(), number)
        return {"score": 1.0}

    config = tiny(max_epoch=100, eval_every=60)
    done = fit(config, images, tmp_path, score=score)
    assert done.signal == number
    assert checkpoint.load(done.state)["step"] == 3


def test_the_best_score_survives_a_kill(tiny: Tiny, images: Images, tmp_path: Path) -> None:
    """best.pth is later than the newest state: its score still has to be beaten."""
    values = iter([0.3, 0.5, 0.4])
    config = tiny(max_epoch=0, max_images=60, eval_every=40)
    first = fit(config, images, tmp_path, score=lambda fake: {"score": next(values)})
    saved = {**checkpoint.load(first.state), "best": None}
    config.max_images = 100
    fit(config, images, tmp_path, saved, score=lambda fake: {"score": 0.45})
    assert checkpoint.load(tmp_path / "checkpoints" / "best.pth")["best"] == 0.3


def test_budgets_end_where_they_say(tiny: Tiny, images: Images, tmp_path: Path) -> None:
    for limits, steps in (({"max_epoch": 2}, 20), ({"max_epoch": 2, "max_images": 90}, 5)):
        done = fit(tiny(**limits), images, tmp_path / str(steps))
        assert checkpoint.load(done.state)["step"] == steps
    config = tiny(max_epoch=0, max_minutes=0.01)
    done = fit(config, images, tmp_path / "m")
    assert done.seconds >= 0.6


def test_every_save_writes_preview_weights_and_two_states(
    tiny: Tiny, images: Images, tmp_path: Path
) -> None:
    fit(tiny(max_epoch=5, save_every=2), images, tmp_path)
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    weights = [f"net{player}_{epoch}.pth" for player in "dg" for epoch in (2, 4, 5)]
    assert names == ["config.json", *weights, "state_00000040.pth", "state_00000050.pth"]
    assert sorted(p.name for p in (tmp_path / "imgs").iterdir()) == ["2.png", "4.png", "5.png"]
    bare = torch.load(tmp_path / "checkpoints" / "netg_5.pth", weights_only=True)
    assert all(isinstance(value, Tensor) for value in bare.values())


def test_seeds_of_steps_are_unrelated() -> None:
    seeds = {step_seed(s, i) for s in range(12) for i in range(500)}
    assert len(seeds) == 6000
    assert all(0 <= seed < 2**64 for seed in seeds)
