"""Decoded pictures on disk: made once, on all cores, whole or not at all, and mapped read-only.

A cache is a folder `cache/<label>-<kind>-<key>` of files `*.u8`, the pixels of pictures one after
another; `index.json`, all that is known of them, with sums of each file, which are compared
whenever the cache is opened (gan/container.py); and `skipped.txt`, if pictures were skipped. The
key is a hash of the names, sizes and dates of the files read and of what else the pixels depend
on, so a changed folder gets a new cache. Nothing here imports torch: the worker processes start
in a fraction of a second.
"""

import contextlib
import functools
import hashlib
import itertools
import math
import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from gan import container, filesystem, processes, progress
from gan.console import alarm, detail, say
from gan.errors import Refused, counted, plain
from gan.overview import Overview
from gan.readers import Source
from gan.split import Looks

VERSION = 6  # of the caches' layout and of the decoding; part of the key
END_SECONDS = 5.0  # that a process which decodes may take to end
PORTION = 2048  # pictures decoded ahead of the disk
CHUNK = 16  # of them given to a process at a time
LONGEST_LABEL = 64  # bytes of a source's name in that of its cache: file names end at 255

Item = tuple[str, str]  # a file and what it shows: "A", "B", "AB" (side by side), or ""
Example = tuple[Item, ...]  # what is kept or skipped as one: a pair, or one picture

Argument = TypeVar("Argument")
Result = TypeVar("Result")
Set = TypeVar("Set", bound="DataSet")
Index = TypeVar("Index", bound=Mapping[str, object])  # a TypedDict: what `index.json` holds


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What is known of every opened cache."""

    digest: str  # SHA-256 of all pixels: equal for two data sets with the same pixels
    skipped: dict[str, str]  # file name -> why it is not in the data set
    folder: Path  # of the cache
    overview: Overview | None = None  # what was understood of its files

    @property
    def features_file(self) -> Path:
        """Where features of these pictures are kept."""
        return self.folder / "features.npz"


# --- decoding ------------------------------------------------------------------------------------


class Decoded(NamedTuple):
    """What becomes of an item."""

    pixels: dict[str, bytes]  # for each file of the cache, by its stem
    mode: str  # Pillow's, of the picture as it was
    size: tuple[int, int]  # its width and height, pixels


Decode = Callable[[Item], Decoded]


def attempt(function: Callable[[Argument], Result], argument: Argument) -> Result | str:
    """`function(argument)`, or why it fails as one line: a damaged file must not stop the others.

    Raises MemoryError only.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(argument)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plug-ins raise anything for a damaged file
        return f"{type(error).__name__}: {error}".splitlines()[0]


