"""Faults, many of them: what is lost, and how long it takes.

python benchmarks/soak.py kills [TRIALS]    SIGKILL at random moments; the resumed run is the run
python benchmarks/soak.py disk [TRIALS]     the disk is full for a while (needs the right to mount)
python benchmarks/soak.py flips [TRIALS]    a bit flips in each of five kinds of file
python benchmarks/soak.py fuzz [TRIALS]     inputs as hypothesis draws them (test_fuzz.py)
python benchmarks/soak.py hours [MINUTES]   a training with scores and saves: memory, files, threads

Each prints rows of a table: fault, trials, lost, seconds. A trial is a whole program in a fork of
this process, in a folder with a space and a letter that is not ASCII in its name.
"""

import contextlib
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from common import ROOT, print_header, print_row, run
from PIL import Image

import main as program
from gan import checkpoint, data, features, loop, schedule
from gan.errors import Refused
from models import read_state_to_resume

PATIENCE_SECONDS = 300.0  # for a trial of a few seconds
KILLS, FULL_DISKS, FLIPS, FUZZ, MINUTES = 100, 50, 1000, 10_000, 60.0
SMALL = ("--img-size=28", "--batch-size=4", "--gpu=False", "--num-workers=1", "--held-out=0")
SHORT = ("--max-images=160", "--save-every=1", "--log-every=5")
NETS = ("--ngf=4", "--ndf=4")
NOISE = ("dcgan", "modern", "wgan-gp", "rpgan", "lsgan", "mlp-tiny")
PICTURES = ("pix2pix", "cyclegan")
Value = TypeVar("Value")


def make_pictures(top: Path) -> None:
    """24 small pictures, and the same in pairs and in two folders."""
    chance = np.random.default_rng(0)
    for folder in ("faces", "pairs/A", "pairs/B", "two/trainA", "two/trainB"):
        (top / folder).mkdir(parents=True)
        for index in range(24):
            pixels = chance.integers(0, 256, (28, 28, 3), np.uint8)
            Image.fromarray(pixels).save(top / folder / f"{index:02}.png")


def words_of(family: str, top: Path) -> list[str]:
    """A training of a second or so."""
    source = {"pix2pix": "pairs", "cyclegan": "two"}.get(family, "faces")
    nets = () if family.startswith("mlp") else NETS
    given = ("train", f"--family={family}", f"--data-path={top / source}", "--name=k")
    return [*given, *SMALL, *SHORT, *nets, *(["--pool=4"] if family == "cyclegan" else [])]


def fork(folder: Path, words: list[str]) -> int:
    """`python main.py WORDS` in `folder`, in a process of its own; its pid."""
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.chdir(folder)
        log = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        sys.argv = ["main.py", *words]
        program.main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    os._exit(code)


