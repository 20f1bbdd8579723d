"""Files that are whole, and what not every file system can do: sync to the disk, lock a file.

Windows opens no folder; FUSE and SMB sync none; Lustre without `-o flock` and NFS without lockd
lock no file. There a program goes on without, after one warning. Nothing here imports torch.
"""

import contextlib
import errno
import functools
import glob
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# what they answer that cannot do it; EIO and ENOSPC are faults of the disk, and raised
LACKING = {
    errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EACCES,
    errno.EPERM, errno.EISDIR,
}  # fmt: skip
UNSYNCED = "this file system does not sync {}: after a power cut the last save may be missing"
UNLOCKED = (
    "this file system has no file locks: nothing stops a second training of the same name; "
    "start only one"
)


@functools.cache
def _warn_once(text: str) -> None:
    warnings.warn(text, stacklevel=3)


def sync(file: IO[bytes] | IO[str]) -> None:
    """What was written to the file reaches the disk; raises OSError where there is no room."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in LACKING:
            raise
        _warn_once(UNSYNCED.format("files"))


def sync_folder(folder: Path) -> None:
    """The names in the folder reach the disk."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in LACKING:
            raise
        _warn_once(UNSYNCED.format("folders"))


def lock(file: IO[str], *, wait: bool = False) -> bool:
    """Lock the open file until it is closed; False, after a warning, where there are no locks.

    Raises BlockingIOError if another process has locked it, unless it shall `wait` for that one.
    """
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "no fcntl")
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except OSError as error:
        if error.errno not in LACKING:
            raise
        _warn_once(UNLOCKED)
        return False


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(part)` on a file beside `path`, sync it and put it in the place of `path`.

    Whoever reads `path`, at any moment and after a power cut, finds the old or the new file whole.
    What killed processes have left of it is deleted.
    """
    clear_parts(path.parent, glob.escape(path.name))
    write_all({path: write})


def write_all(writes: Mapping[Path, Callable[[Path], object]]) -> None:
    """All files of one folder or none: each is written beside its place before the first moves."""
    parts = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in writes}
    for folder in {path.parent for path in writes}:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        for path, write in writes.items():
            write(parts[path])
            with open(parts[path], "rb+") as file:
                sync(file)
        for path, part in parts.items():
            os.replace(part, path)
    finally:
        for part in parts.values():
            with contextlib.suppress(OSError):  # its folder may be gone; what was raised counts
                part.unlink()
    for folder in {path.parent for path in writes}:
        sync_folder(folder)  # the rename itself has to reach the disk too


def _is_alive(pid: int) -> bool:
    """Whether there is such a process; True where asking would end it."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


def clear_parts(folder: Path, name: str = "*") -> None:
    """Delete what killed processes have left of files that they were writing in `folder`.

    `name` is a pattern of these files.
    """
    for part in folder.glob(f".{name}.*.part"):
        pid = part.name.split(".")[-2]
        if pid.isdecimal() and not _is_alive(int(pid)):
            with contextlib.suppress(OSError):  # somebody else's
                part.unlink(missing_ok=True)