def start_worker() -> None:
    """What a worker process does first: the parent ends it, also by ending itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])  # a pipe, which the system closes if it is killed
        os._exit(1)


def map_in_processes(
    function: Callable[[Argument], Result], arguments: Sequence[Argument], workers: int
) -> Iterator[Result]:
    """`function` of each argument, in order; in this process if there are fewer than 128."""
    workers = min(workers or os.cpu_count() or 1, len(arguments) // 64)
    if workers <= 1:
        yield from map(function, arguments)
        return
    others, own = set(multiprocessing.active_children()), set[BaseProcess]()
    pool = ProcessPoolExecutor(
        workers, processes.context(), initializer=_start_mapping, initargs=(function,)
    )
    try:
        with processes.closing(pool):
            rest = iter(arguments)
            working: deque[Future[list[Result]]] = deque()
            while True:
                # No more: decoded pictures must not pile up faster than the disk takes them.
                while len(working) < PORTION // CHUNK and (
                    chunk := list(itertools.islice(rest, CHUNK))
                ):
                    working.append(cast("Future[list[Result]]", pool.submit(_map_chunk, chunk)))
                own = own or set(multiprocessing.active_children()) - others
                if not working:
                    return
                yield from working.popleft().result()
    except BrokenProcessPool as error:
        raise Refused(f"a process decoding images {end_of(own)}; try --num-workers=1") from error
    except MemoryError as error:
        raise Refused("out of memory while decoding images; try --num-workers=1") from error


# in a worker: the function, sent once, as it may be large
_mapped: list[Callable[..., object]] = []


def _start_mapping(function: Callable[..., object]) -> None:
    start_worker()
    _mapped.append(function)


def _map_chunk(chunk: Sequence[object]) -> list[object]:
    return [_mapped[0](argument) for argument in chunk]


def end_of(processes: Iterable[BaseProcess]) -> str:
    """What ended the first of these processes, in words: "was ended by SIGSEGV"."""
    for process in processes:
        process.join(END_SECONDS)
    codes = {code for process in processes if (code := process.exitcode)}
    # those that were left are sent SIGTERM: another code is that of the one which ended first
    code = min(codes - {-signal.SIGTERM}, default=-signal.SIGTERM)
    if code == -signal.SIGKILL:
        return "was killed, as systems do when memory runs out"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}, and may have said why above"


def _decode_all(
    decode: Decode, items: Sequence[Item], workers: int, label: str
) -> Iterator[Decoded | str]:
    """`attempt(decode, item)` of each item, in order, with its progress."""
    found = map_in_processes(functools.partial(attempt, decode), items, workers)
    return progress.track(found, f"reading {label}", len(items), "pictures")


# --- writing -------------------------------------------------------------------------------------


@dataclass
class Builder:
    """A cache in the making: files of pixels first, the index last."""

    folder: Path
    source: Source
    shapes: Mapping[str, tuple[int, int, int]]  # [C, H, W] of the pictures of each file, by stem
    workers: int  # processes that decode; 0: one for each core
    skipped: dict[str, str] = field(default_factory=dict)  # file name -> why
    counts: dict[str, int] = field(default_factory=dict)  # pictures written, by stem
    seen: list[tuple[str, str, int, int]] = field(default_factory=list)  # name, mode, width, height

    def path(self, stem: str) -> Path:
        """The file of pixels `stem`.u8."""
        return self.folder / f"{stem}.u8"

    def shape(self, stem: str) -> tuple[int, int, int, int]:
        """[N, C, H, W] of a file that is written."""
        return self.counts[stem], *self.shapes[stem]

    def array(self, stem: str) -> NDArray[np.uint8]:
        """A file that is written, read-only: uint8 [N, C, H, W]."""
        return mapped(self.path(stem), self.shape(stem))

    def write(
        self,
        stems: Sequence[str],
        examples: Sequence[Example],
        decode: Decode,
        label: str = "",
        looks: Looks | None = None,
    ) -> list[Example]:
        """Decode `examples` into the files `stems`; returns the examples that are whole.

        Of an example with a damaged item nothing is written: all its items are in `skipped`.
        `label` is added to the name of the progress bar. `looks` takes in each picture written.
        """
        items = [item for example in examples for item in example]
        decoded = _decode_all(decode, items, self.workers, f"{self.source.label} {label}".strip())
        whole = []
        with contextlib.ExitStack() as stack:
            files = {stem: stack.enter_context(open(self.path(stem), "wb")) for stem in stems}
            for example in examples:
                broken: dict[str, str] = {}
                pixels: dict[str, bytes] = {}
                seen: list[tuple[str, str, int, int]] = []
                for name, _ in example:
                    found = next(decoded)
                    if isinstance(found, str):
                        broken[name] = found
                    else:
                        pixels |= found.pixels
                        seen.append((name, found.mode, *found.size))
                if broken:
                    partner = "its partner cannot be read"
                    self.skipped |= {name: broken.get(name, partner) for name, _ in example}
                    continue
                whole.append(example)
                self.seen += seen
                for stem, picture in pixels.items():
                    files[stem].write(picture)
                    if looks:
                        looks.add(picture)
            next(decoded, None)  # past the last one the progress bar is closed
            for file in files.values():
                filesystem.sync(file)
        self.counts |= dict.fromkeys(stems, len(whole))
        return whole

    def keep(self, stem: str, indices: NDArray[np.int64]) -> None:
        """Drop all pictures of a file but those at `indices`, ascending [n]."""
        pictures = np.memmap(self.path(stem), np.uint8, "r+", shape=self.shape(stem))
        for to, index in enumerate(indices):  # to <= index: nothing is overwritten before it moves
            pictures[to] = pictures[index]
        pictures.flush()
        del pictures  # some systems truncate no file that is mapped
        self.counts[stem] = len(indices)
        os.truncate(self.path(stem), math.prod(self.shape(stem)))

    def digest(self, headers: Mapping[str, str]) -> str:
        """SHA-256 of the files named, in that order, the header of each before its pixels."""
        found = hashlib.sha256()
        for stem, header in headers.items():
            found.update(header.encode())
            with open(self.path(stem), "rb") as file:
                while block := file.read(2**20):
                    found.update(block)
        return found.hexdigest()

    def write_index(self, index: Mapping[str, object], *others: str) -> None:
        """Seal the files of pixels and the `others`; write `skipped.txt` if pictures were skipped.

        The index has the key "skipped" then too.
        """
        parts = [*(self.path(stem).name for stem in self.counts), *others]
        container.seal(self.folder, parts, {**index, "skipped": self.skipped})
        if self.skipped:
            lines = "".join(f"{plain(name)}\t{plain(why)}\n" for name, why in self.skipped.items())
            (self.folder / "skipped.txt").write_text(lines, "utf-8")


# --- opening -------------------------------------------------------------------------------------


def mapped(file: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The file as a read-only array; raises ValueError if it is not of that size."""
    if file.stat().st_size != math.prod(shape):
        raise ValueError(f"{file}: not {math.prod(shape)} bytes")
    if not shape[0]:  # an empty file cannot be mapped
        return np.empty(shape, np.uint8)
    return np.memmap(file, np.uint8, "r", shape=shape)


