"""Runs made with older code go on with today's: same steps, same pictures (`runs_before/`)."""

import dataclasses
import functools
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from runs_before import data
from safetensors import safe_open

import models
from gan.errors import Refused

Inside = Callable[..., None]

KEPT = Path(__file__).parent / "runs_before"
RUNS = sorted(folder.name for folder in KEPT.iterdir() if (folder / "expected.json").exists())
NARROW = {"mlp": (4, 4), "mlp-tiny": (4,)}  # widths of the layers in the kept states
TODAY = {"modern": "unmodulated"}  # families that are called otherwise now
CLOSE = 1e-3  # of a value: other machines round otherwise
LEVELS = 2  # of 255, that a pixel may be off


def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fully connected families with layers as narrow as those of the kept runs."""
    for name, hidden in NARROW.items():
        build = functools.partial(models.mlp_nets, hidden=hidden)
        row = dataclasses.replace(models.FAMILIES[name], build=build)
        monkeypatch.setitem(models.FAMILIES, name, row)


def unpack(run: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put the kept run into checkpoints/, and its pictures into pictures/; what is expected."""
    narrow(monkeypatch)
    expected: dict[str, Any] = json.loads((KEPT / run / "expected.json").read_text())
    data.write(expected["data"], expected["channels"], Path("pictures"))
    shutil.copytree(KEPT / run, Path("checkpoints", run))
    return expected


def state_of(run: str, step: int) -> str:
    return f"checkpoints/{run}/state_{step:08}.pth"


def of_noise(expected: dict[str, Any]) -> bool:
    return expected["data"] in ("images", "classes")


def off(weights: Mapping[str, torch.Tensor], expected: dict[str, list[float]]) -> list[str]:
    """The tensors whose mean or norm is another than expected."""
    found = []
    for name, (mean, norm) in expected.items():
        value = weights[name].double()
        size = norm / math.sqrt(value.numel())  # the mean may be 0 by chance, this is not
        if abs(value.mean() - mean) > CLOSE * size or abs(value.norm() - norm) > CLOSE * norm:
            found.append(f"{name}: mean {value.mean():.7g}, norm {value.norm():.7g}")
    return found


def check_pictures(folder: str, expected: list[dict[str, Any]]) -> None:
    for file, wanted in zip(sorted(Path(folder).iterdir()), expected, strict=False):
        values = list(Image.open(file).tobytes())
        assert sum(values) / len(values) == pytest.approx(wanted["mean"], abs=LEVELS)
        assert values[:8] == pytest.approx(wanted["first"], abs=LEVELS)
    assert len(list(Path(folder).iterdir())) >= len(expected)


