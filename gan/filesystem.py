"""What not every file system can do: sync to the disk, sync a folder, lock a file.

Windows opens no folder; FUSE and SMB sync none; Lustre without `-o flock` and NFS without lockd
lock no file. There a program goes on without, after one warning. Nothing here imports torch.
"""

import errno
import functools
import os
import warnings
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
