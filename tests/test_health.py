"""Each illness provoked: what is said, and what is done."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from config import Config
from gan import checkpoint, health, loop
from gan.data import Images
from gan.errors import Refused
from gan.losses import pair_auc
from models import FAMILIES

CPU = torch.device("cpu")
DCGAN = FAMILIES["dcgan"]
Tiny = Callable[..., Config]


def kinds(readings: list[health.Reading], monitor: health.Monitor | None = None) -> list[str]:
    monitor = monitor or health.Monitor()
    return [alarm.kind for reading in readings for alarm in monitor.read(reading)]


def course(count: int, start: int = 1000, **signals: Any) -> list[health.Reading]:
    """`count` equal readings of a game that is healthy but for `signals`."""
    well = {"pair_auc": 0.85, "diversity": 0.9, "gradient": 1.0, "gap": 0.1}
    return [health.Reading(start + i, True, **{**well, **signals}) for i in range(count)]


def test_pair_auc_by_hand() -> None:
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0, 2.0])
    # 1 > 0, 1 = 1 (half), 1 < 2; 3 > 0, 3 > 1, 3 > 2: 4.5 of 6
    assert pair_auc(real, fake).item() == pytest.approx(0.75)
    assert pair_auc(fake, fake).item() == pytest.approx(0.5)
    assert pair_auc(fake + 9, fake).item() == 1.0


def test_spread_by_hand() -> None:
    # two pictures whose every pixel differs by 2: distance 2 * sqrt(3 * 12 * 12) at 12 x 12
    images = torch.stack([torch.ones(3, 24, 24), -torch.ones(3, 24, 24)])
    assert health.spread(images).item() == pytest.approx(2 * (3 * 144) ** 0.5)
    assert health.spread(images[:1].expand(5, -1, -1, -1)).item() == pytest.approx(0, abs=0.05)


def test_gradient_norm_by_hand() -> None:
    net = nn.Linear(2, 1)
    (net(torch.tensor([[3.0, 4.0]])).sum()).backward()  # gradients 3, 4 and 1
    assert health.gradient_norm(net).item() == pytest.approx(26**0.5)
    assert health.gradient_norm(nn.Linear(2, 1)).item() == 0


def test_memory_gap_by_hand() -> None:
    D = nn.Module()
    D.forward = lambda x: x.mean(1)  # type: ignore[method-assign]
    train, held_out, fake = (torch.full((4, 2), value) for value in (3.0, 2.0, 1.0))
    assert health.memory_gap(D, (train,), (held_out,), (fake,)) == pytest.approx(0.5)
    assert health.memory_gap(D, (train,), (train,), (fake,)) == 0
    assert D.training
    # a D that cannot tell fakes either has nothing by heart, however little the difference
    train = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    assert health.memory_gap(D, (train,), (train - 1,), (train - 1e-4,)) == 0


def test_a_healthy_game_is_silent() -> None:
    assert kinds(course(50)) == []


@pytest.mark.parametrize(
    ("signals", "kind", "flag"),
    [
        ({"pair_auc": 0.995}, "d wins", "--d-every"),
        ({"pair_auc": 0.4}, "g wins", "--g-every"),
        ({"gap": 0.6}, "memory", "--ndf"),
        ({"diversity": 0.5}, "narrow", "--lr2"),
    ],
)
def test_each_illness_is_told_once_with_the_flag_that_answers_it(
    signals: dict[str, float], kind: str, flag: str
) -> None:
    monitor = health.Monitor()
    alarms = [a for reading in course(30, **signals) for a in monitor.read(reading)]
    assert [alarm.kind for alarm in alarms] == [kind]
    assert flag in alarms[0].line
    assert "\n" not in alarms[0].line
    assert not alarms[0].rescue
    # well again, and ill again: told again, but not before the run is twice as long
    assert kinds(course(10, 1100) + course(10, 1200, **signals), monitor) == []
    assert kinds(course(10, 2100) + course(10, 2200, **signals), monitor) == [kind]
    # one that comes back early and stays is told when its time has come
    assert kinds(course(10, 2300) + course(3000, 2400, **signals), monitor) == [kind]


def test_the_first_steps_and_single_readings_mean_nothing() -> None:
    assert kinds(course(30, start=0, pair_auc=1.0)) == []
    well, ill = course(1), course(1, pair_auc=1.0)
    assert kinds((well * 4 + ill) * 10) == []


def test_collapse_is_variety_lost_not_variety_to_come() -> None:
    assert kinds(course(30, diversity=0.1)) == ["narrow"]  # never had any
    monitor = health.Monitor()
    for reading in course(10):
        monitor.read(reading)
    alarms = [a for reading in course(10, diversity=0.1) for a in monitor.read(reading)]
    assert [alarm.kind for alarm in alarms] == ["narrow", "collapse"]
    assert alarms[-1].rescue
    assert "10 %" in alarms[-1].line or "differ" in alarms[-1].line
    # the classic nets on avatars: 48 % at best, then 3 %
    assert kinds(course(10, diversity=0.48) + course(5, diversity=0.03)) == ["narrow", "collapse"]
    assert kinds(course(10, diversity=0.48) + course(9, diversity=0.26)) == ["narrow"]
    assert kinds(course(10, diversity=0.25) + course(9, diversity=0.03)) == ["narrow"]


def test_a_resumed_monitor_goes_on_in_the_middle_of_its_window() -> None:
    first, second = health.Monitor(), health.Monitor()
    for reading in course(20) + course(4, pair_auc=1.0):
        assert not first.read(reading)
    second.load_state_dict(first.state_dict())
    assert kinds(course(1, pair_auc=1.0), first) == kinds(course(1, pair_auc=1.0), second)


def test_a_gradient_that_dies() -> None:
    assert kinds(course(50) + course(10, gradient=0.01)) == ["no gradient"]


def log_of(top: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (top / "r" / "log.jsonl").read_text().splitlines()]


def run(
    config: Config, images: Images, top: Path, family: Any = DCGAN, **more: Any
) -> loop.Outcome:
    folders = loop.Folders(top / "c", top / "i", top / "r")
    return loop.fit(family, config, images, folders, CPU, **more)


class Poisoned:
    """A family whose D loss is NaN at the steps given; everything else is dcgan's."""

    after_d = None
    data = "images"

    def __init__(self, steps: set[int]) -> None:
        self.steps, self.step = steps, 0
        self.build, self.g_loss = DCGAN.build, DCGAN.g_loss

    def d_loss(self, nets: Any, batch: Any, config: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss, logs = DCGAN.d_loss(nets, batch, config)
        self.step += 1
        if self.step in self.steps:
            loss = loss * float("nan")
            logs["loss_d"] = loss.detach()
        return loss, logs


def score(fake: Any) -> dict[str, float]:
    return {"score": 1 / (1 + len(fake))}


def test_nan_is_rescued_from_the_best_state_at_half_the_rates(
    tiny: Tiny, images: Images, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(max_epoch=0, max_images=600, eval_every=100, log_every=2)
    done = run(config, images, tmp_path, Poisoned({12}), score=score)
    saved = checkpoint.load(done.state)
    assert saved["step"] == 30
    assert saved["rescues"] == 1
    assert saved["optimizers"]["G"]["param_groups"][0]["lr"] == pytest.approx(config.lr1 / 2)
    weights = [w for player in saved["nets"].values() for w in player.values()]
    assert all(torch.isfinite(w).all() for w in weights)
    events = [line for line in log_of(tmp_path) if line.get("event") == "rescue"]
    assert [(e["step"], e["kind"], e["rates"]) for e in events] == [(12, "nan", 0.5)]
    said = capsys.readouterr().out
    assert "no longer numbers" in said
    assert "rescue 1 of 3: back to" in said
    assert "best.pth" in said


def test_the_fourth_rescue_is_none_and_the_last_good_state_stays(
    tiny: Tiny, images: Images, tmp_path: Path
) -> None:
    config = tiny(max_epoch=0, max_images=2000, eval_every=100, log_every=2)
    with pytest.raises(Refused, match=r"no longer numbers.*after 3 rescues.*--resume"):
        run(config, images, tmp_path, Poisoned(set(range(12, 99))), score=score)
    for path in (tmp_path / "c").glob("*.pth"):
        weights = checkpoint.load(path)["nets"]["D"].values()
        assert all(torch.isfinite(w).all() for w in weights)


def test_without_rescue_nan_ends_the_run(tiny: Tiny, images: Images, tmp_path: Path) -> None:
    config = tiny(max_epoch=0, max_images=600, eval_every=100, rescue=False)
    with pytest.raises(Refused, match="no longer numbers"):
        run(config, images, tmp_path, Poisoned({12}), score=score)


class OnePicture(nn.Module):
    """Draws noise of full variety until it is stuck on a single picture."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("drawn", torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        out = self.net(z)
        if not self.training:
            return out
        self.drawn += 1  # type: ignore[operator]
        if self.drawn > 30:
            return out[:1].expand(len(out), -1, -1, -1)
        return 0 * out + z[:, :3].tanh()[:, :, None, None]


def test_a_g_stuck_on_one_image_is_rescued(
    tiny: Tiny, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "WARM_UP", 0)

    class Stuck(Poisoned):
        def __init__(self) -> None:
            super().__init__(set())

            def build(config: Config) -> Any:
                nets = DCGAN.build(config)
                nets.G = OnePicture(nets.G)
                return nets

            self.build = build

    config = tiny(max_epoch=0, max_images=1000, eval_every=400, log_every=1)
    run(config, images, tmp_path, Stuck(), score=score)
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
def test_health_is_looked_at_when_g_was_updated(
    d_every: int,
    g_every: int,
    d_lead: int,
    steps: list[int],
    tiny: Tiny,
    images: Images,
    tmp_path: Path,
) -> None:
    every = {"d_every": d_every, "g_every": g_every, "d_lead": d_lead}
    run(tiny(max_epoch=0, max_images=40 * 20, log_every=8, **every), images, tmp_path)
    lines = [line for line in log_of(tmp_path) if "diversity" in line]
    assert [line["step"] for line in lines] == steps
    assert [line["step"] for line in log_of(tmp_path) if "loss_g" in line] == steps
    assert all("gradient" in line for line in lines)


def test_a_d_that_always_wins_is_told(
    tiny: Tiny, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "WARM_UP", 50)
    config = tiny(max_epoch=0, max_images=4000, lr1=1e-9, lr2=2e-3, log_every=5)
    run(config, images, tmp_path)
    told = [line for line in log_of(tmp_path) if line.get("kind") == "d wins"]
    assert told
    assert "D wins: it separates" in told[0]["line"]


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


def test_no_rescue_into_the_future(tiny: Tiny, images: Images, tmp_path: Path) -> None:
    """After a kill the best state on disk is of a step that is still to be done again."""
    config = tiny(max_epoch=0, max_images=600, eval_every=100, log_every=2)
    done = run(config, images, tmp_path, DCGAN, score=score)
    best = tmp_path / "c" / checkpoint.BEST
    checkpoint.save(best, {**checkpoint.load(done.state), "step": 99})
    again = {**checkpoint.load(done.state), "step": 10, "best": -1.0}
    checkpoint.save(tmp_path / "c" / "state_00000010.pth", again)
    run(config, images, tmp_path, Poisoned({1}), saved=again, score=score)
    events = [line for line in log_of(tmp_path) if line.get("event") == "rescue"]
    assert [Path(e["state"]).name for e in events] == ["state_00000030.pth"]


def test_a_resumed_run_scores_where_it_would_have(
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
