"""The toolkit from Python, from a plain script, and as an installed package."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import PATIENCE_SECONDS

import facegan
from gan import machine, sample

ROOT = Path(__file__).resolve().parent.parent
TINY = {
    "img_size": 28, "nz": 8, "ngf": 4, "ndf": 4, "batch_size": 20, "gpu": False, "held_out": 0,
    "num_workers": 1, "family": "dcgan", "max_images": 40,
}  # fmt: skip


@pytest.fixture(scope="module")
def room(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        facegan.train(**TINY, name="x", data_path=str(faces), seed=3)
    return folder


def test_a_run_draws_ranks_and_walks(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(room)
    run = facegan.load("x", gpu=False)
    assert (run.config.seed, run.classes) == (3, ())
    drawn = run.draw(5)
    assert (drawn.shape, drawn.dtype) == ((5, 28, 28, 3), np.uint8)
    assert np.array_equal(run.draw(2, first=3), drawn[3:])
    assert np.array_equal(run.draw(2, seed=9)[0], run.draw_inputs(sample.noise(9, 0, 2, 8))[0])
    best, about = run.rank(3, among=6, by="score")
    scores = [each["score"] for each in about]
    assert scores == sorted(scores, reverse=True)
    again = run.draw(1, first=int(about[0]["index"]))[0]
    assert np.abs(best[0].astype(int) - again).max() <= 1
    walk = run.walk([4, 5], frames=3, loop=True)
    assert len(walk) == 6
    assert np.abs(walk[3].astype(int) - run.draw(1, seed=5)[0]).max() <= 1
    assert run.images(drawn)[1].getpixel((2, 7)) == tuple(drawn[1, 7, 2])
    assert run._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(facegan.Refused, match="--gen-num=9: more than the 6 candidates"):
        run.rank(9, among=6)


def test_the_log_says_where_it_was_trained_and_how_long_it_saved(room: Path) -> None:
    lines = [json.loads(line) for line in (room / "runs/x/log.jsonl").read_text().splitlines()]
    assert lines[0]["event"] == "start"
    assert lines[0]["machine"] == machine.describe()
    pauses = [line for line in lines if line.get("event") == "pause"]
    assert pauses[-1]["what"] == "saving"
    assert 0 < pauses[-1]["took"] < PATIENCE_SECONDS


def test_a_run_of_another_folder_and_exported_weights(
    room: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(room)
    wanted = facegan.load("x", gpu=False).draw(2)
    from commands import export

    export.main((), {"name": "x", "file": str(tmp_path / "x.safetensors"), "card": "False"})
    monkeypatch.chdir(tmp_path)
    for path in (room / "checkpoints" / "x", tmp_path / "x.safetensors"):
        assert np.array_equal(facegan.load(str(path), gpu=False).draw(2, seed=3), wanted)
    assert Path.cwd() == tmp_path
    with pytest.raises(facegan.Refused, match="no checkpoint of run nothing"):
        facegan.load("nothing")


def run_python(*words: str, cwd: Path, path: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True,
        timeout=PATIENCE_SECONDS,
    )  # fmt: skip


SCRIPT = """\
from gan.cache import map_in_processes
print("script")
print(list(map_in_processes(abs, range(-130, 0), 2))[:2])
"""


def test_a_script_needs_no_guard_for_the_processes_that_decode(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    found = run_python("script.py", cwd=tmp_path, path=ROOT)
    assert (found.returncode, found.stdout) == (0, "script\n[130, 129]\n"), found.stderr


def test_the_package_works_outside_the_checkout(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", "70")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("commands", "gan", "facegan"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("main.py", "models.py", "config.py", "pyproject.toml", "requirements.txt",
                 "README.md", "LICENSE"):  # fmt: skip
        shutil.copy(ROOT / name, source)
    target, work = tmp_path / "installed", tmp_path / "work"
    work.mkdir()
    words = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    found = run_python(*words, f"--target={target}", str(source), cwd=tmp_path, path=work)
    assert found.returncode == 0, found.stderr
    assert sorted(p.name for p in target.iterdir() if "info" not in p.name and p.name != "bin") == [
        "facegan"
    ], "nothing of ours lies about under a common name"
    command = (str(target / "bin" / "facegan"),)
    found = run_python(*command, "--help", cwd=work, path=target)
    assert "train" in found.stdout, found.stderr
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    (work / "data").mkdir()
    for index in range(24):
        Image.new("RGB", (32, 32), (index * 10, 90, 30)).save(work / "data" / f"{index}.png")
    found = run_python(*command, "train", *flags, "--data-path=data", "--dedup=False", cwd=work,
                       path=target)  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert list((work / "checkpoints").glob("state_*.pth")), "it writes into the working folder"
    pages = target / "facegan" / "toolkit" / "gan" / "templates"
    assert (pages / "web" / "kernels.wasm").is_file()
    assert (pages / "base.html").is_file()
