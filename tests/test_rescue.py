"""Runs that go wrong: what the training loop logs, and how it rescues them."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from states import new_state
from torch import Tensor, nn

from config import Config
from gan import checkpoint, health, loop
from gan.data import Images
from gan.errors import Refused
from gan.evaluation import Score
from gan.family import Family
from gan.losses import Batch, Nets
from gan.schedule import critic_first
from gan.state import SavedState
from models import FAMILIES

DCGAN = FAMILIES["dcgan"]
Tiny = Callable[..., Config]


def log_of(top: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (top / "r" / "log.jsonl").read_text().splitlines()]


def run(
    config: Config,
    images: Images,
    top: Path,
    family: Family = DCGAN,
    saved: SavedState | None = None,
    score: Score | None = None,
) -> loop.Outcome:
    """A whole run, new or from a `saved` state."""
    state, folders = new_state(config, family=family), loop.Folders(top / "c", top / "i", top / "r")
    if saved is not None:
        loop.resume(state, saved, images, folders)
    return loop.fit(state, images, folders, score=score)


def poisoned(*steps: int) -> Family:
    """The family dcgan, with a D loss that is NaN in these of its updates, counted from 1."""
    count = 0

    def d_loss(nets: Nets, batch: Batch, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal count
        count += 1
        loss, logs = DCGAN.d_loss(nets, batch, config)
        if count in steps:
            loss = loss * float("nan")
            logs["loss_d"] = loss.detach()
        return loss, logs

    return dataclasses.replace(DCGAN, d_loss=d_loss)


def score(fake: Any) -> dict[str, float]:
    return {"score": 1 / (1 + len(fake))}


def test_nan_is_rescued_from_the_best_state_at_half_the_rates(
    tiny: Tiny, images: Images, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(max_epoch=0, max_images=600, eval_every=100, log_every=2)
    done = run(config, images, tmp_path, poisoned(12), score=score)
    saved = checkpoint.load(done.state)
    assert saved["step"] == 30
    assert saved["rescues"] == 1
    assert saved["optimizers"]["G"]["param_groups"][0]["lr"] == pytest.approx(config.lr1 / 2)
    weights = [w for player in saved["nets"].values() for w in player.values()]
    assert all(torch.isfinite(w).all() for w in weights)
    events = [line for line in log_of(tmp_path) if line.get("event") == "rescue"]
    assert [(e["step"], e["kind"], e["rates"]) for e in events] == [(12, "nan", 0.5)]
    out = capsys.readouterr().out
    assert "no longer numbers" in out
    assert "rescue 1 of 3: back to" in out
    assert "best.pth" in out


def test_after_three_rescues_nan_ends_the_run_and_its_states_are_finite(
    tiny: Tiny, images: Images, tmp_path: Path
) -> None:
    config = tiny(max_epoch=0, max_images=2000, eval_every=100, log_every=2)
    with pytest.raises(Refused, match=r"no longer numbers.*after 3 rescues.*--resume"):
        run(config, images, tmp_path, poisoned(*range(12, 99)), score=score)
    for path in (tmp_path / "c").glob("*.pth"):
        weights = checkpoint.load(path)["nets"]["D"].values()
        assert all(torch.isfinite(w).all() for w in weights)


def test_without_rescue_nan_ends_the_run(tiny: Tiny, images: Images, tmp_path: Path) -> None:
    config = tiny(max_epoch=0, max_images=600, eval_every=100, rescue=False)
    with pytest.raises(Refused, match="no longer numbers"):
        run(config, images, tmp_path, poisoned(12), score=score)


class OneImage(nn.Module):
    """A G whose images are as diverse as its noise for 30 steps, and all the same from then on."""

    calls: Tensor

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        out = self.net(z)
        if not self.training:
            return out
        self.calls += 1
        if self.calls > 30:
            return out[:1].expand(len(out), -1, -1, -1)
        return 0 * out + z[:, :3].tanh()[:, :, None, None]


def test_a_g_stuck_on_one_image_is_rescued(
    tiny: Tiny, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "WARM_UP", 0)

    def build(config: Config, classes: int) -> Nets:
        nets = DCGAN.build(config, classes)
        return Nets(OneImage(nets.G), nets.D)

    stuck = dataclasses.replace(DCGAN, build=build)
    config = tiny(max_epoch=0, max_images=1000, eval_every=400, log_every=1)
    run(config, images, tmp_path, stuck, score=score)
    events = [line for line in log_of(tmp_path) if line.get("event") in ("health", "rescue")]
    collapse = [e for e in events if e["kind"] == "collapse"]
    assert [e["event"] for e in collapse][:2] == ["health", "rescue"]
    assert 31 <= collapse[0]["step"] <= 40
    assert "G has collapsed" in collapse[0]["line"]


@pytest.mark.parametrize(
    ("d_every", "g_every", "d_lead", "steps"),
    [
        (1, 1, 0, [8, 16, 24, 32, 40]),
        (5, 5, 0, [11, 16, 26, 36]),  # G is updated in steps 1, 6, 11, ...
        (1, 20, 0, [21]),
        (1, 3, 26, [26, 34, 40]),  # G is updated in steps 1, 26, 28, 31, 34, ...
    ],
)
def test_health_is_read_in_steps_that_update_g(
    d_every: int,
    g_every: int,
    d_lead: int,
    steps: list[int],
    tiny: Tiny,
    images: Images,
    tmp_path: Path,
) -> None:
    every = {"d_every": d_every, "g_every": g_every, "d_lead": d_lead}
    family = dataclasses.replace(DCGAN, updates=critic_first)
    run(tiny(max_epoch=0, max_images=40 * 20, log_every=8, **every), images, tmp_path, family)
    lines = [line for line in log_of(tmp_path) if "diversity" in line]
    assert [line["step"] for line in lines] == steps
    assert [line["step"] for line in log_of(tmp_path) if "loss_g" in line] == steps
    assert all("gradient" in line for line in lines)


def test_the_log_holds_the_alarm_of_a_d_that_always_wins(
    tiny: Tiny, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "WARM_UP", 50)
    config = tiny(max_epoch=0, max_images=4000, lr1=1e-9, lr2=2e-3, log_every=5)
    run(config, images, tmp_path)
    alarms = [line for line in log_of(tmp_path) if line.get("kind") == "d wins"]
    assert alarms
    assert "D wins: it separates" in alarms[0]["line"]


def test_the_best_state_is_the_one_that_scored_best(
    tiny: Tiny, images: Images, tmp_path: Path
) -> None:
    values = iter([0.5, 0.2, 0.4, 0.3])
    config = tiny(max_epoch=0, max_images=400, eval_every=100)
    run(config, images, tmp_path, score=lambda fake: {"score": next(values)})
    best = checkpoint.load(tmp_path / "c" / "best.pth")
    assert (best["step"], best["best"]) == (10, 0.2)
    scores = [line["score"] for line in log_of(tmp_path) if line.get("event") == "score"]
    assert scores == [0.5, 0.2, 0.4, 0.3]


def test_a_rescue_never_goes_to_a_later_step(tiny: Tiny, images: Images, tmp_path: Path) -> None:
    """After a kill the best state on disk can be of a step that the run has to repeat."""
    config = tiny(max_epoch=0, max_images=600, eval_every=100, log_every=2)
    done = run(config, images, tmp_path, DCGAN, score=score)
    best = tmp_path / "c" / checkpoint.BEST
    checkpoint.save(best, {**checkpoint.load(done.state), "step": 99})
    again = {**checkpoint.load(done.state), "step": 10, "best": -1.0}
    checkpoint.save(tmp_path / "c" / "state_00000010.pth", again)
    run(config, images, tmp_path, poisoned(1), saved=again, score=score)
    events = [line for line in log_of(tmp_path) if line.get("event") == "rescue"]
    assert [Path(e["state"]).name for e in events] == ["state_00000010.pth"]


def test_a_resumed_run_is_scored_at_the_same_images(
    tiny: Tiny, images: Images, tmp_path: Path
) -> None:
    scored = []
    for folder, budgets in (("whole", (600,)), ("parts", (140, 600))):
        saved = None
        for budget in budgets:
            config = tiny(max_epoch=0, max_images=budget, eval_every=100)
            done = run(config, images, tmp_path / folder, saved=saved, score=score)
            saved = checkpoint.load(done.state)
        lines = [line for line in log_of(tmp_path / folder) if line.get("event") == "score"]
        scored.append([line["images"] for line in lines])
    assert scored == [[100, 200, 300, 400, 500, 600], [100, 140, 200, 300, 400, 500, 600]]
