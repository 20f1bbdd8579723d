"""Inputs by the thousand, as hypothesis draws them: no crash, no hang, no traceback.

Five kinds are those of tests/faults/test_fuzz.py, of functions within this process; the sixth is
whole commands, each in a fork of its own, in a copy of a folder with runs and data.
"""

import contextlib
import functools
import importlib
import json
import math
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import Field
from pathlib import Path
from typing import Any

import hypothesis
from common import ROOT
from hypothesis import HealthCheck
from hypothesis import strategies as st
from PIL import Image
from soak_work import LOST, Record, fork, make_pictures, see_cheaply, wait, workplace

import main as program
from config import types_of
from gan.errors import LINE

INPUTS = 100  # of one sitting, all with one seed
OF_COMMANDS_SHARE = 0.25  # of the inputs: whole commands, which take the longest
SITTING_SECONDS = 3600.0
LONGEST_SECONDS = 10.0  # of an input within this process; of a command before Ctrl-C
CTRL_C_SECONDS = 60.0  # that a command may take to end after it, on a busy machine
MEMORY_BYTES = 6 * 2**30  # of a command
KINDS = ("words", "pictures", "arrays_and_archives", "settings", "states")
RUN = ("--img-size=28", "--batch-size=4", "--gpu=False", "--num-workers=1", "--max-images=24")


