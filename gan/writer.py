"""A thread that writes one thing while the training goes on.

It prints nothing, and nobody feeds it: it is started for one write, and what became of that is
learned where the training asks.
"""

import threading
from collections.abc import Callable

Write = Callable[[], object]
Then = Callable[[OSError | None], object]


class Writer:
    """One write in flight at most."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._then: Then | None = None  # of the write that is not settled
        self._error: BaseException | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a write is not settled yet."""
        return self._then is not None

    def start(self, write: Write, then: Then) -> None:
        """Call `write()` in a thread, after the write before this one is settled.

        `settle` will call `then` with the OSError that it raised, or None.
        """
        self.settle(wait=True)
        self._then, self._error = then, None
        # a daemon: if its disk never answers, one more Ctrl-C ends the program
        thread = threading.Thread(target=self._run, args=(write,), name="writer", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # this system has no thread left
            self._run(write)
        else:
            self._thread = thread

    def _run(self, write: Write) -> None:
        try:
            write()
        except BaseException as error:  # raised again by `settle`
            self._error = error

    def settle(self, *, wait: bool) -> None:
        """Call `then` of the write that has ended, in this thread; with `wait` it is waited for.

        Raises what the write raised, unless that is an OSError.
        """
        then, thread = self._then, self._thread
        if then is None or (thread is not None and not wait and thread.is_alive()):
            return
        if thread is not None:
            thread.join()
        self._then = self._thread = None
        if self._error is not None and not isinstance(self._error, OSError):
            raise self._error
        then(self._error)
