"""Comparisons: the logs that are read, the table, the curves, the page."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from commands import compare_curves, compare_page
from commands.compare_curves import FINISHED, Run, RunLog


def write_log(folder: Path, name: str, lines: Sequence[dict[str, Any]], tail: str = "") -> Path:
    path = folder / "runs" / name / "log.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return path


def score_line(step: int, value: float) -> dict[str, Any]:
    when = {"step": step, "images": 10 * step, "seconds": 6.0 * step}
    return {"event": "score", **when, "score": value, "score (lite0)": value / 2}


def earlier_score_line(step: int, value: float) -> dict[str, Any]:
    """Of a version whose score was KID (lite0) alone."""
    when = {"step": step, "images": 10 * step, "seconds": 6.0 * step}
    return {"event": "score", **when, "score": value, "coverage (lite0)": 0.5}


def scalar_line(step: int, speed: float, loss: float = 1.0) -> dict[str, Any]:
    when = {"step": step, "images": 10 * step, "seconds": 6.0 * step}
    return {**when, "epoch": 0.1, "images/s": speed, "loss_d": loss, "D(x)": 0.5}


def four_runs(folder: Path) -> list[Run]:
    """Two seeds of one setting; of another setting one seed, and one that failed."""
    alarm = {"step": 2, "event": "health", "kind": "d wins", "line": "D wins", "rescue": False}
    rescue = {"step": 3, "event": "rescue", "state": "best.pth", "rates": 0.5, "line": "x"}
    a0 = [scalar_line(1, 10), score_line(2, 5.0), alarm, scalar_line(3, 30), scalar_line(4, 11)]
    a1 = [scalar_line(1, 20), score_line(2, 0.5), scalar_line(3, 20), rescue, scalar_line(4, 20)]
    logs = {
        "a0": [*a0, score_line(4, 1.0)],
        "a1": [*a1, score_line(4, 4.0)],
        "b0": [scalar_line(1, 8), score_line(4, 2.0)],
        "b1": [scalar_line(1, 8), score_line(1, 1.5)],
    }
    return [
        Run(
            name,
            f"setting <{name[0]}> $x$",
            int(name[1]),
            write_log(folder, name, lines),
            folder / "imgs" / name,
            "failed: no <luck>" if name == "b1" else FINISHED,
        )
        for name, lines in logs.items()
    ]


def add_previews(run: Run, saved: Sequence[tuple[int, str]]) -> None:
    """Log previews: (step, file name)."""
    with open(run.log, "a") as file:
        for step, name in saved:
            when = {"step": step, "images": 10 * step, "seconds": 6.0 * step}
            file.write(json.dumps({**when, "event": "save", "preview": name}) + "\n")


def test_the_numbers_of_the_table(tmp_path: Path) -> None:
    rows = compare_page.summarise([compare_curves.read_run(run) for run in four_runs(tmp_path)])
    a, b = rows
    # scores 1 and 4: mean 2.5, deviations of 1.5 each: (1.5² + 1.5²) / (2 - 1) = 4.5
    assert a["final"] == 2.5
    assert a["spread"] == pytest.approx(4.5**0.5)
    assert a["best"] == {"score": 0.5, "images": 20, "seconds": 12.0, "seed": 1}
    assert a["images/s"] == (11 + 20) / 2  # medians of 10, 30, 11 and of 20, 20, 20
    assert (a["images"], a["seconds"], a["alarms"], a["rescues"]) == (40, 24, 1, 1)
    assert a["runs"][0]["events"] == [
        {"images": 20, "seconds": 12.0, "line": "D wins", "rescue": False}
    ]
    # one seed of two failed: no deviation; its score is not final, but it may be the best
    assert (b["final"], b["spread"], b["finished"], b["of"]) == (2.0, None, 1, 2)
    assert b["best"] is not None
    assert (b["best"]["score"], b["images"]) == (1.5, 40)
    assert b["runs"][1]["final"] is None
    head, first, second = compare_page.summary(rows)
    assert head[:4] == ["setting", "final score", "best score", "finished"]
    assert first[1:] == [
        "2.500 ± 2.121", "0.500", "2 of 2", "40", "0.4", "1", "20", "0.2", "15.5", "1",
    ]  # fmt: skip
    assert "±" not in second[1]
    assert compare_page.summary(compare_page.summarise([]))


NEW, OLD, PAIRS, NONE = (
    [score_line(1, 4.0), score_line(2, 3.0)],
    [earlier_score_line(1, 2.5), earlier_score_line(2, 1.25)],
    [{**earlier_score_line(1, 0.5), "L1": 0.5}],
    [scalar_line(1, 10)],
)


@pytest.mark.parametrize(
    ("logs", "by_lite0", "finals"),
    [
        ([NEW, NEW], False, [3.0, 3.0]),
        ([OLD, OLD], True, [1.25, 1.25]),
        ([NEW, OLD], True, [1.5, 1.25]),
        ([OLD, NEW, NONE], True, [1.25, 1.5, None]),
        ([NEW, NONE], False, [3.0, None]),
        ([[*OLD, *NEW], NEW], False, [3.0, 3.0]),  # resumed with this version
        ([PAIRS, PAIRS], False, [0.5, 0.5]),
    ],
    ids=["new", "old", "mixed", "mixed, one unscored", "new, one unscored", "resumed", "pairs"],
)
def test_all_runs_are_compared_by_one_score(
    logs: list[list[dict[str, Any]]], by_lite0: bool, finals: list[float | None], tmp_path: Path
) -> None:
    runs = [
        Run(str(i), str(i), 0, write_log(tmp_path, str(i), lines), tmp_path, FINISHED)
        for i, lines in enumerate(logs)
    ]
    page = tmp_path / "page.html"
    rows = compare_page.write_comparison(page, runs, "t", "c", ["a note"])
    assert [row["final"] for row in rows] == finals
    text = page.read_text(encoding="utf-8")
    assert ("whose score was KID (lite0) alone" in text) is by_lite0
    assert "a note" in text


def test_a_resumed_run_of_an_earlier_version_has_one_curve_of_lite0(tmp_path: Path) -> None:
    path = write_log(tmp_path, "x", [earlier_score_line(1, 2.5), score_line(2, 3.0)])
    log = compare_curves.read_run(Run("x", "x", 0, path, tmp_path))
    assert log.curves["score (lite0)"] == [(10, 6.0, 2.5), (20, 12.0, 1.5)]
    assert log.curves["score"] == [(20, 12.0, 3.0)]


def test_a_number_that_is_missing_is_a_dash_and_zero_is_a_number(tmp_path: Path) -> None:
    nothing = compare_page.summarise([RunLog(Run("x", "x", 0, tmp_path, tmp_path, "to do"))])
    assert compare_page.table_rows(nothing) == [["x", "0 of 1", *["-"] * 7, "0", "0"]]
    zero = RunLog(Run("x", "x", 0, tmp_path, tmp_path), curves={"score": [(0, 0.0, 0.0)]})
    row = compare_page.table_rows(compare_page.summarise([zero]))[0]
    assert row[2:6] == ["0.000", "0.000", "0", "0.0"]


def test_the_keys_of_the_json_are_what_they_were(tmp_path: Path) -> None:
    rows = compare_page.summarise([compare_curves.read_run(run) for run in four_runs(tmp_path)])
    numbers = ["final", "spread", "best", "images/s", "images", "seconds", "alarms", "rescues"]
    assert list(rows[0]) == ["setting", "finished", "of", *numbers, "runs"]
    assert list(rows[0]["runs"][0]) == ["name", "seed", "state", *numbers, "events"]
    assert list(rows[0]["runs"][0]["events"][0]) == ["images", "seconds", "line", "rescue"]


def test_a_log_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    lines = [scalar_line(1, 10, 2.0), scalar_line(2, 10, 3.0)]
    path = write_log(tmp_path, "cut", lines, '{"step": 3, "ima')
    cut = compare_curves.read_run(Run("cut", "x", 0, path, tmp_path))
    assert cut.curves["loss_d"] == [(10, 6.0, 2.0), (20, 12.0, 3.0)]
    nan = {"step": 1, "images": 10, "seconds": 1.0, "loss_d": float("nan")}
    path = write_log(tmp_path, "odd", [nan])
    assert compare_curves.read_run(Run("odd", "x", 0, path, tmp_path)).curves == {}
    none = compare_curves.read_run(Run("none", "x", 0, tmp_path / "none", tmp_path))
    assert (none.images, none.final, none.curves) == (0, None, {})


def test_the_mean_of_two_curves_is_where_both_are() -> None:
    first = (np.array([0.0, 10.0]), np.array([0.0, 10.0]))
    second = (np.array([2.0, 6.0, 8.0]), np.array([4.0, 4.0, 4.0]))
    found = compare_curves.mean_curve([first, second])
    assert found is not None
    x, y = found
    assert (x[0], x[-1]) == (2, 8)
    assert (y[0], y[-1]) == (3, 6)  # (2 + 4) / 2, (8 + 4) / 2
    assert compare_curves.mean_curve([first, (np.array([11.0]), np.array([1.0]))]) is None


def test_a_long_curve_is_averaged_and_keeps_its_mean(tmp_path: Path) -> None:
    points = [(10 * i, 1.0 * i, float(i % 2)) for i in range(1000)]
    for axis, last in ((0, 9970.0), (1, 997.0)):  # the mean x of the last five points
        x, y = compare_curves._downsample(points, axis)
        assert len(x) == len(y) == compare_curves.MAX_POINTS
        assert x[-1] == last
        assert y.mean() == pytest.approx(0.5)


@pytest.mark.parametrize("count", [1, 10, 11, 25])
def test_every_setting_has_a_colour_of_its_own(count: int) -> None:
    colours = compare_curves.distinct_colours(count)
    assert len(set(colours)) == len(colours) == count
    assert all(0 <= part <= 1 for colour in colours for part in colour)


def test_a_curve_of_one_point_is_seen(tmp_path: Path) -> None:
    def markers(count: int) -> list[Any]:
        points = [(100 * i, 1.0 * i, 0.5) for i in range(1, count + 1)]
        log = RunLog(Run("x", "x", 0, tmp_path, tmp_path), curves={"loss_d": points})
        axes = Figure().subplots()
        compare_curves._plot_setting(axes, [log], "loss_d", 0, 1.0, (0.0, 0.0, 0.0))
        return [line.get_marker() for line in axes.lines]

    assert markers(1) == ["."]
    assert markers(2) == ["None"]


def test_scores_that_fall_a_lot_get_a_log_scale_and_a_spike_is_cut() -> None:
    def axes(name: str, values: Sequence[float]) -> Any:
        found = Figure().subplots()
        found.plot(values)
        compare_curves._set_y_axis(found, name, np.array(values))
        return found

    assert axes("score", [9.0, 1.0]).get_yscale() == "log"
    assert axes("score", [7.0, 1.0]).get_yscale() == "linear"
    assert axes("score", [9.0, -1.0]).get_yscale() == "linear"  # an unbiased KID may be negative
    assert axes("loss_d", [9.0, 1.0]).get_yscale() == "linear"
    spike = [0.0, 1.0] * 500 + [1000.0]
    assert axes("loss_d", spike).get_ylim() == pytest.approx((-0.1, 1.1))


def test_previews_are_taken_at_equal_points(tmp_path: Path) -> None:
    def log(state: str, images: int) -> RunLog:
        return RunLog(Run("x", "x", 0, tmp_path, tmp_path, state), images=images)

    logs = [log(FINISHED, 400), log(FINISHED, 800), log("failed", 8)]
    assert compare_page.preview_points(logs) == [100, 200, 300, 400]
    assert compare_page.preview_points([log("to do", 0), log("stopped", 80)]) == [20, 40, 60, 80]
    assert compare_page.preview_points([log("to do", 0)]) == []
    kept = [compare_curves.Preview(images, 0.0, tmp_path) for images in (60, 210, 400)]
    chosen = [
        compare_page.nearest_preview(kept, at, max_distance=50) for at in (100, 200, 300, 400)
    ]
    assert [one and one.images for one in chosen] == [60, 210, None, 400]


def test_the_page_is_one_file_and_takes_any_name(tmp_path: Path) -> None:
    several = four_runs(tmp_path)
    (tmp_path / "imgs" / "a0").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (786, 786, 3), np.uint8)
    for name in ("1.png", "2.png"):
        Image.fromarray(noise).save(tmp_path / "imgs" / "a0" / name)
    add_previews(several[0], [(1, "1.png"), (2, "1.png"), (4, "2.png"), (4, "gone.png")])
    odd = Run("<i>", "_\udcff 名 $", 0, tmp_path / "nothing", tmp_path)  # a name may be no text
    page = tmp_path / "page.html"
    compare_page.write_comparison(
        page, [*several, odd], "A & B", "main.py --x='<1>'", ["a < b", '"><script>']
    )
    text = page.read_text(encoding="utf-8")
    for raw in ("<i>", "setting <a>", "A & B", "<1>", "a < b", "<luck>", '"><script>'):
        assert raw not in text
    for escaped in ("setting &lt;a&gt; $x$", "A &amp; B", "a &lt; b", "at 20 images", "D wins"):
        assert escaped in text
    assert "_\\udcff 名 $" in text
    assert "b1: failed: no &lt;luck&gt;" in text
    assert "4 of 5 runs are finished." in text
    assert "rescue: back to best.pth, learning rates x 0.5" in text
    assert text.count("data:image/jpeg;base64,") == 4  # 10, 20, 30 and 40: the one or the other
    sources = re.findall(r'src="(.{10})', text)
    assert len(sources) == 1 + 4
    assert set(sources) == {"data:image"}
    for number in ("2.500 ± 2.121", "0.500", "15.5"):
        assert f"<td>{number}</td>" in text
    assert json.loads((tmp_path / "page.json").read_text())["settings"][0]["final"] == 2.5
    assert Image.open(tmp_path / "page.png").width == 1400


def test_a_damaged_preview_is_left_out_and_the_page_is_written(tmp_path: Path) -> None:
    run = four_runs(tmp_path)[0]
    run.imgs.mkdir(parents=True)
    (run.imgs / "small.png").write_bytes(b"no picture")
    (run.imgs / "large.png").write_bytes(b"no picture" * compare_page.LARGE_PREVIEW_BYTES)
    Image.new("RGB", (8, 8)).save(run.imgs / "good.png")
    add_previews(run, [(1, "small.png"), (2, "large.png"), (4, "good.png")])
    page = tmp_path / "page.html"
    compare_page.write_comparison(page, [run], "t", "c")
    text = page.read_text(encoding="utf-8")
    assert text.count('src="data:image/png;base64,') == 2  # the curves and the good one
    assert "There are no previews yet." not in text


def test_a_longer_run_also_shows_its_own_end(tmp_path: Path) -> None:
    logs = []
    for setting, images in (("short", 100), ("long", 200)):
        path = tmp_path / f"{setting}.png"
        Image.new("RGB", (8, 8)).save(path)
        preview = compare_curves.Preview(images, 1.0, path)
        run = Run(setting, setting, 0, tmp_path, tmp_path)
        logs.append(RunLog(run, previews={path.name: preview}, images=images))
    head, rows = compare_page._preview_table(logs, {"short": "red", "long": "blue"})
    assert head[-2:] == [["100%", "100 images"], ["at its own end"]]
    whens = [[cell and cell[0].split(",")[0] for cell in cells] for _, _, cells in rows]
    assert whens[0] == [None, None, "100 images", "100 images", "100 images"]
    assert whens[1] == [None, None, None, None, "200 images"]
    assert compare_page._preview_table(logs[:1], {"short": "red"})[0][-1] == ["100%", "100 images"]


def test_a_comparison_with_nothing_in_it_has_a_page(tmp_path: Path) -> None:
    run = Run("x", "x", 0, tmp_path / "none", tmp_path, "to do")
    compare_page.write_comparison(tmp_path / "new" / "page.html", [run], "t", "c")
    text = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    for said in ("0 of 1 runs are finished.", "x: to do", "no previews yet", "There were none."):
        assert said in text
