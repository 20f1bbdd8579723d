"""Settings of a run: their types and ranges, the order of authority, config.json."""

import json
from pathlib import Path
from typing import Any

import pytest

import config
from config import FIELDS, Config, RunFacts, flag, parse, read_config, resolve, write_config
from gan.errors import Refused

NO_FACTS = RunFacts()


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
        ("channels", "1", 1),
    ],
)
def test_values_are_read_by_type(name: str, text: str, value: Any) -> None:
    read = parse(FIELDS[name], text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gpu", "yes"),
        ("img_size", "96.5"),
        ("img_size", "27"),
        ("img_size", "1025"),
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
    ],
)
def test_wrong_values_are_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(Refused, match=f"^{flag(name)}={text}: "):
        parse(FIELDS[name], text)


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


def test_only_the_logistic_loss_has_labels() -> None:
    with pytest.raises(Refused, match="--fake-label=1: only the logistic loss has labels"):
        resolve({"fake_label": 1, "loss": "hinge"})


def test_what_may_change_in_mid_run() -> None:
    saved = vars(Config())
    assert config.changes(saved, {"lr2": 5e-5, "lr1": 8e-4}) == {"lr2": [8e-4, 5e-5]}
    for name, value in (("img_size", 64), ("ngf", 8), ("batch_size", 8), ("family", "x")):
        with pytest.raises(Refused, match=f"^{flag(name)}={value}: .*cannot change"):
            config.changes(saved, {name: value})


def test_every_default_is_a_value_that_is_taken() -> None:
    for name, field in FIELDS.items():
        if field.default != "" and not isinstance(field.default, bool) and field.type is not str:
            assert parse(field, str(field.default)) == field.default, name


def test_a_config_file_makes_the_round_trip_and_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    run = Config(lr1=1e-3, gpu=False, name="x", max_minutes=1.5)
    write_config(run, RunFacts(("cat", "dog")), path)
    settings, classes = read_config(str(path))
    assert Config(**settings) == run  # type: ignore[arg-type]
    assert classes == ("cat", "dog")
    for text, says in (
        ("{", "not JSON"),
        ("[]", "not a table"),
        (json.dumps({"lr3": 1}), "did you mean lr"),
        (json.dumps({"lr1": -1}), "--lr1=-1"),
    ):
        path.write_text(text)
        with pytest.raises(Refused, match=says):
            read_config(str(path))
    with pytest.raises(Refused, match="No such file"):
        read_config(str(tmp_path / "none.json"))


def test_a_config_of_before_holds_options_of_commands(tmp_path: Path) -> None:
    """They are no part of a run: its config never makes another one overwrite."""
    path = tmp_path / "run.json"
    before = {"lr1": 1e-3, "gen_num": 3, "rank": "ratio", "overwrite": True, "classes": "1/2"}
    path.write_text(json.dumps(before))
    assert read_config(str(path)) == ({"lr1": 1e-3}, ("1", "2"))


def test_facts_of_a_state_and_of_one_of_before() -> None:
    facts = {"class_names": ["a", "b"], "mixed_precision": True}
    assert RunFacts.of_state({"facts": facts, "config": {}}) == RunFacts(("a", "b"), True)
    before = {"config": {"classes": "a/b", "amp": True}}
    assert RunFacts.of_state(before) == RunFacts(("a", "b"), True)
    assert RunFacts.of_state({"config": {"classes": "", "amp": False}}) == NO_FACTS


def test_a_tilde_is_home_and_a_bad_file_is_named(tmp_path: Path) -> None:
    assert parse(FIELDS["data_path"], "~/x") == str(Path.home() / "x")
    path = tmp_path / "c.json"
    path.write_text('{"seed": "abc"}')
    with pytest.raises(Refused, match=r"^--config=.*c\.json: --seed=abc: wants a whole number"):
        read_config(str(path))
