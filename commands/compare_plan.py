"""The runs of a comparison: every combination of the values of its flags, and a name for each.

Only the standard library is imported here, so that a mistake is reported at once.
"""

import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from commands import flags
from config import FIELDS, Settings, file_name, flag, option, parse
from gan.errors import Refused

SINGLE = (
    "name",
    "seed",
    "seeds",
    "overwrite",
    "report",
    *flags.COMMON,
)  # one value for all of a comparison
LONGEST_NAME = 120  # characters of a run's settings in its name: file names end at 255 bytes
LONGEST_VALUE = 24  # characters of one value in it


@dataclass(frozen=True)
class CompareOptions:
    """What `compare` takes besides the settings of its runs."""

    seeds: int = option(
        1, "runs of each setting, with --seed and the seeds after it", low=1, high=100
    )
    overwrite: bool = option(False, "replace earlier runs of these names")
    config: str = option("", "start from the settings in a saved config.json")
    report: str = option("", "page to write, with a .json beside it; empty: compare.html")


FLAGS = flags.CommandFlags(
    "compare",
    CompareOptions,
    settings=tuple(FIELDS),
    usage="compare --g-every=1,5 --seeds=2 [--max-minutes=10] ...",
    does="Trains every combination of settings with every seed, and writes one page about them.",
    examples=(
        "compare --family=dcgan,modern --max-minutes=10",
        "compare --g-every=1,5 --seeds=3 --max-images=50000",
        "compare --lr=1e-4,2e-4 --data-path=FOLDER --name=rates --report=rates.html",
    ),
    notes=(
        "Flags of `train` take several values, separated by commas: --g-every=1,5 --lr1=1e-4,2e-4. "
        "Each combination is trained with each seed, one after the other, as a run of its own, "
        "NAME.lr1-0.0001.g-every-1.seed-0 (NAME is compare by default). The same command again "
        "goes on where it stopped; finished runs are not trained again.",
    ),
    meanings={
        "netg_path": "weights of G to start from",
        "netd_path": "weights of D to start from",
        "name": "how the names of all its runs begin; empty: compare",
        "seed": "the first seed; --seeds takes the ones after it too",
    },
)


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison: a setting, by which it differs from others, and a seed."""

    name: str
    setting: str
    seed: int
    given: Settings  # of the run
    config_file: str

    def words(self, more: Settings) -> list[str]:
        """The arguments for `train`."""
        file: Settings = {"config": self.config_file} if self.config_file else {}
        return [f"{flag(name)}={value}" for name, value in {**file, **self.given, **more}.items()]


@dataclass(frozen=True)
class Plan:
    """A whole comparison."""

    name: str
    options: CompareOptions
    runs: list[PlannedRun]  # every setting with the first seed, then with the next


def _name_part(value: object) -> str:
    """`value` as part of a file name; a digest tells apart two values that would look alike."""
    text = str(value)
    part = re.sub(r"[^A-Za-z0-9._-]", "-", text)[-LONGEST_VALUE:]
    return part if part == text else f"{part}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _split_values(text: str) -> list[str]:
    """The values between the commas; a file or folder with a comma in its name is one value."""
    return [text] if os.path.exists(os.path.expanduser(text)) else text.split(",")


Requests = list[flags.Request[CompareOptions]]


def _product(stray: Iterable[str], words: Mapping[str, str]) -> tuple[list[str], Requests]:
    """The flags that have several values, and a request for each combination of values."""
    values = {given: _split_values(str(text)) for given, text in words.items()}
    first = {given: each[0] for given, each in values.items()}
    flags.read(FLAGS, stray, first)  # raises Refused for unknown flags
    fields = {given: [*flags.meaning_of(FLAGS, given, text)] for given, text in first.items()}
    order = list(FLAGS.fields)
    several = [given for given in words if len(values[given]) > 1]
    several.sort(key=lambda given: order.index(fields[given][0]))
    for given in several:
        if (name := fields[given][0]) in SINGLE:
            hint = "; --seeds=N takes N of them from there on" if name == "seed" else ""
            raise Refused(f"{flag(given)}={words[given]}: one value only{hint}")
    found = []
    for chosen in itertools.product(*(values[given] for given in several)):
        own = dict(zip(several, chosen, strict=True))
        found.append(flags.read(FLAGS, (), {**first, **own}))
    for given in several:
        different = {str(value_of(request, fields[given][0])) for request in found}
        if len(different) < len(values[given]):
            raise Refused(f"{flag(given)}={words[given]}: the same value twice")
    varied = [name for given in several for name in fields[given]]
    return varied, found


def value_of(request: flags.Request[CompareOptions], name: str) -> object:
    """The value of one flag, whether it is of the runs or of the comparison."""
    return request.settings[name] if name in request.settings else getattr(request.options, name)


def _form_of(values: list[object]) -> Callable[[object], str]:
    """How values of one flag are shown: of paths the last part alone, if that tells them apart."""
    texts = {str(value) for value in values}
    return str if len({file_name(text) for text in texts}) < len(texts) else _short


def _short(value: object) -> str:
    return file_name(str(value))


def plan(stray: Iterable[str], words: Mapping[str, str]) -> Plan:
    """All runs of a comparison; raises Refused for a mistake in any of them."""
    varied, requests = _product(stray, words)
    options = requests[0].options
    whole = str(requests[0].settings.get("name") or "compare")
    seed = int(requests[0].settings.get("seed", 0))
    shown = {name: _form_of([value_of(request, name) for request in requests]) for name in varied}
    found = []
    for extra, request in itertools.product(range(options.seeds), requests):
        own = int(parse(FIELDS["seed"], str(seed + extra)))
        parts = [f"{flag(name)[2:]}-{_name_part(value_of(request, name))}" for name in varied]
        if len(".".join(parts)) > LONGEST_NAME:
            parts = [_name_part(".".join(parts))]
        name = ".".join([whole, *parts, f"seed-{own}"])
        setting = ", ".join(
            f"{flag(name)[2:]} {shown[name](value_of(request, name))}" for name in varied
        )
        given: Settings = {**request.settings, "name": name, "seed": own}
        found.append(PlannedRun(name, setting or whole, own, given, request.options.config))
    return Plan(whole, options, found)
