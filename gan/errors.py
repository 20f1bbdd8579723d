"""`Refused`, the exception for a user's mistake, and the words its messages share."""


class Refused(Exception):
    """A request that cannot be met: one line that names the flag or file and the way out.

    `main.py` prints it and exits with code 2. Nothing that was there before is lost.
    Every other exception is a bug of this program.
    """


def plain(text: str) -> str:
    """The name of a file or of a zip's member, which may hold anything, as one printable line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def counted(count: int, noun: str) -> str:
    """`count` and `noun`, which takes an s unless there is one: "1 image", "2,000 images"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
