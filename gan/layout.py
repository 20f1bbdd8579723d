"""Which picture is A, which is B, to train on or to score with: what the names of files say.

The folders are those of junyanz/pytorch-CycleGAN-and-pix2pix and of its script for combining A and
B, in small or capital letters, with any number of folders around all of them:

    pairs side by side      train/x.png  val/x.png  test/x.png, or x.png; A is left and B right
    pairs in two folders    A/x.png and B/x.jpg;  A/train/  and B/train/;  train/A/ and train/B/;
                            trainA/ and trainB/, if all names in them match
    pairs of one name       x.jpg and x.png in one folder, as in CMP facades: the JPEG is A
    two folders             the same, whatever the names

val/ may be called valid/ or validation/. Without train/, what is in no such folder is trained on.
Pictures in test/ are scored with, else those in val/. Names match without their suffix, and 0001_A
matches 0001_B.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gan.cache import Example
from gan.errors import Refused, counted, plain
from gan.folders import PARTS, common_folders

JPEG = (".jpg", ".jpeg")
FOLDER = re.compile(f"(?:({'|'.join(PARTS)})[_-]?)?(a|b)?", re.IGNORECASE)


class Role(NamedTuple):
    """What the name of a file says."""

    part: str  # "train", "val", "test", or "" if it does not say
    side: str  # "A", "B" or ""
    fused: bool  # both in one word, as in trainA: the reference's two folders
    key: str  # the rest of the name: the same for both files of a pair


class ExampleGroup(NamedTuple):
    """Examples that are split together: pairs, or all of one side."""

    sides: str  # "AB", "A" or "B"
    train: list[Example]
    test: list[Example]  # if there are none, a share of `train` is held out


@dataclass
class Plan:
    """Which files to read, and why not the others."""

    where: str  # flag and path, for refusals
    roles: dict[str, Role]  # of each picture file
    groups: list[ExampleGroup] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # file name -> why
    unused: int = 0  # pictures in val/ where there is a test/
    how: str = ""  # what was taken for A and for B, if folders do not say it


def _parse_folder(folder: str) -> tuple[str, str]:
    """Part and side that the name of a folder says, "" for what it does not say."""
    match = FOLDER.fullmatch(folder)
    if not match:
        return "", ""
    return PARTS.get((match[1] or "").lower(), ""), (match[2] or "").upper()


def roles_of(names: Sequence[str]) -> dict[str, Role]:
    """What each name says, ordered by key; folders around all of them do not count."""
    around = common_folders([name.split("/")[:-1] for name in names])
    depth = next((i for i, x in enumerate(around) if any(_parse_folder(x))), len(around))
    found = {}
    for name in names:
        part, side, fused = "", "", False
        words = name.split("/")[depth:]
        while len(words) > 1:
            new_part, new_side = _parse_folder(words[0])
            if not (new_part or new_side) or (new_part and part) or (new_side and side):
                break  # from here on the folders are part of the key
            part, side = part or new_part, side or new_side
            fused = fused or bool(new_part and new_side)
            words.pop(0)
        key = os.path.splitext("/".join(words))[0]
        if side:
            key = key.removesuffix(f"_{side}")  # 0001_A and 0001_B are partners in the reference
        found[name] = Role(part, side, fused, key)
    return dict(sorted(found.items(), key=lambda item: (item[1].key, item[0])))


def _train_and_test(plan: Plan, roles: dict[str, Role]) -> tuple[dict[str, Role], dict[str, Role]]:
    """The files to train on and those to score with; notes in `plan` what is in neither.

    Raises Refused if there are none to train on.
    """
    parts = {role.part for role in roles.values()}
    train = "train" if "train" in parts else ""
    test = "test" if "test" in parts else "val"
    if train not in parts:
        raise Refused(
            f"{plan.where}: pictures in {'/ and '.join(sorted(parts))}/ but none to train on; "
            "put those in train/ (or trainA/ and trainB/)"
        )
    found: dict[str, dict[str, Role]] = {train: {}, test: {}}
    for name, role in roles.items():
        if role.part in found:
            found[role.part][name] = role
        elif role.part:
            plan.unused += 1
        else:
            plan.skipped[name] = "in none of train/, val/ and test/"
    return found[train], found[test]


def _with_side(plan: Plan) -> dict[str, Role]:
    """The files of A or of B; notes in `plan` those of neither."""
    for name, role in plan.roles.items():
        if not role.side:
            plan.skipped[name] = "neither in A nor in B"
    return {name: role for name, role in plan.roles.items() if role.side}


def _need_both_sides(plan: Plan, roles: dict[str, Role], way_out: str) -> None:
    sides = {role.side for role in roles.values()} - {""}
    if len(sides) < 2:
        lacks = f"no folder {'B' if 'A' in sides else 'A'}" if sides else "no folders A and B"
        raise Refused(f"{plan.where}: {lacks} with pictures to train on; {way_out}")


def _match(roles: dict[str, Role], unmatched: dict[str, str]) -> list[Example]:
    """Files of A and of B with equal keys; the others go to `unmatched`, name -> why."""
    sides: dict[str, dict[str, str]] = {"A": {}, "B": {}}
    for name, role in roles.items():
        first = sides[role.side].setdefault(role.key, name)
        if first != name:
            unmatched[name] = f"{first} has this name too"
    a, b = sides["A"], sides["B"]
    unmatched |= {name: "no picture of this name in B" for key, name in a.items() if key not in b}
    unmatched |= {name: "no picture of this name in A" for key, name in b.items() if key not in a}
    return [((a[key], "A"), (b[key], "B")) for key in a if key in b]


def _side_by_side(roles: dict[str, Role]) -> list[Example]:
    return [((name, "AB"),) for name in roles]


def _of_side(side: str, roles: dict[str, Role]) -> list[Example]:
    return [((name, side),) for name, role in roles.items() if role.side == side]


def _sides_of_suffixes(roles: dict[str, Role], where: str) -> dict[str, Role]:
    """The roles, with sides by suffix if files of the same name and different suffixes are pairs.

    They are if most files have such a partner; then the JPEG is A. Raises Refused if that does not
    say which is A.
    """
    files = Counter((role.part, role.key) for role in roles.values())
    partners = {name for name, role in roles.items() if files[role.part, role.key] > 1}
    if 2 * len(partners) <= len(roles):
        return roles
    suffixes = {os.path.splitext(name)[1].lower() for name in partners}
    others = suffixes - {*JPEG}
    if len(others) != 1 or others == suffixes:
        raise Refused(
            f"{where}: {len(partners):,} of {len(roles):,} pictures share their name with another "
            f"one ({', '.join(sorted(suffixes))}), which does not say what is A and what is B; put "
            "them in folders A/ and B/"
        )

    def side(name: str) -> str:
        suffix = os.path.splitext(name)[1].lower()
        return "A" if suffix in JPEG else "B" if suffix in others else ""

    return {name: role._replace(side=side(name)) for name, role in roles.items()}


def pairs(names: Sequence[str], where: str) -> Plan:
    """What to read of pairs; raises Refused, naming `where`, if the names tell of none."""
    plan = Plan(where, roles_of(names))
    if not any(role.side for role in plan.roles.values()):
        plan.how = "A left, B right"
        by_suffix = _sides_of_suffixes(plan.roles, where)
        if by_suffix != plan.roles:
            plan.roles, plan.how = by_suffix, "files of one name: the JPEG is A, the other one B"
    if not any(role.side for role in plan.roles.values()):
        train, test = _train_and_test(plan, plan.roles)
        plan.groups = [ExampleGroup("AB", _side_by_side(train), _side_by_side(test))]
        return plan
    roles = _with_side(plan)
    train, test = _train_and_test(plan, roles)
    way_out = "pairs are pictures with A left and B right, or folders A/ and B/"
    _need_both_sides(plan, train, way_out)
    unmatched: dict[str, str] = {}
    group = ExampleGroup("AB", _match(train, unmatched), _match(test, unmatched))
    # In trainA and trainB some names may be equal by chance: then none of them are pairs.
    if unmatched and (not group.train or any(role.fused for role in roles.values())):
        name, why = next(iter(unmatched.items()))
        verb = "is" if len(unmatched) == 1 else "are"
        raise Refused(
            f"{plan.where}: {len(unmatched):,} of {counted(len(roles), 'picture')} {verb} in no "
            f"pair (the first, {plain(name)}: {plain(why)}); name partners alike in folders A/ and "
            "B/, where any that are left are skipped, or train a family that takes two folders"
        )
    plan.groups = [group]
    plan.skipped |= unmatched
    return plan


def two_folders(names: Sequence[str], where: str) -> Plan:
    """What to read of two folders; raises Refused, naming `where`, if one is missing."""
    plan = Plan(where, roles_of(names))
    way_out = "put pictures in trainA/ and trainB/, or in A/ and B/"
    _need_both_sides(plan, plan.roles, way_out)
    train, test = _train_and_test(plan, _with_side(plan))
    _need_both_sides(plan, train, way_out)
    plan.groups = [ExampleGroup(side, _of_side(side, train), _of_side(side, test)) for side in "AB"]
    return plan
