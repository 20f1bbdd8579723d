"""The words of the command line -> a command's own options and the settings of a run.

Only the standard library is imported here, so that a mistake is reported at once.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from commands.aliases import ALIASES, snake_case
from config import FIELDS, Field, Settings, Value, flag, option, parse, types_of
from gan import console
from gan.errors import Refused
from gan.families import find_row

Options = TypeVar("Options")
BARE = "\0"  # the value of a flag that is given without one; no word can hold this character
NEVER_EMPTY = ("resume", "config", "fake_path")  # as in --resume="$FILE" without a FILE
# flags of every command that loads a run
OF_LOADED_RUNS = (
    "name", "family", "img_size", "channels", "nz", "ngf", "ndf", "batch_size", "netg_path",
)  # fmt: skip
OF_DRAWING = (*OF_LOADED_RUNS, "netd_path", "data_path", "seed", "gpu")
OF_DRAWING_NOISE = (
    "name", "family", "img_size", "channels", "nz", "ngf", "ndf", "batch_size", "netg_path",
    "noise", "seed", "gpu",
)  # fmt: skip
OF_TRANSLATION = ("channels_a", "channels_b", "direction")
# what settings mean to a command that loads a run
MEANINGS_OF_LOADED_RUNS = {
    "name": "the run to load; empty: the newest",
    "batch_size": "pictures drawn at a time",
    "netg_path": "file of weights of G to load, not a run",
    "netd_path": "file of weights of D, beside --netg-path",
    "data_path": "folder or zip of the training images, if they have moved",
    "direction": "AtoB or BtoA: with cyclegan also the way back",
    "seed": "of the noise: the same seed draws the same pictures",
}


@dataclass(frozen=True)
class CommonOptions:
    """What every command takes."""

    quiet: bool = option(False, "print alarms, refusals and the path of the result, nothing else")
    verbose: bool = option(False, "print also what was read from where, and how long things took")


COMMON = {field.name: field for field in dataclasses.fields(CommonOptions)}


@dataclass(frozen=True)
class CommandFlags(Generic[Options]):
    """The flags of a command: its own options, and the settings of a run that it takes too."""

    command: str
    options: type[Options]  # a dataclass made with `config.option`
    settings: tuple[str, ...]
    usage: str  # its line in `main.py --help`
    does: str = ""  # what it does, in a sentence
    examples: tuple[str, ...] = ()  # ways to call it, without `python main.py`
    notes: tuple[str, ...] = ()  # lines below its table in `--help`
    meanings: Mapping[str, str] = field(default_factory=dict)  # of settings, to this command
    loads_run: bool = False  # settings that are not given are those of a run

    @property
    def fields(self) -> "dict[str, Field[Any]]":
        """All of them by name, in the order of the help."""
        own = {field.name: field for field in dataclasses.fields(self.options)}  # type: ignore[arg-type]
        return {**{name: FIELDS[name] for name in self.settings}, **own, **COMMON}


@dataclass(frozen=True)
class Request(Generic[Options]):
    """One call of a command, typed and checked."""

    options: Options
    settings: Settings  # of the run: those that were given
    given: frozenset[str]  # names of all that was given


class UnknownFlag(Refused):
    """A flag that the command does not have; `name` is what it is called here."""

    def __init__(self, given: str, name: str, text: str) -> None:
        super().__init__(text)
        self.given = given
        self.name = name


def word_of(given: str, text: str) -> str:
    """A flag as it is typed."""
    return flag(given) if text == BARE else f"{flag(given)}={text}"


def _nearest(spec: CommandFlags[Options], name: str) -> str:
    """The flag that `name` is a slip of, as typed; "" if it is too far from all of them."""
    works = [n for n, alias in ALIASES.items() if not {*alias.ours}.isdisjoint(spec.fields)]
    known, cutoff = [*spec.fields, *works], 0.8
    if len(name) < 5:  # one wrong letter is much of a short name
        known, cutoff = [each for each in known if abs(len(each) - len(name)) < 2], 0.65
    near = difflib.get_close_matches(name, known, 1, cutoff)
    return flag(near[0]) if near else ""


def _meaning_of_alias(spec: CommandFlags[Options], given: str, text: str) -> dict[str, str]:
    """What another tool's flag is here; raises Refused where nothing is the same."""
    alias = ALIASES[snake_case(given)]
    fields = [name for name in alias.ours if name in spec.fields][:1]
    if not fields:
        if alias.instead:
            raise Refused(f"{flag(given)}: {alias.instead}")
        name = alias.ours[0]
        text = f"{flag(given)}: it is {flag(name)} here, which {spec.command} does not have"
        raise UnknownFlag(given, name, text)
    if alias.convert is not str:
        try:
            text = alias.convert("True" if text == BARE else text)
        except Refused as error:
            raise Refused(f"{word_of(given, text)}: {error}") from None
        except (ValueError, KeyError, OverflowError):
            means = f"it is {flag(fields[0])} here; see docs/other-tools.md"
            raise Refused(f"{word_of(given, text)}: not a value of it; {means}") from None
    return dict.fromkeys((*fields, *alias.along), text)


