"""What `--help` prints."""

import importlib
import importlib.metadata
import platform
import textwrap
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from config import GROUPS, OF_NETS, Config, Value, flag, types_of
from gan import console
from gan.families import ONLY_SOME, ROWS, find_row

if TYPE_CHECKING:
    from commands.flags import CommandFlags

VERSION = "1.0"
COLUMNS = 100  # the widest line
HEADER = ("flag", "type", "default", "meaning")
BARE_WEIGHTS = "what weights from --netg-path are of; a run, or a config.json beside them, says so"
OF_NO_RUN = ("name", "gpu", "netg_path", "netd_path")  # what a loaded run does not decide
OTHER_FAMILIES = (
    "These are the flags and defaults of the family modern. `{command} --family=dcgan --help` "
    "shows those of dcgan, `{command} --all --help` the flags of all families."
)
OTHER_TOOLS = (
    "Flags of other tools, such as --dataroot, --batchSize, --lr or --kimg, work too: "
    "docs/other-tools.md."
)
USAGE = """Train GANs that draw faces, and draw ranked faces with them.

{commands}
  {program} COMMAND --help     the flags of a command, with their defaults
  {program} --version
  --quiet and --verbose go with every command.

Weights go to checkpoints/, previews to imgs/, curves to runs/ (tensorboard --logdir runs)."""


def flags_of(command: str) -> "CommandFlags[object]":
    """The flags that `commands/<command>.py` declares."""
    found: CommandFlags[object] = importlib.import_module(f"commands.{command}").FLAGS
    return found


def usage(commands: Iterable[str]) -> str:
    """A line or two for each command."""
    lines = [line for name in commands for line in flags_of(name).usage.split("\n")]
    program = console.program()
    listed = "\n".join(f"  {program} {line}" for line in lines)
    return USAGE.format(commands=listed, program=program)


def owners(name: str, commands: Iterable[str]) -> list[str]:
    """The commands that have a flag of this name."""
    return [command for command in commands if name in flags_of(command).fields]


def version() -> str:
    """Of this program, of Python and of PyTorch; nothing is imported for it."""
    try:
        torch = f"torch {importlib.metadata.version('torch')}"
    except importlib.metadata.PackageNotFoundError:
        torch = "torch is not installed"
    return f"{console.program().split()[-1]} {VERSION}; Python {platform.python_version()}, {torch}"


def _groups(spec: "CommandFlags[object]", without: Collection[str]) -> dict[str, list[str]]:
    """The names of the flags of a command under their headings, less those `without`."""
    groups: dict[str, list[str]] = {spec.command: [], "the run": []}
    heading = "the run"
    for name in spec.fields:
        if name not in spec.settings:
            group = groups[spec.command]
        elif spec.loads_run:
            group = groups.setdefault(BARE_WEIGHTS if name in OF_NETS else heading, [])
        else:
            heading = GROUPS.get(name, heading)
            group = groups.setdefault(heading, [])
        if name not in without:
            group.append(name)
    return {heading: names for heading, names in groups.items() if names}


def help_table(
    spec: "CommandFlags[object]",
    defaults: Mapping[str, Value] = MappingProxyType({}),
    without: Collection[str] = (),
) -> str:
    """The flags of a command in groups, except those `without`; `defaults` are a family's."""

    def row(name: str) -> tuple[str, str, str, str]:
        field = spec.fields[name]
        value = defaults.get(name, field.default)
        default = repr(value) if isinstance(value, str) else str(value)
        if spec.loads_run and name in spec.settings and name not in (*defaults, *OF_NO_RUN):
            default = "the run's"
        kinds = "|".join(kind.__name__ for kind in types_of(field))
        return flag(name), kinds, default, spec.meanings.get(name, field.metadata["help"])

    groups = {title: [*map(row, names)] for title, names in _groups(spec, without).items()}
    rows = [HEADER, *(row for rows in groups.values() for row in rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = _lines_of(HEADER, widths)
    for title, members in groups.items():
        lines += ["", title, *(line for row in members for line in _lines_of(row, widths))]
    return "\n".join(lines)


def _lines_of(row: tuple[str, str, str, str], widths: list[int]) -> list[str]:
    """One flag; what it means goes on in further lines below."""
    start = "  " + "".join(cell.ljust(w + 2) for cell, w in zip(row, widths, strict=False))
    return _wrap(row[3], start, " " * len(start))


def _wrap(text: str, start: str = "", further: str = "") -> list[str]:
    """Lines of `text`, none of them cut in a word or a name."""
    return textwrap.wrap(
        text, COLUMNS, initial_indent=start, subsequent_indent=further, break_on_hyphens=False
    )


def help_of(command: str, families: list[str], every: bool = False) -> str:
    """What `command --help` prints: with the defaults and flags of the last family that is named.

    Without a family, the flags of the default one, unless `every` asks for all.
    """
    spec = flags_of(command)
    unused = set(ONLY_SOME) - set(ROWS[Config.family].settings)
    notes = [*spec.notes, OTHER_TOOLS]
    if families and "," not in families[-1]:
        row = find_row(families[-1])
        defaults = {"family": families[-1], **row.defaults}
        table = help_table(spec, defaults, set(ONLY_SOME) - set(row.settings))
    elif every or families or not unused <= set(spec.settings):
        table = help_table(spec)
    else:
        table = help_table(spec, without=unused)
        notes.insert(0, OTHER_FAMILIES.format(command=command))
    program = console.program()
    head = [f"{program} {command} [--flag=value ...]", *_wrap(spec.does)]
    examples = [f"  {program} {example}" for example in spec.examples]
    paragraphs = [line for note in notes for line in _wrap(note)]
    blocks = (head, examples, [table], paragraphs)
    return "\n\n".join("\n".join(block) for block in blocks if block)
