"""The log: averages over a window, and lines that a killed run has to do again."""

import json
import math
from pathlib import Path

import pytest
import torch

from gan.report import Meters, Report


def test_a_reading_is_the_mean_since_the_last_one() -> None:
    meters = Meters()
    for value in (1.0, 2.0, 6.0):
        meters.add({"loss_d": torch.tensor(value)})
    meters.add({"loss_g": torch.tensor(5.0)})
    assert meters.read() == pytest.approx({"loss_d": 3.0, "loss_g": 5.0})
    meters.add({"loss_d": torch.tensor(4.0)})
    assert meters.read() == {"loss_d": 4.0}


def test_half_a_window_is_saved_and_goes_on() -> None:
    first, second = Meters(), Meters()
    for value in (1.0, 2.0):
        first.add({"loss_d": torch.tensor(value)})
    second.load_state_dict(first.state_dict())
    second.add({"loss_d": torch.tensor(6.0)})
    assert second.read()["loss_d"] == pytest.approx(3.0)


def test_nan_is_noticed() -> None:
    meters = Meters()
    meters.add({"loss_d": torch.tensor(1.0)})
    assert meters.finite()
    meters.add({"loss_d": torch.tensor(math.nan)})
    assert not meters.finite()


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_steps_that_are_done_again_are_logged_once(tmp_path: Path) -> None:
    report = Report(tmp_path, 0, 0, 0.0)
    for step in (2, 4, 6):
        report.scalars(step, step * 10, {"epoch": 0.1, "loss_d": step})
    report.close()
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 8, "los')  # killed while writing
    report = Report(tmp_path, 4, 40, 0.5)
    report.scalars(6, 60, {"epoch": 0.2, "loss_d": 60.0})
    report.close()
    assert [(line["step"], line["loss_d"]) for line in lines(tmp_path)] == [(2, 2), (4, 4), (6, 60)]
    assert list(tmp_path.glob("events.out.tfevents.*"))
    Report(tmp_path, 0, 0, 0.0).close()  # a new run
    assert lines(tmp_path) == []
