"""The state of `prepare`: every file of the input, and what was made of it, on disk.

A folder with `state.sqlite`, a row for each unit of the input and for each picture, and `*.bin`,
the bytes of the pictures made, one after another. Processes examine units and write the bytes; this
one commits what they report, so that whenever it is stopped the same command goes on. Nothing is
kept in memory for each file. Nothing here imports torch.
"""

import contextlib
import functools
import itertools
import json
import multiprocessing
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from gan import depth, examine, processes, progress, unpack
from gan.cache import end_of, start_worker
from gan.console import say
from gan.depth import Extrema, Ranges
from gan.errors import Refused, plain
from gan.examine import Made, Note, Treatment, Unusable
from gan.readers import expanded
from gan.unpack import Unit

VERSION = 1  # of the state and of what is made of a picture
PAGE = 4096  # units read from the state at a time
TASK_BYTES = 4 * 2**20  # of files given to a process at a time
TASK_UNITS = 32
MISSING = "needs a package"
NEW, DONE, DEEP, LACKING = range(4)  # of a unit; DEEP: its values have no range yet
SCHEMA = """
create table if not exists meta (key text primary key, value text);
create table if not exists units (
  key text primary key, path text, start int, stop int, stamp text, bytes int, seen int, done int);
create index if not exists units_done on units (done);
create table if not exists extrema (unit text, kind text, low real, high real);
create table if not exists pictures (
  id integer primary key, unit text, name text, side int, width int, height int, kind text,
  detail text, notes text, blob text, start int, bytes int, suffix text, signature blob,
  verdict text, reason text, why text, cluster int);
create index if not exists pictures_unit on pictures (unit);
create index if not exists pictures_name on pictures (name);
create index if not exists pictures_verdict on pictures (verdict, reason);
"""
INSERT = (
    "insert into pictures (unit, name, side, width, height, kind, detail, notes, blob, start,"
    " bytes, suffix, signature) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)

Row = tuple[object, ...]  # of INSERT


def _is_text(value: object) -> bool:
    """Whether UTF-8 can hold it; of a file's name that is no text, Python makes surrogates."""
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
    return True


class _Names(sqlite3.Connection):
    """A database whose texts may be names of files: of any bytes, and kept as those."""

    def execute(self, sql: str, values: Sequence[object] = ()) -> sqlite3.Cursor:  # type: ignore[override]
        """The same; `sql` has a ? for each value and no other."""
        if all(map(_is_text, values)):
            return super().execute(sql, values)
        marks = ["?" if _is_text(value) else "cast(? as text)" for value in values]
        parts = sql.split("?")
        bound = [
            value if _is_text(value) else str(value).encode("utf-8", "surrogateescape")
            for value in values
        ]
        woven = "".join(itertools.chain(*zip(parts, [*marks, ""], strict=True)))
        return super().execute(woven, bound)

    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> None:  # type: ignore[override]
        """The same, a page of rows at a time."""
        left = iter(rows)
        while page := list(itertools.islice(left, PAGE)):
            if all(_is_text(value) for row in page for value in row):
                super().executemany(sql, page)
            else:
                for row in page:
                    self.execute(sql, row)


class Report(NamedTuple):
    """What a process found in a unit."""

    key: str
    done: int  # DONE, DEEP or LACKING
    rows: list[Row]
    extrema: list[Extrema]


# --- in the processes ----------------------------------------------------------------------------


@dataclass
class Examiner:
    """Examines units; its pictures go to a file of its own."""

    folder: Path
    data_path: str
    treatment: Treatment
    every: float
    ranges: Ranges
    name: str = ""
    rows: list[Row] = field(default_factory=list)
    extrema: list[Extrema] = field(default_factory=list)

    def __post_init__(self) -> None:
        stem = f"{os.getpid()}"
        taken = len(list(self.folder.glob(f"{stem}-*.bin")))
        self.name = f"{stem}-{taken}.bin"
        self.file = open(self.folder / self.name, "ab")  # noqa: SIM115

    def examine(self, unit: Unit) -> Report:
        """All that is in a unit."""
        self.rows, self.extrema = [], []
        done = DONE
        try:
            for name, content in unpack.read_unit(self.data_path, unit, self.every):
                self._look_at(unit.key, plain(name), content)
        except unpack.Missing as error:
            done = LACKING
            self._skip(unit.key, unit.path or self.data_path, (MISSING, str(error)))
        self.file.flush()
        if self.extrema:
            return Report(unit.key, DEEP, [], self.extrema)
        return Report(unit.key, done, self.rows, [])

    def _look_at(self, key: str, name: str, content: unpack.Content) -> None:
        notes: list[Note] = []
        try:
            if isinstance(content, Exception):
                raise Unusable(examine.DAMAGED, str(content))
            if isinstance(content, Image.Image):
                self._add(key, name, content.convert("RGB"), [], (b"", ""))
                return
            with examine.open_picture(content) as picture:
                named = not unpack.is_table(key)  # rows have no suffix
                notes = examine.suffix_note(name, picture) if named else []
                if unpack.is_animated(picture):
                    self._look_at_frames(key, name, picture, notes)
                    return
                if self._is_deferred(picture):
                    return
                if depth.kind_of(picture):
                    notes.append((examine.DEEP, depth.kind_of(picture)))
                suffix = examine.keeps_bytes(picture)
                upright = examine.decode(picture, self.ranges)
                self._add(key, name, upright, notes, (content, suffix))
        except Unusable as error:
            self._skip(key, name, (error.args[0], error.args[1]), notes)
        except MemoryError:
            self._skip(key, name, (examine.BOMB, "too large for the memory"), notes)

    def _look_at_frames(self, key: str, name: str, picture: Image.Image, notes: list[Note]) -> None:
        count = getattr(picture, "n_frames", 1)
        notes = [*notes, (examine.ANIMATED, f"{count:,} frames")]
        try:
            for index, frame in unpack.frames_of(picture, self.every):
                self._add(key, f"{name}/{index:04}", examine.decode(frame), notes, (b"", ""))
        except (OSError, ValueError, EOFError) as error:
            raise Unusable(examine.DAMAGED, str(error)) from None

    def _is_deferred(self, picture: Image.Image) -> bool:
        """Whether it has more than 8 bits and its set has no range yet; its values are noted."""
        kind = depth.kind_of(picture)
        if not kind or kind in self.ranges:
            return False
        extrema = depth.extrema_of(picture)
        if extrema is None:
            return False  # decoding says why
        self.extrema.append(extrema)
        return True

    def _add(
        self,
        key: str,
        name: str,
        picture: Image.Image,
        notes: list[Note],
        original: tuple[bytes, str],
    ) -> None:
        for made in examine.make(picture, self.treatment, original):
            self._write(key, f"{name}#{made.face + 1}" if made.face else name, made, notes)

    def _write(self, key: str, name: str, made: Made, notes: list[Note]) -> None:
        start = self.file.tell()
        self.file.write(made.data)
        kind, detail = made.fault or ("", "")
        told = json.dumps([*notes, *made.notes])
        place = (self.name, start, len(made.data), made.suffix, made.signature)
        self.rows.append((key, name, made.side, *made.size, kind, detail, told, *place))

    def _skip(self, key: str, name: str, fault: Note, notes: Sequence[Note] = ()) -> None:
        told = json.dumps(list(notes))
        self.rows.append((key, name, 0, 0, 0, *fault, told, "", 0, 0, "", b""))


_examiner: Examiner | None = None  # of a process


def _start_process(make: functools.partial[Examiner]) -> None:
    global _examiner
    start_worker()
    _examiner = make()


def _examine(units: list[Unit]) -> list[Report]:
    assert _examiner is not None
    return [_examiner.examine(unit) for unit in units]


# --- the state -----------------------------------------------------------------------------------


class Intake:
    """The state of a preparation in `folder`, made if it is not there."""

    def __init__(
        self,
        folder: Path,
        data_path: str,
        treatment: Treatment,
        every: float,
        value_range: str = "",
    ) -> None:
        self.folder, self.data_path = folder, data_path
        self.treatment, self.every = treatment, every
        self.given_range = depth.parse_range(value_range)
        self.ranges: Ranges = depth.NO_RANGES
        folder.mkdir(parents=True, exist_ok=True)
        self.connect()
        where = str(expanded(data_path).resolve())
        told = json.dumps([VERSION, where, asdict(treatment), every, self.given_range])
        if self.get("treatment") not in ("", told):
            say("prepare: other settings than the time before: everything is examined anew")
            self.db.close()
            clear(folder)
            self.connect()
        self.put("treatment", told)

    def connect(self) -> None:
        """Open the state; raises Refused if another process has it, or it is damaged."""
        try:
            self.db = sqlite3.connect(
                self.folder / "state.sqlite", timeout=1, isolation_level=None, factory=_Names
            )
            self.db.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
            self.db.execute("pragma locking_mode=exclusive")
            self.db.execute("pragma journal_mode=wal")
            self.db.execute("pragma synchronous=normal")
            self.db.executescript(SCHEMA)
            self.db.execute("begin immediate")
            self.db.execute("commit")
        except sqlite3.OperationalError as error:
            raise Refused(f"{self.folder}: another prepare is at work there ({error})") from None
        except sqlite3.DatabaseError as error:
            raise Refused(f"{self.folder}: damaged ({error}); delete it, and start anew") from None

    def close(self) -> None:
        """Let another process have the state."""
        self.db.close()

    def get(self, key: str) -> str:
        """A note in the state; "" if it is not there."""
        found = self.db.execute("select value from meta where key = ?", (key,)).fetchone()
        return str(found[0]) if found else ""

    def put(self, key: str, value: str) -> None:
        self.db.execute("insert or replace into meta values (?, ?)", (key, value))

    def count(self, condition: str, *values: object) -> int:
        """How many pictures there are."""
        row = self.db.execute(f"select count(*) from pictures where {condition}", values).fetchone()
        return int(row[0])

    # --- listing

    def list_units(self) -> None:
        """Write a row for each unit; forget what is no longer there or has changed."""
        run = int(self.get("run") or 0) + 1
        self.db.execute("begin")
        self.db.execute("delete from pictures where kind = ?", (MISSING,))
        deep = "select key from units where done = ?"
        self.db.execute(f"delete from extrema where unit in ({deep})", (DEEP,))
        self.db.execute("update units set done = ? where done in (?, ?)", (NEW, DEEP, LACKING))
        for unit, stamp, size in unpack.find_units(self.data_path):
            known = self.db.execute("select stamp from units where key = ?", (unit.key,)).fetchone()
            if known and known[0] == stamp:
                self.db.execute("update units set seen = ? where key = ?", (run, unit.key))
                continue
            for table in ("pictures", "extrema"):
                self.db.execute(f"delete from {table} where unit = ?", (unit.key,))
            row = (unit.key, *unit, stamp, size, run, NEW)
            self.db.execute("insert or replace into units values (?, ?, ?, ?, ?, ?, ?, ?)", row)
        gone = "select key from units where seen != ?"
        for table in ("pictures", "extrema"):
            self.db.execute(f"delete from {table} where unit in ({gone})", (run,))
        self.db.execute("delete from units where seen != ?", (run,))
        self.put("run", str(run))
        self.db.execute("commit")

    def _tasks(self) -> Iterator[list[Unit]]:
        """The units that are not done, in tasks for the processes."""
        last = ("", -1)
        while True:
            page = self.db.execute(
                "select path, start, stop, bytes from units"
                " where done = ? and (path, start) > (?, ?) order by path, start limit ?",
                (NEW, *last, PAGE),
            ).fetchall()
            if not page:
                return
            last = page[-1][0], page[-1][1]
            task: list[Unit] = []
            held = 0
            for path, start, stop, count in page:
                task.append(Unit(path, start, stop))
                held += count
                if held >= TASK_BYTES or len(task) >= TASK_UNITS:
                    yield task
                    task, held = [], 0
            if task:
                yield task

    # --- examining

    def examine(self, workers: int) -> list[str]:
        """Examine what is not done yet; returns a line for each kind of deep pictures.

        They are examined when the range of their values over the whole input is known, and again
        if more files have changed it.
        """
        if self.given_range:
            kinds = ("16-bit", "32-bit", "float")
            self.ranges = {depth.COLOUR: (0, 255), **dict.fromkeys(kinds, self.given_range)}
        self._examine_all(workers)
        found = self.db.execute(
            "select kind, count(*), min(low), max(high) from extrema group by kind"
        ).fetchall()
        ranges = {kind: depth.range_of(kind, low, high) for kind, _, low, high in found}
        if ranges:
            self._examine_deep(workers, ranges)
        return [
            depth.line_of(kind, count, low, high, ranges[kind])
            for kind, count, low, high in found
            if kind != depth.COLOUR
        ]

    def _examine_deep(self, workers: int, ranges: Ranges) -> None:
        told = json.dumps(sorted(ranges.items()))
        self.db.execute("begin")
        if self.get("ranges") != told:
            units = "select unit from extrema"
            self.db.execute(f"delete from pictures where unit in ({units})")
            self.db.execute(f"update units set done = ? where key in ({units})", (NEW,))
            self.put("ranges", told)
        self.db.execute("update units set done = ? where done = ?", (NEW, DEEP))
        self.db.execute("commit")
        self.ranges = ranges
        self._examine_all(workers)

    def _examine_all(self, workers: int) -> None:
        total, done = self.db.execute(
            "select coalesce(sum(bytes), 0), coalesce(sum(bytes * (done != ?)), 0) from units",
            (NEW,),
        ).fetchone()
        make = functools.partial(
            Examiner, self.folder, self.data_path, self.treatment, self.every, self.ranges
        )
        with contextlib.closing(progress.Progress("examining", total, done=done)) as shown:
            for reports in _in_processes(make, self._tasks(), workers or os.cpu_count() or 1):
                done += self._commit(reports)
                shown.show(done, functools.partial(_in_bytes, done, total))

    def _commit(self, reports: list[Report]) -> int:
        """Write what was found; returns the bytes of the units."""
        self.db.execute("begin")
        bytes_done = 0
        for key, done, rows, extrema in reports:
            self.db.executemany(INSERT, rows)
            self.db.executemany(
                "insert into extrema values (?, ?, ?, ?)", [(key, *one) for one in extrema]
            )
            self.db.execute("update units set done = ? where key = ?", (done, key))
            found = self.db.execute("select bytes from units where key = ?", (key,)).fetchone()
            bytes_done += int(found[0])
        self.db.execute("commit")
        return bytes_done

    def read(self, blob: str, start: int, count: int) -> bytes:
        """The bytes of a picture."""
        with open(self.folder / blob, "rb") as file:
            file.seek(start)
            return file.read(count)


def _in_bytes(done: int, total: int) -> list[str]:
    return [f"{progress.size(done)} of {progress.size(total)}"]


def clear(folder: Path) -> None:
    """Delete a state; nothing else is in its folder."""
    for file in itertools.chain(folder.glob("state.sqlite*"), folder.glob("*.bin")):
        file.unlink()


def _in_processes(
    make: functools.partial[Examiner], tasks: Iterator[list[Unit]], workers: int
) -> Iterator[list[Report]]:
    """The reports of all tasks, as they come; in this process if `workers` is 1.

    Raises Refused, and says how, if a process was ended.
    """
    first = list(itertools.islice(tasks, 2))
    tasks = itertools.chain(first, tasks)
    if workers == 1 or len(first) < 2:
        examiner = make()
        for task in tasks:
            yield [examiner.examine(unit) for unit in task]
        examiner.file.close()
        return
    pool = ProcessPoolExecutor(
        workers, processes.context(), initializer=_start_process, initargs=(make,)
    )
    working: dict[Future[list[Report]], list[Unit]] = {}
    others, own = set(multiprocessing.active_children()), set[BaseProcess]()
    try:
        with processes.closing(pool):
            for task in tasks:
                working[pool.submit(_examine, task)] = task
                own |= set(multiprocessing.active_children()) - others
                while len(working) >= 2 * workers:
                    yield from _finished(working)
            while working:
                yield from _finished(working)
    except BrokenProcessPool:
        units = ", ".join(plain(unit.key) for task in working.values() for unit in task[:2])
        raise Refused(
            f"prepare: a process {end_of(own)}, at one of {units[:300]}; the same command goes on, "
            "with --num-workers=1 at less memory"
        ) from None


def _finished(working: dict[Future[list[Report]], list[Unit]]) -> Iterator[list[Report]]:
    """The reports of those that are done; they are no longer in `working`."""
    done, _ = wait(working, return_when=FIRST_COMPLETED)
    for future in done:
        reports = future.result()
        del working[future]
        yield reports
