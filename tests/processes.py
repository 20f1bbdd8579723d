"""Processes that tests start: they are waited for with a deadline, and gone afterwards."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PATIENCE_SECONDS = 300.0  # for what a process has done long before, unless the machine is busy


@contextlib.contextmanager
def started(
    folder: Path, *command: str, own_session: bool = False
) -> Iterator["subprocess.Popen[str]"]:
    """Python with these words in a process of its own; whatever comes, it is gone afterwards."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=own_session,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)


def wait_until(true: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    """Until `true()`; fails if `process` ends before, or if it takes too long."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        if process is not None and process.poll() is not None:
            raise AssertionError(process.communicate(timeout=PATIENCE_SECONDS))
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether that process runs; one that ended and was not asked for is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
