"""`prepare`: every kind of input, every reason, what is written, and that it goes on."""

import contextlib
import functools
import io
import os
import signal
import sqlite3
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from picture_files import noise, save
from PIL import Image, ImageOps
from processes import PATIENCE_SECONDS

from gan import data, detect, examine, intake, unpack
from gan.errors import Refused

Inside = Callable[..., None]
ROOT = Path(__file__).resolve().parent.parent


def smooth(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """A picture that a lossy format leaves nearly as it is."""
    return noise(seed, (5, 5)).resize(size, Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def listed(folder: Path, out: str = "out") -> dict[str, tuple[str, str, str]]:
    """What the list says of each name."""
    rows = [line.split("\t") for line in (folder / f"{out}.tsv").read_text().splitlines()]
    return {name: (verdict, reason, why) for name, verdict, reason, why in rows}


def written(folder: Path) -> list[str]:
    return sorted(x.relative_to(folder).as_posix() for x in folder.rglob("*") if x.is_file())


def prepared(inside: Inside, *words: str) -> None:
    inside("prepare", "--data-path=in", "--out=out", *words)


# --- reasons -------------------------------------------------------------------------------------


def test_everything_has_a_verdict_and_a_reason(inside: Inside, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    files: dict[str, Image.Image | str] = {
        "good.png": smooth(1),
        "a/good.jpg": smooth(2),
        "constant.png": Image.new("RGB", (64, 64), "tan"),
        "small.png": smooth(3, (40, 60)),
        "wide.png": smooth(4, (400, 100)),
        "page.jpg": "<!DOCTYPE html><p>not found",
        "notes.txt": "notes",
        "bomb.png": Image.new("1", (10_001, 10_000)),
    }
    save(folder, files)
    (folder / "zero.png").write_bytes(b"")
    (folder / "cut.jpg").write_bytes(encoded(noise(5, (64, 64)), "JPEG")[:-900])
    (folder / "really.jpg").write_bytes(encoded(smooth(6)))
    (folder / "bare").write_bytes(encoded(smooth(7)))
    (folder / ".hidden.png").write_bytes(encoded(smooth(8)))
    nan = np.full((64, 64), np.nan, np.float32)
    Image.fromarray(nan).save(folder / "nan.tif")
    prepared(inside)
    found = listed(tmp_path)
    assert {name for name, row in found.items() if row[0] == "kept"} == {
        "good.png", "a/good.jpg", "really.jpg", "bare",
    }  # fmt: skip
    reasons = {name: row[1] for name, row in found.items() if row[0] == "skipped"}
    assert reasons == {
        "constant.png": "near-constant",
        "small.png": "too small",
        "wide.png": "extreme aspect",
        "page.jpg": "no picture",
        "notes.txt": "no picture",
        "bomb.png": "decompression bomb",
        "zero.png": "empty file",
        "cut.jpg": "truncated or damaged",
        "nan.tif": "NaN or infinite values",
    }
    assert found["page.jpg"][2] == "a web page"
    assert found["bomb.png"][2] == "10,001 x 10,000 pixels"
    assert written(tmp_path / "out") == ["a/good.jpg", "bare.png", "good.png", "really.png"]
    # what needs no change keeps its bytes
    assert (tmp_path / "out" / "a" / "good.jpg").read_bytes() == (
        folder / "a/good.jpg"
    ).read_bytes()


def test_the_page_shows_every_kind(
    inside: Inside, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files: dict[str, Image.Image | str] = {"<b>.png": smooth(1), "a.png": smooth(2)}
    save(tmp_path / "in", {**files, "b.png": smooth(2), "c.png": "broken"})
    (tmp_path / "in" / "x.jpg").write_bytes(encoded(smooth(3)))
    prepared(inside)
    page = (tmp_path / "out.html").read_text()
    assert page.count("data:image/jpeg") == 3 + 1 + 1 + 2  # kept, folded, with a note, cluster
    assert "&lt;b&gt;.png" in page
    assert "<b>.png" not in page
    for text in ("folded: near-duplicate", "of a.png", "skipped: no picture", "cluster of 2"):
        assert text in page
    assert "kept, with a note: wrong suffix" in page
    out = capsys.readouterr().out
    assert "prepare: kept             3" in out
    assert "prepare: of these         1  wrong suffix" in out


def test_what_would_be_enlarged_is_skipped(inside: Inside, tmp_path: Path) -> None:
    save(tmp_path / "in", {"a.png": smooth(1, (60, 70)), "b.png": smooth(2, (64, 70))})
    prepared(inside, "--crop=center", "--img-size=96")
    found = listed(tmp_path)
    assert found["a.png"] == ("skipped", "enlarged too much", "60 pixels, 1.6 times")
    assert found["b.png"][0] == "kept"
    with Image.open(tmp_path / "out" / "b.png") as picture:
        assert picture.size == (96, 96)
    prepared(inside, "--img-size=32")  # whole pictures: the shorter side; none is enlarged
    sizes = [Image.open(tmp_path / "out" / f"{name}.png").size for name in "ab"]
    assert sizes == [(32, 37), (32, 35)]


def test_deep_pictures_have_one_range(inside: Inside, tmp_path: Path) -> None:
    grey = np.asarray(smooth(1).convert("L")).astype(np.uint16)
    full = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    files = {"a.png": Image.fromarray(grey * 8), "b.png": Image.fromarray(full)}
    save(tmp_path / "in", files)  # type: ignore[arg-type]
    prepared(inside)
    with Image.open(tmp_path / "out" / "a.png") as picture:
        made = np.asarray(picture)[..., 0].astype(int)
    assert np.abs(made - grey * 8 / 4095 * 255).max() <= 1  # half as bright, by the range of both
    save(tmp_path / "in", {"c.png": Image.fromarray(full * 2)})
    prepared(inside)  # another file changes the range of all
    with Image.open(tmp_path / "out" / "a.png") as picture:
        again = np.asarray(picture)[..., 0].astype(int)
    assert np.abs(again - grey * 8 / 16383 * 255).max() <= 1


# --- inputs --------------------------------------------------------------------------------------


def test_zips_tars_and_what_is_damaged(inside: Inside, tmp_path: Path) -> None:
    folder = save(tmp_path / "in", {"one.png": smooth(0)})
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        for i in range(1, 4):
            archive.writestr(f"cat/{i}.png", encoded(smooth(i)))
        archive.writestr("../../evil.png", encoded(smooth(4)))
        archive.writestr("__MACOSX/cat/1.png", b"resource fork")
    with tarfile.open(folder / "shard.tar.gz", "w:gz") as shard:
        for i in range(5, 7):
            member = tarfile.TarInfo(f"./{i:05}.png")
            member.size = len(content := encoded(smooth(i)))
            shard.addfile(member, io.BytesIO(content))
    (folder / "cut.zip").write_bytes((folder / "x.zip").read_bytes()[:300])
    prepared(inside)
    found = listed(tmp_path)
    kept = {name for name, row in found.items() if row[0] == "kept"}
    assert kept == {
        "one.png", "x.zip/cat/1.png", "x.zip/cat/2.png", "x.zip/cat/3.png", "x.zip/../../evil.png",
        "shard.tar.gz/00005.png", "shard.tar.gz/00006.png",
    }  # fmt: skip
    assert found["cut.zip/..."][1] == "truncated or damaged"
    assert "out/x.zip/_/_/evil.png" in [f"out/{name}" for name in written(tmp_path / "out")]
    assert not (tmp_path / "evil.png").exists()
    inside(
        "prepare", "--data-path=in/x.zip", "--out=alone"
    )  # members of the input keep their names
    assert "cat/1.png" in listed(tmp_path, "alone")


def test_a_large_zip_is_read_in_parts(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for i in range(300):
            archive.writestr(f"{i}.png", b"x")
    units = [unit for unit, _, _ in unpack.find_units(str(tmp_path / "x.zip"))]
    assert [(unit.start, unit.stop) for unit in units] == [(0, 128), (128, 256), (256, 300)]
    names = [n for unit in units for n, _ in unpack.read_unit(str(tmp_path / "x.zip"), unit, 1.0)]
    assert names == [f"{i}.png" for i in range(300)]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_frames_of_animations(kind: str, inside: Inside, tmp_path: Path) -> None:
    frames = [smooth(i) for i in range(6)]
    file = tmp_path / "in" / f"x.{kind.lower()}"
    file.parent.mkdir()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=400)
    prepared(inside, "--every=800ms")
    assert list(listed(tmp_path)) == [f"{file.name}/{i:04}" for i in (0, 2, 4)]


def test_frames_of_a_video(inside: Inside, tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    (tmp_path / "in").mkdir()
    video = ffmpeg.write_frames(str(tmp_path / "in" / "x.mp4"), (64, 64), fps=10, quality=9)
    video.send(None)
    for i in range(30):
        video.send(smooth(i // 10).tobytes())
    video.close()
    prepared(inside)
    assert list(listed(tmp_path)) == [f"x.mp4/{i:06}" for i in range(3)]
    for i in range(3):
        with Image.open(tmp_path / "out" / "x.mp4" / f"{i:06}.png") as picture:
            shown = np.asarray(picture).astype(int)
        off = [np.abs(shown - np.asarray(smooth(second))).mean() for second in range(3)]
        assert np.argmin(off) == i, "the picture of that second"


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_tables_of_pictures(suffix: str, inside: Inside, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    names = b'{"info": {"features": {"label": {"names": ["cat", "dog"]}}}}'
    column = [{"bytes": encoded(smooth(i)), "path": "x"} for i in range(4)]
    table = pa.table({"id": [1, 2, 3, 4], "image": column, "label": [0, 1, 0, 1]})
    table = table.replace_schema_metadata({b"huggingface": names})
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / f"x.{suffix}"
    if suffix == "parquet":
        parquet.write_table(table, file, row_group_size=2)
    else:
        with pa.ipc.new_stream(str(file), table.schema) as writer:
            writer.write_table(table)
    prepared(inside)
    found = listed(tmp_path)
    assert len(found) == 4
    assert {row[0] for row in found.values()} == {"kept"}
    assert [name.split("/")[1] for name in found] == ["cat", "cat", "dog", "dog"]


def test_a_package_that_is_missing_is_named(
    inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "in", {"a.png": smooth(1), "x.mp4": "video"})
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    prepared(inside)
    assert listed(tmp_path)["x.mp4"][:2] == ("skipped", "needs a package")
    assert "pip install imageio-ffmpeg" in listed(tmp_path)["x.mp4"][2]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("imageio_ffmpeg")
    prepared(inside)  # with it the file is read
    assert listed(tmp_path)["x.mp4/..."][1] == "truncated or damaged"


# --- duplicates, and overruling ------------------------------------------------------------------


def test_duplicates_are_folded_and_recoloured_ones_are_not(inside: Inside, tmp_path: Path) -> None:
    face = detect.draw_face(96)
    swapped = np.asarray(face)[..., ::-1]  # red for blue: the mean of the channels is the same
    files = {
        "face.png": face,
        "mirrored.png": ImageOps.mirror(face),
        "large.png": detect.draw_face(160),
        "other.png": Image.fromarray(swapped),
    }
    folder = save(tmp_path / "in", files)  # type: ignore[arg-type]
    face.save(folder / "again.jpg", quality=80)
    prepared(inside)
    found = listed(tmp_path)
    assert {name for name, row in found.items() if row[0] == "kept"} == {"large.png", "other.png"}
    assert found["again.jpg"] == ("folded", "near-duplicate", "of large.png")
    prepared(inside, "--dedup=False")
    assert {row[0] for row in listed(tmp_path).values()} == {"kept"}


def test_a_person_overrules_without_a_second_examination(
    inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "a.png": smooth(1),
        "b.png": smooth(1),
        "c.png": smooth(2),
        "s.png": smooth(3, (30, 30)),
    }
    save(tmp_path / "in", files)  # type: ignore[arg-type]
    prepared(inside)
    assert written(tmp_path / "out") == ["a.png", "c.png"]
    lines = (tmp_path / "out.tsv").read_text().splitlines()
    (tmp_path / "keep").write_text("\n".join(x for x in lines if x.startswith(("b.png", "s.png"))))
    (tmp_path / "drop").write_text("c.png\n")
    monkeypatch.setattr(intake.Examiner, "examine", lambda *_: pytest.fail("examined again"))
    prepared(inside, "--keep=keep", "--drop=drop")
    assert written(tmp_path / "out") == ["b.png", "s.png"]
    found = listed(tmp_path)
    assert found["a.png"] == ("folded", "near-duplicate", "of b.png")
    assert found["c.png"] == ("dropped", "--drop", "")
    for words, says in (
        (("--keep=keep", "--drop=keep"), r"--keep, --drop: both name b\.png"),
        (("--keep=out.html",), r"--keep: no picture is called \S"),
        (("--keep=none",), r"--keep=none: No such file"),
    ):
        with pytest.raises(Refused, match=says):
            prepared(inside, *words)


# --- what is written -----------------------------------------------------------------------------


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    files = {
        f"{k}/{i}.png": smooth(9 * n + i) for n, k in enumerate(("cat", "dog")) for i in range(4)
    }
    return save(tmp_path / "in", files)  # type: ignore[arg-type]


@pytest.mark.parametrize("out", ["out", "out.zip", "out.tar"])
def test_folders_zips_and_shards_hold_the_same(
    out: str, inside: Inside, classes: Path, tmp_path: Path
) -> None:
    inside("prepare", "--data-path=in", f"--out={out}")
    source = tmp_path / out
    if out == "out.tar":
        with tarfile.open(tmp_path / "out-000000.tar") as shard:
            names = shard.getnames()
            assert names == sorted(written(classes))
            shard.extractall(tmp_path / "source", filter="data")
        source = tmp_path / "source"
    found = data.open_images(str(source), 32, 3, cache=tmp_path / "cache", workers=1)
    before = data.open_images("in", 32, 3, cache=tmp_path / "cache", workers=1)
    assert found.digest == before.digest
    assert found.class_names == ("cat", "dog")


def test_what_is_there_is_not_overwritten(inside: Inside, classes: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    with pytest.raises(Refused, match=r"^--out=out: out is there already"):
        prepared(inside)
    assert (tmp_path / "out" / "mine.txt").read_text() == "precious"
    for out, says in (("in/out", "--data-path"), (".", "--out"), ("in", "it would lie|there")):
        with pytest.raises(Refused, match=says):
            inside("prepare", "--data-path=in", f"--out={out}")
    assert len(written(classes)) == 8


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--out=x",), "--data-path: give"),
        (("--data-path=in",), "--out: give"),
        (("--data-path=none", "--out=x"), "--data-path=none: no such folder or file"),
        (("--data-path=in", "--out=x", "--margin=1"), "--margin: it goes with --crop=faces"),
        (("--data-path=in", "--out=x", "--every=soon"), "--every=soon: a time such as 1s"),
        (("--data-path=in", "--out=x", "--value-range=9"), "--value-range=9: give LOW,HIGH"),
        (
            ("--data-path=in", "--out=x", "--crop=faces", "--cascade=in/cat/0.png"),
            "--cascade=in/cat/0.png: no cascade",
        ),
    ],
)
def test_mistakes(
    words: tuple[str, ...], says: str, inside: Inside, classes: Path, tmp_path: Path
) -> None:
    if "--crop=faces" in words:
        pytest.importorskip("cv2")
    with pytest.raises(Refused, match=says):
        inside("prepare", *words)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["in"]


def test_names_that_any_system_can_write() -> None:
    from gan.delivery import safe_name

    assert safe_name("a/../b:c?.d") == "a/_/b_c_.d"
    assert safe_name("/etc/passwd") == "_/etc/passwd"
    assert safe_name("x\\y\x00z") == "x/y_x00z"
    assert len(safe_name("动" * 300).encode()) <= 120
    assert safe_name("动" * 300) != safe_name("动" * 301)


# --- stopping and going on -----------------------------------------------------------------------


def test_it_goes_on_where_it_was_stopped(
    inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "in", {f"{i:02}.png": smooth(i) for i in range(12)})
    monkeypatch.setattr(intake, "TASK_UNITS", 3)
    examine_unit = intake.Examiner.examine
    seen: list[str] = []

    def stops(self: intake.Examiner, unit: unpack.Unit) -> intake.Report:
        if len(seen) == 7:  # in the third task
            raise KeyboardInterrupt
        seen.append(unit.path)
        return examine_unit(self, unit)

    monkeypatch.setattr(intake.Examiner, "examine", stops)
    with pytest.raises(SystemExit):
        prepared(inside)
    assert not (tmp_path / "out").exists()
    seen.clear()
    prepared(inside)  # what was not committed is examined; 12 - 6 of them are fewer than 7
    assert seen == [f"{i:02}.png" for i in range(6, 12)]
    assert len(written(tmp_path / "out")) == 12
    # a file that changed, one that is gone, a new one: they alone
    seen.clear()
    smooth(50).save(tmp_path / "in" / "03.png")
    os.utime(tmp_path / "in" / "03.png", ns=(1, 1))
    (tmp_path / "in" / "04.png").unlink()
    smooth(51).save(tmp_path / "in" / "99.png")
    prepared(inside)
    assert seen == ["03.png", "99.png"]
    assert "04.png" not in listed(tmp_path)
    seen.clear()
    with pytest.raises(SystemExit):  # other settings: all anew
        prepared(inside, "--crop=center")
    assert len(seen) == 7


def test_a_state_that_is_damaged_or_in_use_is_refused(inside: Inside, tmp_path: Path) -> None:
    save(tmp_path / "in", {"a.png": smooth(1)})
    prepared(inside)
    state = tmp_path / "out.prepare" / "state.sqlite"
    held = sqlite3.connect(state, isolation_level=None)
    held.execute("begin exclusive")
    with pytest.raises(Refused, match="another prepare is at work there"):
        prepared(inside)
    held.close()
    for file in state.parent.glob("state.sqlite-*"):
        file.unlink()
    state.write_bytes(b"x" * 5000)
    with pytest.raises(Refused, match=r"out\.prepare: damaged .*delete it"):
        prepared(inside)


def test_processes_report_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "in", {f"{i}.png": smooth(i) for i in range(6)})
    monkeypatch.setattr(intake, "TASK_UNITS", 2)
    treatment = examine.Treatment("none", 0, False, 0.0, "png")

    def rows(workers: int) -> list[tuple[object, ...]]:
        state = intake.Intake(tmp_path / f"{workers}", str(tmp_path / "in"), treatment, 1.0)
        with contextlib.closing(state):
            state.list_units()
            state.examine(workers)
            return state.db.execute(
                "select name, side, signature from pictures order by name"
            ).fetchall()

    assert rows(2) == rows(1)
    assert len(rows(1)) == 6


def end_by(number: int) -> intake.Examiner:
    """Ends the process that is to examine: by a signal, or with an exit code."""
    if number > 0:
        os._exit(number)
    os.kill(os.getpid(), -number)
    raise AssertionError("dead")


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (-signal.SIGKILL, "was killed, as systems do when memory runs out, at one of a.png, b.png"),
        (-signal.SIGABRT, "was ended by SIGABRT, at one of a.png, b.png; the same command goes on"),
        (7, "ended with exit code 7, and may have said why above, at one of a.png"),
    ],
)
def test_what_ended_a_process_is_said(number: int, says: str) -> None:
    tasks = iter([[unpack.Unit("a.png", 0, 0)], [unpack.Unit("b.png", 0, 0)]])
    with pytest.raises(Refused, match=says):
        list(intake._in_processes(functools.partial(end_by, number), tasks, 2))


def test_it_needs_no_torch_whose_import_takes_more_memory_than_all_the_rest(
    tmp_path: Path,
) -> None:
    save(tmp_path / "in", {"a.png": smooth(1), "b.png": smooth(2)})
    words = ["prepare", "--data-path=in", "--out=out", "--quiet"]
    text = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import main; main.run({words!r}); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", text], cwd=tmp_path, check=True, timeout=PATIENCE_SECONDS)
    assert written(tmp_path / "out") == ["a.png", "b.png"]
