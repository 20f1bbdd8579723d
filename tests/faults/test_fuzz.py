"""Words, pictures, arrays, archives, settings and states as hypothesis draws them.

Whatever comes is read, or refused in one line; nothing else is raised, and nothing takes long. Here
it is a hundred inputs; `python benchmarks/soak.py fuzz` draws 10,000, and whole commands.
"""

import contextlib
import copy
import io
import json
import os
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from states import new_state

import main
from commands import train
from config import FIELDS, Config, read_config
from gan import data, idx, pairs
from gan.errors import LINE, Refused, one_line
from gan.families import CLASSIC
from models import read_state_to_resume, restore

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100")) // 5  # of each of the five kinds
LONGEST_SECONDS = 10.0
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
    database=None,
)


@contextlib.contextmanager
def refused_at_most() -> Iterator[None]:
    """What is done within it succeeds or raises Refused, and soon."""
    began = time.monotonic()
    try:
        yield
    except Refused as refusal:
        line = one_line(str(refusal))
        assert line.isprintable() and len(line) <= LINE  # noqa: PT018
    assert time.monotonic() - began < LONGEST_SECONDS


@contextlib.contextmanager
def no_training(folder: Path) -> Iterator[None]:
    """Within it this process is in `folder`, and no training starts."""

    def refuse(*_: object) -> None:
        raise Refused("it would train")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(train, "_train", refuse)
        patch.setattr("commands.train.prepare", refuse)
        yield


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("room")
    with no_training(folder):
        yield folder


# --- words ---------------------------------------------------------------------------------------

ODD = st.sampled_from(
    [
        "", "0", "-1", "1", "2", "1e308", "1e999", "nan", "inf", "-inf", "True", "no", "None", "[]",
        "9" * 4301, "x" * 5000, "a/b", "../x", "/dev/zero", "/dev/null", "~nosuchuser", "~", ".",
        "\x00", "\x1b[31m", "a\nb", "ä€\u202e", "\udcff", "1,2", "0-5", "-", "--", "1_000", "٣",
    ]
)  # fmt: skip
VALUE = ODD | st.text(max_size=20) | st.integers().map(str) | st.floats().map(str)
NAME = st.sampled_from([*FIELDS, "resume", "overwrite", "config", "gen-num", "gen_index", "label",
                        "gen-img", "input", "output", "file", "report", "fake-path", "seeds",
                        "features", "lr", "trunc"]) | st.text(max_size=10)  # fmt: skip
WORD = st.one_of(
    st.builds("--{}={}".format, NAME, VALUE),
    st.builds("--{}".format, NAME),
    ODD,
    st.text(max_size=9),
)


@fuzz
@given(command=st.sampled_from(list(main.COMMANDS)), words=st.lists(WORD, max_size=4))
def test_words(room: Path, command: str, words: list[str]) -> None:
    before = set(room.rglob("*"))
    quiet = contextlib.redirect_stdout(io.StringIO())
    # `main` makes a line of an OSError
    with refused_at_most(), quiet, contextlib.suppress(OSError, SystemExit):
        main.run([command, *words])
    assert {path for path in set(room.rglob("*")) - before if "data" not in path.parts} == set()


# --- files ---------------------------------------------------------------------------------------


def damaged(whole: bytes, places: list[tuple[int, int]], cut: int) -> bytes:
    """`whole` with some bytes replaced, and perhaps cut."""
    found = bytearray(whole)
    for place, value in places:
        found[place % len(found)] = value
    return bytes(found[: cut % len(found)] if cut else found)


PLACES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6)
CUT = st.just(0) | st.integers(0, 10**6)