def meaning_of(spec: CommandFlags[Options], given: str, text: str) -> dict[str, str]:
    """The fields that a flag sets, with the text of each; raises Refused if there are none.

    `--nogpu` is {gpu: False}, and `--lr=1`, of other tools, {lr1: 1, lr2: 1}.
    """
    fields, name = spec.fields, snake_case(given)
    if name in fields:
        return {name: text}
    positive = name.removeprefix("no").removeprefix("_")
    if name.startswith("no") and positive in fields:
        if bool not in types_of(fields[positive]):
            raise Refused(f"{flag(given)}: {flag(positive)} is not a switch; give it a value")
        return {positive: {"True": "False", BARE: "False"}.get(text, f"no{text}")}
    if name in ALIASES:
        return _meaning_of_alias(spec, given, text)
    near = _nearest(spec, name)
    hint = f"did you mean {near}?" if near else f"see {spec.command} --help"
    raise UnknownFlag(given, name, f"{flag(given)}: no such flag of {spec.command}; {hint}")


def _parse(field: "Field[Any]", given: str, word: str, text: str) -> Value:
    """The value of `field`, written `word` by the user and meant as `text`."""
    if text == BARE:
        if bool not in types_of(field):
            raise Refused(f"{flag(given)}: needs a value: {flag(given)}=...")
        text = "True"
    try:
        return parse(field, text)
    except Refused as error:
        if snake_case(given) in ALIASES:
            raise Refused(f"{word_of(given, word)}: {error}") from None
        raise


def _meaning_of_stray(word: str, fields: "Mapping[str, Field[Any]]") -> str:
    """What a word that is no flag was probably meant as."""
    if word in fields:
        return f"did you mean {flag(word)}=...?"
    of_pictures = next((name for name in ("input", "data_path") if name in fields), "")
    if of_pictures and Path(word).exists():
        return f"did you mean {flag(of_pictures)}={word}?"
    return "flags are --x=y"


def read(
    spec: CommandFlags[Options], stray: Iterable[str], words: Mapping[str, str]
) -> Request[Options]:
    """One call of a command, which from now on says as much as `--quiet` and `--verbose` want.

    Raises Refused for the first word that is wrong.
    """
    fields = spec.fields
    for word in map(str, stray):
        raise Refused(f"{word}: a stray word; {_meaning_of_stray(word, fields)}")
    values: Settings = {}
    for given, word in words.items():
        for name, text in meaning_of(spec, given, str(word)).items():
            value = _parse(fields[name], given, str(word), text)
            if values.get(name, value) != value:  # --cuda --ngpu=1 say the same
                raise Refused(f"{flag(given)}: given twice; {flag(name)} is {values[name]} already")
            values[name] = value
    settings = {name: value for name, value in values.items() if name in spec.settings}
    _check_settings(settings)
    own = {name: value for name, value in values.items() if name not in (*settings, *COMMON)}
    _set_level(values)
    for name in NEVER_EMPTY:
        if own.get(name) == "":
            raise Refused(f"{flag(name)}=: empty; give it a value, or leave the flag out")
    return Request(spec.options(**own), settings, frozenset(values))


def _set_level(values: Settings) -> None:
    chosen = [name for name in COMMON if values.get(name)]
    if len(chosen) > 1:
        raise Refused("--quiet, --verbose: less or more is said; leave one out")
    console.set_level(flag(chosen[0]) if chosen else console.NORMAL)


def _check_settings(settings: Settings) -> None:
    if settings.get("data_path") == "":
        raise Refused("--data-path=: empty; leave the flag out to use the rendered avatars")
    if "family" in settings:
        find_row(str(settings["family"]))
    name = str(settings.get("name", "x"))
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise Refused(f"--name={name}: letters, digits, '-', '_' and '.' only")


def page_path(report: str, default: str) -> Path:
    """Where `--report` writes its page; raises Refused unless its name ends in .html."""
    if Path(report or default).suffix.lower() not in (".html", ".htm"):
        raise Refused(f"--report={report}: a name that ends in .html")
    return Path(report or default)
