"""The page of `report`: what its log says, in a browser as users see it."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Watched, open_browser
from PIL import Image

from commands import report, report_page, runs
from commands.compare_curves import Run, read_run
from config import Config, RunFacts
from gan.errors import Refused
from models import FAMILIES

Inside = Callable[..., None]
EVENTS: list[dict[str, Any]] = [
    {"step": 0, "event": "start", "machine": "Linux, 2 cores"},
    {"step": 1, "images": 100, "seconds": 60.0, "loss_d": 2.0, "loss_g": 0.5, "images/s": 5.0},
    {"step": 2, "event": "score", "images": 200, "seconds": 120.0, "score": 9.0, "L1": 8.0},
    {"step": 2, "event": "save", "images": 200, "seconds": 120.0, "preview": "1.png"},
    {"step": 2, "event": "pause", "what": "scoring", "took": 40.0},
    {"step": 2, "event": "pause", "what": "saving", "took": 20.0},
    {"step": 2, "event": "resume", "machine": "Linux, 8 cores"},  # resumed elsewhere
    {"step": 3, "event": "health", "images": 250, "seconds": 150.0, "line": "D <wins>"},
    {"step": 3, "images": 300, "seconds": 180.0, "loss_d": 1.0, "loss_g": 0.75, "images/s": 5.0},
    {"step": 4, "event": "score", "images": 400, "seconds": 240.0, "score": 0.5, "L1": 0.4},
    {"step": 4, "event": "save", "images": 400, "seconds": 240.0, "preview": "2.png"},
    {"step": 4, "event": "pause", "what": "scoring", "took": 20.0},
    {"step": 4, "event": "resume", "machine": "Linux, 2 cores"},
]  # fmt: skip


def run_of(name: str) -> runs.LoadedRun:
    config = Config(family="dcgan", img_size=28, ngf=4, ndf=4, nz=8, gpu=False, max_images=400)
    nets = FAMILIES["dcgan"].build(config, 0)
    return runs.LoadedRun(nets, config, RunFacts(), f"checkpoints/{name}/best.pth")


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Logs and previews of the runs `a` and `b`, whose nets were never trained."""
    for name in ("a", "b"):
        for kind in ("runs", "imgs", "checkpoints"):
            (tmp_path / kind / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "best.pth").touch()
        log = "".join(json.dumps(line) + "\n" for line in EVENTS)
        (tmp_path / "runs" / name / "log.jsonl").write_text(log)
        for number, colour in ((1, "red"), (2, "blue")):
            Image.new("RGB", (64, 64), colour).save(tmp_path / "imgs" / name / f"{number}.png")

    def load_run(given: dict[str, str], **_: Any) -> runs.LoadedRun:
        return run_of(given["name"])

    monkeypatch.setattr(runs, "load_run", load_run)
    return tmp_path


def test_curves_of_one_run_and_of_several(room: Path) -> None:
    lines = report_page.read_lines(room / "runs" / "a" / "log.jsonl")
    assert lines["loss_d"] == {100: 2.0, 300: 1.0}
    charts = {chart["title"]: chart for chart in report_page.make_charts({"a": lines})}
    assert charts["Losses"]["series"] == ["loss_d", "loss_g"]
    assert charts["Losses"]["x"] == [100, 300]
    assert charts["Losses"]["text"] == "At the end: loss_d 1, loss_g 0.75."
    score = charts["Score: lower is better"]
    assert (score["log"], score["dots"]) == (True, True)  # it falls 18-fold
    assert "Coverage: higher is better" not in charts
    later = {"loss_d": {150: 1.5}}
    both = report_page.make_charts({"a": lines, "b": later})[0]
    assert both["series"] == ["a loss_d", "a loss_g", "b loss_d"]
    assert both["x"] == [100, 150, 300]
    assert both["values"] == [[2.0, None, 1.0], [0.5, None, 0.75], [None, 1.5, None]]


def test_where_the_time_went_and_on_which_machines(room: Path) -> None:
    log = read_run(Run("a", "a", 0, room / "runs" / "a" / "log.jsonl", room / "imgs" / "a"))
    facts = dict(report.describe(runs.load_run({"name": "a"}), log))
    assert facts["time by part"] == (
        "training 4 minutes (75 %), scoring 1 minute (19 %), saving 20 seconds (6 %)"
    )
    assert facts["trained on"] == "Linux, 2 cores; Linux, 8 cores"
    assert facts["trained"] == "400 images in 4.0 minutes, 5 images/s"
    log.pauses.clear()  # as an earlier version's log has none
    assert "time by part" not in dict(report.describe(runs.load_run({"name": "a"}), log))


