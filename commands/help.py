"""What `--help` prints."""

import importlib
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from config import Value, flag, types_of

if TYPE_CHECKING:
    from commands.flags import CommandFlags

USAGE = """Train GANs that draw faces, and draw ranked faces with them.

{commands}
  python main.py COMMAND --help     all flags of a command, with their defaults

Weights go to checkpoints/, previews to imgs/, curves to runs/ (tensorboard --logdir runs)."""


def flags_of(command: str) -> "CommandFlags[object]":
    """The flags that `commands/<command>.py` declares."""
    found: CommandFlags[object] = importlib.import_module(f"commands.{command}").FLAGS
    return found


def usage(commands: Iterable[str]) -> str:
    """A line or two for each command."""
    lines = [line for name in commands for line in flags_of(name).usage.split("\n")]
    return USAGE.format(commands="\n".join(f"  python main.py {line}" for line in lines))


def owners(name: str, commands: Iterable[str]) -> list[str]:
    """The commands that have a flag of this name."""
    return [command for command in commands if name in flags_of(command).fields]


def help_table(
    spec: "CommandFlags[object]",
    defaults: Mapping[str, Value] = MappingProxyType({}),
    without: Collection[str] = (),
) -> str:
    """The flags of a command, one per line, except those `without`; `defaults` are a family's."""
    rows = [("flag", "type", "default", "meaning")]
    for name, field in spec.fields.items():
        if name in without:
            continue
        value = defaults.get(name, field.default)
        kinds = "|".join(kind.__name__ for kind in types_of(field))
        default = repr(value) if isinstance(value, str) else str(value)
        rows.append((flag(name), kinds, default, field.metadata["help"]))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  " + "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]])
        for row in rows
    ]
    lines += ["", *spec.notes] if spec.notes else []
    return "\n".join([f"python main.py {spec.command} [--flag=value ...]", "", *lines])


def help_of(command: str, families: list[str]) -> str:
    """The flags of a command, with the defaults of the last family that is named."""
    spec = flags_of(command)
    if not families or "," in families[-1]:
        return help_table(spec)  # at once: no torch
    from models import ONLY_SOME, find_family

    row = find_family(families[-1])
    defaults = {"family": families[-1], **row.defaults}
    return help_table(spec, defaults, set(ONLY_SOME) - set(row.settings))
