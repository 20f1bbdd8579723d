"""The one exception for a user's mistake; everything else that is raised is ours."""


class Refused(Exception):
    """A request that cannot be met: one line that names the flag or file and the way out.

    `main.py` prints it and exits with code 2, before anything has been started or lost.
    """
