"""Processes that work beside this one, started in a way that no script has to know of."""

import contextlib
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.popen_spawn_posix import Popen

_starting = threading.Lock()


class _Process(SpawnProcess):
    """A spawned process that does not run the user's script again.

    A spawned process imports the script that started its parent, under another name than
    `__main__`. A script that trains without asking for its name would train in each of them;
    Python stops them for it, and all that is seen is that processes died. What runs here are
    functions of this package, which need no script.
    """

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> "Popen":
        with _starting:
            script = sys.modules["__main__"]
            sys.modules["__main__"] = ModuleType("__main__")
            try:
                return SpawnProcess._Popen(process_obj)
            finally:
                sys.modules["__main__"] = script


class _Context(SpawnContext):
    Process = _Process


def context() -> SpawnContext:
    """Spawned, not forked: a fork of a process with torch's threads in it may hang."""
    return _Context()


@contextlib.contextmanager
def closing(pool: ProcessPoolExecutor) -> Iterator[ProcessPoolExecutor]:
    """`pool`, which is shut down afterwards, also if its processes were killed.

    Before Python 3.11.5 that waits for ever for calls which fill the pipe to the processes: nobody
    reads them, but this process could (python/cpython#94777).
    """
    try:
        yield pool
    finally:
        queue = getattr(pool, "_call_queue", None)
        if sys.version_info < (3, 11, 5) and queue is not None and getattr(pool, "_broken", False):
            queue._reader.close()
        pool.shutdown(cancel_futures=True)
