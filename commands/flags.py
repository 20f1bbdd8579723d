"""The words of the command line -> a command's own options and the settings of a run.

Only the standard library is imported here, so that a mistake is reported at once.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from config import FIELDS, Field, Settings, flag, parse, types_of
from gan.errors import Refused

Options = TypeVar("Options")
ALIASES = {"image_size": "img_size", "rank": "rank_by", "h": "help"}
NEVER_EMPTY = ("resume", "config", "fake_path")  # as in --resume="$FILE" without a FILE
SUGGESTED = ("image_size",)  # of the aliases: those that a hint may name
# flags of every command that loads a run
OF_LOADED_RUNS = (
    "name", "family", "img_size", "channels", "nz", "ngf", "ndf", "batch_size", "netg_path",
)  # fmt: skip
OF_DRAWING = (*OF_LOADED_RUNS, "netd_path", "data_path", "seed", "gpu")
OF_TRANSLATION = ("channels_a", "channels_b", "direction")


@dataclass(frozen=True)
class CommandFlags(Generic[Options]):
    """The flags of a command: its own options, and the settings of a run that it takes too."""

    command: str
    options: type[Options]  # a dataclass made with `config.option`
    settings: tuple[str, ...]
    usage: str  # its line in `main.py --help`
    notes: tuple[str, ...] = ()  # lines below its table in `--help`

    @property
    def fields(self) -> "dict[str, Field[Any]]":
        """All of them by name, in the order of the help."""
        own = {field.name: field for field in dataclasses.fields(self.options)}  # type: ignore[arg-type]
        return {**{name: FIELDS[name] for name in self.settings}, **own}


@dataclass(frozen=True)
class Request(Generic[Options]):
    """One call of a command, typed and checked."""

    options: Options
    settings: Settings  # of the run: those that were given
    given: frozenset[str]  # names of all that was given


class UnknownFlag(Refused):
    """A flag that the command does not have."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


def _known_name(spec: CommandFlags[Options], given: str, text: str) -> tuple[str, str]:
    """The field that a flag means, and its value: `--nogpu` is gpu, False."""
    fields = spec.fields
    name = ALIASES.get(given, given)
    if name not in fields and name.startswith("no") and name[2:] in fields:
        name, text = name[2:], {"True": "False"}.get(text, f"no{text}")
        if bool not in types_of(fields[name]):
            raise Refused(f"{flag(given)}: {flag(name)} is not a switch; give it a value")
    if name not in fields:
        near = difflib.get_close_matches(name, [*fields, *SUGGESTED], 1)
        hint = f"did you mean {flag(near[0])}?" if near else f"see {spec.command} --help"
        raise UnknownFlag(name, f"{flag(given)}: no such flag of {spec.command}; {hint}")
    return name, text


def field_name(spec: CommandFlags[Options], given: str) -> str:
    """`image_size` and `noflip` -> `img_size` and `flip`."""
    return _known_name(spec, given, "True")[0]


def read(
    spec: CommandFlags[Options], stray: Iterable[str], words: Mapping[str, str]
) -> Request[Options]:
    """One call of a command; raises Refused for the first word that is wrong."""
    fields = spec.fields
    for word in map(str, stray):
        hint = f"did you mean {flag(word)}=...?" if word in fields else "flags are --x=y"
        raise Refused(f"{word}: a stray word; {hint}")
    values: Settings = {}
    for given, word in words.items():
        name, text = _known_name(spec, given, str(word))
        if name in values:
            raise Refused(f"{flag(given)}: given twice")
        values[name] = parse(fields[name], text)
    settings = {name: value for name, value in values.items() if name in spec.settings}
    _check_settings(settings)
    own = {name: value for name, value in values.items() if name not in settings}
    for name in NEVER_EMPTY:
        if own.get(name) == "":
            raise Refused(f"{flag(name)}=: empty; give it a value, or leave the flag out")
    return Request(spec.options(**own), settings, frozenset(values))


def _check_settings(settings: Settings) -> None:
    if settings.get("data_path") == "":
        raise Refused("--data-path=: empty; leave the flag out to use the rendered avatars")
    name = str(settings.get("name", "x"))
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise Refused(f"--name={name}: letters, digits, '-', '_' and '.' only")


def page_path(report: str, default: str) -> Path:
    """Where `--report` writes its page; raises Refused unless its name ends in .html."""
    if Path(report or default).suffix.lower() not in (".html", ".htm"):
        raise Refused(f"--report={report}: a name that ends in .html")
    return Path(report or default)
