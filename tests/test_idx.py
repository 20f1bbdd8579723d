"""IDX files, plain and zipped, whole and damaged; labels from them and from folders."""

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan import data, idx
from gan.errors import Refused

DIGITS = np.arange(12 * 10 * 8, dtype=np.uint8).reshape(12, 10, 8)
LABELS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8], np.uint8)


def packed(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


@pytest.fixture(params=["plain", "gzip"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    end, pack = ("", bytes) if request.param == "plain" else (".gz", gzip.compress)
    (tmp_path / f"train-images-idx3-ubyte{end}").write_bytes(pack(packed(DIGITS)))
    (tmp_path / f"train-labels-idx1-ubyte{end}").write_bytes(pack(packed(LABELS)))
    (tmp_path / f"t10k-images-idx3-ubyte{end}").write_bytes(pack(packed(DIGITS[:2])))
    return tmp_path


def test_pictures_and_labels_in_their_order(folder: Path) -> None:
    (part,) = idx.find(folder)  # not t10k, which is for tests
    assert part.count == 12
    assert np.array_equal(idx.read(part.images, 3), DIGITS)
    assert part.labels is not None
    assert np.array_equal(idx.read(part.labels, 1), LABELS)


def test_plain_and_zipped_side_by_side_are_one(folder: Path) -> None:
    for array, name in ((DIGITS, "images-idx3"), (LABELS, "labels-idx1")):
        (folder / f"train-{name}-ubyte").write_bytes(packed(array))
        (folder / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(packed(array)))
    (part,) = idx.find(folder)
    assert (part.count, part.images.suffix) == (12, "")


def test_as_a_data_set(folder: Path, tmp_path: Path) -> None:
    images = data.open_images(str(folder), 28, 1, cache=tmp_path / "cache", workers=1)
    assert images.array.shape == (12, 1, 28, 28)
    assert images.class_names == ("1", "2", "3", "4", "5", "6", "8", "9")
    assert images.class_indices is not None
    assert [images.class_names[label] for label in images.class_indices] == [
        str(label) for label in LABELS
    ]


def test_classes_are_the_top_folders(tmp_path: Path) -> None:
    for place in ("cats/a.png", "cats/deep/b.png", "dogs/c.png", "10/d.png"):
        (tmp_path / "in" / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (len(place), 0, 0)).save(tmp_path / "in" / place)
    images = data.open_images(str(tmp_path / "in"), 28, 3, cache=tmp_path / "cache", workers=1)
    assert images.class_names == ("10", "cats", "dogs")
    assert images.class_indices is not None
    assert images.class_indices.tolist() == [0, 1, 1, 2]
    Image.new("RGB", (32, 32)).save(tmp_path / "in" / "loose.png")  # now it is no folder a class
    loose = data.open_images(str(tmp_path / "in"), 28, 3, cache=tmp_path / "cache", workers=1)
    assert (loose.class_indices, loose.class_names) == (None, ())


def truncated(raw: bytes) -> bytes:
    return raw[:-5]


def longer(raw: bytes) -> bytes:
    return raw + b"x"


def wrong_kind(raw: bytes) -> bytes:
    return raw[:2] + b"\x0d" + raw[3:]


def bomb(raw: bytes) -> bytes:
    return raw[:4] + struct.pack(">3I", 2**31, 2**10, 2**10) + raw[16:]


@pytest.mark.parametrize("damage", [truncated, longer, wrong_kind, bomb, lambda raw: raw[:3]])
@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_files_are_refused_by_name(
    damage: Callable[[bytes], bytes], zipped: bool, tmp_path: Path
) -> None:
    raw = damage(packed(DIGITS))
    path = tmp_path / "x-images-idx3-ubyte"
    path.write_bytes(gzip.compress(raw) if zipped else raw)
    with pytest.raises(Refused, match="x-images-idx3-ubyte: "):
        data.open_images(str(tmp_path), 28, 1, cache=tmp_path / "cache")


def test_a_cut_gzip_and_too_few_labels_are_refused(folder: Path, tmp_path: Path) -> None:
    (labels,) = folder.glob("train-labels*")
    whole = labels.read_bytes()
    labels.write_bytes(packed(LABELS[:7]))
    with pytest.raises(Refused, match="7 labels of 12"):
        idx.find(folder)
    labels.write_bytes(gzip.compress(packed(LABELS))[:-9])
    idx.read.cache_clear()
    with pytest.raises(Refused, match="train-labels"):
        idx.find(folder)
    labels.write_bytes(whole)
    idx.read.cache_clear()
    assert idx.find(folder)


def test_other_labels_are_seen(folder: Path, tmp_path: Path) -> None:
    first = data.open_images(str(folder), 28, 1, cache=tmp_path / "cache")
    (labels,) = folder.glob("train-labels*")
    labels.write_bytes(packed(LABELS + 1))
    os.utime(labels, ns=(1, 1))
    idx.read.cache_clear()
    again = data.open_images(str(folder), 28, 1, cache=tmp_path / "cache")
    assert again.class_names == tuple(str(int(name) + 1) for name in first.class_names)