def _build_in_place(folder: Path, build: Callable[[Path], None]) -> None:
    """`build(a new folder)`, which gets its name when it is whole.

    Raises Refused if somebody deletes it meanwhile.
    """
    try:
        with container.atomic_folder(folder) as part:
            build(part)
    except FileNotFoundError as error:
        if not str(error.filename).startswith(str(folder)):
            raise
        raise Refused(f"{folder}: deleted while it was written; try again") from error


def open_or_build(
    folder: Path, read: Callable[[Path, Index], Set], build: Callable[[Path], None]
) -> Set:
    """`read(folder, its index)`, after `build(a new folder)` unless the cache is there and whole.

    One that is damaged is said to be and built again. Two processes share one build. Raises Refused
    if the cache cannot be read even then.
    """

    def found(say: Callable[[str], object]) -> Set | None:
        try:
            return read(folder, cast("Index", container.opened(folder)))
        except FileNotFoundError:
            return None
        except MemoryError:
            raise
        except Exception as error:  # a foreign index may hold anything
            say(f"data: {folder} is damaged ({plain(str(error))[:100]}); it is built again")
            return None

    data_set = found(lambda line: None)
    if data_set is None:
        with container.building(folder, lambda line: say(f"data: {line}")):
            data_set = found(alarm)  # by another process
            if data_set is None:
                _build_in_place(folder, build)
                data_set = found(lambda line: None)
    if data_set is None:
        raise Refused(f"{folder}: cannot be written or read; delete it and try again")
    detail(f"read: {folder}")
    return data_set


def folder_of(cache: Path, source: Source, kind: str, geometry: str) -> Path:
    """The folder of a cache of `source`; `geometry` says what else the pixels depend on."""
    text = f"{VERSION} {geometry}\n{source.stamp}"
    key = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]
    label = source.label.encode(errors="ignore")[:LONGEST_LABEL].decode(errors="ignore")
    return cache / f"{label}-{kind}-{key}"


def report_skipped(data_set: DataSet, noun: str) -> None:
    """Say how many files, called `noun`, are not in the data set, and where their names are."""
    if skipped := data_set.skipped:
        first = ", ".join(map(plain, itertools.islice(skipped, 5)))
        more = ", ..." if len(skipped) > 5 else ""
        alarm(
            f"data: {counted(len(skipped), noun)} skipped ({first}{more}): "
            f"all with their reasons in {data_set.folder / 'skipped.txt'}"
        )
