"""What is too large, too deep or odd: one line that names it, from every reader and command."""

import gzip
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, refused
from picture_files import noise, save
from PIL import Image

import main
from config import FIELDS, Config, parse, read_config
from gan import data, depth, evaluation, idx, machine, pairs, readers
from gan.errors import LINE, Refused, one_line, what_failed
from gan.readers import Reader

Inside = Callable[..., None]


def opened(path: Path | str) -> data.Images:
    return data.open_images(str(path), 8, 3, cache=Path("cache"), workers=1)


# --- messages ------------------------------------------------------------------------------------


def test_a_message_is_one_line_of_bounded_length() -> None:
    assert one_line("a\nb\x1b[2J\u202e") == r"a\nb\x1b[2J\u202e"
    long = one_line("--name=" + "x" * 5000 + ": at the end, what to do")
    assert len(long) <= LINE
    assert long.startswith("--name=xxx")
    assert long.endswith("xxx: at the end, what to do")
    assert what_failed(ValueError("one\ntwo")) == "ValueError: one"
    assert what_failed(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("Storage size calculation overflowed with sizes=[1, 2]"),
    ],
)
def test_out_of_memory_is_a_line_of_every_command(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(words: list[str]) -> None:
        raise error

    monkeypatch.setattr(main, "run", fail)
    monkeypatch.setattr(sys, "argv", ["main.py", "evaluate"])
    for name in ("stdout", "stderr"):  # `main` replaces them
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), write_through=True))
    said = sys.stderr
    with pytest.raises(SystemExit) as stop:
        main.main()
    assert stop.value.code == 2
    text = said.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert text.startswith("main.py: evaluate: out of memory; give smaller numbers")
    assert text.count("\n") == 1


def test_what_needs_more_memory_than_there_is_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_bytes", lambda: 10**9)
    machine.check_memory(10**9, "--gen-num=1")
    with pytest.raises(Refused, match=r"--gen-num=9: out of memory, it needs about 2 GB and this"):
        machine.check_memory(2 * 10**9, "--gen-num=9")


# --- numbers and files of settings ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("clip", "1e308"), ("l1", "1e300"), ("max_images", "9" * 4301), ("max_images", "1e30"),
        ("warm_up", "9" * 400), ("num_workers", "100000"), ("max_minutes", "1e40"),
        ("img_size", "1e999"), ("seed", "9" * 5000),
    ],
)  # fmt: skip
def test_numbers_beyond_any_use_are_refused(name: str, text: str) -> None:
    with pytest.raises(Refused, match=f"^--{name.replace('_', '-')}="):
        parse(FIELDS[name], text)


