"""Caches: damaged, foreign, half built, wanted by two. They are rebuilt or equal, never others."""

import hashlib
import json
import os
import random
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from picture_files import noise, save
from processes import PATIENCE_SECONDS, alive, started, wait_until

from gan import cache, container, data, features, filesystem

Captured = pytest.CaptureFixture[str]
FLIPS = 40  # damages of each file here; benchmarks/soak.py tries 1,000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve small pictures; some of them are near-duplicates."""
    return save(tmp_path / "in", {f"{i:02}.bmp": noise(i // 2, (12, 12)) for i in range(12)})


def opened(folder: Path) -> data.Images:
    return data.open_images(
        str(folder), 8, 3, cache=folder.parent / "cache", workers=1, held_out=0.5, dedup=True
    )


def content(images: data.Images) -> tuple[Any, ...]:
    """All that a training or a score takes from a data set."""
    arrays = (images.array, images.train, images.held_out, images.groups.sorted)
    return (images.digest, *(np.asarray(x).tobytes() for x in arrays))


def flip_a_bit(path: Path, chance: random.Random) -> None:
    found = bytearray(path.read_bytes())
    found[chance.randrange(len(found))] ^= 1 << chance.randrange(8)
    path.write_bytes(found)


@pytest.mark.parametrize("name", ["images.u8", "split.npy", "index.json"])
def test_a_flipped_bit_never_gives_another_data_set(
    name: str, folder: Path, capsys: Captured
) -> None:
    chance = random.Random(name)
    expected = content(opened(folder))
    rebuilt = 0
    for _ in range(FLIPS):
        flip_a_bit(opened(folder).folder / name, chance)
        capsys.readouterr()
        assert content(opened(folder)) == expected
        said = capsys.readouterr().err
        rebuilt += f"is damaged ({name}); it is built again" in said
    # a bit in the space between two words of JSON changes nothing
    assert rebuilt == FLIPS if name != "index.json" else rebuilt > FLIPS / 2


INDICES = ["[]", "null", "7.5", '"x"', "{}", "[" * 10**5, '{"index": 1, "parts": []}', "\xff"]


@pytest.mark.parametrize("text", INDICES, ids=range(len(INDICES)))
def test_an_index_that_is_none_is_built_again(text: str, folder: Path) -> None:
    expected = content(opened(folder))
    (opened(folder).folder / "index.json").write_text(text, "latin-1")
    assert content(opened(folder)) == expected


FOREIGN = [
    None,
    [],
    {},
    {"shape": None},
    {"shape": [1.5, 3, 8, 8]},
    {"labels": [[1]]},
    {"shape": [9**9] * 4},
]


@pytest.mark.parametrize("change", FOREIGN, ids=range(len(FOREIGN)))
def test_a_foreign_index_with_the_right_sums_is_built_again(change: Any, folder: Path) -> None:
    images = opened(folder)
    expected, where = content(images), images.folder
    index = container.opened(where)
    foreign = {**index, **change} if change else change
    container.seal(where, ["images.u8", "split.npy"], foreign)
    assert content(opened(folder)) == expected
    assert container.opened(where) == index


def test_a_part_that_is_gone_or_a_folder_is_built_again(folder: Path) -> None:
    expected = content(opened(folder))
    for name in ("images.u8", "split.npy", "index.json"):
        part = opened(folder).folder / name
        part.unlink()
        part.mkdir()
        assert content(opened(folder)) == expected
        part.unlink()
        assert content(opened(folder)) == expected


def test_what_another_process_has_just_checked_is_not_summed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(bytes(10))
    container.seal(tmp_path, ["a"], {"n": 1})
    with monkeypatch.context() as patch, container.trusting():
        patch.setattr(container, "sums", None)
        assert container.opened(tmp_path) == {"n": 1}
        (tmp_path / "a").write_bytes(bytes(9))
        with pytest.raises(container.Damaged):
            container.opened(tmp_path)
    (tmp_path / "a").write_bytes(b"1" + bytes(9))
    with pytest.raises(container.Damaged):
        container.opened(tmp_path)


def test_every_block_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "BLOCK", 4)
    monkeypatch.setattr(container, "SPAN", 2)
    part = tmp_path / "part"
    part.write_bytes(b"0123456789")
    container.seal(tmp_path, ["part"], {"n": (1, 2)})
    assert container.opened(tmp_path) == {"n": [1, 2]}
    texts = (b"0123456780", b"0123056789", b"4567012389", b"0123456789a", b"012345678")
    for text in texts:
        part.write_bytes(text)
        with pytest.raises(container.Damaged, match=r"^part$"):
            container.opened(tmp_path)


def test_caches_that_were_sealed_with_sha256_are_read_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "EARLIER_BLOCK", 4)
    part = tmp_path / "part"
    part.write_bytes(b"0123456789")
    sums = {"bytes": 10, "sha256": container.earlier_sum(part, 10)}
    sealed = {"index": {"n": 1}, "parts": {"part": sums}}
    text = json.dumps({**sealed, "sha256": container._sum(sealed)})
    (tmp_path / container.SEAL).write_text(text)
    assert container.opened(tmp_path) == {"n": 1}
    by_hand = b"".join(hashlib.sha256(x).digest() for x in (b"0123", b"4567", b"89"))
    assert sums["sha256"] == hashlib.sha256(by_hand).hexdigest()
    part.write_bytes(b"0123456780")
    with pytest.raises(container.Damaged, match=r"^part$"):
        container.opened(tmp_path)


def test_a_file_without_any_sum_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"0")
    sealed = {"index": {}, "parts": {"part": {"bytes": 1}}}
    (tmp_path / container.SEAL).write_text(json.dumps({**sealed, "sha256": container._sum(sealed)}))
    with pytest.raises(container.Damaged, match=r"^part$"):
        container.opened(tmp_path)


