"""The one exception for a user's mistake; everything else that is raised is ours."""


class Refused(Exception):
    """A request that cannot be met: one line that names the flag or file and the way out.

    `main.py` prints it and exits with code 2, before anything has been started or lost.
    """


def plain(text: str) -> str:
    """A name from a disk or a zip, which may hold anything, as one line of plain text."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
