"""Processes that work beside this one, started in a way that no script has to know of."""

import sys
import threading
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
