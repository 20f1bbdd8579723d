"""States that load but are not whole, and foreign ones: named, passed over, never obeyed."""

import contextlib
import copy
import dataclasses
import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import toy
from conftest import TINY, refused
from states import facts_of, new_state

import config
from commands import runs
from config import Config, RunFacts, read_config, write_config
from gan import checkpoint, machine
from gan.errors import Refused
from gan.families import CLASSIC
from gan.state import State
from gan.weights import load_weights
from models import FAMILIES, find_family, restore

CONFIG = Config(
    **{**CLASSIC, "family": "mlp-tiny", "img_size": 28, "channels": 1, "nz": 4, "gpu": False}  # type: ignore[arg-type]
)
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """The state of a tiny run after a step."""
    state = new_state(CONFIG)
    for net, optimizer in ((state.nets.G, state.opt_g), (state.nets.D, state.opt_d)):
        for weight in net.parameters():
            weight.grad = torch.ones_like(weight)
        optimizer.step()
    state.step = 1
    return {**state.state_dict(), "data": "d"}


def put(path: str, value: object) -> Change:
    """A change of one place, such as "nets.G.main.0.weight"; all of its dots are names."""

    def change(state: dict[str, Any]) -> dict[str, Any]:
        table, names = state, path.split("/")
        for name in names[:-1]:
            table = table[int(name) if name.isdecimal() else name]
        table[names[-1]] = value
        return state

    return change


def of_weight(make: Callable[[torch.Tensor], object]) -> Change:
    def change(state: dict[str, Any]) -> dict[str, Any]:
        weights = state["nets"]["G"]
        name = next(iter(weights))
        weights[name] = make(weights[name])
        return state

    return change


def of_moment(make: Callable[[torch.Tensor], object]) -> Change:
    def change(state: dict[str, Any]) -> dict[str, Any]:
        moments = state["optimizers"]["D"]["state"][0]
        moments["exp_avg"] = make(moments["exp_avg"])
        return state

    return change


def with_nan(tensor: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.arange(tensor.numel()).view(tensor.shape) == 1, torch.nan, tensor)


