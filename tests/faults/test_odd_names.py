"""Names of files that are no text, in data sets and in lists of names."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import refused, tiny_flags
from picture_files import noise

Inside = Callable[..., None]
NAMES = (b"\xff\xfe.png", "é€.png".encode(), b"a\nb.png", b"c\\d.png", b"\x1b[31m.png")
bytes_are_names = pytest.mark.skipif(
    sys.platform in ("win32", "darwin"), reason="names are Unicode here"
)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Pictures whose names are any bytes."""
    folder = tmp_path / "in"
    folder.mkdir()
    for index, name in enumerate(NAMES):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            noise(index, (56, 56)).save(file, "PNG")
    return folder


@bytes_are_names
@pytest.mark.parametrize("out", ["out", "out.zip", "out.tar"])
def test_prepare_takes_every_name(odd: Path, inside: Inside, tmp_path: Path, out: str) -> None:
    prepare = ("prepare", "--data-path=in", f"--out={out}")
    inside(*prepare)
    names = [line.split("\t") for line in (tmp_path / "out.tsv").read_text("utf-8").splitlines()]
    assert len(names) == len(NAMES)
    assert all(row[1] == "kept" and row[0].isprintable() for row in names)
    # the list names them in a way that --drop reads
    (tmp_path / "drop.txt").write_text(f"{names[0][0]}\n", "utf-8")
    inside(*prepare, "--drop=drop.txt")
    [dropped] = [line for line in (tmp_path / "out.tsv").read_text("utf-8").splitlines() if
                 "--drop" in line]  # fmt: skip
    assert dropped.startswith(names[0][0])


@bytes_are_names
def test_a_training_takes_every_name(odd: Path, inside: Inside, tmp_path: Path) -> None:
    inside("train", *tiny_flags("--data-path=in", "--max-images=4", "--batch-size=4"))
    assert list((tmp_path / "checkpoints").glob("state_*.pth"))


@pytest.mark.parametrize("content", [b"\x80\xff\n", b"PK\x03\x04\xae\x00\x1f\x0c \n", b"\x0c\n"])
def test_a_list_that_is_no_text_is_refused(content: bytes, inside: Inside, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    noise(0, (56, 56)).save(tmp_path / "in/a.png")
    (tmp_path / "list").write_bytes(content)
    words = ("prepare", "--data-path=in", "--out=out", "--keep=list")
    if content.split():
        refused(inside, *words, says="--keep: no picture is called")
    else:
        inside(*words)  # an empty list keeps nothing
