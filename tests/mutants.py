"""Breaks the code on purpose, one line at a time, and counts the faults that the tests find.

python tests/mutants.py [--only=WORD] [--jobs=2] [--list] [--state=FILE]

The faults are in `tests/mutants/*.txt`, in blocks with an empty line between them:

    # what the fault is, in one line
    file: gan/losses.py
    - the exact line, with its indentation (several lines: several "- ")
    + what replaces it (nothing: the line is deleted)
    test: tests/test_losses.py::test_a tests/test_loop.py

A "- " after a "+ " starts a second change of the same file. A part of a line will do where no whole
line is the same. A block of comments alone is a remark.

Each fault is applied to a copy of the checkout, and the tests of its row are run there. The answers
are kept in a file; a call that was stopped goes on.
"""

import argparse
import ast
import concurrent.futures
import contextlib
import hashlib
import json
import multiprocessing
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Processes are forked from one that has imported what takes long, which none of the faults is in.
PRELOADED = ["pytest", "numpy", "torch", "torchvision.utils", "torch.optim.swa_utils", "PIL.Image"]
PRELOADED += ["safetensors.torch", "tensorboardX", "torchnet.meter", "fire", "matplotlib.figure"]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(PRELOADED)
TIMEOUT_SECONDS = 180.0  # of the tests of one fault
REQUIRED = 0.9  # share of the faults to be found
FOUND, MISSED = "found", "NOT FOUND"


@dataclass(frozen=True)
class Fault:
    """One row of a table: the `changes` of `file`, with which one of `tests` should fail."""

    what: str
    file: str
    changes: tuple[tuple[str, str], ...]  # old lines, and the new ones or ""
    tests: tuple[str, ...]  # pytest node ids, relative to the root
    row: str  # TABLE:LINE

    def applied(self, text: str) -> str:
        """`text` with the fault in it; raises ValueError unless all old lines are there once."""
        for old, new in self.changes:
            text = _replaced(text, old, new, self.file)
        if self.file.endswith(".py"):
            try:
                ast.parse(text)
            except SyntaxError as error:
                raise ValueError(f"{self.file} is no Python with it ({error.msg})") from None
        return text

    def check(self, root: Path) -> None:
        """Raises ValueError if the fault cannot be applied under `root`, or names no test."""
        if not (root / self.file).is_file():
            raise ValueError(f"no file {self.file}")
        self.applied((root / self.file).read_text("utf-8"))
        for test in self.tests:
            file, *names = test.split("[")[0].split("::")
            if not (root / file).is_file():
                raise ValueError(f"no file {file}")
            if names and f"def {names[-1]}(" not in (root / file).read_text("utf-8"):
                raise ValueError(f"no test {test}")

    def key(self, root: Path) -> str:
        """What the answer depends on: the row, the source and the test files."""
        files = [self.file, *sorted({test.split("::")[0] for test in self.tests})]
        texts = [(root / file).read_text("utf-8") for file in files]
        parts = [self.file, self.changes, self.tests, texts]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _replaced(text: str, old: str, new: str, file: str) -> str:
    whole = [found.span() for found in re.finditer(rf"^{re.escape(old)}$\n?", text, re.MULTILINE)]
    if len(whole) == 1:
        start, end = whole[0]
        return text[:start] + (f"{new}\n" if new else "") + text[end:]
    if whole or text.count(old) != 1:
        where = f"in {file}: {old.strip()}"
        raise ValueError(f"{'not unique' if old in text else 'text missing'} {where}")
    return text.replace(old, new)


def parse(text: str, table: str) -> list[Fault]:
    """The rows of one table; raises ValueError with `table` and line for one that is incomplete."""
    faults: list[Fault] = []
    block: list[str] = []
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if line.strip():
            block.append(line)
            continue
        if any(not line.startswith("#") for line in block):
            faults.append(_row(block, f"{table}:{number - len(block)}"))
        block = []
    return faults


