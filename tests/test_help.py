"""What `--help` and `--version` print."""

import importlib
import re
from pathlib import Path

import pytest

import main
from commands import compare_plan, flags, help
from config import FIELDS, GROUPS, Config, flag
from gan.families import ONLY_SOME, ROWS

ROOT = Path(__file__).resolve().parent.parent
Captured = pytest.CaptureFixture[str]


def said(capsys: Captured, *words: str) -> str:
    main.run(list(words))
    return capsys.readouterr().out


@pytest.mark.parametrize("command", main.COMMANDS)
def test_help_speaks_of_its_command_in_100_columns(command: str, capsys: Captured) -> None:
    text = said(capsys, command, "--help")
    assert max(map(len, text.splitlines())) <= 100
    for family in ("", "--family=pix2pix", "--family=dcgan", "--all"):
        more = said(capsys, command, *filter(None, [family]), "--help")
        assert max(map(len, more.splitlines())) <= 100
        assert text.splitlines()[1] in more
    examples = [line for line in text.splitlines() if line.startswith("  python main.py")]
    assert len(examples) == 3
    for example in examples:  # of this command, with flags that it has
        words = example.split()
        assert words[:3] == ["python", "main.py", command]
        for name in re.findall(r"--([a-z-]+)", example):
            assert f"  --{name} " in text or name == "lr"
    assert "\n  flag " in text
    assert "docs/other-tools.md" in text


def test_the_help_of_train_has_groups(capsys: Captured) -> None:
    text = said(capsys, "train", "--all", "--help")
    places = [text.index(f"\n{title}\n") for title in ("train", *GROUPS.values())]
    assert places == sorted(places)
    assert text.index("\nbudget\n") < text.index("  --max-minutes ") < text.index("\nfiles and")
    assert all(text.count(f"  {flag(name)} ") == 1 for name in FIELDS)
    assert [*FIELDS].index("family") == 0  # the first group begins with the first setting


def test_flags_of_other_families_are_left_out_until_they_are_asked_for(capsys: Captured) -> None:
    of_others = set(ONLY_SOME) - set(ROWS[Config.family].settings)
    assert "penalty" in of_others
    assert "nz" not in of_others
    for command in ("train", "compare"):
        short, whole = said(capsys, command, "--help"), said(capsys, command, "--all", "--help")
        for name in of_others:
            assert f"  {flag(name)} " not in short
            assert f"  {flag(name)} " in whole
        assert f"{command} --all --help" in short
        assert "--clip " in said(capsys, command, "--family=wgan", "--help")


def test_what_a_run_decides_is_not_said_to_have_a_default(capsys: Captured) -> None:
    for command in ("generate", "evaluate", "translate", "export"):
        text = said(capsys, command, "--help")
        assert re.search(r"  --batch-size +int +the run's ", text)
        assert re.search(r"  --name +str +'' +the run to load", text)
        assert text.index("\nthe run\n") < text.index(help.BARE_WEIGHTS) < text.index("--ngf ")
    assert re.search(r"  --name +str +'' +name of the run:", said(capsys, "train", "--help"))
    assert re.search(r"  --seed +int +0 +the first seed", said(capsys, "compare", "--help"))


@pytest.mark.parametrize("word", ["--version", "-V"])
def test_the_version(word: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = r"main\.py \d+\.\d+; Python 3\.\d+\.\d+, torch "
    assert re.fullmatch(wanted + r"\d+\.\d+\S*\n", said(capsys, word))

    def missing(name: str) -> str:
        raise help.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(help.importlib.metadata, "version", missing)
    assert re.fullmatch(wanted + "is not installed\n", said(capsys, word))


def commands_of_readme(name: str) -> list[str]:
    """The commands in the table of what one wants to do."""
    table = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(r"^\| [^|]+ \| `python main\.py ([^`]+)` \|$", table, re.MULTILINE)


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_first_commands_of_the_readme_work_on_any_machine(name: str) -> None:
    first_screen = (ROOT / name).read_text(encoding="utf-8").split("\n| ")[0]
    commands = re.findall(r"^(?:\S*python) main\.py ([^#\n]+)", first_screen, re.MULTILINE)
    assert len(commands) == 3
    for line in commands:
        command, *words = line.split()
        given = dict(word.removeprefix("--").partition("=")[::2] for word in words)
        named = {k.replace("-", "_"): v for k, v in given.items()}
        request = flags.read(importlib.import_module(f"commands.{command}").FLAGS, [], named)
        assert "gpu" not in request.settings


def test_the_commands_of_the_readme_are_understood() -> None:
    commands = commands_of_readme("README.md")
    assert len(commands) == 15
    assert commands_of_readme("README.zh-CN.md") == commands
    for line in commands:
        command, *words = line.split()
        given = dict(word.removeprefix("--").partition("=")[::2] for word in words)
        named = {k.replace("-", "_"): v or flags.BARE for k, v in given.items()}
        if command == "compare":
            compare_plan.plan([], named)
        else:
            flags.read(importlib.import_module(f"commands.{command}").FLAGS, [], named)
