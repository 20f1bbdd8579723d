"""A cache is killed in the making, at each of its steps: the next start makes the same one."""

import sys
from pathlib import Path

import pytest
from conftest import ROOT
from processes import PATIENCE_SECONDS, alive, started, wait_until

from gan import data

# a build by two processes that stands still where it calls argv[3] of argv[2] for the nth time
BUILDS = """
import importlib, operator, sys, time
from pathlib import Path
from gan import data

if __name__ == "__main__":
    faces, module, name, n = sys.argv[1:]
    outer, _, last = name.rpartition(".")
    owner = importlib.import_module(module)
    owner = operator.attrgetter(outer)(owner) if outer else owner
    call, times = getattr(owner, last), iter(range(int(n) - 1))

    def stand_still(*given, **named):
        if next(times, None) is None:
            Path("still").touch()
            time.sleep(600)
        return call(*given, **named)

    setattr(owner, last, stand_still)
    data.open_images(faces, 28, 3, cache=Path("cache"), workers=2, held_out=0.3)
"""


def files(cache: Path) -> dict[str, bytes]:
    """All that is in a folder of caches, but for the file that is locked."""
    return {
        str(path.relative_to(cache)): path.read_bytes()
        for path in cache.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


@pytest.fixture(scope="module")
def whole(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a build that nothing stops."""
    cache = tmp_path_factory.mktemp("whole")
    data.open_images(str(faces), 28, 3, cache=cache, workers=1, held_out=0.3)
    return files(cache)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("module", "name", "n", "decoders"),
    [
        ("gan.cache", "Builder.write", 1, False),  # nothing is written
        ("gan.split", "Looks.add", 1, True),  # the first picture
        ("gan.split", "Looks.add", 150, True),
        ("gan.container", "seal", 1, False),  # all pictures, no index
        ("os", "replace", 1, False),  # all of it, under its first name
    ],
)
def test_a_build_that_is_killed_is_made_again(
    module: str,
    name: str,
    n: int,
    decoders: bool,
    faces: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "builds.py").write_text(BUILDS)
    with started(tmp_path, "builds.py", str(faces), module, name, str(n)) as process:
        wait_until((tmp_path / "still").exists, process)
        pids = children(process.pid)
        assert len(pids) >= 2 or not decoders
        process.kill()
        process.wait(PATIENCE_SECONDS)
        wait_until(lambda: not any(map(alive, pids)))
    assert files(tmp_path / "cache") != whole
    data.open_images(str(faces), 28, 3, cache=tmp_path / "cache", workers=1, held_out=0.3)
    assert files(tmp_path / "cache") == whole  # and nothing beside it
