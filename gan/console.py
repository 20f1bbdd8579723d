"""What a command says, and how much of it is wanted.

`--quiet` leaves alarms and the paths of results, `--verbose` adds details: what was read from
where, and how long things took. Refusals are always printed. No torch: processes that decode
import this file too.
"""

import contextlib
import os
import shlex
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TextIO

from gan.errors import coloured

GAP = 2  # characters between two columns of a table
LEAST_COLUMNS = 4  # of a table that a narrow terminal shows
Column = list[list[str]]  # cells, each of one or more lines
QUIET, NORMAL, VERBOSE = "--quiet", "", "--verbose"  # as a child process is told


class _Level:
    """How much is said; one for the process, as there is one terminal."""

    now: str = NORMAL


_level: Final = _Level()


def set_level(level: str) -> None:
    """Say as much as QUIET, NORMAL or VERBOSE from now on."""
    _level.now = level


def level() -> str:
    return _level.now


def is_quiet() -> bool:
    return _level.now == QUIET


def columns(stream: TextIO) -> int:
    """How wide the terminal is that `stream` is; 0 where it is none."""
    try:
        return os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
    except (OSError, ValueError, AttributeError):
        return 0


def wrapped(text: str, stream: TextIO) -> str:
    """A line as `stream` shows it: in a terminal it goes on below, cut between words.

    A table stays as it is, and so does a line with a command in it, which may be copied.
    """
    width = columns(stream)
    if not 0 < width < len(text) or "\n" in text or program() in text:
        return text
    return wrap(text, width)


def wrap(text: str, width: int) -> str:
    """`text` in lines at most `width` wide, all but the first indented; no word is cut."""
    return "\n".join(
        textwrap.wrap(
            text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
    )


def say_table(rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout, no wider than a terminal that stdout is, unless `--quiet`."""
    say(format_table(rows, columns(sys.stdout)))


def format_table(rows: Sequence[Sequence[str]], width: int = 0) -> str:
    """Rows of equal length, the first one the heads, as text at most `width` wide; 0: no limit.

    Where there is too little room, heads go on below, then the last columns are left out, then
    the first column goes on below too; nothing is cut in a word.
    """
    columns: list[Column] = [[[text] for text in column] for column in zip(*rows, strict=True)]
    if not 0 < width < _width(columns):
        return _text(columns)
    for column in columns:
        column[0] = _folded(column[0][0], max(len(text) for cell in column[1:] for text in cell))
    left_out: list[str] = []
    while len(columns) > LEAST_COLUMNS and _width(columns) > width:
        left_out.insert(0, " ".join(columns.pop()[0]))
    if (over := _width(columns) - width) > 0:
        first = max(len(text) for cell in columns[0] for text in cell)
        columns[0] = [_folded(" ".join(cell), first - over) for cell in columns[0]]
    if left_out:
        return f"{_text(columns)}\n{wrap('only on the page: ' + ', '.join(left_out), width)}"
    return _text(columns)


def _folded(text: str, width: int) -> list[str]:
    """The words of `text` in lines at most `width` wide, unless a word is wider."""
    width = max([width, *map(len, text.split())])
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _width(columns: Sequence[Column]) -> int:
    widths = [max(len(text) for cell in column for text in cell) for column in columns]
    return sum(widths) + GAP * (len(columns) - 1)


def _text(columns: Sequence[Column]) -> str:
    """Each column as wide as its widest line; heads stand on the row below them."""
    widths = [max(len(text) for cell in column for text in cell) for column in columns]
    lines = []
    for row, cells in enumerate(zip(*columns, strict=True)):
        height = max(map(len, cells))
        blank = [[""] * (height - len(cell)) for cell in cells]
        full = [
            gap + cell if row == 0 else cell + gap for cell, gap in zip(cells, blank, strict=True)
        ]
        for line in zip(*full, strict=True):
            padded = (text.ljust(width) for text, width in zip(line, widths, strict=True))
            lines.append((" " * GAP).join(padded).rstrip())
    return "\n".join(lines)


def say(text: str) -> None:
    """Print a line to stdout, unless `--quiet`."""
    if not is_quiet():
        print(wrapped(text, sys.stdout), flush=True)


def detail(text: str) -> None:
    """Print a line to stdout if `--verbose`."""
    if _level.now == VERBOSE:
        say(text)


def result(text: str, *paths: object) -> None:
    """Print a line about what was made; with `--quiet` its `paths` alone, for scripts."""
    print("\n".join(map(str, paths)) if is_quiet() else wrapped(text, sys.stdout), flush=True)


def alarm(text: str) -> None:
    """Print a line to stderr, in yellow where that is a terminal."""
    text = wrapped(text, sys.stderr)
    print(coloured(text, "yellow", sys.stderr), file=sys.stderr, flush=True)


def refuse(text: str, voice: TextIO) -> None:
    """Print why nothing was done to `voice`, which is stderr, in red where that is a terminal."""
    line = wrapped(f"{program().split()[-1]}: {text}", voice)
    print(coloured(line, "red", voice), file=voice, flush=True)


def shown(what: object) -> str:
    """A path or a command, in colour where stdout is a terminal."""
    return coloured(str(what), "cyan", sys.stdout)


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """With `--verbose`, print `what` was done within it and how many seconds that took."""
    began = time.monotonic()
    yield
    detail(f"{what}: {time.monotonic() - began:.2f} s")


def program() -> str:
    """How this program is called: "facegan" where that is installed, else "python main.py"."""
    installed = Path(__file__).resolve().parent.parent.name == "toolkit"
    by_name = Path(sys.argv[0]).stem == "facegan"
    return "facegan" if installed or by_name else "python main.py"


def command_line(command: str, *words: str) -> str:
    """What to type for `command` with these words."""
    return " ".join([program(), command, *(shlex.quote(word) for word in words if word)])
