"""What the commands that draw faces from noise share: which faces, which class, of which run."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from commands import runs
from config import Settings, flag
from gan.errors import Refused

if TYPE_CHECKING:
    from gan import sample

MOST_NUMBERS = 1_000_000  # that a list such as 0-35 may have
END_OF_SEEDS = 2**63
END_OF_INDICES = 2**48


def numbers(text: str, name: str, end: int) -> list[int]:
    """The numbers that "0-35,40" names; raises Refused, naming the flag, for what is none."""
    found: list[int] = []
    for word in text.split(","):
        first, dash, last = (part.strip() for part in word.partition("-"))
        if len(word) > 40 or not first.isdecimal() or (dash and not last.isdecimal()):
            raise Refused(f"{flag(name)}={text}: numbers and ranges with commas: 3,14 or 0-35")
        low, high = int(first), int(last or first)
        if low > high:
            raise Refused(f"{flag(name)}={text}: {low}-{high} goes backwards")
        if high >= end:
            raise Refused(f"{flag(name)}={text}: less than 2^{end.bit_length() - 1}")
        if high - low + len(found) >= MOST_NUMBERS:
            raise Refused(f"{flag(name)}={text}: at most {MOST_NUMBERS:,} at once")
        found.extend(range(low, high + 1))
    return found


def load(settings: Settings, command: str, *, best: bool, ranks: bool = False) -> runs.LoadedRun:
    """A run that draws from noise; raises Refused for one that does not, or for none."""
    run = runs.load_run(settings, best=best, ranks=ranks, command="generate")
    task = run.family.task
    if task.command != "generate":
        raise Refused(
            f"{command}: {run.source} is a {run.config.family}, which draws from pictures; use "
            f"{task.command}"
        )
    return run


def class_index(label: str, names: tuple[str, ...], given: str = "--label") -> int:
    """The class of this name or number."""
    if label in names:
        return names.index(label)
    if not names:
        raise Refused(f"{given}={label}: this run is not conditional and has no classes")
    if label.isdecimal() and len(label) < 20 and int(label) < len(names):
        return int(label)
    raise Refused(f"{given}={label}: no such class; there are {', '.join(names)}")


def class_shares(label: str, names: tuple[str, ...]) -> tuple[float, ...]:
    """How much of each class `--label` asks for; () for no label.

    "7" or "cat" is one class, "cat+dog" a mixture of two, "cat:0.3+dog:0.7" an uneven one.
    """
    if not label:
        return ()
    if label in names or "+" not in label:
        parts = {class_index(label, names): 1.0}
    else:
        parts = dict(_part(word, names, label) for word in label.split("+"))
    total = sum(parts.values())
    return tuple(parts.get(index, 0.0) / total for index in range(len(names)))


def _part(word: str, names: tuple[str, ...], label: str) -> tuple[int, float]:
    """A class and its weight, of "cat" or "cat:0.3"."""
    name, colon, weight = word.rpartition(":") if word not in names else (word, "", "")
    try:
        amount = float(weight) if colon else 1.0
    except ValueError:
        amount = 0.0
    if not 0 < amount < 1e6:
        raise Refused(f"--label={label}: {weight} is no weight; as in {names[:1]}:0.3")
    return class_index(name if colon else word, names), amount


def shifts(options: object) -> dict[int, float]:
    """The amounts of `--direction-1` to `--direction-6` that are not 0, by number."""
    found: Mapping[str, object] = vars(options)
    amounts = {int(k[10:]): v for k, v in found.items() if k.startswith("direction_")}
    return {k: v for k, v in amounts.items() if isinstance(v, float) and v}


def check_file(path: Path, given: str) -> None:
    """Raise Refused for a file to write that is a folder, or whose folder is a file."""
    if path.is_dir():
        raise Refused(f"{given}={path}: a folder; give the name of a file")
    for folder in path.absolute().parents:
        if folder.exists() and not folder.is_dir():
            raise Refused(f"{given}={path}: {folder} is a file, not a folder to write to")


def film_targets(output: str, formats: str, able: tuple[str, ...]) -> list[Path]:
    """The files that `--output` and `--formats` name; raises Refused for what cannot be written."""
    path = Path(output)
    check_file(path, "--output")
    asked = formats or path.suffix.lower()[1:]
    kinds = able if asked == "all" else tuple(asked.split(","))
    for kind in kinds:
        if kind not in able:
            given = f"--formats={asked}" if formats else f"--output={output}"
            raise Refused(f"{given}: {', '.join(able)}{' or all' if formats else ''}")
    return [path.with_suffix(f".{kind}") if formats else path for kind in kinds]


def source_of(run: runs.LoadedRun, label: str, limit: float) -> "sample.NoiseSource":
    """The run's noise, its classes as `--label` says, cut off at `limit` (0: not)."""
    from dataclasses import replace

    from gan import sample

    names = run.facts.class_names
    source = sample.NoiseSource.of(run.config, len(names))
    return replace(source, shares=class_shares(label, names), limit=limit)
