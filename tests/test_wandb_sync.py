"""Curves in Weights & Biases, with a module in the place of wandb, and the runs of TensorBoard."""

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, refused
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboardX import writer

Inside = Callable[..., None]


class Fake(types.ModuleType):
    """What the toolkit uses of wandb; `called` is what was called, in order."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
        self.called: list[Any] = []
        self.fail = ""

    def init(self, **given: Any) -> "Fake":
        if self.fail:
            raise self.Error(self.fail)
        self.called.append(given)
        outer = self

        class Watched:
            def __init__(self, folder: str) -> None:
                outer.called.append(folder)

            def close(self) -> None: ...

        writer.EventFileWriter = Watched  # as the sync does it
        return self

    def finish(self, exit_code: int) -> None:
        self.called.append(exit_code)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setattr(writer, "EventFileWriter", writer.EventFileWriter)
    fake = Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


@pytest.mark.parametrize(
    ("word", "project"),
    [("--wandb", "facegan"), ("--use-wandb=True", "facegan"), ("--wandb=mine", "mine")],
)
def test_the_folder_of_the_curves_is_watched_while_a_run_trains(
    word: str, project: str, wandb: Fake, inside: Inside, faces: Path
) -> None:
    inside("train", *TINY, f"--data-path={faces}", "--max-images=20", "--name=x", word)
    (given, folder, code) = wandb.called
    assert (given["project"], given["name"], given["sync_tensorboard"]) == (project, "x", True)
    assert given["config"]["batch_size"] == 20
    assert given["config"]["data_path"] == faces.name  # no folder of this machine
    assert (Path(folder), code) == (Path("runs/x"), 0)
    assert list(Path("runs/x").glob("events.out.tfevents.*"))


def test_without_the_flag_or_the_package(wandb: Fake, inside: Inside, faces: Path) -> None:
    words = ["train", *TINY, f"--data-path={faces}", "--max-images=20"]
    inside(*words, "--name=x")
    assert wandb.called == []
    wandb.fail = "api_key not configured\nsecond line"
    refused(inside, *words, "--name=y", "--wandb",
            says="--wandb: Error: api_key not configured; WANDB_MODE=offline keeps")  # fmt: skip
    sys.modules["wandb"] = None  # type: ignore[assignment]
    refused(inside, *words, "--name=z", "--wandb", says="--wandb: needs a package that nothing")
    assert not Path("checkpoints/z").exists()


def runs_on_the_board() -> list[str]:
    return sorted(EventMultiplexer().AddRunsFromDirectory("runs").Runs())


def test_tensorboard_has_a_name_for_the_run_without_one(inside: Inside, faces: Path) -> None:
    words = ["train", *TINY, f"--data-path={faces}", "--max-images=20"]
    inside(*words)
    inside(*words, "--name=mine")
    assert runs_on_the_board() == ["@default", "mine"]
    inside("train", "--resume", "--max-images=40")
    assert Path("runs/@default/log.jsonl").read_text().count('"event": "resume"') == 1
    refused(inside, *words, "--name=@default", says="--name=@default: letters, digits")


def test_a_run_of_an_earlier_version_goes_on_in_its_own_log(inside: Inside, faces: Path) -> None:
    inside("train", *TINY, f"--data-path={faces}", "--max-images=20")
    for file in Path("runs/@default").iterdir():
        file.rename(Path("runs") / file.name)
    Path("runs/@default").rmdir()
    inside("train", "--resume", "--max-images=40")
    assert Path("runs/log.jsonl").read_text().count('"event": "resume"') == 1
    assert runs_on_the_board() == ["."]
    inside("train", *TINY, f"--data-path={faces}", "--max-images=20", "--overwrite")
    assert runs_on_the_board() == ["@default"]
