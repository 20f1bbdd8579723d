"""Flags of the commands: what is read, what is refused, and what the refusal says."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import refused

import main
from commands import compare, evaluate, export, flags, generate, help, train, translate
from commands.flags import Request, UnknownFlag
from config import FIELDS, flag
from gan.errors import Refused

ALL = (train, generate, evaluate, translate, export, compare)


def read(**words: str) -> Request[train.TrainOptions]:
    return flags.read(train.FLAGS, [], words)


@pytest.mark.parametrize(
    ("stray", "options", "says"),
    [
        ([], {"batchsize": "3"}, "--batch-size"),
        ([], {"lr": "3"}, "--lr"),
        ([], {"seed": "-1"}, "--seed=-1: at least 0"),
        (["lr1"], {}, "did you mean --lr1"),
        (["foo"], {}, "foo: a stray word; flags are --x=y"),
        ([str(Path(__file__))], {}, f"{__file__}: a stray word; did you mean --data-path="),
        ([], {"img_size": "64", "image_size": "96"}, "given twice"),
        ([], {"nolr1": "True"}, "not a switch"),
        ([], {"nogpu": "3"}, "--gpu=no3"),
        ([], {"name": "../x"}, "--name=../x"),
        ([], {"name": ".."}, "--name=.."),
    ],
)
def test_wrong_flags_are_refused(stray: list[str], options: dict[str, str], says: str) -> None:
    with pytest.raises(Refused) as refusal:
        flags.read(train.FLAGS, stray, options)
    assert says in str(refusal.value)


def test_switches_and_aliases() -> None:
    assert read(nogpu="True").settings == {"gpu": False}
    assert read(gpu="True").settings == {"gpu": True}
    assert read(image_size="64").settings == {"img_size": 64}
    old = flags.read(generate.FLAGS, [], {"rank": "ratio"})
    assert old.options.rank_by == "ratio"
    assert old.given == {"rank_by"}
    with pytest.raises(Refused, match="--rank: given twice"):
        flags.read(generate.FLAGS, [], {"rank_by": "none", "rank": "ratio"})


def test_options_are_of_the_command_and_settings_of_the_run() -> None:
    request = read(resume="a/state_1.pth", lr1="1e-3", config="~/c.json")
    assert request.options.resume == "a/state_1.pth"
    assert request.options.config == str(Path.home() / "c.json")
    assert request.settings == {"lr1": 1e-3}
    assert request.given == {"resume", "lr1", "config"}
    assert read(resume="True").options.resume is True
    assert read().options == train.TrainOptions(resume=False, overwrite=False, config="")


def test_the_faces_that_evaluate_scores_are_2000_and_those_that_generate_keeps_64() -> None:
    assert flags.read(evaluate.FLAGS, [], {}).options.gen_num == 2000
    assert flags.read(generate.FLAGS, [], {}).options.gen_num == 64


def test_a_flag_of_another_command_names_it() -> None:
    with pytest.raises(UnknownFlag, match="--gen-num: no such flag of train"):
        read(gen_num="3")
    refused(
        main.run, ["train", "--gen-num=3"],
        says="--gen-num: no such flag of train; it belongs to generate and evaluate",
    )  # fmt: skip
    refused(main.run, ["train", "--rank=score"], says="it belongs to generate")
    refused(main.run, ["train", "--lr3=1"], says="--lr3: no such flag of train; did you mean --lr")


def test_no_name_is_an_option_and_a_setting() -> None:
    for module in ALL:
        options = set(module.FLAGS.options.__dataclass_fields__)
        assert not options & set(FIELDS), module
        assert set(module.FLAGS.settings) <= set(FIELDS), module


def test_help_lists_every_flag_once_and_every_setting_belongs_to_train() -> None:
    for module in ALL:
        table = help.help_table(module.FLAGS)
        for name in module.FLAGS.fields:
            assert table.count(f"  {flag(name)} ") == 1, (module, name)
    assert set(train.FLAGS.settings) == set(FIELDS)


def test_a_command_is_a_module_and_a_function_of_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = ModuleType("commands.greet")
    module.FLAGS = flags.CommandFlags("greet", train.TrainOptions, ("name",), "greet [--name=X]")  # type: ignore[attr-defined]
    module.main = lambda stray, words: print("hello", words["name"])  # type: ignore[attr-defined]

    def greet(*stray: str, **options: str) -> None:
        main.call("greet", stray, options)

    monkeypatch.setitem(sys.modules, "commands.greet", module)
    monkeypatch.setitem(main.COMMANDS, "greet", greet)
    assert importlib.import_module("commands.greet") is module
    main.run(["greet", "--name=x"])
    main.run(["--help"])
    main.run(["greet", "--help"])
    said = capsys.readouterr().out
    assert said.startswith("hello x\n")
    assert "  python main.py greet [--name=X]\n" in said
    assert "\n  --name " in said


@pytest.mark.parametrize("word", ["--resume=", "--config="])
def test_an_empty_variable_starts_no_run(word: str) -> None:
    refused(main.run, ["train", word], says=f"{word}: empty; give it a value")


def test_an_empty_folder_of_fakes_is_refused() -> None:
    refused(main.run, ["evaluate", "--fake-path="], says="--fake-path=: empty; give it a value")


@pytest.mark.parametrize("word", ["--=5", "---", "---lr1=1", "-", "--"])
def test_what_fire_would_pass_over_is_refused(word: str) -> None:
    refused(main.run, ["train", word], says=f"{word}: a stray word")