# --- features ------------------------------------------------------------------------------------


@pytest.fixture
def reference(cheap_lite0: None, folder: Path) -> Callable[[], tuple[bytes, bytes]]:
    """Opens the features anew: those of all pictures, and those of half the size."""
    images = opened(folder)

    def get() -> tuple[bytes, bytes]:
        found = features.Reference(images.features_file)
        whole, half = (found.features(images.array, scale=scale) for scale in (1, 2))
        return whole.tobytes(), half.tobytes()

    return get


def test_a_flipped_bit_never_gives_other_features(
    reference: Callable[[], tuple[bytes, bytes]], folder: Path, capsys: Captured
) -> None:
    chance, expected = random.Random(0), reference()
    path = opened(folder).features_file
    for _ in range(FLIPS):
        flip_a_bit(path, chance)
        assert reference() == expected
    assert "features are computed again" in capsys.readouterr().err


def rewritten(path: Path, change: Callable[[zipfile.ZipInfo, bytes], bytes]) -> bytes:
    """The archive with each member as `change` gives it, right checksums and all."""
    with zipfile.ZipFile(path) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for info, found in members:
            archive.writestr(info.filename, change(info, found))
    return path.read_bytes()


def test_features_in_an_odd_archive_are_computed_again(
    reference: Callable[[], tuple[bytes, bytes]], folder: Path
) -> None:
    expected = reference()
    path = opened(folder).features_file
    whole = path.read_bytes()

    def patched(offset: int, value: int) -> bytes:
        """Two bytes of the first member's head, in both places where a zip has it."""
        found = bytearray(whole)
        central = found.index(b"PK\1\2")
        for place in (offset, central + offset + 2):
            found[place : place + 2] = value.to_bytes(2, "little")
        return bytes(found)

    shorter = rewritten(path, lambda info, x: x.replace(b"(12, ", b"(11, "))
    objects = rewritten(path, lambda info, x: x.replace(b"'<f4'", b"'|O4'"))
    narrow = whole.replace(b", 192)", b", 191)")  # numpy would stop before the checksum
    assert narrow != whole
    for odd in (
        narrow,
        patched(8, 99),
        patched(6, 1),
        shorter,
        objects,
        b"",
        b"PK\5\6" + bytes(18),
    ):
        path.write_bytes(odd)
        assert reference() == expected
    assert features._read_arrays(path).keys()


# --- two processes, and dead ones ----------------------------------------------------------------


def test_two_that_want_the_same_share_one_build(folder: Path, capsys: Captured) -> None:
    where, built = folder.parent / "cache" / "set", []
    started_building, waits = threading.Event(), threading.Event()

    def read(folder: Path, index: Any) -> cache.DataSet:
        return cache.DataSet(digest=index["digest"], skipped={}, folder=folder)

    def build(part: Path) -> None:
        built.append(part)
        started_building.set()
        assert waits.wait(PATIENCE_SECONDS)
        container.seal(part, [], {"digest": "d"})

    found: list[cache.DataSet] = []
    first = threading.Thread(target=lambda: found.append(cache.open_or_build(where, read, build)))
    first.start()
    assert started_building.wait(PATIENCE_SECONDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda text, **_: (said.append(text), waits.set()))
        said: list[str] = []
        found.append(cache.open_or_build(where, read, build))
    first.join(PATIENCE_SECONDS)
    assert said == [f"data: another process is making {where}: waiting for it"]
    assert [x.digest for x in found] == ["d", "d"]
    assert len(built) == 1


def test_what_a_killed_build_left_is_removed_by_the_next(folder: Path) -> None:
    where = opened(folder).folder
    left = where.with_name(f"{where.name}.1.part")
    other = where.with_name("another.1.part")
    for path in (left, other):
        path.mkdir()
        (path / "images.u8").write_bytes(bytes(100))
    (where / "index.json").unlink()
    opened(folder)
    assert not left.exists()
    assert other.exists()  # its own build may be going on


WAITS = """
import os, time
from pathlib import Path

def wait(number):
    Path(f"pid-{os.getpid()}").touch()
    time.sleep(600)
"""
DECODES = """
from gan import cache
from waits import wait

list(cache.map_in_processes(wait, range(128), 2))
"""


def test_what_was_killed_leaves_no_part_of_features(folder: Path) -> None:
    """Found by a kill in the middle of writing them."""
    images = opened(folder)
    known = features.Reference(images.features_file)
    known.features(images.array, "random")
    parts = [
        images.features_file.with_name(f".features.npz.{pid}.part") for pid in (2**30, os.getpid())
    ]
    for part in parts:
        part.touch()
    features.Reference(images.features_file)
    assert [part.exists() for part in parts] == [False, True]  # the second may still be written


def test_what_was_killed_leaves_no_part_of_what_is_written_again(tmp_path: Path) -> None:
    file = tmp_path / "faces[1].onnx"
    gone, other = (tmp_path / f".{name}.{2**30}.part" for name in (file.name, "faces1.onnx"))
    for part in (gone, other):
        part.touch()
    filesystem.atomic_write(file, lambda part: part.write_bytes(b"x"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([other.name, file.name])


def test_processes_that_decode_end_with_their_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")
    (tmp_path / "waits.py").write_text(WAITS)
    (tmp_path / "decodes.py").write_text(DECODES)
    with started(tmp_path, "decodes.py") as process:
        wait_until(lambda: len(list(tmp_path.glob("pid-*"))) == 2, process)
        process.kill()
        process.wait(PATIENCE_SECONDS)
        pids = [int(path.name.split("-")[1]) for path in tmp_path.glob("pid-*")]
        wait_until(lambda: not any(map(alive, pids)))
