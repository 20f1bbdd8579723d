"""States that are damaged, foreign or of another version are refused in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, refused

Inside = Callable[..., None]


@pytest.fixture
def state(inside: Inside, faces: Path, tmp_path: Path) -> dict[str, Any]:
    """The last state of a tiny run, whose folder is there too."""
    inside("train", *TINY, f"--data-path={faces}", "--max-images=40", "--name=x")
    [path] = (tmp_path / "checkpoints" / "x").glob("state_*.pth")
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != name}


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a list": lambda state: [1, 2],
    "settings alone": lambda state: {"config": {}},
    "no step": lambda state: without(state, "step"),
    "a step that is a word": lambda state: {**state, "step": "x"},
    "no data": lambda state: without(state, "data"),
    "no seconds": lambda state: without(state, "seconds"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_no_state_is_not_resumed(
    change: str, state: dict[str, Any], inside: Inside
) -> None:
    torch.save(CHANGES[change](state), "bad.pth")
    words = ("train", "--resume=bad.pth", "--name=y")
    refused(inside, *words, says="--resume=bad.pth: not a training state")


def test_a_setting_that_is_none_is_named(state: dict[str, Any], inside: Inside) -> None:
    state["config"]["img_size"] = "x"
    torch.save(state, "bad.pth")
    words = ("train", "--resume=bad.pth", "--name=y")
    refused(inside, *words, says="--resume=bad.pth: --img-size=x: one number")


@pytest.mark.parametrize("nets", [{}, {"G": {}}, "x"])
def test_a_state_without_nets_is_not_drawn_from(
    nets: object, state: dict[str, Any], inside: Inside, tmp_path: Path
) -> None:
    for path in (tmp_path / "checkpoints" / "x").glob("*.pth"):
        path.unlink()
    torch.save({**state, "nets": nets}, tmp_path / "checkpoints" / "x" / "state_00000002.pth")
    refused(inside, "generate", "--name=x", says="no checkpoint that can be read")


def test_facts_and_settings_of_a_newer_version_are_passed_over(
    state: dict[str, Any], inside: Inside
) -> None:
    state["facts"]["colour"] = "green"
    state["config"]["taste"] = "sweet"
    torch.save(state, "newer.pth")
    inside("train", "--resume=newer.pth", "--name=y", "--max-images=60")
    assert list(Path("checkpoints/y").glob("state_*.pth"))


def test_a_best_state_that_is_none_stops_no_resume(
    state: dict[str, Any], inside: Inside, tmp_path: Path
) -> None:
    torch.save([1], tmp_path / "checkpoints" / "x" / "best.pth")
    inside("train", "--name=x", "--resume", "--max-images=60")
