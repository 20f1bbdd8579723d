"""Files that are whole, damaged, foreign; the newest one; the ones that go."""

import resource
from pathlib import Path

import pytest
import torch

from gan import checkpoint, filesystem
from gan.errors import Refused


def test_round_trip_and_plain_torch_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.pth"
    checkpoint.save(path, {"w": torch.arange(3), "n": {"step": 5}})
    for read in (checkpoint.load(path), torch.load(path, weights_only=True)):
        assert read["n"] == {"step": 5}
        assert torch.equal(read["w"], torch.arange(3))
    assert [p.name for p in path.parent.iterdir()] == ["x.pth"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    checkpoint.save(path, {"step": 1})

    def fails(part: Path) -> None:
        part.write_bytes(b"half of it")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        filesystem.atomic_write(path, fails)
    assert checkpoint.load(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "empty", "pickle", "missing"])
def test_a_bad_file_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state.pth"
    checkpoint.save(path, {"w": torch.ones(1000)})
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":  # one bit in the middle of the weights
        content[content.index(torch.ones(8).numpy().tobytes()) + 5] ^= 1
    elif damage == "text":
        content = bytearray(b"<html>404</html>")
    elif damage == "empty":
        content = bytearray()
    path.write_bytes(content)
    if damage == "pickle":  # code, not data
        torch.save(Path, path)
    elif damage == "missing":
        path.unlink()
    with pytest.raises(
        Refused, match=rf"^{path}: (damaged|no such file|empty|an HTML page|holds a pickled)"
    ):
        checkpoint.load(path)


def test_the_old_file_format_loads(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(checkpoint.load(path)["w"], torch.ones(2))


def test_the_newest_whole_state_wins_and_the_damaged_is_named(tmp_path: Path) -> None:
    for step in (5, 40, 300):
        checkpoint.save(tmp_path / f"state_{step:08}.pth", {"step": step})
    (tmp_path / "state_00000300.pth").write_bytes(b"PK")
    with pytest.warns(UserWarning, match=r"state_00000300\.pth: damaged"):
        path, state = next(checkpoint.newest(tmp_path, checkpoint.load))
    assert (path.name, state) == ("state_00000040.pth", {"step": 40})


def test_prune_keeps_the_current_one_and_the_one_before_it(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        checkpoint.save(tmp_path / f"state_{step:08}.pth", {})
    checkpoint.prune(tmp_path / "state_00000003.pth", 2)
    assert [p.name for p in checkpoint.states(tmp_path)] == [
        "state_00000003.pth",
        "state_00000002.pth",
    ]


def test_a_full_disk_is_an_os_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    checkpoint.save(path, {"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            checkpoint.save(path, {"w": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoint.load(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def test_of_many_saves_a_few_evenly_spaced_stay() -> None:
    spaced = checkpoint.evenly_spaced
    assert spaced([10, 20, 30], 3) == [10, 20, 30]
    assert spaced([10, 20, 30, 40], 3) == [20, 30, 40]  # all are as close: the first one goes
    assert spaced([20, 30, 40, 50], 3) == [20, 40, 50]
    assert spaced([20, 40, 70, 80], 3) == [40, 70, 80]
    assert spaced([5, 6], 1) == [6]
    kept: list[int] = []
    for epoch in range(1, 401):  # one after the other, as in a training
        kept = spaced([*kept, epoch], 5)
    assert len(kept) == 5
    assert kept[-1] == 400
    gaps = [b - a for a, b in zip([0, *kept], kept, strict=False)]
    assert max(gaps) <= 2 * min(gaps[:-1])


def test_thinning_out_deletes_weights_of_saves_only(tmp_path: Path) -> None:
    names = [f"net{player}_{epoch}.pth" for player in "gd" for epoch in (1, 2, 3, 10, 11)]
    others = ["netg_best.pth", "best.pth", "state_00000001.pth", "notes_3.txt"]
    for name in (*names, *others):
        (tmp_path / name).write_text("")
    checkpoint.thin_out(tmp_path, 10, 2, [tmp_path / "netg_1.pth"])
    left = {path.name for path in tmp_path.iterdir()} - set(others)
    assert left == {"netg_1.pth", "netg_3.pth", "netd_3.pth", "netg_10.pth", "netd_10.pth"}
    assert all((tmp_path / name).exists() for name in others)
