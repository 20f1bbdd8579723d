"""Flags: what is read, what is refused, and what the refusal says."""

import json
from pathlib import Path
from typing import Any

import pytest
import usage

import config as knobs
from config import Config, coerce, read_file, read_flags, resolve
from gan.errors import Refused


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("gpu", "True", True),
        ("gpu", "false", False),
        ("gpu", "auto", "auto"),
        ("img_size", "96", 96),
        ("max_images", "1e5", 100_000),
        ("max_images", "20_000", 20_000),
        ("lr1", "2e-4", 2e-4),
        ("name", "001", "001"),  # a word stays the word it is
        ("data_path", "1e3", "1e3"),
        ("seed", str(2**60 + 1), 2**60 + 1),
        ("resume", "True", True),
        ("resume", "a/state_1.pth", "a/state_1.pth"),
        ("channels", "1", 1),
    ],
)
def test_values_are_read_by_type(name: str, text: str, value: Any) -> None:
    read = coerce(name, text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gpu", "yes"),
        ("img_size", "96.5"),
        ("img_size", "27"),
        ("img_size", "257"),
        ("channels", "2"),
        ("lr1", "0"),
        ("lr1", "nan"),
        ("lr1", "inf"),
        ("beta1", "1"),
        ("batch_size", "one"),
        ("batch_size", "0"),
        ("d_every", "0"),
        ("flip", "maybe"),
        ("seed", "-1"),
        ("gen_std", "-1"),
    ],
)
def test_wrong_values_are_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(Refused, match=f"^{knobs.flag(name)}={text}: "):
        coerce(name, text)


@pytest.mark.parametrize(
    ("stray", "options", "says"),
    [
        ([], {"batchsize": "3"}, "--batch-size"),
        ([], {"lr": "3"}, "--lr"),
        ([], {"gen_num": "3"}, "belongs to generate"),
        (["lr1"], {}, "did you mean --lr1"),
        (["foo"], {}, "foo: a stray word"),
        ([], {"img_size": "64", "image_size": "96"}, "given twice"),
        ([], {"nolr1": "True"}, "not a switch"),
        ([], {"nogpu": "3"}, "--gpu=no3"),
        ([], {"name": "../x"}, "--name=../x"),
        ([], {"name": ".."}, "--name=.."),
    ],
)
def test_wrong_flags_are_refused(stray: list[str], options: dict[str, str], says: str) -> None:
    with pytest.raises(Refused) as refusal:
        read_flags("train", stray, options)
    assert says in str(refusal.value)


def test_switches_and_aliases() -> None:
    assert read_flags("train", [], {"nogpu": "True"}) == {"gpu": False}
    assert read_flags("train", [], {"gpu": "True"}) == {"gpu": True}
    assert read_flags("train", [], {"image_size": "64"}) == {"img_size": 64}


def test_authority_is_default_family_file_flag() -> None:
    config = resolve({"lr1": 1e-3, "lr2": 1e-3, "nz": 7}, {"lr1": 2e-3, "lr2": 2e-3}, {"lr1": 3e-3})
    assert (config.lr1, config.lr2, config.nz, config.ngf) == (3e-3, 2e-3, 7, Config.ngf)


def test_a_budget_that_is_given_replaces_the_default_one() -> None:
    assert resolve({}).max_epoch == 200
    minutes = resolve({"max_minutes": 60.0})
    assert (minutes.max_epoch, minutes.max_minutes) == (0, 60.0)
    both = resolve({"max_epoch": 3, "max_images": 500})
    assert (both.max_epoch, both.max_images) == (3, 500)
    with pytest.raises(Refused, match="--max-epoch"):
        resolve({"max_epoch": 0})


def test_more_faces_than_candidates() -> None:
    with pytest.raises(Refused, match="--fake-label=1: only the logistic loss has labels"):
        resolve({"fake_label": 1, "loss": "hinge"})
    with pytest.raises(Refused, match="--gen-search-num=65 or more"):
        resolve({"gen_num": 65, "gen_search_num": 64})


def test_what_may_change_in_mid_run() -> None:
    saved = vars(Config())
    assert knobs.changes(saved, {"lr2": 5e-5, "lr1": 4e-4}) == {"lr2": [4e-4, 5e-5]}
    for name, value in (("img_size", 64), ("ngf", 8), ("batch_size", 8), ("family", "x")):
        with pytest.raises(Refused, match=f"^{knobs.flag(name)}={value}: .*cannot change"):
            knobs.changes(saved, {name: value})


def test_every_knob_has_a_line_of_help_and_a_command() -> None:
    tables = "".join(
        map(usage.help_table, ("train", "generate", "evaluate", "translate", "export", "compare"))
    )
    for name, field in knobs.FIELDS.items():
        assert (f"  {knobs.flag(name)} " in tables) == bool(field.metadata["used"])
    for name, field in knobs.FIELDS.items():
        default = field.default
        if default != "" and not isinstance(default, bool) and field.type is not str:
            assert coerce(name, str(default)) == default


def test_a_config_file_makes_the_round_trip_and_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    config = Config(lr1=1e-3, gpu=False, name="x", max_minutes=1.5)
    config.save(path)
    assert Config(**knobs.read_file(str(path))) == config
    # orders are no part of a run: its config never makes another one overwrite
    Config(overwrite=True, resume=True).save(path)
    assert "overwrite" not in path.read_text()
    path.write_text(json.dumps({"overwrite": True, "resume": True}))
    assert knobs.read_file(str(path)) == {}
    for text, says in (
        ("{", "not JSON"),
        ("[]", "not a table"),
        (json.dumps({"lr3": 1}), "did you mean lr"),
        (json.dumps({"lr1": -1}), "--lr1=-1"),
    ):
        path.write_text(text)
        with pytest.raises(Refused, match=says):
            knobs.read_file(str(path))
    with pytest.raises(Refused, match="No such file"):
        knobs.read_file(str(tmp_path / "none.json"))


def test_a_tilde_is_home_and_a_bad_file_is_named(tmp_path: Path) -> None:
    assert coerce("gen_img", "~/x.png") == str(Path.home() / "x.png")
    flags = read_flags("train", [], {"config": "~/c.json"})
    assert flags == {"config": str(Path.home() / "c.json")}
    path = tmp_path / "c.json"
    path.write_text('{"seed": "abc"}')
    with pytest.raises(Refused, match=r"^--config=.*c\.json: --seed=abc: wants a whole number"):
        read_file(str(path))
