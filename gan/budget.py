"""How far a run is, how fast it may learn there, and what stops it before its end."""

import contextlib
import math
import os
import signal
import threading
from typing import Any


class Budget:
    """How much of the run is done: the largest of epochs, images and minutes, each of its limit."""

    def __init__(self, config: Any, steps_per_epoch: int) -> None:
        epoch_images = config.max_epoch * steps_per_epoch * config.batch_size
        limits = [limit for limit in (epoch_images, config.max_images) if limit]
        self.images = min(limits, default=0)
        self.seconds = 60 * config.max_minutes

    def fraction(self, images: int, seconds: float) -> float:
        used = ((images, self.images), (seconds, self.seconds))
        return max(done / limit for done, limit in used if limit)


def pace(step: int, fraction: float, warm_up: int, end: float, fall: str = "cosine") -> float:
    """What the learning rates are multiplied by, `fraction` (0 to 1) of the budget spent.

    Up in a line over the first `warm_up` steps; from half of the budget on down to `end`, along a
    cosine (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5) or a line.
    """
    late = min(max(2 * fraction - 1, 0.0), 1.0)
    left = (1 + math.cos(math.pi * late)) / 2 if fall == "cosine" else 1 - late
    return min(1.0, (step + 1) / max(warm_up, 1)) * (end + (1 - end) * left)


class Stop:
    """Within it Ctrl-C, SIGTERM and a closed terminal only set `signal`, and say so.

    A second one acts as it always does.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.before: dict[int, Any] = {}

    def _note(self, number: int, frame: Any) -> None:
        self.signal = number
        self._restore()
        if number == signal.SIGINT:  # not `print`, which may be what was interrupted
            with contextlib.suppress(OSError):
                os.write(2, b"\nsaving; press Ctrl-C again to stop without\n")
        elif number != signal.SIGTERM:  # nobody reads what is written to a closed terminal
            for stream in filter(os.isatty, (1, 2)):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)

    def _restore(self) -> None:
        while self.before:
            signal.signal(*self.before.popitem())

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            closed = getattr(signal, "SIGHUP", signal.SIGTERM)  # Windows has none
            for number in {signal.SIGINT, signal.SIGTERM, closed}:
                if signal.getsignal(number) != signal.SIG_IGN or number != closed:  # nohup
                    self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        self._restore()
