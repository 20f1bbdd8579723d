"""What a training writes besides its states: none of it may stop the training or make it wait.

A full disk, a folder that is gone or read-only: what cannot be written is said once, kept where
that costs little, and tried again with the next write. No threads: a writer that lives in a thread
of its own dies there, and whoever feeds its queue waits for ever.
"""

import contextlib
import errno
import itertools
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KEPT_LINES = 10_000  # of a log that cannot be written now: about 3 MB

_files = itertools.count()  # of curves in this process: each has a name of its own


def reason_of(error: OSError) -> str:
    """Why a file cannot be written: `No space left on device`."""
    return error.strerror or str(error) or type(error).__name__


class Spare:
    """Writes that a training can do without. `say` prints a line."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self.say = say
        self.failing: set[str] = set()

    def attempt(self, what: str, write: Callable[[], object]) -> bool:
        """Whether `write()` raised no OSError; the first failure of `what`, and its end, are said.

        `what` is a plural: "previews".
        """
        try:
            write()
        except OSError as error:
            if what not in self.failing:
                self.failing.add(what)
                where = f" ({error.filename})" if error.filename else ""
                self.say(
                    f"{what} cannot be written: {reason_of(error)}{where}; the training goes on "
                    "and tries again with the next"
                )
            return False
        if what in self.failing:
            self.failing.remove(what)
            self.say(f"{what} are written again")
        return True


class LogFile:
    """Lines at the end of a file; those that cannot be written now are written with the next."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting: deque[str] = deque(maxlen=KEPT_LINES)

    def add(self, line: str) -> None:
        """Append `line`; raises OSError if it has to wait. The file never ends in half a line."""
        self.waiting.append(line)
        data = "".join(self.waiting).encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                if file.write(data) != len(data):  # the disk became full on the way
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(size)
                raise
        self.waiting.clear()


class Curves:
    """TensorBoard's events in `folder`, against `step`; what is of `purge` or later is hidden.

    After a failure they go on in a new file, since nothing can be read behind half an event. Every
    method may raise OSError; the event is lost then.
    """

    def __init__(self, folder: Path, purge: int | None) -> None:
        self.folder, self.purge = folder, purge
        self.writer: EventsWriter | None = None

    def _open(self) -> EventsWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        suffix = f".{os.getpid()}.{next(_files)}"
        writer = EventsWriter(str(self.folder / "events"), suffix)
        try:
            if self.purge is not None:
                writer.write_event(Event(step=self.purge, file_version="brain.Event:2"))
                start = SessionLog(status=SessionLog.START)
                writer.write_event(Event(step=self.purge, session_log=start))
            writer.flush()
        except OSError:
            for empty in self.folder.glob(f"events.out.tfevents.*{suffix}"):
                empty.unlink()
            raise
        self.purge = None
        return writer

    def _add(self, found: object, step: int) -> None:
        if not self.folder.exists():  # deleted, with the file
            self.close()
        try:
            self.writer = self.writer or self._open()
            self.writer.write_event(Event(summary=found, step=step, wall_time=time.time()))
            self.writer.flush()
        except OSError:
            self.close()
            raise

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self._add(summary.scalar(name, value), step)

    def add_image(self, name: str, image: "NDArray[np.uint8]", step: int) -> None:
        """`image` is [3, H, W]."""
        self._add(summary.image(name, image), step)

    def add_text(self, name: str, text: str, step: int) -> None:
        """`text` is Markdown."""
        self._add(summary.text(name, text), step)

    def close(self) -> None:
        """Close the file, whatever its disk says; the next event opens another one."""
        writer, self.writer = self.writer, None
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.close()
