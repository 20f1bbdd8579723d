"""Whether this process is one of a job that torchrun has started, by its environment alone.

What the processes of a job exchange is in gan/distributed.py. Nothing here imports torch.
"""

import os
import sys
from typing import TextIO

from gan.errors import Refused

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")  # that torchrun sets


class Left(Refused):
    """A process of the job has left, or does not answer: the others cannot go on."""


class Alone(Refused):
    """What stops this process, and the others know nothing of, such as memory that ran out."""


def is_job() -> bool:
    """Whether there are other processes that train the same run."""
    return all(map(os.environ.get, VARIABLES)) and os.environ["WORLD_SIZE"] != "1"


def is_first() -> bool:
    """Whether this process is the one that reads, writes and prints."""
    return not is_job() or os.environ["RANK"] == "0"


def where() -> str:
    """Which process of a job this is, to begin a line with; "" for one without others."""
    return f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']}: " if is_job() else ""


def attempt() -> int:
    """How often torchrun has started this job again, after it lost a process."""
    text = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return int(text) if text.isdecimal() else 0


def voice_for(error: Exception) -> TextIO | None:
    """Where this process prints `error`: the first one does, once for all.

    If one has left, that may be the first: then one process of each machine does. What stops one
    `Alone` that one says.
    """
    if is_first():
        return sys.stderr
    heard = isinstance(error, Left) and os.environ["LOCAL_RANK"] == "0"
    return sys.__stderr__ if heard or isinstance(error, Alone) else None