def picture(mode: str, kind: str, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    try:
        Image.new(mode, size, 1).save(file, kind)
    except (OSError, ValueError, KeyError):  # the kind has no such mode
        file = io.BytesIO()
        Image.new("RGB", size, 1).save(file, "PNG")
    return file.getvalue()


@fuzz
@given(
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"]),
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO"]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    places=PLACES,
    cut=CUT,
)
def test_pictures(
    mode: str, kind: str, size: tuple[int, int], places: list[tuple[int, int]], cut: int
) -> None:
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top, "in")
        folder.mkdir()
        (folder / "a.png").write_bytes(damaged(picture(mode, kind, size), places, cut))
        Image.new("RGB", (9, 9)).save(folder / "b.png")
        with refused_at_most(), contextlib.redirect_stdout(io.StringIO()):
            found = data.open_images(str(folder), 8, 3, cache=Path(top, "c"), workers=1)
            assert len(found.array) + len(found.skipped) == 2
        for _, shown in pairs.stream(str(folder / "a.png"), "--input"):
            assert isinstance(shown, str | Image.Image)


@fuzz
@given(
    numbers=st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 9), min_size=1, max_size=4),
    magic=st.binary(min_size=4, max_size=4) | st.just(bytes([0, 0, 8, 3])),
    rest=st.binary(max_size=200),
    places=PLACES,
    cut=CUT,
)
def test_arrays_and_archives(
    numbers: list[int], magic: bytes, rest: bytes, places: list[tuple[int, int]], cut: int
) -> None:
    with tempfile.TemporaryDirectory() as top:
        head = magic + b"".join(number.to_bytes(4, "big") for number in numbers)
        path = Path(top, "train-images-idx3-ubyte")
        path.write_bytes(head + rest)
        with refused_at_most():
            idx.read(path, 3)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a/é.png", picture("RGB", "PNG", (9, 9)))
        Path(top, "x.zip").write_bytes(damaged(file.getvalue(), places, cut))
        for source in (top, str(Path(top, "x.zip"))):
            with refused_at_most(), contextlib.redirect_stdout(io.StringIO()):
                data.open_images(source, 8, 1, cache=Path(top, "c"), workers=1)


# --- settings and states -------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@fuzz
@given(st.dictionaries(st.sampled_from(list(FIELDS)), JSON, max_size=4) | JSON, PLACES, CUT)
def test_settings(table: object, places: list[tuple[int, int]], cut: int) -> None:
    with tempfile.TemporaryDirectory() as top:
        path = Path(top, "config.json")
        path.write_bytes(damaged(json.dumps(table).encode(), places, cut))
        with refused_at_most():
            read_config(str(path))


def whole_state() -> dict[str, Any]:
    tiny = {"family": "mlp-tiny", "img_size": 28, "channels": 1, "nz": 4, "gpu": False}
    config = Config(**{**CLASSIC, **tiny})  # type: ignore[arg-type]
    return {**new_state(config).state_dict(), "data": "d"}


WHOLE = whole_state()
TENSOR = st.sampled_from(
    [
        torch.full((2,), torch.nan),
        torch.ones(3).to_sparse(),
        torch.ones(2, device="meta"),
        torch.ones(()),
    ]
)


@fuzz
@given(
    path=st.lists(st.integers(0, 50), min_size=1, max_size=5),
    value=JSON | TENSOR,
    places=PLACES,
    whole=st.booleans(),
)
def test_states(path: list[int], value: object, places: list[tuple[int, int]], whole: bool) -> None:
    """One place of a state, however deep, becomes something else; or bytes of its file do."""
    state = copy.deepcopy(WHOLE)
    table: Any = state
    for number in path[:-1]:
        inner = table[sorted(table, key=str)[number % len(table)]]
        if not isinstance(inner, dict) or not inner:
            break
        table = inner
    if not whole:
        table[sorted(table, key=str)[path[-1] % len(table)]] = value
    with tempfile.TemporaryDirectory() as top:
        file = Path(top, "state_00000001.pth")
        try:
            torch.save(state, file)
        except (NotImplementedError, RuntimeError):  # a tensor that torch cannot save
            return
        if whole:
            file.write_bytes(damaged(file.read_bytes(), places, 0))
        for read in (read_state_to_resume, restore):
            with refused_at_most():
                found: Any = read(file)  # type: ignore[operator]
                assert found is not None


def test_the_fuzz_would_notice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def crash(*_: object) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError), refused_at_most():
        crash()
    with pytest.raises(AssertionError), refused_at_most():
        monkeypatch.setattr(time, "monotonic", lambda: 1e12)
