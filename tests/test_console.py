"""What a command says: --quiet, --verbose, and how the program is called."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import TINY, refused

import main
from commands import compare_jobs
from config import Config
from gan import console, progress
from gan.report import Report

Inside = Callable[..., None]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    console.set_level(console.NORMAL)


@pytest.mark.parametrize("command", main.COMMANDS)
def test_every_command_can_say_less_or_more(command: str, inside: Inside) -> None:
    refused(inside, command, "--quiet", "--verbose", says="--quiet, --verbose: less or more")
    refused(inside, command, "--quiet=3", says="--quiet=3: wants True or False")
    text = main.help.help_of(command, [])
    assert text.count("  --quiet ") == text.count("  --verbose ") == 1


def test_quiet_prints_the_path_of_the_result_alone(
    inside: Inside, faces: Path, capsys: Captured
) -> None:
    inside("train", *TINY, f"--data-path={faces}", "--max-images=40", "--name=x", "--quiet")
    inside("generate", "--name=x", "--gen-num=4", "--rank-by=none", "--quiet")
    inside("interpolate", "--name=x", "--frames=2", "--output=walk.webp", "--quiet")
    inside("export", "--name=x", "--file=g.safetensors", "--quiet")
    inside("report", "--name=x", "--faces=False", "--quiet")
    out, err = capsys.readouterr()
    assert err == ""
    state = "checkpoints/x/state_00000002.pth"
    assert out.split("\n") == [state, "result.png", "walk.webp", "g.safetensors", "report.html", ""]


def test_verbose_says_what_was_read_and_how_long_it_took(
    inside: Inside, faces: Path, capsys: Captured
) -> None:
    words = ("--max-images=40", "--name=x", "--log-every=1", "--verbose")
    inside("train", *TINY, f"--data-path={faces}", *words)
    out = capsys.readouterr().out
    assert "read: data/cache/" in out
    assert "\ntrain: step 1, 20 images: epoch 0.1, " in out
    assert "\ntrain: saved at step 2, preview 1.png\n" in out
    inside("generate", "--name=x", "--gen-num=4", "--rank-by=none", "--verbose")
    out = capsys.readouterr().out
    assert "read: checkpoints/x/state_00000002.pth: 0." in out
    assert out.splitlines()[-1].startswith("generate: ")
    assert out.endswith(" s\n")
    inside("generate", "--name=x", "--gen-num=4", "--rank-by=none")
    assert "read: " not in capsys.readouterr().out


def test_alarms_are_said_all_the_same(tmp_path: Path, capsys: Captured) -> None:
    console.set_level(console.QUIET)
    report = Report(tmp_path, 0, 0, 0.0)
    report.print_line("score 1")
    report.print_line("health: collapse", "yellow")
    report.spare.attempt("previews", lambda: (tmp_path / "no" / "file").write_text("x"))
    report.close()
    console.alarm("disk: nearly full")
    console.refuse("--x: no", sys.stderr)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "health: collapse",
        "previews cannot be written: No such file or directory "
        f"({tmp_path / 'no' / 'file'}); the training goes on and tries again with the next",
        "disk: nearly full",
        "main.py: --x: no",
    ]


# a training of a comparison: its log says that it is half-way, and it waits until that is shown
STUB = """
import os, pathlib, sys, time
name = [word for word in sys.argv if word.startswith("--name=")][0][7:]
log = pathlib.Path("runs", name, "log.jsonl")
log.parent.mkdir(parents=True)
log.write_text('{"step": 10, "images": 200, "seconds": 3.0}\\n')
print("checkpoints/the/state")
print("told", *sys.argv[-1:] * (sys.argv[-1] == "--quiet"), file=sys.stderr)
until = time.monotonic() + 60
while not os.path.exists("seen") and time.monotonic() < until:
    time.sleep(0.01)
