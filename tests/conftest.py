"""Small data and small nets that every test file shares."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # tiny nets: threads would only wait for each other

import torch

from config import Config
from gan import avatars, data
from models import CLASSIC

# A shell starts what it runs in the background with Ctrl-C ignored; the tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 200 drawn avatars, PNG, 40 pixels."""
    folder = tmp_path_factory.mktemp("faces")
    for index in range(200):
        avatars.render_one(index, 40).save(folder / f"{index:03}.png")
    return folder


@pytest.fixture(scope="session")
def images(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> data.Images:
    """The same faces as a data set, 28 pixels."""
    return data.open_images(str(faces), 28, 3, cache=tmp_path_factory.mktemp("cache"), workers=1)


@pytest.fixture
def tiny() -> Callable[..., Config]:
    """A config whose nets train in milliseconds."""

    def make(**knobs: object) -> Config:
        small = {"img_size": 28, "nz": 8, "ngf": 4, "ndf": 4, "batch_size": 20, "gpu": False}
        return Config(**{**CLASSIC, "family": "dcgan", **small, **knobs})  # type: ignore[arg-type]

    return make


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`python main.py ...` as a user calls it, in an empty folder."""

    def call(*words: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "main.py"), *words],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return call


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The same within this process, which spares a start of Python and torch: raises Refused."""
    import main

    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> None:
        main.run(list(words))

    return call
