"""Tars and WebDataset shards, trained on as they are."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from picture_files import noise, save

from gan import data, shards
from gan.errors import Refused


def shard(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def png(seed: int) -> bytes:
    file = io.BytesIO()
    noise(seed).save(file, "PNG")
    return file.getvalue()


def opened(path: str, tmp_path: Path, **more: object) -> data.Images:
    return data.open_images(path, 32, 3, cache=tmp_path / "cache", workers=1, **more)  # type: ignore[arg-type]


def test_shards_give_what_their_folder_gives(tmp_path: Path) -> None:
    kinds = ("cat", "dog")
    names = [f"{kinds[i % 2]}/{i:03}.png" for i in range(12)]
    files = {name: noise(i) for i, name in enumerate(names)}
    folder = opened(str(save(tmp_path / "in", files)), tmp_path)  # type: ignore[arg-type]
    for number in range(3):
        part = {f"./{name}": png(i) for i, name in enumerate(names) if i // 4 == number}
        shard(tmp_path / f"x-{number:03}.tar", {**part, f"{number}.json": b"{}"})
    found = opened(str(tmp_path / "x-{000..002}.tar"), tmp_path)
    assert found.class_names == ("cat", "dog")
    assert sorted(x.tobytes() for x in found.array) == sorted(x.tobytes() for x in folder.array)
    assert found.class_indices is not None
    kind = {noise(i).tobytes(): i % 2 for i in range(12)}
    for image, label in zip(found.array, found.class_indices, strict=True):
        assert kind[np.ascontiguousarray(image.transpose(1, 2, 0)).tobytes()] == label
    alone = opened(str(tmp_path / "x-000.tar"), tmp_path)
    assert len(alone.array) == 4


def test_the_class_of_a_sample_is_beside_it(tmp_path: Path) -> None:
    files = {
        f"{i}.{end}": png(i) if end == "png" else b"%d\n" % (i % 3)
        for i in range(6)
        for end in ("png", "cls")
    }
    found = opened(str(shard(tmp_path / "x.tar", files)), tmp_path)
    assert found.class_names == ("0", "1", "2")
    assert found.class_indices is not None
    assert found.class_indices.tolist() == [0, 1, 2, 0, 1, 2]
    files.pop("0.cls")  # not of all: no classes
    assert opened(str(shard(tmp_path / "y.tar", files)), tmp_path).class_names == ()


def test_parts_in_shards(tmp_path: Path) -> None:
    files = {f"{'val' if i > 3 else 'train'}/{i}.png": png(i) for i in range(6)}
    found = opened(str(shard(tmp_path / "x.tar", files)), tmp_path, held_out=0.1)
    assert (len(found.train), len(found.held_out)) == (4, 2)


def test_patterns() -> None:
    assert shards.expand("a{08..11}.tar") == ["a08.tar", "a09.tar", "a10.tar", "a11.tar"]
    assert shards.expand("{0..1}/{0..1}.tar") == ["0/0.tar", "0/1.tar", "1/0.tar", "1/1.tar"]
    assert shards.expand("a.tar") == ["a.tar"]
    assert len(shards.expand("{0..99999999}.tar")) == shards.MAX_SHARDS + 1


def test_shards_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    shard(tmp_path / "x-0.tar", {"a.png": png(1)})
    with pytest.raises(Refused, match=r"no file .*x-1\.tar"):
        opened(str(tmp_path / "x-{0..1}.tar"), tmp_path)
    shard(tmp_path / "x-1.tar", {"a.png": png(1)}, "w:gz")
    with pytest.raises(Refused, match=r"x-1\.tar cannot be read .*has to be unpacked"):
        opened(str(tmp_path / "x-{0..1}.tar"), tmp_path)
    with pytest.raises(Refused, match="no pictures in it"):
        opened(str(shard(tmp_path / "y.tar", {"a.txt": b"x"})), tmp_path)
