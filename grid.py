"""The grid of a comparison: the product of all values of all flags, and a name for each cell.

Only the standard library is imported here: a mistake is told at once.
"""

import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import config as knobs
from gan.errors import Refused

WHOLE = ("name", "seed", "seeds", "overwrite", "report")  # one value for all of a comparison


@dataclass(frozen=True)
class Cell:
    """One run of a comparison: a setting, which is what differs from the others, and a seed."""

    name: str
    setting: str
    seed: int
    flags: dict[str, Any]  # those of `train`


def _word(value: Any) -> str:
    """`value` as part of a file name; a digest keeps two values apart that look alike in it."""
    text = str(value)
    word = re.sub(r"[^A-Za-z0-9._-]", "-", text)[-24:]
    return word if word == text else f"{word}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _values(text: str) -> list[str]:
    """What the commas of a flag part; a file or folder with a comma in its name is one value."""
    return [text] if os.path.exists(os.path.expanduser(text)) else text.split(",")


def _settings(stray: Iterable[str], options: Mapping[str, str]) -> tuple[list[str], list[Any]]:
    """The flags that have several values, and the product of all values: one table a setting."""
    texts = {given: _values(str(text)) for given, text in options.items()}
    first = knobs.read_flags("compare", stray, {given: each[0] for given, each in texts.items()})
    given_as = dict(zip(first, texts, strict=True))
    known = ["config", *knobs.FIELDS]
    varied = sorted((name for name in first if len(texts[given_as[name]]) > 1), key=known.index)
    for name in varied:
        if name in WHOLE:
            hint = "; --seeds=N takes N of them from there on" if name == "seed" else ""
            raise Refused(f"{knobs.flag(name)}={options[given_as[name]]}: one value only{hint}")
    settings = []
    for chosen in itertools.product(*(texts[given_as[name]] for name in varied)):
        words = {given: each[0] for given, each in texts.items()}
        words |= {given_as[name]: text for name, text in zip(varied, chosen, strict=True)}
        settings.append(knobs.read_flags("compare", stray, words))
    for name in varied:
        if len({setting[name] for setting in settings}) < len(texts[given_as[name]]):
            raise Refused(f"{knobs.flag(name)}={options[given_as[name]]}: the same value twice")
    return varied, settings


def cells(stray: Iterable[str], options: Mapping[str, str]) -> tuple[dict[str, Any], list[Cell]]:
    """The flags of a comparison as a whole, and its runs: one seed of each setting, then the next.

    Raises Refused for a mistake in any of them.
    """
    varied, settings = _settings(stray, options)
    whole = {name: settings[0].get(name, knobs.FIELDS[name].default) for name in WHOLE}
    whole["name"] = whole["name"] or "compare"
    found = []
    for extra, own in itertools.product(range(whole["seeds"]), settings):
        seed = knobs.coerce("seed", str(whole["seed"] + extra))
        parts = [f"{knobs.flag(name)[2:]}-{_word(own[name])}" for name in varied]
        if len(".".join(parts)) > 120:  # file names end at 255 bytes
            parts = [_word(".".join(parts))]
        name = ".".join([whole["name"], *parts, f"seed-{seed}"])
        setting = ", ".join(f"{knobs.flag(name)[2:]} {own[name]}" for name in varied)
        flags = {k: v for k, v in own.items() if k not in WHOLE} | {"name": name, "seed": seed}
        found.append(Cell(name, setting or whole["name"], seed, flags))
    return whole, found
