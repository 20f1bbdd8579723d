"""The log: means over some steps, its lines, and steps that a killed run does again."""

import math
import re
from pathlib import Path

import pytest
import torch

from gan import progress
from gan.report import Meters, Report, read_log, tag_of


def test_a_reading_is_the_mean_since_the_last_one() -> None:
    meters = Meters()
    for value in (1.0, 2.0, 6.0):
        meters.add({"loss_d": torch.tensor(value)})
    meters.add({"loss_g": torch.tensor(5.0)})
    assert meters.read() == pytest.approx({"loss_d": 3.0, "loss_g": 5.0})
    meters.add({"loss_d": torch.tensor(4.0)})
    assert meters.read() == {"loss_d": 4.0}


def test_a_mean_half_done_is_saved_and_goes_on() -> None:
    first, second = Meters(), Meters()
    for value in (1.0, 2.0):
        first.add({"loss_d": torch.tensor(value)})
    second.load_state_dict(first.state_dict())
    second.add({"loss_d": torch.tensor(6.0)})
    assert second.read()["loss_d"] == pytest.approx(3.0)


def test_nan_is_noticed() -> None:
    meters = Meters()
    meters.add({"loss_d": torch.tensor(1.0)})
    assert meters.all_finite()
    meters.add({"loss_d": torch.tensor(math.nan)})
    assert not meters.all_finite()


def test_the_saved_meters_have_the_keys_of_older_checkpoints() -> None:
    meters = Meters()
    meters.add({"loss_d": torch.tensor(3.0)})
    meters.add({"loss_d": torch.tensor(5.0)})
    saved = meters.state_dict()["loss_d"]
    assert {"n", "sum", "var", "mean", "std"} <= set(saved)
    assert (saved["n"], saved["sum"], saved["mean"]) == (2.0, 8.0, 4.0)


class Board:
    """TensorBoard's writer, which keeps what it is given."""

    def __init__(self) -> None:
        self.points: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.points.append((tag, value, step))

    def add_text(self, tag: str, text: str, step: int) -> None:
        self.points.append((text, 0.0, step))

    def close(self) -> None: ...


def test_the_lines_of_the_log_and_the_tags_of_tensorboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Report(tmp_path, 0, 0, 0.0)
    log.tensorboard.close()
    board = log.tensorboard = Board()
    log.log_scalars(2, 20, {"epoch": 0.1, "seconds": 1.5, "loss_d": 0.25, "D(x)": 0.5})
    log.log_scores(2, 20, 1.2345, {"score": 3.0, "KID (lite0)": 0.5})
    log.log_event(3, {"event": "health", "line": "名"})
    log.close()
    assert (tmp_path / "log.jsonl").read_text() == (
        '{"step": 2, "images": 20, "epoch": 0.1, "seconds": 1.5, "loss_d": 0.25, "D(x)": 0.5}\n'
        '{"step": 2, "event": "score", "images": 20, "seconds": 1.2, "score": 3.0, '
        '"KID (lite0)": 0.5}\n{"step": 3, "event": "health", "line": "\\u540d"}\n'
    )
    assert board.points == [
        ("loss/D", 0.25, 20),
        ("D/real", 0.5, 20),
        ("scores/score", 3.0, 20),
        ("scores/KID lite0", 0.5, 20),
    ]
    log.log_settings({"nz": 64, "family": "modern"}, 20)
    table = "| setting | value |\n|---|---|\n| nz | 64 |\n| family | modern |"
    assert board.points[-1] == (table, 0.0, 20)
    assert [tag_of(name) for name in ("loss_cycle", "diversity", "images/s")] == [
        "loss/cycle", "health/diversity", "speed/images per second",
    ]  # fmt: skip
    assert "score at 20 images: score 3.000, KID (lite0) 0.500" in capsys.readouterr().out


def test_images_and_score_come_before_losses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Report(tmp_path, 0, 0, 0.0)
    log.log_scalars(2, 2000, {"epoch": 1.25, "loss_d": 0.25, "images/s": 84.96})
    log.log_scores(2, 2000, 1.0, {"score": 0.5, "KID (lite0) half size": 0.25})
    log.show_progress(0.1, 2000, 90.0)
    assert capsys.readouterr().out == "score at 2,000 images: score 0.500\n"
    log.progress.shown_at -= progress.LINE_SECONDS + 1
    log.show_progress(0.1, 2020, 90.0)
    log.show_progress(0.1, 2040, 90.0)
    log.close()
    assert capsys.readouterr().out == (
        "train: 10 %, 2 minutes left, 2,020 images, score 0.500, images/s 85, loss_d 0.25\n"
    )


def test_long_pauses_and_the_end_are_announced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Report(tmp_path, 0, 0, 0.0)
    log.show_pause(1.0, "taking the last score", 38.0)
    log.show_pause(1.0, "saving", 3.0)
    log.announce_end(210.4, 3480.0, 60.0)
    log.close()
    first, second = capsys.readouterr().out.splitlines()
    assert first == "train: taking the last score, about 38 seconds"
    assert re.fullmatch(
        "train: 210 images/s, about 58 minutes left; the end, with scores and saves, about "
        r"\d\d:\d\d",
        second,
    )


def test_a_pause_of_no_time_is_said_without_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, said = Report(tmp_path, 0, 0, 0.0), []
    monkeypatch.setattr(type(log.progress), "has_bar", True)
    monkeypatch.setattr(log.progress, "show", lambda done, facts, *_, **__: said.append(facts()))
    for seconds in (0.4, 0.6):
        log.show_pause(0.5, "saving", seconds)
    log.close()
    assert said == [["saving"], ["saving, about 1 second"]]


def test_steps_that_are_done_again_are_logged_once(tmp_path: Path) -> None:
    log = Report(tmp_path, 0, 0, 0.0)
    for step in (2, 4, 6):
        log.log_scalars(step, step * 10, {"epoch": 0.1, "loss_d": step})
    log.close()
    path = tmp_path / "log.jsonl"
    with open(path, "a") as file:
        file.write('{"step": 8, "los')  # killed while writing
    log = Report(tmp_path, 4, 40, 0.5)
    log.log_scalars(6, 60, {"epoch": 0.2, "loss_d": 60.0})
    log.close()
    assert [(line["step"], line["loss_d"]) for line in read_log(path)] == [(2, 2), (4, 4), (6, 60)]
    assert len(path.read_text().splitlines()) == 3  # the half line is gone from the file too
    assert list(tmp_path.glob("events.out.tfevents.*"))
    Report(tmp_path, 0, 0, 0.0).close()  # a new run
    assert path.read_text() == ""


def test_a_log_is_read_without_what_is_no_line_of_it(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert read_log(path) == []
    path.write_bytes(b'{"step": 1}\n7\n{"other": 1}\n\xff\n{"step": 2}\n{"step": 3')
    assert read_log(path) == [{"step": 1}, {"step": 2}]