CHANGES: dict[str, Change] = {
    "bare weights": lambda state: state["nets"]["G"],
    "a list": lambda state: [1],
    "None": lambda state: None,
    "a tensor": lambda state: torch.ones(2),
    "no settings": put("config", {}),
    "settings of another size": put("config/nz", 64),
    "a batch of none": put("config/batch_size", -1),
    "a batch that is a list": put("config/batch_size", [1]),
    "a family of none": put("config/family", "x"),
    "NaN in G": of_weight(with_nan),
    "infinity in G": of_weight(lambda x: x * torch.inf),
    "a sparse weight": of_weight(torch.Tensor.to_sparse),
    "a weight on no device": of_weight(lambda x: x.to("meta")),
    "a complex weight": of_weight(lambda x: x.to(torch.complex64)),
    "a quantised weight": of_weight(lambda x: torch.quantize_per_tensor(x, 1, 0, torch.qint8)),
    "a weight that is a word": of_weight(lambda x: "x"),
    "a weight of another shape": of_weight(lambda x: x[:1]),
    "no average": put("ema", None),
    "an average of nothing": put("ema", {}),
    "NaN in a moment": of_moment(with_nan),
    "a moment of another shape": of_moment(lambda x: x[:1]),
    "a moment that is a word": of_moment(lambda x: "x"),
    "moments of another optimiser": put("optimizers/D/state/0", {"step": torch.tensor(1.0)}),
    "moments of another net": put("optimizers/D/state", {99: {}}),
    "no groups": put("optimizers/G/param_groups", []),
    "an epsilon that is a word": put("optimizers/G/param_groups/0/eps", "x"),
    "no optimiser": put("optimizers", {}),
    "a step that is True": put("step", True),
    "a step before the first": put("step", -1),
    "NaN seconds": put("seconds", float("nan")),
    "a best score that is a word": put("best", "x"),
    "meters that are words": put("meters", {"loss_d": {"n": "x"}}),
    "a monitor of nothing": put("health", {}),
    "a monitor of words": put("health/peak", "x"),
    "classes that are a number": put("facts/class_names", 7),
    "facts that are words": put("facts/flip", "x"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_state_that_is_not_whole_is_named_and_passed_over(
    change: str, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "checkpoints" / "x"
    checkpoint.save(folder / "state_00000001.pth", whole)
    torch.save(CHANGES[change](copy.deepcopy(whole)), folder / "state_00000002.pth")
    with pytest.warns(UserWarning, match=r"state_00000002\.pth: .*; trying the one before it"):
        path, state = runs.find_state(True, "x")
    assert path.name == "state_00000001.pth"
    # what is taken can be gone on with
    State(find_family("mlp-tiny"), CONFIG, facts_of(CONFIG), torch.device("cpu")).load_state_dict(
        state
    )
    refused(lambda: runs.find_state(str(folder / "state_00000002.pth"), ""), says="--resume=")


def test_a_state_of_nan_is_not_drawn_with(whole: dict[str, Any], tmp_path: Path) -> None:
    """Black faces, in silence."""
    state = copy.deepcopy(whole)
    name = next(iter(state["ema"]))
    state["ema"][name] = with_nan(state["ema"][name])
    checkpoint.save(tmp_path / "s.pth", state)
    with pytest.raises(Refused, match=r"s\.pth: not a training state \(ema: .* holds NaN"):
        restore(tmp_path / "s.pth")
    G = FAMILIES["mlp-tiny"].build(CONFIG, 0).G
    with pytest.raises(Refused, match=r"netg\.pth: .* holds NaN or infinity, so the"):
        load_weights(G, state["ema"], "netg.pth")


def test_a_foreign_state_writes_into_the_folder_of_this_run(
    inside: Callable[..., None], faces: Path, tmp_path: Path
) -> None:
    inside("train", *TINY, f"--data-path={faces}", "--max-images=20", "--name=a")
    [path] = (tmp_path / "checkpoints" / "a").glob("state_*.pth")
    state = checkpoint.load(path)
    for name in ("../../elsewhere", str(tmp_path.parent / "elsewhere"), "b"):
        state["config"]["name"] = name
        torch.save(state, tmp_path / "foreign.pth")
        before = set(tmp_path.rglob("*"))
        inside("train", "--resume=foreign.pth", "--name=mine", "--max-images=40")
        made = set(tmp_path.rglob("*")) - before
        assert not (tmp_path.parent / "elsewhere").exists()
        assert {x.relative_to(tmp_path).parts[:2] for x in made if x.is_file()} <= {
            (kind, "mine") for kind in ("checkpoints", "imgs", "runs")
        }
        for kind in ("checkpoints", "imgs", "runs"):
            for file in (tmp_path / kind / "mine").iterdir():
                file.unlink()
    # without a name it is the run whose folder the state is in
    torch.save(state, path)
    inside("train", f"--resume={path}", "--max-images=40")
    assert {x.name for x in (tmp_path / "checkpoints" / "a").glob("state*")} >= {
        "state_00000002.pth"
    }
    assert not (tmp_path / "checkpoints" / "b").exists()


def test_nets_too_large_for_this_machine_are_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_bytes", lambda: 10**9)
    huge = dataclasses.replace(CONFIG, family="dcgan", ngf=4096, ndf=4096, img_size=256)
    with pytest.raises(Refused, match=r"--ngf=4096, .* out of memory, it needs about [\d,]+ GB"):
        find_family("dcgan").make(huge, 0)
    monkeypatch.setattr(machine, "memory_bytes", lambda: 2**63)
    wide = dataclasses.replace(CONFIG, family="mlp-tiny", nz=5000)
    assert find_family("mlp-tiny").make(wide, 0).G.state_dict()
    assert machine.memory_bytes() > 0


def test_a_rescue_passes_over_a_best_state_that_is_none(tmp_path: Path) -> None:
    run = toy.make_session(tmp_path)
    folder = tmp_path / "c"
    for step in (2, 4):
        run.state.step = step
        toy.set_weight(run.state.nets.G, float(step))
        checkpoint.save(checkpoint.state_of(folder, step), run.state.state_dict())
    for content in ([1], {"step": 1, "nets": {}}, {**run.state.state_dict(), "nets": {"G": {}}}):
        torch.save(content, folder / checkpoint.BEST)
        found = next(run.saves.earlier_states())
        assert (found[0].name, found[1]["step"]) == ("state_00000004.pth", 4)
    run.close()


# --- files without sums of their own -------------------------------------------------------------


def test_a_damaged_byte_of_exported_weights_is_refused(
    inside: Callable[..., None], whole: dict[str, Any], tmp_path: Path
) -> None:
    """The format has no sums: 995 of 1,000 damaged bytes drew other faces in silence."""
    checkpoint.save(tmp_path / "checkpoints" / "state_00000001.pth", whole)
    inside("export", "--file=f.safetensors", "--card=False")
    file, chance = tmp_path / "f.safetensors", random.Random(0)
    good, expected = file.read_bytes(), checkpoint.load(file)
    damaged = 0
    for _ in range(60):
        content = bytearray(good)
        content[chance.randrange(len(good))] ^= chance.randint(1, 255)
        file.write_bytes(content)
        try:
            found = checkpoint.load(file)
        except Refused:
            damaged += 1
        else:  # a byte of the space behind the head
            assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert damaged > 50


def test_the_sum_of_exported_weights_covers_all(tmp_path: Path) -> None:
    weights = {"a": torch.ones(2, 3), "b": torch.tensor(7)}
    about = {"config": "{}"}
    expected = checkpoint.sum_of(weights, about)
    assert expected == checkpoint.sum_of(dict(reversed(weights.items())), about)
    assert expected == checkpoint.sum_of(weights, {**about, checkpoint.SUM: "x"})
    others: list[tuple[dict[str, torch.Tensor], dict[str, str]]] = [
        ({**weights, "a": torch.ones(3, 2)}, about),
        ({**weights, "a": torch.ones(2, 3, dtype=torch.int32)}, about),
        ({**weights, "b": torch.tensor(8)}, about),
        ({"a": weights["a"], "c": weights["b"]}, about),
        (weights, {"config": "{ }"}),
        (weights, {}),
    ]
    assert expected not in [checkpoint.sum_of(*other) for other in others]
    # those of other programs have none, and load
    safetensors.torch.save_file(weights, tmp_path / "f.safetensors")
    assert set(checkpoint.load(tmp_path / "f.safetensors")) == {"a", "b"}


def test_a_changed_config_is_told_and_taken(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """People edit it: but a damaged digit is no setting in silence."""
    file = tmp_path / "config.json"
    write_config(CONFIG, RunFacts(class_names=("a", "b")), file)
    good = file.read_text()
    expected = read_config(str(file))
    assert expected[0]["nz"] == 4
    assert not recwarn.list
    file.write_text(good.replace('"nz": 4', '"nz": 6'))
    with pytest.warns(UserWarning, match=r"^--config=.*config\.json: changed by other hands since"):
        assert read_config(str(file))[0]["nz"] == 6
    # one without a sum, of an earlier version or written by hand, is taken as it is
    table = json.loads(good)
    del table[config.SUM]
    file.write_text(json.dumps(table))
    recwarn.clear()
    assert read_config(str(file)) == expected
    assert not recwarn.list


def test_a_damaged_byte_of_a_config_is_refused_told_or_nothing(tmp_path: Path) -> None:
    file, chance = tmp_path / "config.json", random.Random(0)
    write_config(CONFIG, RunFacts(), file)
    good, expected, told = file.read_bytes(), read_config(str(file)), 0
    for _ in range(300):
        content = bytearray(good)
        content[chance.randrange(len(good))] ^= chance.randint(1, 255)
        file.write_bytes(content)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            with contextlib.suppress(Refused):
                assert read_config(str(file)) == expected or said
                told += bool(said)
    assert told


def test_directions_that_g_does_not_have_are_refused(
    inside: Callable[..., None], whole: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint.save(tmp_path / "checkpoints" / "state_00000001.pth", whole)
    words = ("generate", "--gen-num=2", "--gen-search-num=2", "--rank-by=none", "--gpu=False")
    refused(lambda: inside(*words, "--direction-5=1"), says="--direction-5: there are 4 directions")
    inside(*words, "--direction-4=1")
    assert (tmp_path / "result.png").is_file()
