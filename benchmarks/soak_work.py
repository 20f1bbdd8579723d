"""What the parts of `soak.py` share: trials on record, programs in forks, and their end states."""

import contextlib
import hashlib
import importlib
import json
import mmap
import os
import platform
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import common  # noqa: F401 (Python finds the toolkit)
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import main as program
from gan import cache, checkpoint, features, filesystem, loop
from models import read_state_to_resume

if TYPE_CHECKING:
    from _typeshed import HasFileno

MEMORY = Path("/dev/shm")  # files there cost no time of a disk
PATIENCE_SECONDS = 1800.0  # for a program of a few seconds, on a busy machine
SLOW_SYNC_SECONDS = 0.03  # files in memory would be saved before anything can happen
LOST = "lost: "  # how the outcome of a trial begins that lost something
OF_A_RUN = ("--img-size=28", "--batch-size=4", "--gpu=False", "--num-workers=1", "--log-every=5")
SMALL = (*OF_A_RUN, "--held-out=0.3", "--max-images=160", "--save-every=2", "--eval-every=60")
NETS = ("--ngf=4", "--ndf=4")
NOISE = ("dcgan", "modern", "wgan-gp", "rpgan", "lsgan", "mlp-tiny")
PICTURES = ("pix2pix", "cyclegan")
CLOCKED = {"seconds"}  # of a state: what differs from run to run
# what programs import in mid-run: once here, not in each fork
for _name in ("torchmetrics", "tensorboardX", "torchnet.meter", "torch.optim.swa_utils"):
    importlib.import_module(_name)
# what a training does, and the function within which it does it
PHASES: dict[str, tuple[object, str]] = {
    "build": (cache, "open_or_build"),
    "step": (loop.Session, "step"),
    "score": (loop.Session, "evaluate"),
    "save": (filesystem, "write_all"),
}


# --- trials on record ----------------------------------------------------------------------------


class OutOfTime(Exception):
    """This sitting is over; the next one goes on."""


