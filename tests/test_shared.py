"""What is made to be shared names the data set, not the folders of the machine it was made on."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from safetensors import safe_open

from commands import compare_jobs, compare_plan
from config import file_name

Inside = Callable[..., None]


def test_paths_are_shown_by_their_last_part_unless_they_are_below_this_folder() -> None:
    for path, shown in (
        ("/home/ann/faces.zip", "faces.zip"),
        ("~/faces", "faces"),
        ("../ann/faces", "faces"),
        ("checkpoints/x/best.pth", "checkpoints/x/best.pth"),
        ("", ""),
    ):
        assert file_name(path) == shown


@pytest.mark.usefixtures("cheap_lite0")
def test_exports_and_pages_carry_no_folder_of_this_machine(
    inside: Inside, faces: Path, tmp_path: Path
) -> None:
    words = [word for word in TINY if not word.startswith("--held-out")]
    inside("train", *words, "--held-out=0.2", f"--data-path={faces}", "--name=x", "--max-images=20")
    inside("evaluate", "--name=x", "--gen-num=16")
    inside("generate", "--name=x", "--gen-search-num=4", "--gen-num=4", "--rank-by=none")
    before = os.umask(0o027)
    try:
        inside("export", "--name=x", "--file=g.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path("g.safetensors").stat().st_mode) == 0o640  # as the umask says
    with safe_open("g.safetensors", "pt") as file:
        about = file.metadata()
    assert json.loads(about["config"])["data_path"] == faces.name
    inside("evaluate", f"--fake-path={faces}", f"--data-path={faces}", "--report=b.html")
    for name in ("evaluate.html", "evaluate.json", "b.html", "b.json", "result.json"):
        assert str(faces.parent) not in Path(name).read_text(), name
    assert f"Data: {faces.name}." in Path("evaluate.html").read_text()


def test_a_comparison_is_shown_without_folders_and_goes_on_with_them(
    inside: Inside, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def run(*words: Any) -> int:
        given.extend(words)
        return 0

    monkeypatch.setattr(compare_jobs, "run", run)
    other = tmp_path / "set.zip"
    other.touch()
    inside("compare", f"--data-path={faces},{other}", "--lr1=0.1,0.2", "--max-images=20")
    plan, _, again, shown = given
    assert f"--data-path={faces},{other}" in again
    assert f"--data-path={faces.name},set.zip" in shown
    assert {run.setting for run in plan.runs} == {
        f"data-path {name}, lr1 {rate}" for name in (faces.name, "set.zip") for rate in (0.1, 0.2)
    }
    alike = {"data_path": "/a/set,/b/set", "max_images": "20"}
    settings = {run.setting for run in compare_plan.plan((), alike).runs}
    assert settings == {"data-path /a/set", "data-path /b/set"}  # else they would be one