def _row(block: Sequence[str], row: str) -> Fault:
    found: dict[str, list[str]] = {"#": [], "file:": [], "-": [], "+": [], "test:": []}
    changes: list[tuple[list[str], list[str]]] = []
    for line in block:
        mark, _, rest = line.partition(" ")
        if mark not in found:
            raise ValueError(f"{row}: {line!r} starts with none of {' '.join(found)}")
        found[mark].append(rest)
        if mark == "-" and (not changes or changes[-1][1]):
            changes.append(([], []))
        if mark in ("-", "+"):
            if not changes:
                raise ValueError(f"{row}: + before any -")
            changes[-1][mark == "+"].append(rest)
    for mark, lines in found.items():
        if not lines and mark != "+":
            raise ValueError(f"{row}: no line with {mark}")
    if len(found["file:"]) > 1:
        raise ValueError(f"{row}: more than one file")
    return Fault(
        what=" ".join(found["#"]).strip(),
        file=found["file:"][0].strip(),
        changes=tuple(("\n".join(old), "\n".join(new)) for old, new in changes),
        tests=tuple(" ".join(found["test:"]).split()),
        row=row,
    )


def read_tables(root: Path = ROOT) -> list[Fault]:
    """All rows of all tables of the checkout at `root`."""
    tables = sorted((root / "tests" / "mutants").glob("*.txt"))
    return [fault for path in tables for fault in parse(path.read_text("utf-8"), path.name)]


def copy_checkout(root: Path, to: Path) -> None:
    """Copy what git tracks, and new files that it does not ignore."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=root, capture_output=True, check=True, timeout=60).stdout
    for name in filter(None, os.fsdecode(listed).split("\0")):
        if (root / name).is_file():  # a deleted file is still listed
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, to / name)


def _run_pytest(checkout: str, words: list[str]) -> None:
    """What a forked process does: pytest in a copy, its own process group, nothing printed."""
    os.setsid()
    os.chdir(checkout)
    sys.path.insert(0, checkout)
    # no .pyc: Python tells two versions of a file apart by its size and second
    sys.dont_write_bytecode = True
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    import pytest

    os._exit(int(pytest.main(words)))


class Bench:
    """Copies of the checkout, one for each job, and the tests that run in them."""

    def __init__(self, root: Path, jobs: int, timeout: float = TIMEOUT_SECONDS) -> None:
        self.root, self.jobs, self.timeout = root, jobs, timeout
        self.free: queue.Queue[Path] = queue.Queue()
        self.running: set[BaseProcess] = set()
        self.lock = threading.Lock()
        self.closed = False
        self.passes: dict[str, bool] = {}  # of a test, without any fault

    def __enter__(self) -> "Bench":
        self.top = tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True)
        for job in range(self.jobs):
            folder = Path(self.top.name) / str(job)
            copy_checkout(self.root, folder / "checkout")
            self.free.put(folder)
        return self

    def __exit__(self, *exc: object) -> None:
        with self.lock:
            self.closed = True
            for process in self.running:
                self._kill(process)
        self.top.cleanup()

    @staticmethod
    def _kill(process: BaseProcess) -> None:
        if process.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    @contextlib.contextmanager
    def copy(self) -> Iterator[Path]:
        """A folder with a copy that nobody else uses meanwhile."""
        folder = self.free.get()
        try:
            yield folder
        finally:
            self.free.put(folder)

    def pytest(self, folder: Path, tests: Iterable[str]) -> int | None:
        """The exit code of these tests; None if they took too long."""
        words = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'tmp'}", *tests]
        process = FORKS.Process(target=_run_pytest, args=(str(folder / "checkout"), words))
        with self.lock:
            if self.closed:
                raise concurrent.futures.CancelledError
            process.start()
            self.running.add(process)
        try:
            process.join(self.timeout)
            return process.exitcode
        finally:
            self._kill(process)  # what the tests started goes too
            process.join()
            with self.lock:
                self.running.discard(process)

    def baseline(self, tests: Iterable[str]) -> None:
        """Learn which of `tests` pass without a fault: all of a file at once, else one by one."""
        by_file: dict[str, list[str]] = {}
        for test in sorted(set(tests)):
            by_file.setdefault(test.split("::")[0], []).append(test)

        def run(group: list[str]) -> None:
            with self.copy() as folder:
                whole = self.pytest(folder, group) == 0
                for test in group:
                    passed = whole or (len(group) > 1 and self.pytest(folder, [test]) == 0)
                    self.passes[test] = passed

        with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
            list(pool.map(run, by_file.values()))

    def judge(self, fault: Fault) -> str:
        """What became of `fault`."""
        failing = [test for test in fault.tests if not self.passes[test]]
        if failing:
            return f"tests already fail without it: {' '.join(failing)}"
        with self.copy() as folder:
            path = folder / "checkout" / fault.file
            text = path.read_text("utf-8")
            try:
                path.write_text(fault.applied(text), "utf-8")
                code = self.pytest(folder, fault.tests)
            finally:
                path.write_text(text, "utf-8")
        if code is None:
            return f"{FOUND} (time-out after {self.timeout:.0f} s)"
        return FOUND if code else MISSED


class Answers:
    """What is known of each fault, kept in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError):
            self.known = json.loads(path.read_text("utf-8"))

    def keep(self, key: str, answer: str) -> None:
        self.known[key] = answer
        part = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        part.write_text(json.dumps(self.known, indent=0), "utf-8")
        part.replace(self.path)


