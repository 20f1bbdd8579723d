"""What `prepare` writes: a folder, a zip or WebDataset shards of the pictures kept, and the list.

Everything is written beside its place and then moved there. Nothing here imports torch.
"""

import contextlib
import functools
import hashlib
import io
import os
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from gan.errors import Refused, plain
from gan.intake import Intake
from gan.readers import expanded
from gan.selection import KEPT

SHARD = 10_000  # pictures of a shard
LARGEST_ZIP = 250_000  # pictures: the index of a zip is in memory while it is written
UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"\\|?*#]')

Write = Callable[[str, bytes], None]  # (name, bytes)
Opener = Callable[[Path], contextlib.AbstractContextManager[Write]]


def kind_of(out: str) -> str:
    """ "zip", "shards" or "folder", by the end of the name."""
    suffix = os.path.splitext(out)[1].lower()
    return {".zip": "zip", ".tar": "shards"}.get(suffix, "folder")


def shards_of(out: Path) -> list[Path]:
    """The shards that are there: NAME-000000.tar, ..."""
    return sorted(out.parent.glob(f"{out.stem}-[0-9][0-9][0-9][0-9][0-9][0-9].tar"))


def check_place(out: str, data_path: str, state: Path) -> None:
    """Raises Refused if --out holds what this command has not written, or lies in the input."""
    path = Path(out)
    mine = (state / "state.sqlite").exists()
    there = shards_of(path) if kind_of(out) == "shards" else [path] if path.exists() else []
    if there and path.is_dir() and not any(path.iterdir()):
        there = []
    if there and not mine:
        raise Refused(f"--out={out}: {there[0]} is there already; give another name, or delete it")
    source = expanded(data_path).resolve()
    for place in (path.resolve(), state.resolve()):
        if source in (place, *place.parents):
            raise Refused(f"--out={out}: it would lie in --data-path; give another place")
        if place in source.parents:
            raise Refused(f"--out={out}: --data-path lies in it; give another place")


# --- names ---------------------------------------------------------------------------------------


def safe_name(name: str) -> str:
    """A name of any file or member, as a relative path that every system can write.

    Its suffix becomes part of it: `a/b.jpg` is a/b, `clip.gif/0003` is clip.gif/0003.
    """
    parts = []
    for part in name.replace("\\", "/").split("/"):
        clean = UNSAFE.sub("_", plain(part)).strip(". ")
        if len(clean.encode()) > 120:  # file names end at 255 bytes
            digest = hashlib.sha256(part.encode(errors="surrogateescape")).hexdigest()[:8]
            clean = clean.encode()[:100].decode(errors="ignore") + digest
        parts.append(clean or "_")
    return "/".join(parts[-8:])


def output_names(intake: Intake) -> Iterator[tuple[str, str, int, int]]:
    """The name to write, blob, start and length of each picture kept, in the order of names."""
    taken: set[int] = set()
    rows = intake.db.execute(
        "select name, blob, start, bytes, suffix from pictures where verdict = ? order by name",
        (KEPT,),
    )
    for name, blob, start, count, suffix in rows:
        stem, end = os.path.splitext(name)
        face = end.partition("#")[2]
        base = safe_name(f"{stem}-{face}" if face else stem if 1 < len(end) <= 5 else name)
        final, number = base, 1
        while (key := hash(final.lower())) in taken:  # also where A and a are one
            number += 1
            final = f"{base}-{number}"
        taken.add(key)
        yield f"{final}.{suffix}", blob, start, count


# --- writing -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _folder(part: Path) -> Iterator[Write]:
    part.mkdir()

    def write(name: str, data: bytes) -> None:
        path = part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    yield write


@contextlib.contextmanager
def _zip(part: Path) -> Iterator[Write]:
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        # of one date, so that the same pictures give the same file
        yield lambda name, data: archive.writestr(zipfile.ZipInfo(name), data)


@contextlib.contextmanager
def _shards(part: Path, stem: str) -> Iterator[Write]:
    """WebDataset: a sample is a file whose name is its key, without dots before the suffix."""
    part.mkdir()
    with contextlib.ExitStack() as stack:
        archive: tarfile.TarFile | None = None
        count = 0

        def write(name: str, data: bytes) -> None:
            nonlocal archive, count
            if archive is None or count % SHARD == 0:
                stack.close()
                file = part / f"{stem}-{count // SHARD:06}.tar"
                archive = stack.enter_context(tarfile.open(file, "w"))
            key, suffix = os.path.splitext(name)
            member = tarfile.TarInfo(key.replace(".", "_") + suffix)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
            archive.members.clear()  # type: ignore[attr-defined]  # else it remembers each
            count += 1

        yield write


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def deliver(intake: Intake, out: str) -> int:
    """Write the pictures kept to `out`, in place of what an earlier call wrote; how many.

    Raises Refused for more pictures than a zip takes.
    """
    path, kind = Path(out), kind_of(out)
    count = intake.count("verdict = ?", KEPT)
    if kind == "zip" and count > LARGEST_ZIP:
        raise Refused(
            f"--out={out}: {count:,} pictures, and a zip takes {LARGEST_ZIP:,}; give a folder, or "
            "NAME.tar for shards"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    _remove(part)
    shards = functools.partial(_shards, stem=path.stem)
    openers: dict[str, Opener] = {"folder": _folder, "zip": _zip, "shards": shards}
    with contextlib.ExitStack() as stack:
        blobs: dict[str, io.BufferedReader] = {}
        write = stack.enter_context(openers[kind](part))
        for name, blob, start, length in output_names(intake):
            if blob not in blobs:
                blobs[blob] = stack.enter_context(open(intake.folder / blob, "rb"))
            blobs[blob].seek(start)
            write(name, blobs[blob].read(length))
    if kind == "shards":
        for old in shards_of(path):
            old.unlink()
        for file in sorted(part.iterdir()):
            os.replace(file, path.parent / file.name)
        part.rmdir()
    else:
        _remove(path)
        os.replace(part, path)
    return count


def write_list(intake: Intake, file: Path) -> None:
    """Write a line for each picture: name, verdict, reason and details, with tabs between."""
    part = file.with_name(f"{file.name}.part")
    rows = intake.db.execute("select name, verdict, reason, why from pictures order by name")
    with open(part, "w", encoding="utf-8") as lines:
        for row in rows:
            lines.write("\t".join(map(plain, row)) + "\n")
    os.replace(part, file)
