"""The command line in a process of its own: exit codes, streams, signals, a kill."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, refused
from processes import PATIENCE_SECONDS, started, wait_until

from gan import checkpoint

Cli = Callable[..., subprocess.CompletedProcess[str]]
Inside = Callable[..., None]
Captured = pytest.CaptureFixture[str]


def test_a_mistake_is_one_line_and_exit_code_2(cli: Cli) -> None:
    done = cli("train", "--warmth=1")
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "--warmth: no such flag of train" in done.stderr


def test_without_a_standard_output(tmp_path: Path) -> None:
    for words, expected in (("train --warmth=1", (2, 1)), ("train --help", (0, 0))):
        done = subprocess.run(
            f"'{sys.executable}' '{ROOT / 'main.py'}' {words} >&-",
            shell=True,
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert (done.returncode, done.stderr.count("\n")) == expected, done.stderr


def test_help_is_no_mistake(cli: Cli) -> None:
    done = cli("train", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--nz int 64 " in " ".join(done.stdout.split())


KILLED_AT = """
import os, signal, sys
import main
from gan import loop
train_step, steps = loop.train_step, iter(range(int(sys.argv[1])))

def until_then(*given):
    if next(steps, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    return train_step(*given)

loop.train_step = until_then
main.run(sys.argv[2:])
"""


def test_a_killed_run_resumed_is_the_run(
    inside: Inside, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*TINY, f"--data-path={faces}", "--max-epoch=9", "--save-every=2", "--g-every=3"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with started(killed, "-c", KILLED_AT, "57", "train", *words) as process:
        _, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == -signal.SIGKILL, err
    states = checkpoint.states(killed / "checkpoints")
    assert [path.name for path in states] == ["state_00000040.pth", "state_00000020.pth"]
    for folder, more in ((whole, words), (killed, ["--resume"])):
        monkeypatch.chdir(folder)
        inside("train", *more)
    a, b = (torch.load(top / "checkpoints" / "state_00000090.pth") for top in (whole, killed))
    for player in ("G", "D"):
        for key, value in a["nets"][player].items():
            assert torch.equal(value, b["nets"][player][key]), key
    for key, value in a["ema"].items():
        assert torch.equal(value, b["ema"][key]), key
    assert (whole / "imgs" / "9.png").read_bytes() == (killed / "imgs" / "9.png").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(
    inside: Inside, faces: Path, tmp_path: Path, capsys: Captured, number: signal.Signals
) -> None:
    words = [*TINY, f"--data-path={faces}", "--max-epoch=10000", "--max-minutes=1", "--name=x"]
    log = tmp_path / "runs" / "x" / "log.jsonl"
    with started(tmp_path, str(ROOT / "main.py"), "train", *words, "--log-every=1") as process:
        wait_until(lambda: log.exists() and '"loss_d"' in log.read_text(), process)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 128 + number, err
    assert not err.strip().startswith("Traceback")
    states = list((tmp_path / "checkpoints" / "x").glob("state_*.pth"))
    assert len(states) == 1
    command = out.strip().splitlines()[-1].split("go on with: python main.py ")[1].split()
    assert command[:3] == ["train", "--name=x", "--resume"]
    step = torch.load(states[0])["step"]
    inside(*command, f"--max-images={(step + 3) * 20}", "--lr2=5e-5")
    assert "--lr2 0.0008 -> 5e-05" in capsys.readouterr().out
    assert '"lr2": [0.0008, 5e-05]' in log.read_text()
    says = "cannot change it in mid-run"
    refused(inside, "train", "--name=x", "--resume", "--ngf=8", says=says)


def test_a_reader_that_leaves_stops_no_training(faces: Path, tmp_path: Path) -> None:
    words = ["train", *TINY, f"--data-path={faces}", "--max-images=60"]
    with started(tmp_path, str(ROOT / "main.py"), *words) as run:
        assert run.stdout is not None
        run.stdout.close()
        assert run.wait(PATIENCE_SECONDS) == 0, run.stderr and run.stderr.read()
    assert (tmp_path / "checkpoints" / "state_00000003.pth").exists()


def test_a_message_is_one_line_whatever_the_words_hold(cli: Cli) -> None:
    done = cli("train", "--name=a\nb\x1b[31m")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "--name=a\\nb\\x1b[31m: letters" in done.stderr
