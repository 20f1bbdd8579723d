"""The toolkit from Python: `import facegan; run = facegan.load("mine"); run.draw(64)`.

As a package it brings the files of the checkout along in its own folder `toolkit`, under the names
that they have there, so that `import config` means nothing else in other programs until then.
"""

import sys
from pathlib import Path

_here = Path(__file__).resolve().parent
_home = _here / "toolkit" if (_here / "toolkit").is_dir() else _here.parent  # else a checkout
if str(_home) not in sys.path:
    sys.path.insert(0, str(_home))

from facegan.api import Run, load, train  # noqa: E402
from gan.errors import Refused  # noqa: E402

__all__ = ["Refused", "Run", "load", "main", "train"]


def main() -> None:
    """The command line, as `python main.py` in a checkout."""
    from main import main as command_line

    command_line()
