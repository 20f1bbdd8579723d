"""Small data and small nets that every test file shares."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import PATIENCE_SECONDS

os.environ["OMP_NUM_THREADS"] = "1"  # tiny nets: threads would only wait for each other

import torch
import torch.nn.functional as F
import toy

from config import Config
from gan import avatars, data, features, loop
from gan.errors import Refused
from gan.families import CLASSIC

# A shell starts what it runs in the background with Ctrl-C ignored; the tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
# of one test, a backstop for what should end and does not: of work, since a test of a second may
# wait for a minute on a busy machine, and in all
WORK_SECONDS, LIMIT_SECONDS = 90.0, 540.0
# flags of nets that train in milliseconds
TINY = (
    "--img-size=28", "--nz=8", "--ngf=4", "--ndf=4", "--batch-size=20", "--gpu=False",
    "--held-out=0", "--num-workers=1",
)  # fmt: skip
torch.set_num_threads(1)


def tiny_flags(*words: str) -> list[str]:
    """These flags, and those of TINY that are not among them."""
    given = {word.partition("=")[0] for word in words}
    return [*(word for word in TINY if word.partition("=")[0] not in given), *words]


def refused(call: Callable[..., None], *words: str, says: str) -> None:
    """The call raises Refused, in one line."""
    with pytest.raises(Refused, match=re.escape(says)) as refusal:
        call(*words)
    assert "\n" not in str(refusal.value)


@pytest.fixture(scope="module")
def cheap_lite0() -> Iterator[None]:
    """Pictures of 8 by 8 pixels for what EfficientNet-Lite0 sees, which takes far longer."""

    def blurred(*_: object) -> features.Extract:
        return lambda x: F.normalize(F.adaptive_avg_pool2d(x - 127, 8).flatten(1)) * 192**0.5

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(features.FEATURES, "lite0", blurred)
        features.extractor.cache_clear()
        yield
    features.extractor.cache_clear()


def _limited() -> Iterator[None]:
    """Within it an alarm fails the test that takes too long; it rings again until it is heard."""
    limits = {
        signal.SIGPROF: (signal.ITIMER_PROF, WORK_SECONDS, "of the processor"),
        signal.SIGALRM: (signal.ITIMER_REAL, LIMIT_SECONDS, "in all"),
    }

    def ring(number: int, _: object) -> None:
        _timer, seconds, what = limits[signal.Signals(number)]
        pytest.fail(f"took more than {seconds:.0f} s {what}")

    before = {number: signal.signal(number, ring) for number in limits}
    for timer, seconds, _ in limits.values():
        signal.setitimer(timer, seconds, 2.0)
    try:
        return (yield)
    finally:
        for number, (timer, *_rest) in limits.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


if hasattr(signal, "SIGALRM"):  # not on Windows
    pytest_runtest_setup = pytest.hookimpl(wrapper=True)(_limited)
    pytest_runtest_call = pytest.hookimpl(wrapper=True)(_limited)


def bounded(words: tuple[str, ...]) -> list[str]:
    """`words`, with a budget of a step or two if they would start a training without one.

    A mistake that is refused no longer then ends the test at once, not after 200 epochs.
    """
    new = words[:1] in (("train",), ("compare",)) and not any("--resume" in word for word in words)
    given = any(word.startswith(("--max-", "--help", "-h")) for word in words)
    return [*words, "--max-images=20"] if new and not given else [*words]


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


class Clock:
    """`time.monotonic` as a number that only a test moves."""

    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: made.now)
    return made


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Callable[..., loop.Session]]:
    """`session(**settings)` opens a session of the toy game that has not trained yet."""
    opened: list[loop.Session] = []

    def make(**more: object) -> loop.Session:
        opened.append(toy.make_session(tmp_path, **more))
        return opened[-1]

    yield make
    for run in opened:
        run.close()


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

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "main.py"), *bounded(words)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )

    return call


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The same within this process, which spares a start of Python and torch: raises Refused."""
    import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(avatars, "COUNT", 64)  # of the data of a run that names none
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # images are decoded in no other process

    def call(*words: str) -> None:
        main.run(bounded(words))

    return call
