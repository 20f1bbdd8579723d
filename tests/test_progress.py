"""How far a command is: bars that fit, lines now and then, times that are right."""

import io
import sys

import pytest
from conftest import ROOT, Clock

from gan import progress
from gan.errors import coloured
from gan.progress import Progress, duration, fitting, size


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def last(self) -> str:
        """The bar as it stands."""
        return self.getvalue().split("\r")[-1].rstrip()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 seconds"), (1, "1 second"), (59.4, "59 seconds"), (59.6, "1 minute"),
        (7000, "117 minutes"), (7200, "2 h"), (12_000, "3 h 20 min"), (86400 * 2, "2 days"),
        (86400 * 2 + 5 * 3600, "2 days 5 h"),
    ],
)  # fmt: skip
def test_times_as_one_reads_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes_as_one_reads_them() -> None:
    found = [size(count) for count in (40_000, 4.2e6, 62.4e6, 999.4e6, 1.44e9)]
    assert found == ["0.0 MB", "4.2 MB", "62 MB", "999 MB", "1.4 GB"]


def test_what_fits_is_shown_in_its_order() -> None:
    assert fitting(["one", "two", "three"], 8) == "one, two"
    assert fitting(["one", "three", "two"], 8) == "one"  # a less important part does not jump in
    assert fitting(["longer than that"], 8) == ""


def test_without_a_terminal_there_is_a_line_every_30_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Progress("reading", 200, "pictures")
    for second in range(1, 71):
        clock.now += 1
        shown.show(second)
    shown.close()
    assert capsys.readouterr().err == (
        "reading: 15 %, 30 of 200 pictures, 3 minutes left\n"
        "reading: 30 %, 60 of 200 pictures, 2 minutes left\n"
    )


def test_the_rest_is_as_fast_as_what_was_done_in_this_session(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Progress("train", 1.0, done=0.5, lines=sys.stdout)
    clock.now += 40
    shown.show(0.75, lambda: ["60 images"])
    shown.show(0.8)  # too soon for another line
    shown.close()
    assert capsys.readouterr().out == "train: 75 %, 40 seconds left, 60 images\n"


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_bar_fits_its_terminal_and_cuts_no_word(
    columns: int, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "_columns", lambda: columns)
    facts = ["26,400 images", "score 0.113", "images/s 230", "loss_d 1.2", "loss_g 0.8"]
    shown = Progress("train", 1.0, delay=0.0)
    clock.now += 10
    shown.show(0.25, lambda: facts)
    line = terminal.last()
    shown.close()
    assert line.startswith("train:  25%|")
    assert len(line) < columns
    words = line.split("| ")[1].split(", ")
    assert words == ["30 seconds left", *facts][: len(words)]
    assert len(words) == {60: 2, 80: 3, 120: 6}[columns]


def test_a_bar_leaves_nothing_behind(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for thing in progress.track(range(4), "drawing", 4, "faces"):
        clock.now += 3
        if thing == 2:
            assert terminal.last().startswith("drawing:  50%|")
    assert terminal.last() == ""
    assert terminal.getvalue().endswith("\r")


def test_what_takes_a_moment_is_not_shown(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for thing in progress.track(range(3), "drawing", 3, "faces"):
        clock.now += 0.6 * (thing < 3)
    assert terminal.getvalue().strip("\r ") == ""


def test_what_is_tracked_is_handed_on(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in progress.track("abcd", "drawing", 4, "faces"):
        clock.now += 20
    assert capsys.readouterr().err == "drawing: 50 %, 2 of 4 faces, 40 seconds left\n" + (
        "drawing: 100 %, 4 of 4 faces, 0 seconds left\n"
    )


def test_colour_is_for_terminals_and_no_color_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert coloured("no", "red", Terminal()) == "\x1b[31mno\x1b[0m"
    assert coloured("no", "red", io.StringIO()) == "no"
    for name, value in (("TERM", "dumb"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
        assert coloured("no", "red", Terminal()) == "no"
        monkeypatch.setenv("TERM", "xterm")


def test_a_stage_of_unknown_length_is_shown_in_a_terminal_alone(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.stage("export", "writing faces.onnx"):
        assert capsys.readouterr().err == ""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.stage("export", "writing faces.onnx"):
        assert terminal.last() == f"export:   0%|{' ' * 20}| writing faces.onnx"
    assert terminal.last() == ""


def test_nothing_of_a_command_goes_past_this_file() -> None:
    """tqdm alone would cut words, and draw with carriage returns where there is no terminal."""
    others = [path for path in (ROOT / "gan").glob("*.py") if path.name != "progress.py"]
    for path in (*others, *(ROOT / "commands").glob("*.py"), ROOT / "main.py"):
        assert "tqdm" not in path.read_text(encoding="utf-8"), path