def test_scores_of_earlier_versions_have_their_name(tmp_path: Path) -> None:
    line = {"step": 1, "event": "score", "images": 100, "score": 0.5, "KID (lite0) half size": 0.2}
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps(line))
    lines = report_page.read_lines(log)
    assert lines["score (lite0)"] == {100: 0.5}
    assert "score" not in lines
    titles = [chart["title"] for chart in report_page.make_charts({"a": lines})]
    assert titles == ["Score (lite0): lower is better", "KID: lower is better"]
    found = read_run(Run("a", "a", 0, log, tmp_path))
    assert dict(report.describe(run_of("a"), found))["best score (lite0)"] == "0.500 at 100 images"


def test_long_curves_are_thinned_and_keep_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_page, "MOST_POINTS", 10)
    lines = {"score": {images: float(images) for images in range(1, 96)}}
    (chart,) = report_page.make_charts({"a": lines})
    x = chart["x"]
    assert isinstance(x, list)
    assert len(x) <= 10
    assert x[-1] == 95


def test_scores_are_shown_only_of_the_same_run(room: Path, tmp_path: Path) -> None:
    run = runs.load_run({"name": "a"})
    found: dict[str, Any] = {
        "n_fake": 9, "n_held_out": 8, "n_train": 7, "drawn_by": "checkpoints/a/state_3.pth",
        "scores": {"KID": {"value": 1.0, "floor": 0.1}},
        "memorisation": {"ratio": 1.0, "copied": 0.0},
    }  # fmt: skip
    path = tmp_path / "evaluate.json"
    path.write_text(json.dumps(found))
    assert report.scores_of(path, run)[1][2:4] == ("1.0000", "0.1000")
    path.write_text(json.dumps({**found, "drawn_by": "checkpoints/b/best.pth"}))
    assert report.scores_of(path, run) == ()
    path.write_text("{")
    assert report.scores_of(path, run) == ()
    assert report.scores_of(tmp_path / "none", run) == ()


def test_what_is_refused(inside: Inside, room: Path) -> None:
    for words, says in (
        (("--report=x.txt",), r"a name that ends in \.html"),
        (("--names=a,b", "--name=a"), "one run or several"),
        (("--names=a,gone",), "there is no run called gone"),
        (("--report=imgs/a/1.png/x.html",), "is a file, not a folder"),
    ):
        with pytest.raises(Refused, match=says):
            inside("report", *words)
    assert not list(room.glob("*.html"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


def test_the_page_in_a_browser(chromium: Any, inside: Inside, room: Path) -> None:
    inside("report", "--names=a,b", "--no-faces", "--report=out/r.html")
    text = (room / "out" / "r.html").read_text()
    assert "D &lt;wins&gt;" in text
    assert "report --names=a,b --no-faces --report=out/r.html" in text
    for scheme, width in (("light", 1280), ("dark", 400)):
        watched = Watched(chromium, color_scheme=scheme, viewport={"width": width, "height": 800})
        page = watched.open(room / "out" / "r.html")
        page.locator(".uplot").first.wait_for()
        assert page.locator(".uplot").count() == 4
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
        # the slider, by keyboard: values below the curves and the preview of that moment
        page.locator("#moment").focus()
        page.keyboard.press("Home")
        page.locator("#moment").fill("550")
        assert page.locator("#moment-text").inner_text() == "220 images, 2.2 minutes"
        page.locator(".u-legend", has_text="8").first.wait_for()
        alt = page.locator("#previews img").first.get_attribute("alt")
        assert alt == "Preview of a after 200 images"
        page.keyboard.press("End")
        alt = page.locator("#previews img").last.get_attribute("alt")
        assert alt == "Preview of b after 400 images"
        assert page.locator("img:not([alt])").count() == 0
        # a table sorts by the keyboard too
        page.locator("summary").first.press("Enter")
        table = page.locator("table").first
        head = table.locator("thead button").first
        head.press("Enter")
        names = table.locator("tbody td:first-child").all_inner_texts()
        assert names == sorted(names, key=str.lower)
        head.press("Enter")
        assert table.locator("tbody td:first-child").all_inner_texts() == names[::-1]
        watched.check()
        page.close()
    assert re.search(r"script-src 'unsafe-inline'; style-src", text)
