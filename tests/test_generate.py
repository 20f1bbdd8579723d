"""What `generate` refuses before it draws."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import generate, places, runs
from config import Config, RunFacts
from gan import sample
from gan.errors import Refused
from models import FAMILIES

Inside = Callable[..., None]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("--gen-img=x.txt", r"give it a suffix that can be written, such as \.png"),
        ("--gen-img=x", "give it a suffix"),
        ("--gen-img=x.psd", "give it a suffix"),  # which Pillow only reads
        ("--gen-img=folder", "a folder; give the name of a file"),
        ("--gen-dir=file.png", "a file, not a folder to write to"),
    ],
)
def test_targets_are_checked_before_the_run_is_loaded(
    word: str, says: str, inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "load_run", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.png").touch()
    with pytest.raises(Refused, match=f"^{word}: {says}"):
        inside("generate", word)


@pytest.mark.parametrize(
    ("name", "height", "fits"),
    [
        ("x.png", 70_000, True), ("x.JPG", 16_382, True), ("x.webp", 16_382, True),
        ("x.jpg", 70_000, False), ("x.gif", 70_000, False), ("x.webp", 16_384, False),
        ("x.msp", 32, False),  # one bit a pixel
    ],
)  # fmt: skip
def test_formats_that_hold_the_grid(name: str, height: int, fits: bool) -> None:
    if fits:
        generate.check_size(Path(name), (8, height))
    else:
        with pytest.raises(Refused, match=rf"^--gen-img={name}: .* {height:,} pixels high"):
            generate.check_size(Path(name), (8, height))


def test_the_height_of_the_grid_is_checked_before_anything_is_drawn(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(family="dcgan", img_size=28, ngf=4, ndf=4, gpu=False)

    def load_run(*_: Any, **__: Any) -> runs.LoadedRun:
        return runs.LoadedRun(FAMILIES["dcgan"].build(config, 0), config, RunFacts(), "somewhere")

    def rank(*_: Any) -> sample.Ranked:
        raise Refused("it is drawn")

    monkeypatch.setattr(places, "check_checkpoint", lambda given: None)
    monkeypatch.setattr(runs, "load_run", load_run)
    monkeypatch.setattr(sample, "rank", rank)
    # 546 rows of 28 pixels and a gap of 2 still fit in WebP's 16,383 pixels
    for count, says in ((4368, "it is drawn"), (4369, "16,412 pixels high; give .png, or a sm")):
        words = [f"--gen-num={count}", "--gen-search-num=5000", "--rank-by=none"]
        with pytest.raises(Refused, match=says):
            inside("generate", "--gen-img=x.webp", *words)
