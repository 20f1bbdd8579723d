"""The cache both kinds of data share: folders that are whole or not there, and what stops it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from processes import PATIENCE_SECONDS

from gan import cache, container, overview
from gan.errors import Refused, counted
from gan.readers import Source

ROOT = Path(__file__).resolve().parent.parent


def decode(item: cache.Item) -> cache.Decoded:
    """Two pixels that say the number in the name; odd numbers are damaged."""
    number = int(item[0])
    if number % 2:
        raise ValueError("odd\nand more")
    return cache.Decoded({"a": bytes([number, number + 1])}, "L", (2, 1))


def kill(item: cache.Item) -> cache.Decoded:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("dead")


def leave(item: cache.Item) -> cache.Decoded:
    os._exit(7)


def hungry(item: cache.Item) -> cache.Decoded:
    raise MemoryError


def open_nothing(name: str, size: int) -> Image.Image:
    raise AssertionError("not opened here")


def builder(folder: Path, workers: int = 1) -> cache.Builder:
    source = Source("set", [], "stamp", open_nothing)
    return cache.Builder(folder, source, {"a": (1, 1, 2)}, workers)


def singles(*names: int) -> list[cache.Example]:
    return [((str(name), ""),) for name in names]


def test_whole_examples_are_written_and_the_others_named(tmp_path: Path) -> None:
    made = builder(tmp_path)
    pair = (("4", "A"), ("5", "B"))
    assert made.write(["a"], [*singles(2), pair, *singles(3, 6)], decode) == singles(2, 6)
    assert made.array("a").tolist() == [[[[2, 3]]], [[[6, 7]]]]
    why = {"4": "its partner cannot be read", "5": "ValueError: odd", "3": "ValueError: odd"}
    assert made.skipped == why
    assert made.seen == [("2", "L", 2, 1), ("6", "L", 2, 1)]
    made.write_index({"n": 2})
    assert container.opened(tmp_path) == {"n": 2, "skipped": why}
    seal = json.loads((tmp_path / "index.json").read_text())
    assert set(seal) == {"index", "parts", "sha256"}
    assert seal["parts"] == {"a.u8": {"bytes": 4, "crc32": [zlib.crc32(bytes([2, 3, 6, 7]))]}}
    assert "3\tValueError: odd\n" in (tmp_path / "skipped.txt").read_text()


def test_pictures_are_kept_by_index(tmp_path: Path) -> None:
    made = builder(tmp_path)
    made.write(["a"], singles(0, 2, 4, 6, 8), decode)
    made.keep("a", np.array([1, 2, 4]))
    assert made.array("a")[:, 0, 0, 0].tolist() == [2, 4, 8]
    assert made.path("a").stat().st_size == 6


def test_memory_is_not_taken_for_a_damaged_file() -> None:
    with pytest.raises(MemoryError):
        cache.attempt(hungry, ("1", ""))
    assert cache.attempt(int, "x").startswith("ValueError: invalid literal")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("end", "says"),
    [
        (kill, "was killed, as systems do when memory runs out; try --num-workers=1"),
        (leave, "ended with exit code 7, and may have said why above; try --num-workers=1"),
        (hungry, "out of memory while decoding images; try --num-workers=1"),
    ],
)
def test_a_worker_that_ends_is_a_refusal_that_says_how(
    end: cache.Decode, says: str, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match=says):
        builder(tmp_path, workers=2).write(["a"], singles(*range(128)), end)


def test_a_worker_that_ends_before_it_has_read_what_fills_the_pipe_is_a_refusal() -> None:
    """Before Python 3.11.5 the pool waited for ever for someone to read that."""
    long = [(f"{number:10000}", "") for number in range(256)]  # 16 in a call: more than a pipe
    with pytest.raises(Refused, match="ended with exit code 7"):
        list(cache.map_in_processes(leave, long, 2))


class Large:
    """A function that counts how often it is sent."""

    sent = 0

    def __reduce__(self) -> tuple[Callable[..., object], tuple[()]]:
        Large.sent += 1
        return _small, ()

    def __call__(self, item: cache.Item) -> str:
        raise AssertionError("not here")


def _small() -> Callable[[cache.Item], str]:
    return named


def named(item: cache.Item) -> str:
    return item[0]


def test_what_is_done_with_pictures_is_sent_to_each_process_once() -> None:
    """It knows all shards of a set, of which there may be 100,000."""
    Large.sent = 0
    names = [str(number) for number in range(640)]
    assert list(cache.map_in_processes(Large(), [(name, "") for name in names], 2)) == names
    assert Large.sent == 2


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "set"

    def fill(content: str, error: type[Exception] | None = None) -> None:
        with container.atomic_folder(folder) as part:
            (part / "x").write_text(content)
            assert part.parent == folder.parent
            if error:
                raise error

    with pytest.raises(KeyboardInterrupt):
        fill("never", KeyboardInterrupt)  # type: ignore[arg-type]
    assert not list(folder.parent.iterdir())
    fill("first")
    with pytest.raises(ValueError, match=r"^$"):
        fill("second", ValueError)
    assert (folder / "x").read_text() == "first"
    fill("third")
    assert (folder / "x").read_text() == "third"
    assert list(folder.parent.iterdir()) == [folder]


def failing(error: type[Exception]) -> Callable[[Path, Any], cache.DataSet]:
    def read(folder: Path, index: Any) -> cache.DataSet:
        raise error

    return read


@pytest.mark.parametrize("error", [OSError, EOFError, ValueError, KeyError, TypeError])
def test_a_cache_that_stays_unreadable_is_refused(error: type[Exception], tmp_path: Path) -> None:
    built: list[Path] = []

    def build(folder: Path) -> None:
        container.seal(folder, [], {})
        built.append(folder)

    with pytest.raises(Refused, match=r"set: cannot be written or read; delete it"):
        cache.open_or_build(tmp_path / "set", failing(error), build)
    assert len(built) == 1


def test_a_cache_that_is_deleted_in_its_build_is_refused(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        shutil.rmtree(folder.parent)
        (folder / "images.u8").write_bytes(b"")

    with pytest.raises(Refused, match=r"data/set: deleted while it was written; try again$"):
        cache.open_or_build(tmp_path / "data/set", failing(FileNotFoundError), build)


def test_a_source_that_is_gone_is_no_deleted_cache(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (tmp_path / "faces.zip").read_bytes()

    with pytest.raises(FileNotFoundError, match=r"faces\.zip"):
        cache.open_or_build(tmp_path / "data/set", failing(FileNotFoundError), build)


def test_a_whole_cache_is_not_built_again(tmp_path: Path) -> None:
    data_set = cache.DataSet(digest="d", skipped={}, folder=tmp_path)
    container.seal(tmp_path, [], {"n": 1})
    found = cache.open_or_build(
        tmp_path, lambda folder, index: data_set, lambda _: pytest.fail("built")
    )
    assert found is data_set
    assert found.features_file == tmp_path / "features.npz"


def test_what_is_skipped_is_said_with_the_right_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for count in (1, 7):
        skipped = {f"{i}\x1b.png": "why" for i in range(count)}
        cache.report_skipped(cache.DataSet(digest="", skipped=skipped, folder=tmp_path), "x")
        said = capsys.readouterr()
        assert "\x1b" not in said.err
        files = "1 file that is no picture" if count == 1 else "7 files that are no pictures"
        assert overview.describe_changes(None, 8, count) == [f"{files} passed over"]
        first = "1 x skipped (0\\x1b.png): all" if count == 1 else "7 xs skipped (0\\x1b.png, "
        assert said.err.startswith(f"data: {first}")
        assert ("4\\x1b.png, ...): all" in said.err) == (count == 7)
    assert [counted(n, "image") for n in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]


def test_reading_data_does_not_import_torch() -> None:
    """Workers are new processes: with torch each would start seconds later."""
    code = "import sys, gan.data, gan.pairs; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0