def show(fault: Fault, answer: str, more: str = "") -> None:
    print(f"{answer:<9}  {fault.row}  {fault.what}{more}", flush=True)


def run(root: Path, faults: Sequence[Fault], state: Path, jobs: int) -> dict[str, str]:
    """The answer for each row, printed as it comes; known answers are taken from `state`."""
    answers, found = Answers(state), {}
    todo: list[tuple[Fault, str]] = []
    for fault in faults:
        try:
            fault.check(root)
        except ValueError as error:
            found[fault.row] = f"no longer applies: {error}"
            show(fault, found[fault.row])
            continue
        key = fault.key(root)
        if key in answers.known:
            found[fault.row] = answers.known[key]
            show(fault, found[fault.row], " (known)")
        else:
            todo.append((fault, key))
    if not todo:
        return found
    with Bench(root, jobs) as bench, concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        try:
            bench.baseline(test for fault, _ in todo for test in fault.tests)
            waiting = {pool.submit(bench.judge, fault): (fault, key) for fault, key in todo}
            for done in concurrent.futures.as_completed(waiting):
                fault, key = waiting[done]
                found[fault.row] = answer = done.result()
                if answer.startswith((FOUND, MISSED)):
                    answers.keep(key, answer)
                show(fault, answer)
        except BaseException:  # Ctrl-C too: the tests that run are stopped, no more are started
            bench.__exit__()
            pool.shutdown(cancel_futures=True)
            raise
    return found


def summary(found: dict[str, str]) -> tuple[str, bool]:
    """The last line, and whether enough was found and every row could be tried."""
    count = sum(answer.startswith(FOUND) for answer in found.values())
    tried = all(answer.startswith((FOUND, MISSED)) for answer in found.values())
    share = count / max(1, len(found))
    return f"{count} of {len(found)} found ({share:.0%})", tried and share >= REQUIRED


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="", help="rows with this word in table, text or file")
    parser.add_argument("--jobs", type=int, default=2, help="copies tested at the same time")
    parser.add_argument("--list", action="store_true", help="print the rows, run nothing")
    parser.add_argument("--state", type=Path, help="file that keeps the answers")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops as Ctrl-C does
    faults = [
        fault
        for fault in read_tables()
        if asked.only in " ".join([fault.row, fault.what, fault.file, *fault.tests])
    ]
    if asked.list:
        for fault in faults:
            show(fault, fault.file)
        return 0
    if not faults:
        print(f"no row with {asked.only!r}")
        return 1
    name = hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]
    state = asked.state or Path(tempfile.gettempdir()) / f"mutants-{name}.json"
    line, good = summary(run(ROOT, faults, state, asked.jobs))
    print(line)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