def wait(pid: int) -> int:
    """Its exit code, or minus the signal; raises AssertionError if it takes too long."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"{pid} took more than {PATIENCE_SECONDS:.0f} s")


def digest(folder: Path) -> str:
    """Of all numbers that the newest state would go on with."""
    path = checkpoint.states(folder / "checkpoints" / "k")[0]
    state, found = read_state_to_resume(path), hashlib.sha256(path.name.encode())

    def add(value: object) -> None:
        if isinstance(value, dict):
            for key in sorted(value, key=str):
                found.update(str(key).encode())
                add(value[key])
        elif isinstance(value, torch.Tensor):
            found.update(value.contiguous().numpy().tobytes())

    for name in ("nets", "ema", "optimizers"):
        add(state[name])
    return found.hexdigest()


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder with pictures; it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="soak é ") as name:
        make_pictures(Path(name))
        yield Path(name)


def say(fault: str, trials: int, lost: int, began: float) -> None:
    print_row([fault, trials, lost, f"{time.monotonic() - began:.0f}"])


# --- kills ---------------------------------------------------------------------------------------


def killed_and_resumed(folder: Path, words: list[str], after: float) -> bool:
    """Whether a run that is killed once `after` seconds and gone on with ends at all."""
    pid = fork(folder, words)
    time.sleep(after)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait(pid)
    if checkpoint.states(folder / "checkpoints" / "k"):
        words = ["train", "--name=k", "--resume"]
    else:
        words = [*words, "--overwrite"]
    return wait(fork(folder, words)) == 0


def kills(trials: str = str(KILLS)) -> None:
    """SIGKILL at random moments of reading, training, saving; the end is that of a whole run."""
    chance, families = random.Random(0), [*NOISE, *PICTURES]
    print_header(["fault", "trials", "lost", "seconds"])
    with workplace() as top:
        for number, family in enumerate(families):
            count = int(trials) // len(families) + (number < int(trials) % len(families))
            words, began, lost = words_of(family, top), time.monotonic(), 0
            assert wait(fork(top / family / "whole", words)) == 0
            took, whole = time.monotonic() - began, digest(top / family / "whole")
            for trial in range(count):
                folder = top / family / str(trial)
                same = killed_and_resumed(folder, words, chance.uniform(0, took))
                lost += not same or digest(folder) != whole
            say(f"SIGKILL, {family}", count, lost, began)


# --- a full disk ---------------------------------------------------------------------------------


def fill(folder: Path) -> None:
    with open(folder / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


def disk(trials: str = str(FULL_DISKS)) -> None:
    """A small file system that is full from one random moment to another."""
    if "SOAK_MOUNTED" not in os.environ:
        inside = ["unshare", "-rm", sys.executable, __file__, "disk", trials]
        sys.exit(subprocess.run(inside, env={**os.environ, "SOAK_MOUNTED": "1"}).returncode)
    loop.ROOM_PAUSE_SECONDS = schedule.FIRST_PAUSE_SECONDS = 0.05
    chance, lost, began = random.Random(0), 0, time.monotonic()
    with workplace() as top:
        words = words_of("dcgan", top)
        assert wait(fork(top / "whole", words)) == 0
        took, whole = time.monotonic() - began, digest(top / "whole")
        for trial in range(int(trials)):
            folder = top / str(trial)
            folder.mkdir()
            mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "x", str(folder)]
            subprocess.run(mount, check=True)
            pid = fork(folder, words)
            time.sleep(chance.uniform(0, took))
            fill(folder)
            time.sleep(chance.uniform(0, took))
            (folder / "filler").unlink()
            code = wait(pid)
            if code == 2:  # it was told at the start that there is no room
                code = wait(fork(folder, [*words, "--overwrite"]))
            lost += code != 0 or digest(folder) != whole
            subprocess.run(["umount", str(folder)], check=True)
    print_header(["fault", "trials", "lost", "seconds"])
    say("disk full for a while", int(trials), lost, began)


# --- flipped bits --------------------------------------------------------------------------------


def flips(trials: str = str(FLIPS)) -> None:
    """One bit, anywhere in a file: what is read is refused, built again, or equal."""
    with workplace() as top:
        wait(fork(top, words_of("mlp-tiny", top)))
        print_header(["file", "trials", "lost", "seconds"])

        def images() -> object:
            with (
                contextlib.redirect_stderr(io.StringIO()),
                contextlib.redirect_stdout(io.StringIO()),
            ):
                found = data.open_images(str(top / "faces"), 8, 3, cache=top / "c", workers=1)
            return found.digest, found.train.tobytes(), found.array.tobytes()

        images()
        [cache] = (path for path in (top / "c").iterdir() if path.is_dir())
        pixels = np.zeros((4, 3, 8, 8), np.uint8)

        def reference() -> object:
            with contextlib.redirect_stderr(io.StringIO()):
                known = features.Reference(cache / "features.npz")
                return known.features(pixels, "random").tobytes()

        reference()
        state = checkpoint.states(top / "checkpoints" / "k")[0]
        for name, file, read in (
            ("images.u8", cache / "images.u8", images),
            ("split.npy", cache / "split.npy", images),
            ("index.json", cache / "index.json", images),
            ("features.npz", cache / "features.npz", reference),
            ("state", state, lambda: digest(top)),
        ):
            began = time.monotonic()
            say(f"a flipped bit, {name}", int(trials), flip(file, read, int(trials)), began)


def flip(file: Path, read: Callable[[], Value], trials: int) -> int:
    """How many of so many flipped bits give another result or another exception than Refused."""
    chance, whole, expected, lost = random.Random(file.name), file.read_bytes(), read(), 0
    for _ in range(trials):
        found = bytearray(whole)
        found[chance.randrange(len(found))] ^= 1 << chance.randrange(8)
        file.write_bytes(found)
        try:
            lost += read() != expected
        except Refused:
            pass
        except Exception as error:
            print(f"{file.name}: {error!r}", file=sys.stderr)
            lost += 1
        file.write_bytes(whole)
    return lost


# --- inputs, and hours ---------------------------------------------------------------------------


def fuzz(trials: str = str(FUZZ)) -> None:
    """The tests of tests/faults/test_fuzz.py with so many inputs."""
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-x", "tests/faults/test_fuzz.py"]
    environment = {**os.environ, "FUZZ_EXAMPLES": trials}
    # a test may take an hour here: the alarm of tests/conftest.py is for the suite
    code = subprocess.run(
        [*command, "-p", "no:cacheprovider"], cwd=ROOT, env=environment
    ).returncode
    print_header(["fault", "trials", "lost", "seconds"])
    say("hypothesis", int(trials), int(code != 0), began)


def sizes(pid: int, folder: Path) -> tuple[int, int, int, int]:
    """MB of memory, threads and open files of a process, and files of its states and weights."""
    status = Path(f"/proc/{pid}/status").read_text()
    values = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    handles = len(os.listdir(f"/proc/{pid}/fd"))
    kept = len(list((folder / "checkpoints").rglob("*.pth")))
    return int(values["VmRSS"].split()[0]) // 1024, int(values["Threads"]), handles, kept


def hours(minutes: str = str(MINUTES)) -> None:
    """A training with scores, previews and saves: what grows."""
    with workplace() as top:
        words = [
            "train",
            "--family=dcgan",
            f"--max-minutes={minutes}",
            "--name=k",
            *SMALL[:-1],
            *NETS,
        ]
        pid = fork(top, [*words, "--save-every=200", "--save-minutes=0.2", "--eval-every=20000"])
        print_header(["minutes", "memory, MB", "threads", "open files", "states and weights"])
        began = time.monotonic()
        for part in range(10):
            while time.monotonic() - began < (part + 0.7) * 6 * float(minutes):
                time.sleep(0.5)
            print_row([f"{(time.monotonic() - began) / 60:.1f}", *sizes(pid, top)])
        print(f"exit code {wait(pid)}")


def soak(kind: str, *trials: str) -> None:
    """One of the kinds of fault, so many times."""
    torch.set_num_threads(1)
    table = {"kills": kills, "disk": disk, "flips": flips, "fuzz": fuzz, "hours": hours}
    if kind not in table:
        raise Refused(f"{kind}: give one of {', '.join(table)}")
    table[kind](*trials)


if __name__ == "__main__":
    run(soak)