@pytest.mark.parametrize("run", RUNS)
def test_it_goes_on_as_it_would_have(
    run: str, inside: Inside, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = unpack(run, monkeypatch)
    Path("pictures").rename("elsewhere")
    saved_at, end = expected["steps"]
    state = f"--resume={state_of(run, saved_at)}"
    inside("train", state, "--data-path=elsewhere", "--name=again", "--gpu=False")
    new = torch.load(state_of("again", end), weights_only=True)
    assert new["config"]["half_squares"] is (run == "cyclegan")  # it keeps its game once more
    family = TODAY.get(expected["family"], expected["family"])
    assert new["config"]["family"] == family
    assert f"train: {family} " in capsys.readouterr().out
    weights = {**new["nets"], "ema": new["ema"]}
    wrong = {part: off(weights[part], rows) for part, rows in expected["tensors"].items()}
    assert not any(wrong.values()), wrong
    log = [json.loads(line) for line in Path("runs/again/log.jsonl").read_text().splitlines()]
    [line] = [line for line in log if line["step"] > saved_at and "loss_d" in line]
    logged = {name: line[name] for name in expected["logged"]}
    assert logged == pytest.approx(expected["logged"], rel=CLOSE)


@pytest.mark.parametrize("source", ["state", "weights"])
@pytest.mark.parametrize("run", RUNS)
def test_it_draws_the_same_pictures(
    run: str, source: str, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = unpack(run, monkeypatch)
    [weights] = Path("checkpoints", run).glob("netg_*.pth")
    given = {"state": f"--name={run}", "weights": f"--netg-path={weights}"}
    if of_noise(expected):
        how = ["--rank=none", "--gen-num=2", "--gen-search-num=2", "--gen-dir=out", "--gpu=False"]
        inside("generate", given[source], *how)
    else:
        how = ["--input=pictures/testA", "--output=out", "--gpu=False"]
        inside("translate", given[source], *how)
    check_pictures("out", expected["drawn"])


@pytest.mark.parametrize("run", RUNS)
def test_it_is_evaluated(run: str, inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = unpack(run, monkeypatch)
    how = ["--features=random", "--gen-num=8"] if of_noise(expected) else []
    inside("evaluate", f"--name={run}", "--data-path=pictures", "--gpu=False", *how)
    found = json.loads(Path("evaluate.json").read_text())
    assert found["drawn_by"] == state_of(run, expected["steps"][0])
    assert found["n_fake"] == 8
    assert found["scores"]


@pytest.mark.parametrize("run", ["modern", "conditional"])
def test_a_family_by_the_name_it_had(
    run: str, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who trained with --family=modern goes on and draws with the same words, or with new ones."""
    expected = unpack(run, monkeypatch)
    how = ["--rank=none", "--gen-num=2", "--gen-search-num=2", "--gpu=False"]
    [weights] = Path("checkpoints", run).glob("netg_*.pth")
    for family in ("modern", "unmodulated"):
        for source in (f"--name={run}", f"--netg-path={weights}"):
            if source[2:6] == "netg" and family == "unmodulated":
                continue  # the config.json beside them is of another family, so it is not read
            inside("generate", source, f"--family={family}", *how, "--gen-dir=out")
            check_pictures("out", expected["drawn"])
            shutil.rmtree("out")
        name = f"--name=again-{family}"
        state = f"--resume={state_of(run, expected['steps'][0])}"
        inside("train", state, f"--family={family}", name, "--data-path=pictures", "--gpu=False")
    with pytest.raises(Refused, match="--family=dcgan: the run has 'unmodulated'"):
        inside("train", state, "--family=dcgan", "--name=x", "--data-path=pictures")


def test_it_is_exported(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    unpack("modern", monkeypatch)
    inside("export", "--name=modern", "--to=safetensors", "--file=g.safetensors")
    with safe_open("g.safetensors", "pt") as file:
        assert json.loads(file.metadata()["config"])["family"] == "unmodulated"
        assert "main.2.running_mean" in file.keys()  # noqa: SIM118
    inside("export", "--name=modern", "--to=web", "--file=g.html")
    assert "Family unmodulated, 28 pixels" in Path("g.html").read_text(encoding="utf-8")


def test_bare_weights_of_the_first_modern_name_their_family(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack("modern", monkeypatch)
    shutil.move("checkpoints/modern/netg_1.pth", "alone.pth")
    nets = ["--img-size=28", "--nz=4", "--ngf=2"]
    how = ["--netg-path=alone.pth", "--rank=none", "--gen-num=1", "--gen-search-num=1"]
    says = (
        "these look like weights of --family=unmodulated --channels=3 --nz=4 --ngf=2, or of rpgan"
    )
    with pytest.raises(Refused, match=f"^alone.pth: has no main.*{says}"):
        inside("generate", *how, *nets)
    with pytest.raises(Refused, match=f"^alone.pth: has no main.*{says}"):
        inside("train", "--netg-path=alone.pth", *nets, "--data-path=pictures", "--batch-size=4")
    inside("generate", *how, *nets, "--family=unmodulated", "--gen-dir=out")
    assert Path("out", "0000_0.png").exists()