class TookTooLong(BaseException):
    """No `except Exception` of what is tried may catch it."""


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Within it TookTooLong is raised after so many seconds of work, or six times that in all."""

    def ring(*_: object) -> None:
        raise TookTooLong

    signal.signal(signal.SIGALRM, ring), signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 6 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


# --- whole commands ------------------------------------------------------------------------------

PLACES = [
    "data/faces", "data/pairs", "data/two", "data/classes", "data/faces.zip", "data/one.png",
    "data/broken.png", "data/empty", "data", "checkpoints", "checkpoints/a", "checkpoints/a/s.pth",
    "checkpoints/a/config.json", "checkpoints/a/g.pth", "checkpoints/a/d.pth", "evaluate.json",
    "runs/a/log.jsonl", "f.safetensors", "broken.safetensors", "broken.pth", "broken.json", "list",
    "nosuch", "nosuch/deep/x.png", "new", "new.png", "new.gif", "new.html", "new.webp", "new.mp4",
    "new.zip", "new.tar", "new.onnx", "new.pt", "new.pth", "new.safetensors", "a,c", "a", "c", "p",
    "y", "0-3", "1,2", "3", "one,two", "one", "one:0.3+two:0.7", "2s", "all", "gif,png", "#336699",
]  # fmt: skip
ODD = [
    "", "0", "-1", "1", "2", "8", "1e308", "1e9", "nan", "inf", "True", "no", "None", "[]",
    "../x", "/dev/null", "/dev/zero", "~nosuchuser/x", ".", "a\nb", "\x1b[31m", "ä€\u202e",
    "\udcff", "x" * 700, "1,2", "5-3", "--", "٣", "1_000", "9" * 400, "/proc/self/mem", "'", "a/b",
]  # fmt: skip
WANTED = {  # what brings a command to its work
    "train": ["--data-path=data/faces", *RUN, "--overwrite"],
    "generate": ["--name=a", "--gen-num=4", "--gen-search-num=8", "--gpu=False"],
    "evaluate": ["--name=a", "--gen-num=8", "--gpu=False"],
    "translate": ["--name=p", "--input=data/faces"],
    "export": ["--name=a", "--to=safetensors"],
    "compare": ["--family=dcgan,mlp-tiny", "--data-path=data/faces", *RUN, "--ngf=2", "--ndf=2"],
    "interpolate": ["--name=a", "--seeds=1,2", "--frames=3", "--gpu=False"],
    "directions": ["--name=a", "--steps=3"],
    "film": ["--name=a"],
    "prepare": ["--data-path=data/faces", "--out=new", "--min-size=8"],
    "report": ["--name=a"],
}
SLOW = {"num_workers"}  # other processes import torch's neighbours anew


def value_of(field: "Field[Any]") -> st.SearchStrategy[str]:
    """Mostly values that such a flag takes, within its range and around it."""
    rule, kinds = field.metadata, types_of(field)
    found = [st.sampled_from(ODD)]
    if choices := [str(choice) for choice in rule["choices"]]:
        found += 2 * [st.sampled_from(choices)]
    if bool in kinds:
        found += 2 * [st.sampled_from(["True", "False"])]
    low = rule["low"] or rule["above"] or 0
    if int in kinds:
        found += 3 * [st.integers(int(low) - 1, int(low) + 12).map(str)]
    if float in kinds:
        found += 3 * [st.floats(float(low), float(low) + 4).map(lambda x: f"{x:.3g}")]
    if str in kinds and not choices:
        found += 4 * [st.sampled_from(PLACES)]
    return st.one_of(found)


@st.composite
def calls(draw: Callable[..., Any]) -> list[str]:
    """A command and its words: those that bring it to work, and a few others in their place."""
    command = draw(st.sampled_from(list(program.COMMANDS)))
    fields = importlib.import_module(f"commands.{command}").FLAGS.fields
    names = draw(st.lists(st.sampled_from(sorted(set(fields) - SLOW)), max_size=4, unique=True))
    words = {name: draw(value_of(fields[name])) for name in names}
    wanted = dict(word.lstrip("-").partition("=")[::2] for word in WANTED[command])
    kept = {k: v for k, v in wanted.items() if k.replace("-", "_") not in words}
    if kept and draw(st.booleans()):
        kept.pop(draw(st.sampled_from(sorted(kept))))
    if command in ("train", "compare") and not any("max" in k for k in (*kept, *words)):
        kept["max-images"] = "24"
    shown = [f"--{name.replace('_', '-')}={value}" for name, value in words.items()]
    wanted_words = [f"--{k}={v}" if v else f"--{k}" for k, v in kept.items()]
    stray = draw(st.lists(st.sampled_from(ODD), max_size=1)) if draw(st.integers(0, 9)) == 0 else []
    return [command, *wanted_words, *shown, *stray]


def furnish(folder: Path) -> None:
    """Small runs of every kind, data, and files that are damaged."""
    folder.mkdir()
    make_pictures(folder / "data")
    for index, name in enumerate(("one", "two")):
        (folder / "data/classes" / name).mkdir(parents=True)
        for file in sorted((folder / "data/faces").iterdir())[index::2]:
            shutil.copy(file, folder / "data/classes" / name)
    shutil.make_archive(str(folder / "data/faces"), "zip", folder / "data/faces")
    Image.new("RGB", (40, 30), "red").save(folder / "data/one.png")
    (folder / "data/broken.png").write_bytes((folder / "data/one.png").read_bytes()[:60])
    (folder / "data/empty").mkdir()
    nets = ("--ngf=2", "--ndf=2", "--keep=1")
    for words in (
        ["--family=dcgan", "--nz=4", "--data-path=data/faces", "--name=a", *nets],
        [
            "--family=dcgan",
            "--nz=4",
            "--data-path=data/classes",
            "--name=c",
            "--conditional",
            *nets,
        ],
        ["--family=pix2pix", "--data-path=data/pairs", "--name=p", *nets],
        ["--family=cyclegan", "--data-path=data/two", "--name=y", *nets],
    ):
        held_out = [] if "--name=y" in words else ["--held-out=0.3"]
        assert wait(fork(folder, ["train", *RUN, *held_out, *words])) == 0, words
    assert wait(fork(folder, ["export", "--name=a", "--file=f.safetensors", "--card=False"])) == 0
    for file in (folder / "data/cache").rglob("features.npz"):
        file.unlink()  # the processes of `compare` do not see as cheaply
    run = folder / "checkpoints/a"
    shutil.copy(next(run.glob("netg_*.pth")), run / "g.pth")
    shutil.copy(next(run.glob("netd_*.pth")), run / "d.pth")
    shutil.copy(next(run.glob("state_*.pth")), run / "s.pth")
    for name, source in (("safetensors", folder / "f.safetensors"), ("pth", run / "s.pth")):
        content = bytearray(source.read_bytes())
        content[len(content) // 2] ^= 255
        (folder / f"broken.{name}").write_bytes(content)
    (folder / "broken.json").write_text(json.dumps({"lr1": [], "family": 3}))
    (folder / "list").write_text("00.png\n../x\n\n")


def limit() -> None:
    """In the fork: memory has an end, and standard input is at its own."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


def ended(pid: int) -> tuple[int, bool]:
    """Its exit code, and whether Ctrl-C had to end it: a million faces are no hang."""
    deadline, long = time.monotonic() + 6 * LONGEST_SECONDS, False
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), long
        ticks = sum(
            map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])
        )
        if not long and (
            ticks / os.sysconf("SC_CLK_TCK") > LONGEST_SECONDS or time.monotonic() > deadline
        ):
            long, deadline = True, time.monotonic() + CTRL_C_SECONDS
            os.kill(pid, signal.SIGINT)
        assert not long or time.monotonic() < deadline, "a hang: Ctrl-C does not end it"
        time.sleep(0.003)