"""


@pytest.mark.parametrize("level", ["", "--quiet", "--verbose"])
def test_a_comparison_shows_how_far_its_trainings_are_and_what_goes_wrong(
    level: str,
    inside: Inside,
    faces: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compare_jobs, "TRAIN", [sys.executable, "-c", STUB])
    monkeypatch.setattr(compare_jobs, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress.Progress.__init__, "__defaults__", ("", 0.0, 0.0, None))
    read = compare_jobs.Job.look

    def seen(job: compare_jobs.Job) -> list[str]:
        if facts := read(job):
            Path("seen").touch()
        return facts

    monkeypatch.setattr(compare_jobs.Job, "look", seen)
    if level == "--verbose":
        Path("seen").touch()
    given = ("--max-images=400", f"--data-path={faces}", *filter(None, [level]))
    inside("compare", *TINY, *given)
    out, err = capfd.readouterr()
    told = [line for line in err.splitlines() if line.startswith("told")]
    assert told == ["told" if level == "--verbose" else "told --quiet"]
    if level == "--quiet":
        assert (out, err) == ("compare.html\n", "told --quiet\n")
        return
    assert out.count("data: 200 pictures") == 1
    assert ("checkpoints/the/state" in out) == (level == "--verbose")
    assert (", run 1 of 1, 200 images\n" in out) == (level == "")


def test_how_far_a_job_is_stands_in_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "runs" / "x" / "log.jsonl"
    log.parent.mkdir(parents=True)
    config = Config(max_epoch=0, max_images=400)
    planned = compare_jobs.PlannedRun("x", "x", 0, {}, "")
    job = compare_jobs.Job(planned, config, ["--x"], "starts", compare_jobs.Budget(config, 10))
    assert (job.look(), job.share) == ([], 0.0)
    lines = '{"step": 1, "images": 100, "seconds": 3.0}\n{"event": "score", "score": 0.5}\n{"im'
    log.write_text(lines)
    assert job.look() == ["100 images", "score 0.500"]
    assert (job.share, job.seconds) == (0.25, 3.0)
    job.state = "failed: no luck"
    assert job.share == 1.0


@pytest.mark.parametrize(
    ("started_as", "called"),
    [("/x/main.py", "python main.py"), ("/x/bin/facegan", "facegan"), ("facegan.exe", "facegan")],
)
def test_commands_are_printed_as_they_were_called(
    started_as: str, called: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(sys, "argv", [started_as, "train"])
    assert console.command_line("train", "--name=a b", "", "--resume") == (
        f"{called} train '--name=a b' --resume"
    )
    main.run(["film", "--help"])
    assert capsys.readouterr().out.startswith(f"{called} film [--flag=value ...]")
    console.refuse("--x: no", sys.stderr)
    assert capsys.readouterr().err == f"{called.split()[-1]}: --x: no\n"


def test_an_installed_program_is_called_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "facegan" / "toolkit" / "gan" / "console.py"
    monkeypatch.setattr(console, "__file__", str(there))
    assert console.program() == "facegan"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_lines_go_on_below_between_words(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(console, "columns", lambda stream: width)
    text = "no checkpoint of run nothing in checkpoints/nothing; train first, or give --netg-path "
    console.refuse(text + "and --netd-path, both of which are files", sys.stderr)
    console.say(text)
    out, err = capsys.readouterr()
    for said in (out, err):
        assert max(map(len, said.splitlines())) <= width
    assert err.split() == f"main.py: {text} and --netd-path, both of which are files".split()
    assert len(err.splitlines()) == {60: 3, 80: 2, 120: 2}[width]
    table, command = "a  b\n" + "x" * 200, f"go on with: python main.py train {'--x=y ' * 40}"
    console.say(table)
    console.say(command)
    assert capsys.readouterr().out == f"{table}\n{command}\n"


def test_lines_that_go_into_a_file_are_lines(capsys: Captured) -> None:
    console.say("word " * 100)
    assert capsys.readouterr().out.count("\n") == 1


TABLE = (
    ("setting", "final score", "best", "finished", "images", "rescues"),
    ("family modern, g-every 5", "0.421 ± 0.012", "0.400", "2 of 2", "40,000", "0"),
    ("family dcgan, g-every 5", "1.421 ± 0.013", "1.400", "1 of 2", "40,000", "3"),
)


def test_a_table_is_as_wide_as_the_terminal_and_no_word_is_cut() -> None:
    words = {word for row in TABLE for cell in row for word in cell.split()}
    for width in (40, 50, 60, 70, 80):
        text = console.format_table(TABLE, width)
        assert max(map(len, text.splitlines())) <= width
        body, _, left_out = text.partition("only on the page: ")
        assert set(body.split()) <= words
        assert {"family", "modern,", "0.421", "0.400"} <= set(body.split())
        assert all((name in body) != (name in left_out) for name in TABLE[0][2:])
    assert console.format_table(TABLE, 80) == console.format_table(TABLE)  # where there is room
    assert console.format_table(TABLE, 50).splitlines() == [
        "setting         final score    best   finished",
        "family modern,  0.421 ± 0.012  0.400  2 of 2",
        "g-every 5",
        "family dcgan,   1.421 ± 0.013  1.400  1 of 2",
        "g-every 5",
        "only on the page: images, rescues",
    ]


def test_heads_go_on_below_before_a_column_is_left_out() -> None:
    rows = (("score", "reference (real images)", "n"), ("KID", "0.1", "2,000"))
    assert console.format_table(rows, 23).splitlines() == [
        "       reference",
        "       (real",
        "score  images)    n",
        "KID    0.1        2,000",
    ]
