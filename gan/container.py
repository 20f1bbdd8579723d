"""A folder of files that is whole or not there: sealed with sums of each, built by one process.

`index.json` is the seal: what is known of the files, their sizes, the CRC-32 of each of their
blocks, and a SHA-256 of all that. A folder whose files are not those that were sealed is not
opened. Two processes that want the same folder share one build: the second waits. Nothing here
imports torch.

A CRC-32 finds every damage of up to four bytes in a row, and misses one in four billion of the
others, block by block. It takes a third of the time of SHA-256 (benchmarks/verification.py).
"""

import contextlib
import glob
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from gan import filesystem

SEAL = "index.json"
BLOCK = 2**20  # bytes that are summed at once, on each core
EARLIER_BLOCK = 4 * 2**20  # the same, of `earlier_sum`
SPAN = 16  # blocks, one after another, that are read from a file once it is open
MAX_SEAL_BYTES = 2**30  # a million pictures have 100 MB of names

Sum = TypeVar("Sum")

_trusting = False  # see `trusting`


class Damaged(ValueError):
    """What is wrong with a folder, in a few words."""


def _of_blocks(path: Path, size: int, block: int, sum_of: Callable[[bytes], Sum]) -> list[Sum]:
    """`sum_of` each block of the file: all cores share the work."""

    def sum_span(start: int) -> list[Sum]:
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            ends = min(start + SPAN * block, size)
            return [sum_of(file.read(block)) for _ in range(start, ends, block)]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        spans = pool.map(sum_span, range(0, size, SPAN * block))
        return list(itertools.chain.from_iterable(spans))


def sums(path: Path, size: int) -> list[int]:
    """CRC-32 of each block of the file."""
    return _of_blocks(path, size, BLOCK, zlib.crc32)


def earlier_sum(path: Path, size: int) -> str:
    """SHA-256 of the SHA-256s of larger blocks: what folders were sealed with before."""
    blocks = _of_blocks(path, size, EARLIER_BLOCK, lambda data: hashlib.sha256(data).digest())
    return hashlib.sha256(b"".join(blocks)).hexdigest()


def _sum(sealed: Mapping[str, object]) -> str:
    text = json.dumps([sealed["index"], sealed["parts"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def seal(folder: Path, parts: Sequence[str], index: Mapping[str, object]) -> None:
    """Seal the files `parts` of `folder` together with `index`, which JSON can hold."""
    found = {}
    for part in parts:
        size = (folder / part).stat().st_size
        found[part] = {"bytes": size, "crc32": sums(folder / part, size)}
    # through JSON once, so that lists and tuples have the same sum
    sealed = json.loads(json.dumps({"index": index, "parts": found}))
    with open(folder / SEAL, "w", encoding="utf-8") as file:
        json.dump({**sealed, "sha256": _sum(sealed)}, file)
        filesystem.sync(file)


def opened(folder: Path) -> dict[str, object]:
    """The index of a sealed folder, whose files are all what they were; else raises Damaged.

    Raises FileNotFoundError if there is no such folder.
    """
    path = folder / SEAL
    if not path.is_file():
        if folder.is_dir():
            raise Damaged(f"no {SEAL}")
        raise FileNotFoundError(folder)
    if path.stat().st_size > MAX_SEAL_BYTES:
        raise Damaged(SEAL)
    try:
        sealed = json.loads(path.read_bytes())
        index, parts = sealed["index"], sealed["parts"]
        if sealed["sha256"] != _sum(sealed):
            raise Damaged(SEAL)
        expected = {
            str(name): (int(part["bytes"]), part.get("crc32"), part.get("sha256"))
            for name, part in parts.items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise Damaged(SEAL) from None
    for name, (size, crc32, sha256) in expected.items():
        part = folder / name
        if not part.is_file() or part.stat().st_size != size:
            raise Damaged(name)
        if _trusting:
            continue
        earlier = crc32 is None
        if earlier_sum(part, size) != sha256 if earlier else sums(part, size) != crc32:
            raise Damaged(name)
    found: dict[str, object] = index
    return found


@contextlib.contextmanager
def trusting() -> Iterator[None]:
    """Within it the sums of files are not compared: a process of this machine has just done so."""
    global _trusting
    before, _trusting = _trusting, True
    try:
        yield
    finally:
        _trusting = before


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write to, which then becomes `folder`; it is removed if anything is raised.

    If another process makes the same folder meanwhile, theirs is kept.
    """
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process was faster
            os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def building(folder: Path, say: Callable[[str], object]) -> Iterator[None]:
    """Within it no other process builds `folder`; says so, and waits, if one is doing that.

    What a killed build has left is removed. Without file locks both build, and one is kept. So it
    is in a process that decodes for another one, for which it would wait for ever: there a script
    is run again that starts its work without asking whether it is `__main__`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.lock"), "w") as file:
        if multiprocessing.parent_process() is None:
            try:
                locked = filesystem.lock(file)
            except BlockingIOError:
                say(f"another process is making {folder}: waiting for it")
                locked = filesystem.lock(file, wait=True)
            if not locked:
                yield
                return
            for left in folder.parent.glob(f"{glob.escape(folder.name)}.*.part"):
                shutil.rmtree(left, ignore_errors=True)
        yield
