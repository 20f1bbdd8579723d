"""What the benchmarks share. To import it puts the toolkit on Python's path."""

import inspect
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gan.errors import Refused

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
SCORE = "score"  # the one that runs are compared by
LITE0 = "score (lite0)"  # a part of it, and all of it in lines of earlier versions


def take_flag(name: str, words: Iterable[str]) -> tuple[list[str], str]:
    """The words without `--name=value`, and the value; "" if it is not among them."""
    prefix = f"--{name}="
    kept: list[str] = []
    value = ""
    for word in words:
        if word.startswith(prefix):
            value = word.removeprefix(prefix)
        else:
            kept.append(word)
    return kept, value


def row(cells: Iterable[object]) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def print_row(cells: Iterable[object]) -> None:
    """Print one row of a Markdown table."""
    print(row(cells), flush=True)


def print_header(names: list[str]) -> None:
    """The first two rows of a Markdown table."""
    print_row(names)
    print("|" + "---|" * len(names))


def seconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def run(main: Callable[..., None]) -> None:
    """Call `main` with the words of the command line; its module's text if they do not fit."""
    try:
        inspect.signature(main).bind(*sys.argv[1:])
    except TypeError:
        sys.exit(main.__globals__["__doc__"])
    try:
        main(*sys.argv[1:])
    except Refused as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