def test_settings_in_no_proper_file_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("[" * 10**5)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_text(" " * (2**20 + 1))
    for path, says in (
        (file, "not JSON"), (tmp_path / "pipe", "no file"), (Path("/dev/zero"), "no file"),
        (tmp_path / "large", "too large"), (tmp_path, "Is a directory"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=says):
            read_config(str(path))
    file.write_text(json.dumps({"batch_size": [[]], "nz": {"a": 1}}))
    with pytest.raises(Refused, match="batch-size"):
        read_config(str(file))


# --- pictures ------------------------------------------------------------------------------------


def test_only_formats_that_start_no_other_program_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save(tmp_path / "in", {f"{i}.bmp": noise(i) for i in range(3)})
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    (folder / "a.eps").write_bytes(postscript)  # no picture for its name
    (folder / "b.png").write_bytes(postscript)  # nor for what it is
    images = opened(folder)
    assert len(images.array) == 3
    assert list(images.skipped) == ["b.png"]
    assert "EPS" not in readers.FORMATS
    Image.init()
    assert set(readers.FORMATS) - {"AVIF"} <= set(Image.OPEN)


def test_pictures_of_too_many_pixels_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(readers, "MAX_PIXELS", 1000)
    folder = save(tmp_path / "in", {"small.bmp": noise(1, (9, 9)), "large.bmp": noise(2, (40, 40))})
    assert opened(folder).skipped == {"large.bmp": "ValueError: more than 1,000 pixels"}


def test_deep_pictures_are_converted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(np.arange(7 * 5, dtype=np.uint16).reshape(7, 5) * 1000)
    ranges = {"16-bit": (0.0, 65535.0)}
    whole = np.asarray(depth.to_8_bits(image, ranges))
    monkeypatch.setattr(depth, "ROWS", 2)
    assert np.array_equal(np.asarray(depth.to_8_bits(image, ranges)), whole)
    assert whole[6, 4] == round(34000 / 65535 * 255)


def test_folders_without_end_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save(tmp_path / "in", {f"{i}.bmp": noise(i) for i in range(3)})
    monkeypatch.chdir(folder)
    for _ in range(1010):
        os.mkdir("d")
        os.chdir("d")
    monkeypatch.chdir(tmp_path)
    assert len(opened("in").array) == 3
    assert "folders below 100 others are passed over" in capsys.readouterr().err
    subprocess.run(["rm", "-r", "in"], check=True)  # too deep for those that clear up later


# --- archives and arrays -------------------------------------------------------------------------


def hostile_zips() -> dict[str, bytes]:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a\u00e9.png", b"x" * 50)
    whole = file.getvalue()
    central = whole.index(b"PK\1\2")

    def patched(place: int, value: bytes) -> bytes:
        return whole[:place] + value + whole[place + len(value) :]

    return {
        "no UTF-8": whole.replace("\u00e9".encode(), b"\xff\xfe"),
        "a version to come": patched(central + 6, b"\xff\0"),
        "an offset beyond the end": patched(len(whole) - 6, b"\xff\xff\xff\x7f"),
        "cut": whole[: central + 10] + whole[-22:],
    }


@pytest.mark.parametrize("kind", hostile_zips())
def test_a_hostile_zip_is_refused_by_name(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.zip").write_bytes(hostile_zips()[kind])
    with pytest.raises(Refused, match=r"x\.zip"):
        opened("x.zip")


def test_idx_heads_that_claim_too_much_cost_nothing(tmp_path: Path) -> None:
    head = bytes([0, 0, 8, 3])
    path = tmp_path / "train-images-idx3-ubyte"
    for sizes in ((2**32 - 1,) * 3, (2**32 - 1, 1, 1), (2**31, 1, 1), (5, 2, 2)):
        path.write_bytes(head + b"".join(n.to_bytes(4, "big") for n in sizes) + b"1234")
        with pytest.raises(Refused, match=f"^{path}: "):
            idx.read(path, 3)
    whole = gzip.compress(head + bytes([0, 0, 0, 9, 0, 0, 0, 9, 0, 0, 0, 9]) + os.urandom(729))
    for cut in (whole[:30] + b"\xff" * 20 + whole[50:], whole[:60], whole[:4]):
        path.write_bytes(cut)  # zlib.error, EOFError
        with pytest.raises(Refused, match=f"^{path}: cannot be read .*fetch it again"):
            idx.read(path, 3)


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError(), UnicodeError("u"), OSError(5)])
def test_whatever_a_reader_raises_is_a_refusal(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise error

    for row in (Reader(fail, fail), Reader(lambda path: True, fail)):  # type: ignore[arg-type]
        monkeypatch.setitem(data.READERS, "avatars", row)
        with pytest.raises(Refused, match=r"^--x=any: cannot be read \("):
            readers.find_source("any", "--x", data.READERS)


def test_a_user_that_is_not_known_is_no_traceback(inside: Inside) -> None:
    words = ("train", *TINY, "--data-path=~nosuchuser/faces")
    refused(inside, *words, says="--data-path=~nosuchuser/faces: no such folder or zip")


# --- one bad item, one short side ----------------------------------------------------------------


def test_one_name_that_cannot_be_stops_no_translation(
    inside: Inside, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(tmp_path / "two", {f"train{s}/{i}.bmp": noise(i) for s in "AB" for i in range(3)})
    small = ("--img-size=28", "--ngf=2", "--ndf=2", "--gpu=False", "--pool=0")
    data_of = (f"--data-path={folder}", "--held-out=0", "--max-images=1")
    inside("train", "--family=cyclegan", "--name=c", *small, *data_of)
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for name in ("a.bmp", "b" * 300 + ".bmp", "c.bmp"):
            archive.write(folder / "trainA" / "0.bmp", name)
    words = ("translate", "--name=c", f"--input={tmp_path / 'in.zip'}", "--output=out")
    refused(inside, *words, says="1 skipped: bbb")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]


@pytest.mark.parametrize("sides", [(2, 9), (9, 2)])
def test_a_side_with_two_test_pictures_has_no_scores(
    sides: tuple[int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {"trainA": 3, "trainB": 3, "testA": sides[0], "testB": sides[1]}
    files = {f"{side}/{i}.bmp": noise(i) for side, n in counts.items() for i in range(n)}
    folder = save(tmp_path / "two", files)
    found = pairs.open_pictures(False, str(folder), 28, 3, 3, cache=tmp_path / "c", workers=1)
    assert evaluation.picture_scorer(Config(), found, torch.device("cpu")) is None
    assert "too few pictures are held out" in capsys.readouterr().out
