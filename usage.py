"""What `--help` prints."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, get_args

import config as knobs

USAGE = """Train GANs that draw faces, and draw ranked faces with them.

  python main.py train [--data-path=FOLDER_OR_ZIP] [--max-minutes=60] [--gpu=True] ...
  python main.py train --resume
  python main.py generate [--gen-num=64] [--gen-img=faces.png] ...
  python main.py evaluate [--fake-path=FOLDER_OR_ZIP] ...
  python main.py translate --input=PICTURE_OR_FOLDER [--direction=AtoB] ...
  python main.py export [--file=faces.onnx] ...
  python main.py compare --g-every=1,5 --seeds=2 [--max-minutes=10] ...
  python main.py COMMAND --help     all flags of a command, with their defaults

Weights go to checkpoints/, previews to imgs/, curves to runs/ (tensorboard --logdir runs)."""

MORE = {
    "train": (
        "Defaults are those of the family; `train --family=dcgan --help` has another one's, and",
        "leaves out the flags that it has no use for.",
    ),
    "compare": (
        "Flags of `train` take several values, with commas between: --g-every=1,5 --lr1=1e-4,2e-4.",
        "Each combination with each seed is a run of its own, NAME.lr1-0.0001.g-every-1.seed-0,",
        "trained one after the other (NAME: compare). The same command again goes on where it was",
        "stopped; what is finished is not trained again.",
    ),
}


def help_table(
    command: str, defaults: Mapping[str, Any] = MappingProxyType({}), without: Collection[str] = ()
) -> str:
    """The flags of `command`, one a line, but for those `without`; `defaults` are a family's."""
    rows = [("flag", "type", "default", "meaning")]
    for name in knobs.names(command):
        if name in without:
            continue
        field = knobs.FIELDS[name]
        value = defaults.get(name, field.default)
        kinds = "|".join(kind.__name__ for kind in get_args(field.type) or (field.type,))
        default = repr(value) if isinstance(value, str) else str(value)
        rows.append((knobs.flag(name), kinds, default, field.metadata["help"]))
    if command in knobs.TRAIN:
        rows.append(("--config", "str", "''", "start from the knobs of a saved config.json"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  " + "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]])
        for row in rows
    ]
    lines += ["", *MORE[command]] if command in MORE else []
    return "\n".join([f"python main.py {command} [--flag=value ...]", "", *lines])


def help_of(command: str, families: list[str]) -> str:
    """The flags of a command, as the last of the families named has them."""
    if not families or "," in families[-1]:
        return help_table(command)  # at once: no torch
    from models import ONLY_SOME, family_of

    row = family_of(families[-1])
    defaults = {"family": families[-1], **row.defaults}
    return help_table(command, defaults, set(ONLY_SOME) - set(row.knobs))
