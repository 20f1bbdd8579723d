"""What the folders of pictures say: the class of each, and whether it is to train on.

Folders around all pictures say nothing. Below them train/, val/ and test/ are parts of the data
set; then, or below these, there is a folder for each class.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from gan.errors import Refused, counted, plain

PARTS = {  # names of folders, in small or capital letters
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
MOST_STRAYS = 0.1  # share of pictures outside the folders of classes, above which there are none


@dataclass
class Labels:
    """What the names of pictures say; lists are parallel to `names`."""

    names: list[str]
    parts: list[str] | None = None  # "train", "val" or "test" of each, if there are such folders
    classes: list[str] | None = None  # the class of each, if there are classes
    why_no_classes: str = ""
    skipped: dict[str, str] = field(default_factory=dict)  # name -> why it is in no part


def common_folders(folders: Sequence[list[str]]) -> list[str]:
    """The folders that all of these paths begin with."""
    first, last = min(folders), max(folders)  # all paths between these two share what these share
    same = itertools.takewhile(lambda two: two[0] == two[1], zip(first, last, strict=False))
    return [folder for folder, _ in same]


def _without_common(paths: list[list[str]]) -> list[list[str]]:
    depth = len(common_folders([path[:-1] for path in paths]))
    return [path[depth:] for path in paths]


def _classes(names: list[str], paths: list[list[str]]) -> tuple[list[str] | None, str]:
    """The top folder of each path, if every path is in one and they differ; else why not."""
    tops = [path[0] if len(path) > 1 else "" for path in paths]
    strays = [name for name, top in zip(names, tops, strict=True) if not top]
    found = set(tops) - {""}
    if len(found) > 1 and not strays:
        return tops, ""
    if len(found) > 1 and len(strays) <= MOST_STRAYS * len(names):
        first = ", ".join(map(plain, strays[:3])) + (", ..." if len(strays) > 3 else "")
        verb, them = ("is", "it") if len(strays) == 1 else ("are", "them")
        return None, (
            f"{counted(len(strays), 'picture')} of {len(names):,} {verb} beside the "
            f"{len(found):,} folders, not in one ({first}); move or delete {them}"
        )
    return None, ""


def read_labels(names: Sequence[str], where: str, inside: Sequence[str] | None = None) -> Labels:
    """What `names`, with / between folders, or the names `inside` of them, say.

    Raises Refused, naming `where`, for parts without one to train on.
    """
    labels = Labels(list(names))
    if not names:
        return labels
    # train/ around all of them is a part without others, and so says nothing
    paths = _without_common([name.split("/") for name in inside or names])
    tops = {path[0] for path in paths if len(path) > 1}
    parts = {PARTS[top.lower()] for top in tops if top.lower() in PARTS}
    only_parts = all(top.lower() in PARTS for top in tops)
    if len(parts) > 1 and (only_parts or "train" in parts):
        if "train" not in parts:
            raise Refused(
                f"{where}: pictures in {'/ and '.join(sorted(parts))}/ but none to train on; put "
                "those in train/, or name one of these folders"
            )
        own = [PARTS.get(path[0].lower(), "") if len(path) > 1 else "" for path in paths]
        why = "in none of train/, val/ and test/"
        labels.skipped = {name: why for name, part in zip(names, own, strict=True) if not part}
        labels.names = [name for name, part in zip(names, own, strict=True) if part]
        labels.parts = [part for part in own if part]
        paths = [path[1:] for path, part in zip(paths, own, strict=True) if part]
        paths = _without_common(paths)
    labels.classes, labels.why_no_classes = _classes(labels.names, paths)
    return labels
