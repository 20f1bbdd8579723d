"""How far a command is: a bar in a terminal or a notebook, elsewhere a line every 30 seconds.

Nothing here writes a carriage return where there is no terminal. No torch: processes that decode
import this file too.
"""

import contextlib
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import NoReturn, TextIO, TypeVar

from tqdm import tqdm

from gan import console
from gan.errors import counted

LINE_SECONDS = 30.0  # between two lines where there is no terminal
BAR_SECONDS = 0.2  # between two pictures of the bar
DETAIL_SECONDS = 0.2  # what takes less is no detail worth a line
DELAY_SECONDS = 2.0  # what is done sooner is not shown
BAR_WIDTH, NARROW_BAR_WIDTH = 20, 10  # characters; the narrow one in less than WIDE columns
WIDE = 80

Thing = TypeVar("Thing")
Batch = TypeVar("Batch", bound=Sized)


def duration(seconds: float) -> str:
    """A time as one reads it: "40 seconds", "12 minutes", "3 h 20 min", "2 days 5 h"."""
    minutes = round(seconds / 60)
    if seconds < 59.5:
        return counted(round(seconds), "second")
    if minutes < 120:
        return counted(minutes, "minute")
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h" if hours else f"{days} days"


def size(count: float) -> str:
    """A number of bytes as one reads it: "0.4 MB", "62 MB", "1.4 GB"."""
    if count < 9.95e6:
        return f"{count / 1e6:.1f} MB"
    return f"{count / 1e6:.0f} MB" if count < 999.5e6 else f"{count / 1e9:.1f} GB"


def _columns() -> int:
    """How wide the terminal on stderr is; 80 where there is none."""
    return console.columns(sys.stderr) or WIDE


def fitting(parts: Iterable[str], width: int) -> str:
    """As many of `parts` from the first on as fit into `width` characters, with commas between."""
    text = ""
    for part in parts:
        longer = f"{text}, {part}" if text else part
        if len(longer) > width:
            break
        text = longer
    return text


def _kind_of_bar() -> "tuple[type[tqdm[NoReturn]], bool]":
    """The class of bars, and whether it is that of notebooks: in one, if it has ipywidgets."""
    if "ipykernel" not in sys.modules:  # tqdm.auto takes a moment to import
        return tqdm, False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ipywidgets is missing: lines do as well
        from tqdm.auto import tqdm as chosen
    from tqdm.notebook import tqdm_notebook

    return chosen, issubclass(chosen, tqdm_notebook)


class Progress:
    """One thing that takes a while: `name`, and how much of `total` is done.

    `total` is a number of things called `noun`, or a share of 1 if they have no name. It is shown
    after `delay` seconds: as a bar on stderr or in a notebook, elsewhere as lines on `lines`; with
    `--quiet` not at all.
    """

    def __init__(
        self,
        name: str,
        total: float,
        noun: str = "",
        done: float = 0.0,
        delay: float = DELAY_SECONDS,
        lines: TextIO | None = None,
    ) -> None:
        self.name, self.total, self.noun, self.first = name, total, noun, done
        self.delay, self.lines = delay, lines
        self.began = self.shown_at = time.monotonic()
        wide = _columns() >= WIDE
        self.width = BAR_WIDTH if wide else NARROW_BAR_WIDTH
        plain = name.replace("{", "{{").replace("}", "}}")
        kind, self.in_notebook = _kind_of_bar()
        drawn = "{bar}" if self.in_notebook else f"{{bar:{self.width}}}"
        self.bar = kind(
            total=total,
            initial=done,
            # None: no bar where there is no terminal
            disable=console.is_quiet() or (False if self.in_notebook else None),
            leave=False,
            delay=max(delay, 1e-9),  # else it is drawn at once, without a word beside it
            dynamic_ncols=True,
            bar_format=f"{plain}: {{percentage:3.0f}}%|{drawn}| {{desc}}",
        )

    @property
    def has_bar(self) -> bool:
        """Whether there is a terminal or a notebook to draw it in."""
        return not self.bar.disable

    def show(
        self,
        done: float,
        facts: Callable[[], Sequence[str]] = tuple,
        seconds_left: float | None = None,
        at_once: bool = False,
    ) -> None:
        """Show that so much is `done`, if it is time to, with `facts`, the most important first.

        Without `seconds_left` the rest is thought to be as fast as what was done; of an infinite
        time nothing is said.
        """
        now = time.monotonic()
        wait = BAR_SECONDS if self.has_bar else LINE_SECONDS
        if console.is_quiet():
            return
        if not at_once and (now - self.shown_at < wait or now - self.began < self.delay):
            return
        self.shown_at = now
        if seconds_left is None and done > self.first:
            seconds_left = (now - self.began) * (self.total - done) / (done - self.first)
        known = seconds_left is not None and math.isfinite(seconds_left)
        left = [f"{duration(seconds_left or 0)} left"] if known else []
        count = [f"{done:,.0f} of {self.total:,.0f} {self.noun}"] if self.noun else []
        parts = [*count, *left, *facts()]
        if self.has_bar:
            room = _columns() - len(self.name) - self.width - 10
            self.bar.n = min(done, self.total)
            self.bar.set_description_str(fitting(parts, room), refresh=True)
        else:
            share = f"{100 * done / max(self.total, 1e-9):.0f} %"
            print(f"{self.name}: {', '.join([share, *parts])}", file=self.lines or sys.stderr)

    def write(self, text: str, stream: TextIO | None = None) -> None:
        """Print `text` to `stream`, stdout by default, above the bar."""
        stream = stream or sys.stdout
        self.bar.write(console.wrapped(text, stream), file=stream)
        stream.flush()

    def close(self) -> None:
        """Take the bar away; with `--verbose`, say how long that took, if it is worth a line."""
        if self.in_notebook:
            self.bar.n = self.total  # else it stays, in red
        self.bar.clear()  # what was shown by `show`, tqdm itself does not know to clear
        self.bar.close()
        if (seconds := time.monotonic() - self.began) >= DETAIL_SECONDS:
            console.detail(f"{self.name}: {seconds:.2f} s")


@contextlib.contextmanager
def stage(name: str, text: str) -> Iterator[None]:
    """Within it a bar shows that `name` is at `text`, and nobody knows for how long."""
    progress = Progress(name, 1.0, delay=0.0)
    if progress.has_bar:
        progress.show(0.0, lambda: [text], math.inf, at_once=True)
    try:
        yield
    finally:
        progress.close()


def track(things: Iterable[Thing], name: str, total: int, noun: str) -> Iterator[Thing]:
    """`things` one by one, with their progress."""
    return _track(things, name, total, noun, lambda thing: 1)


def track_batches(parts: Iterable[Batch], name: str, total: int, noun: str) -> Iterator[Batch]:
    """The same for batches of `total` things together."""
    return _track(parts, name, total, noun, len)


def _track(
    things: Iterable[Thing], name: str, total: int, noun: str, size_of: Callable[[Thing], int]
) -> Iterator[Thing]:
    progress, done = Progress(name, total, noun), 0
    try:
        for thing in things:
            done, held = done + size_of(thing), [thing]
            del thing  # so that only one is in memory: who iterates has it
            yield held.pop()
            progress.show(done)
    finally:
        progress.close()