def check_call(room: Path, words: list[str]) -> None:
    """Call it in a copy of `room`; nothing but lines and files in that copy may come of it."""
    jail = room.with_name("jail")
    shutil.rmtree(jail, ignore_errors=True)
    jail.mkdir()
    shutil.copytree(room, jail / "here")
    (jail / "here/said.txt").unlink()
    pid = fork(jail / "here", words, also=limit)
    try:
        code, long = ended(pid)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        raise
    said = (jail / "here/said.txt").read_text("utf-8", "replace")
    assert "Traceback" not in said, said[-1500:]
    assert code in (0, 2) or (long and code == 128 + signal.SIGINT), (code, said[-500:])
    assert [path.name for path in jail.iterdir()] == ["here"], "written outside"
    if code == 2:
        [line] = said.strip().splitlines()[-1:]
        assert len(line) < 2 * LINE, line
        assert line.replace("\x1b", "").isprintable() and "\x1b" not in line  # noqa: PT018


# --- sittings ------------------------------------------------------------------------------------


def of_functions(kind: str, room: Path) -> Callable[[int], None]:
    """A test of test_fuzz.py with INPUTS inputs of a seed, and an alarm for each of them."""
    os.environ["FUZZ_EXAMPLES"] = str(INPUTS * len(KINDS))  # which it reads when it is imported
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "faults")]
    test_fuzz = importlib.import_module("test_fuzz")

    test = getattr(test_fuzz, f"test_{kind}")
    inner = test.hypothesis.inner_test

    @functools.wraps(inner)
    def guarded(*given: object, **named: object) -> None:
        with alarm(LONGEST_SECONDS):
            inner(*given, **named)

    test.hypothesis.inner_test = guarded

    def sitting(seed: int) -> None:
        given = {"room": room} if kind == "words" else {}
        with (
            test_fuzz.no_training(room),
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            contextlib.redirect_stderr(nowhere),
        ):
            hypothesis.seed(seed)(test)(**given)

    return sitting


def of_commands(room: Path) -> Callable[[int], None]:
    """Whole commands, INPUTS of them of a seed; all that fail are named."""
    few = hypothesis.settings(
        max_examples=INPUTS, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )

    failed: list[str] = []

    @few
    @hypothesis.given(words=calls())
    def test(words: list[str]) -> None:
        try:
            check_call(room, words)
        except AssertionError as error:
            failed.append(f"{words}: {error}")

    def sitting(seed: int) -> None:
        hypothesis.seed(seed)(test)()
        assert not failed, "\n".join(failed)

    return sitting


def sit(sitting: Callable[[int], None], seed: int, told: Path) -> str:
    """What comes of one sitting, in a fork: a crash ends that alone."""
    if not (pid := os.fork()):
        outcome = "done or refused"
        try:
            sitting(seed)
        except BaseException as error:
            notes = "; ".join(getattr(error, "__notes__", []))
            where = traceback.format_exc()[-1500:]
            outcome = f"{LOST}{error!r}; {notes}; {where}"
        told.write_text(outcome, "utf-8", "backslashreplace")
        os._exit(0)
    code = wait(pid, SITTING_SECONDS)
    return told.read_text("utf-8") if code == 0 else f"{LOST}exit code {code} of a sitting"


def fuzz(record: Record, inputs: int) -> None:
    """So many inputs, spread over the kinds; each sitting has its own seed."""
    whole = OF_COMMANDS_SHARE * inputs
    see_cheaply()
    with workplace() as top:
        furnish(top / "room")
        (top / "empty").mkdir()
        tables = {kind: of_functions(kind, top / "empty") for kind in KINDS}
        tables["commands"] = of_commands(top / "room")
        for kind, sitting in tables.items():
            share = whole if kind == "commands" else (inputs - whole) / len(KINDS)

            def attempt(seed: int) -> str:
                return sit(sitting, seed, top / "told")  # noqa: B023 (called here)

            record.try_all(
                f"fuzz: {kind.replace('_', ' ')}", math.ceil(share / INPUTS), attempt, INPUTS
            )


PARTS: dict[str, tuple[Callable[[Record, int], None], int]] = {"fuzz": (fuzz, 10_000)}
