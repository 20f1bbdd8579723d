"""File systems and platforms that cannot do everything: a training starts, warns once, goes on."""

import errno
import importlib
import os
import signal
import stat
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from conftest import TINY, refused
from processes import PATIENCE_SECONDS

from commands import compare_jobs
from gan import checkpoint, filesystem

Inside = Callable[..., None]
Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def nothing_said() -> Iterator[None]:
    filesystem._warn_once.cache_clear()
    yield
    filesystem._warn_once.cache_clear()


def is_folder(handle: int) -> bool:
    return stat.S_ISDIR(os.fstat(handle).st_mode)


def windows(patch: Patch) -> None:
    """No folder can be opened, and there is no fcntl."""
    opened = os.open

    def refusing(path: str, *rest: int, **more: int) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *rest, **more)

    patch.setattr(os, "open", refusing)
    patch.setattr(filesystem, "fcntl", None)


def unsynced_folders(patch: Patch, number: int) -> None:
    synced = os.fsync

    def refusing(handle: int) -> None:
        if is_folder(handle):
            raise OSError(number, os.strerror(number))
        synced(handle)

    patch.setattr(os, "fsync", refusing)


def unsynced(patch: Patch, number: int) -> None:
    def refusing(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    patch.setattr(os, "fsync", refusing)


def unlocked(patch: Patch, number: int) -> None:
    def refusing(file: object, how: int) -> None:
        raise OSError(number, os.strerror(number))

    patch.setattr(filesystem.fcntl, "flock", refusing)


FOLDERS, FILES = filesystem.UNSYNCED.format("folders"), filesystem.UNSYNCED.format("files")
ELSEWHERE: dict[str, tuple[Callable[[Patch], None], set[str]]] = {
    "Windows": (windows, {FOLDERS, filesystem.UNLOCKED}),
    "FUSE, SMB": (lambda patch: unsynced_folders(patch, errno.EINVAL), {FOLDERS}),
    "SMB": (lambda patch: unsynced_folders(patch, errno.EACCES), {FOLDERS}),
    "FUSE": (lambda patch: unsynced(patch, errno.ENOSYS), {FOLDERS, FILES}),
    "Lustre": (lambda patch: unlocked(patch, errno.ENOSYS), {filesystem.UNLOCKED}),
    "NFS": (lambda patch: unlocked(patch, errno.ENOLCK), {filesystem.UNLOCKED}),
}


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_a_training_starts_warns_once_and_goes_on(
    kind: str, inside: Inside, faces: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    fake, expected = ELSEWHERE[kind]
    fake(monkeypatch)
    words = ["train", *TINY, "--family=mlp-tiny", f"--data-path={faces}", "--save-every=1"]
    words = [word for word in words if not word.startswith(("--ngf", "--ndf", "--img-size"))]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        inside(*words, "--max-epoch=2")
        inside("train", "--resume", "--max-epoch=3")
    texts = [str(each.message) for each in said if each.category is UserWarning]
    assert sorted(texts) == sorted(expected)
    assert checkpoint.load(checkpoint.states(tmp_path / "checkpoints")[0])["step"] == 30


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_fault_of_the_disk_is_no_lack_of_the_file_system(
    number: int, tmp_path: Path, monkeypatch: Patch
) -> None:
    unsynced_folders(monkeypatch, number)
    with pytest.raises(OSError, match=os.strerror(number)):
        filesystem.sync_folder(tmp_path)
    with open(tmp_path / "x", "w") as file:
        unlocked(monkeypatch, number)
        with pytest.raises(OSError, match=os.strerror(number)):
            filesystem.lock(file)
        unsynced(monkeypatch, number)
        with pytest.raises(OSError, match=os.strerror(number)):
            filesystem.sync(file)


def test_what_is_locked_is_locked(tmp_path: Path, inside: Inside, faces: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with open(tmp_path / "checkpoints" / ".lock", "w") as first:
        assert filesystem.lock(first)
        with open(first.name, "w") as second, pytest.raises(BlockingIOError):
            filesystem.lock(second)
        words = ["train", *TINY, f"--data-path={faces}", "--max-images=20"]
        refused(inside, *words, says="a training of this name is going on")
    with open(first.name, "w") as third:
        assert filesystem.lock(third)  # closed is unlocked


def test_a_comparison_needs_no_signal_of_closed_terminals(monkeypatch: Patch) -> None:
    monkeypatch.delattr(signal, "SIGHUP")
    monkeypatch.delattr(signal, "SIGKILL")
    try:
        module = importlib.reload(compare_jobs)
        assert module.CLOSED == signal.SIGTERM
        before = signal.getsignal(signal.SIGTERM)
        with module.Children() as children:
            assert set(children.before) == {signal.SIGINT, signal.SIGTERM}
            assert signal.getsignal(signal.SIGTERM) == children._pass_on
        assert signal.getsignal(signal.SIGTERM) == before
    finally:
        monkeypatch.undo()
        importlib.reload(compare_jobs)


def test_on_windows_ctrl_c_reaches_a_child_by_itself(monkeypatch: Patch) -> None:
    class Child:
        sent: ClassVar[list[int]] = []

        def send_signal(self, number: int) -> None:
            self.sent.append(number)

    children = compare_jobs.Children()
    children.running = Child()  # type: ignore[assignment]
    children._pass_on(signal.SIGINT, None)
    monkeypatch.setattr(sys, "platform", "win32")
    children._pass_on(signal.SIGINT, None)
    children._pass_on(signal.SIGTERM, None)
    assert Child.sent == [signal.SIGINT, signal.SIGTERM]
    assert children.signal == signal.SIGTERM


def test_without_fcntl_everything_is_imported() -> None:
    code = "import sys; sys.modules['fcntl'] = None; import gan.filesystem as f; print(f.fcntl)"
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.stdout == "None\n"
