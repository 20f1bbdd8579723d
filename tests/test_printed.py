"""What `train` prints: every command in it runs, and it says when there is nothing left to do."""

import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, refused
from PIL import Image

from gan import checkpoint, loop, saves

Inside = Callable[..., None]
Captured = pytest.CaptureFixture[str]


def printed_commands(out: str) -> list[list[str]]:
    """The words of every command that is printed at the end of a line."""
    return [words.split() for words in re.findall(r"python main\.py (.*)$", out, re.MULTILINE)]


def test_the_commands_after_a_training_run(
    inside: Inside, faces: Path, tmp_path: Path, capsys: Captured
) -> None:
    inside("train", *TINY, f"--data-path={faces}", "--name=x", "--max-images=40")
    out = capsys.readouterr().out
    assert "train: 40 images of" not in out
    assert "\ntrain: 40 images\n" in out  # the budget
    assert "\ncurves: tensorboard --logdir runs\n" in out
    assert printed_commands(out) == [["generate", "--name=x"]]
    inside(*printed_commands(out)[0], "--gen-search-num=8", "--gen-num=4", "--rank-by=none")
    assert (tmp_path / "result.png").exists()


def test_the_commands_after_a_training_on_pictures(
    inside: Inside, tmp_path: Path, capsys: Captured
) -> None:
    for index in range(3):
        path = tmp_path / "pairs" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 32), (80 * index, 0, 0)).save(path)
    small = ("--img-size=32", "--ngf=2", "--ndf=2", "--gpu=False", "--batch-size=2")
    inside("train", "--family=pix2pix", "--data-path=pairs", *small, "--max-images=2")
    ((*words, last),) = printed_commands(capsys.readouterr().out)
    assert (words, last) == (["translate"], "--input=PICTURE_OR_FOLDER")
    inside(*words, last.replace("PICTURE_OR_FOLDER", "pairs/1.png"))
    assert (tmp_path / "translated" / "1.png").exists()


def test_ctrl_c_at_the_very_end_stops_nothing(
    inside: Inside, faces: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget is spent: the run is finished, and no command is named that would be refused."""
    save = saves.Saves.save

    def interrupted(self: saves.Saves, *given: Any, **how: bool) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        save(self, *given, **how)

    monkeypatch.setattr(saves.Saves, "save", interrupted)
    inside("train", *TINY, f"--data-path={faces}", "--name=x", "--max-images=20")  # exits with 0
    out = capsys.readouterr().out
    assert "go on with" not in out
    assert printed_commands(out) == [["generate", "--name=x"]]


def test_a_finished_run_says_so_and_what_lets_it_go_on(
    inside: Inside, faces: Path, capsys: Captured
) -> None:
    inside("train", *TINY, f"--data-path={faces}", "--name=x", "--max-images=40")
    (path,) = checkpoint.states(Path("checkpoints/x"))
    before = path.read_bytes()
    capsys.readouterr()
    inside("train", "--name=x", "--resume")  # exits with 0
    out = capsys.readouterr().out
    says = (
        r"train: this run is finished: 40 images in \d+ seconds?, which is all of --max-images=40;"
    )
    assert re.search(says, out)
    assert printed_commands(out) == [["generate", "--name=x"]]
    assert path.read_bytes() == before
    inside("train", "--name=x", "--resume", "--max-images=60")
    assert "train: 60 images, epoch 1, " in capsys.readouterr().out


def test_a_training_without_a_budget_says_how_long_the_default_is(
    inside: Inside, faces: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop.Session, "fraction", property(lambda self: float(self.state.step)))
    import main

    main.run(["train", *TINY, f"--data-path={faces}"])
    out = capsys.readouterr().out
    assert "train: 200 epochs of 200 images, as no budget was given; --max-minutes=10" in out
    inside("train", *TINY, f"--data-path={faces}", "--name=x", "--max-minutes=2", "--max-epoch=3")
    budget = "train: 2 minutes or 3 epochs of 200 images, whichever is reached first\n"
    assert budget in capsys.readouterr().out


# --- disk ----------------------------------------------------------------------------------------


def test_the_disk_is_looked_at_before_the_start(
    inside: Inside, faces: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", *TINY, f"--data-path={faces}", "--max-images=20"]
    inside(*words, "--name=a")
    said = re.search(
        r"train: writes up to ([\d.]+) MB to checkpoints/a; .* are free", capfd.readouterr().out
    )
    assert said
    nearly = int(0.8e6 * float(said[1]))
    real = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=nearly))
    inside(*words, "--name=b")
    assert "disk: this may fill it; --keep=1 takes less" in capfd.readouterr().err
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=10_000))
    refused(inside, *words, "--name=c", says="checkpoints/c: a save takes ")
    assert not Path("checkpoints/c").exists()


def test_a_run_of_an_earlier_version_keeps_its_weights(inside: Inside, faces: Path) -> None:
    words = [*TINY, f"--data-path={faces}", "--save-every=1"]
    inside("train", *words, "--max-epoch=1")
    (path,) = checkpoint.states(Path("checkpoints"))
    saved = checkpoint.load(path)
    del saved["config"]["keep"]
    checkpoint.save(path, saved)
    inside("train", "--resume", "--max-epoch=5")
    assert len(list(Path("checkpoints").glob("netg_*.pth"))) == 5