@dataclass
class Record:
    """Trials, a line each in `folder`: what is there is not done again.

    When all of a fault are done, a line about them is added to `results`.
    """

    folder: Path
    results: Path
    deadline: float  # time.monotonic() at which this sitting ends

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / "trials.jsonl"
        self.done: dict[str, dict[int, tuple[str, float]]] = {}
        text = self.file.read_text("utf-8") if self.file.exists() else ""
        for line in text[: text.rfind("\n") + 1].splitlines():  # killed in the middle of one
            trial = json.loads(line)
            found = self.done.setdefault(trial["fault"], {})
            found[trial["trial"]] = (trial["outcome"], trial["seconds"])
        with open(self.file, "ab") as file:
            file.truncate(len(text[: text.rfind("\n") + 1].encode()))

    def left(self, fault: str, trials: int) -> list[int]:
        """The numbers of the trials that are not done."""
        done = self.done.setdefault(fault, {})
        return [number for number in range(trials) if number not in done]

    def try_all(
        self, fault: str, trials: int, attempt: Callable[[int], str], each: int = 1
    ) -> None:
        """`attempt(n)` for the trials that are left; its outcome begins with LOST if it lost.

        One counts as `each`. Raises OutOfTime.
        """
        left = self.left(fault, trials)
        done = self.done[fault]
        for number in left:
            if time.monotonic() > self.deadline:
                raise OutOfTime
            began = time.monotonic()
            outcome = attempt(number)
            done[number] = (outcome, round(time.monotonic() - began, 3))
            line = {"fault": fault, "trial": number, "outcome": outcome, "seconds": done[number][1]}
            with open(self.file, "a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            if outcome.startswith(LOST):
                print(f"{fault}, trial {number}: {outcome}", file=sys.stderr, flush=True)
        if left:
            self._add_result(fault, list(done.values()), each)

    def _add_result(self, fault: str, trials: Sequence[tuple[str, float]], each: int) -> None:
        found = Counter(LOST.strip(": ") if o.startswith(LOST) else o for o, _ in trials)
        result = {
            "fault": fault,
            "trials": each * len(trials),
            "lost": found.pop("lost", 0),
            "outcomes": {outcome: each * count for outcome, count in sorted(found.items())},
            "seconds": round(sum(seconds for _, seconds in trials), 1),
            "python": platform.python_version(),
        }
        with open(self.results, "a", encoding="utf-8") as file:
            file.write(json.dumps(result, ensure_ascii=False) + "\n")
        print(json.dumps(result, ensure_ascii=False), flush=True)


# --- programs ------------------------------------------------------------------------------------


def make_pictures(top: Path) -> None:
    """24 small pictures, and the same in pairs and in two folders."""
    chance = np.random.default_rng(0)
    for folder in ("faces", "pairs/A", "pairs/B", "two/trainA", "two/trainB"):
        (top / folder).mkdir(parents=True)
        for index in range(24):
            pixels = chance.integers(0, 256, (28, 28, 3), np.uint8)
            Image.fromarray(pixels).save(top / folder / f"{index:02}.png")
    for side in ("A", "B"):  # of CycleGAN: scores want several
        (top / f"two/test{side}").mkdir()
        for file in sorted((top / f"two/train{side}").iterdir())[:8]:
            file.rename(top / f"two/test{side}" / file.name)


def words_of(family: str, top: Path) -> list[str]:
    """A training of a second or two, which decodes, scores and saves."""
    source = {"pix2pix": "pairs", "cyclegan": "two"}.get(family, "faces")
    nets = () if family.startswith("mlp") else NETS
    given = ("train", f"--family={family}", f"--data-path={top / source}", "--name=k")
    small = [word for word in SMALL if family != "cyclegan" or "held-out" not in word]
    return [*given, *small, *nets, *(["--pool=4"] if family == "cyclegan" else [])]


def see_cheaply() -> None:
    """Pictures of 8 by 8 pixels for what EfficientNet-Lite0 sees, which takes far longer."""

    def blurred(*_: object) -> features.Extract:
        return lambda x: F.normalize(F.adaptive_avg_pool2d(x - 127, 8).flatten(1)) * 192**0.5

    features.FEATURES["lite0"] = blurred


class Watch:
    """What a program in a fork is doing: a counter for each of PHASES, in shared memory.

    It is odd within the phase.
    """

    def __init__(self) -> None:
        self.shared = mmap.mmap(-1, 4 * len(PHASES))
        self.counts = np.frombuffer(self.shared, np.int32)

    def install(self) -> None:
        """Count in this process; each phase may be on another thread."""
        for index, (owner, name) in enumerate(PHASES.values()):
            setattr(owner, name, self._counted(getattr(owner, name), index))

    def _counted(self, call: Callable[..., object], index: int) -> Callable[..., object]:
        def counted(*given: object, **named: object) -> object:
            self.counts[index] += 1
            try:
                return call(*given, **named)
            finally:
                self.counts[index] += 1

        return counted

    def phase(self) -> str:
        """What it is doing: a save beside a step is a save."""
        now = [name for name, count in zip(PHASES, self.counts, strict=True) if count % 2]
        return now[-1] if now else "between"

    def wait_for(self, phase: str, count: int, pid: int) -> bool:
        """Wait until it is in `phase` for the time number `count`; False if it ends before."""
        index = list(PHASES).index(phase)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.counts[index] < 2 * count - 1 and time.monotonic() < deadline:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return False
            time.sleep(0.0005)
        return True


def slow_disk() -> None:
    """Every file takes a while to reach the disk."""
    real = os.fsync

    def sync(fd: "int | HasFileno") -> None:
        time.sleep(SLOW_SYNC_SECONDS)
        real(fd)

    os.fsync = sync


def fork(
    folder: Path, words: list[str], watch: Watch | None = None, also: Callable[[], object] = int
) -> int:
    """`python main.py WORDS` in `folder`, in a process of its own; its pid.

    `also` is called there first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.chdir(folder)
        log = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["main.py", *words]
        if watch:
            watch.install()
        also()
        program.main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)


def wait(pid: int, patience: float = PATIENCE_SECONDS) -> int:
    """Its exit code, or minus the signal; raises AssertionError if it takes too long."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"{pid} took more than {patience:.0f} s")


def digest(folder: Path, but: Collection[str] = CLOCKED) -> str:
    """Of all that the newest state of run `k` would go on with, and of the last weights.

    Without what is called one of `but`.
    """
    top = folder / "checkpoints" / "k"
    path = checkpoint.states(top)[0]
    found = hashlib.sha256(path.name.encode())

    def add(value: object) -> None:
        if isinstance(value, dict):
            for key in sorted(value, key=str):
                if key not in but:
                    found.update(str(key).encode())
                    add(value[key])
        elif isinstance(value, list | tuple):
            for each in value:
                add(each)
        elif isinstance(value, torch.Tensor):
            found.update(value.contiguous().numpy().tobytes())
        else:
            same = float(value) if isinstance(value, int) else value  # 0 and 0.0, of a config
            found.update(repr(same).encode())

    state = read_state_to_resume(path)
    add(state)
    for name in ("netg", "netd"):
        last = max(top.glob(f"{name}_*.pth"), key=lambda file: int(file.stem.split("_")[1]))
        add(checkpoint.load(last))
    return found.hexdigest()


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder with pictures, a space and a letter that is not ASCII; it is gone afterwards."""
    with tempfile.TemporaryDirectory(
        prefix="soak é ", dir=MEMORY if MEMORY.is_dir() else None
    ) as name:
        make_pictures(Path(name))
        yield Path(name)
