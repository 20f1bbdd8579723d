"""`Refused`, the exception for a user's mistake, and the words its messages share."""

import os
from typing import TextIO

LINE = 600  # characters of a message: a value of thousands would fill the screen


class Refused(Exception):
    """A request that cannot be met: one line that names the flag or file and the way out.

    `main.py` prints it and exits with code 2. Nothing that was there before is lost.
    Every other exception is a bug of this program.
    """


def plain(text: str) -> str:
    """The name of a file or of a zip's member, which may hold anything, as one printable line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(text: str, most: int = LINE) -> str:
    """`text` as one printable line of at most `most` characters: the middle of a long one goes."""
    text = plain(text)
    if len(text) <= most:
        return text
    return f"{text[: most // 2]} ... {text[-most // 2 + 5 :]}"


def what_failed(error: Exception) -> str:
    """The kind of an exception and its first words: what foreign code says of a damaged file."""
    first = (str(error).splitlines() or [""])[0]
    return one_line(f"{type(error).__name__}: {first}" if first else type(error).__name__, 120)


def counted(count: int, noun: str) -> str:
    """`count` and `noun`, which takes an s unless there is one: "1 image", "2,000 images"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def coloured(text: str, colour: str, stream: TextIO) -> str:
    """`text` in a colour of termcolor where `stream` is a terminal, unless NO_COLOR is set."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    from termcolor import colored

    return colored(text, colour, force_color=True)
