"""Which picture is A, which is B, to train on or to score with: what the names of files say.

The folders are those people's data sets have (junyanz/pytorch-CycleGAN-and-pix2pix), in small or
capital letters, in any number of other folders around all of it:

    pairs side by side      train/x.png  val/x.png  test/x.png, or x.png; A is left and B right
    pairs in two folders    A/x.png and B/x.jpg;  A/train/  and B/train/;  train/A/ and train/B/;
                            trainA/ and trainB/, if all names in them match
    two folders             the same, whatever the names

Without train/ what is in no such folder is trained on. Those in test/ are to score with, else
those in val/. Names match without their ending, and 0001_A with 0001_B.
"""

import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gan.errors import Refused, plain

FOLDER = re.compile("(?:(train|val|test)[_-]?)?(a|b)?", re.IGNORECASE)

Item = tuple[str, str]  # a file and what it shows: "A", "B" or, side by side, "AB"
Example = tuple[Item, ...]  # what is kept or skipped as one: a pair, or one picture


class Place(NamedTuple):
    """What the name of a file says."""

    part: str  # "train", "val", "test", or "" if it does not say
    side: str  # "A", "B" or ""
    fused: bool  # both in one word, as in trainA: the reference's two folders
    key: str  # the rest of the name: the same for both files of a pair


class Pile(NamedTuple):
    """Examples that are split together: pairs, or all of one side."""

    sides: str  # "AB", "A" or "B"
    train: list[Example]
    test: list[Example]  # if there are none, a share of `train` is held out


@dataclass
class Plan:
    """Which files to read, and why not the others."""

    where: str  # flag and path, for refusals
    places: dict[str, Place]  # of each file that is a picture
    piles: list[Pile] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # file name -> why
    unused: int = 0  # pictures in val/ where there is a test/


def _said(folder: str) -> tuple[str, str]:
    """Part and side that the name of a folder says, "" where it does not."""
    match = FOLDER.fullmatch(folder)
    return ((match[1] or "").lower(), (match[2] or "").upper()) if match else ("", "")


def _shared(folders: list[list[str]]) -> list[str]:
    """The folders that all of these paths begin with."""
    first, last = min(folders), max(folders)  # what these share all that is between them does
    same = itertools.takewhile(lambda two: two[0] == two[1], zip(first, last, strict=False))
    return [folder for folder, _ in same]


def places_of(names: Sequence[str]) -> dict[str, Place]:
    """What each name says, in the order of keys; folders around all of them say nothing."""
    around = _shared([name.split("/")[:-1] for name in names])
    depth = next((i for i, folder in enumerate(around) if any(_said(folder))), len(around))
    found = {}
    for name in names:
        part, side, fused = "", "", False
        words = name.split("/")[depth:]
        while len(words) > 1:
            its_part, its_side = _said(words[0])
            if not (its_part or its_side) or (its_part and part) or (its_side and side):
                break  # a folder of their own
            part, side = part or its_part, side or its_side
            fused = fused or bool(its_part and its_side)
            words.pop(0)
        key = os.path.splitext("/".join(words))[0]
        if side:
            key = key.removesuffix(f"_{side}")  # 0001_A and 0001_B are partners in the reference
        found[name] = Place(part, side, fused, key)
    return dict(sorted(found.items(), key=lambda item: (item[1].key, item[0])))


def _roles(plan: Plan, places: dict[str, Place]) -> tuple[dict[str, Place], dict[str, Place]]:
    """The files to train on and those to score with."""
    parts = {place.part for place in places.values()}
    train = "train" if "train" in parts else ""
    test = "test" if "test" in parts else "val"
    if train not in parts:
        raise Refused(
            f"{plan.where}: pictures in {'/ and '.join(sorted(parts))}/ but none to train on; "
            "put those in train/ (or trainA/ and trainB/)"
        )
    roles: dict[str, dict[str, Place]] = {train: {}, test: {}}
    for name, place in places.items():
        if place.part in roles:
            roles[place.part][name] = place
        elif place.part:
            plan.unused += 1
        else:
            plan.skipped[name] = "in none of train/, val/ and test/"
    return roles[train], roles[test]


def _sided(plan: Plan) -> dict[str, Place]:
    """The files that are of A or of B."""
    for name, place in plan.places.items():
        if not place.side:
            plan.skipped[name] = "neither in A nor in B"
    return {name: place for name, place in plan.places.items() if place.side}


def _need_both(plan: Plan, places: dict[str, Place], way_out: str) -> None:
    sides = {place.side for place in places.values()} - {""}
    if len(sides) < 2:
        lacks = f"no folder {'B' if 'A' in sides else 'A'}" if sides else "no folders A and B"
        raise Refused(f"{plan.where}: {lacks} with pictures to train on; {way_out}")


def _matched(places: dict[str, Place], alone: dict[str, str]) -> list[Example]:
    """Files of A and of B that have one key; the others are put in `alone`."""
    sides: dict[str, dict[str, str]] = {"A": {}, "B": {}}
    for name, place in places.items():
        first = sides[place.side].setdefault(place.key, name)
        if first != name:
            alone[name] = f"{first} has this name too"
    a, b = sides["A"], sides["B"]
    alone |= {name: "no picture of this name in B" for key, name in a.items() if key not in b}
    alone |= {name: "no picture of this name in A" for key, name in b.items() if key not in a}
    return [((a[key], "A"), (b[key], "B")) for key in a if key in b]


def _whole(places: dict[str, Place]) -> list[Example]:
    return [((name, "AB"),) for name in places]


def _of_side(side: str, places: dict[str, Place]) -> list[Example]:
    return [((name, side),) for name, place in places.items() if place.side == side]


def pairs(names: Sequence[str], where: str) -> Plan:
    """What there is to read of pairs; raises Refused, naming `where`, if names tell of none."""
    plan = Plan(where, places_of(names))
    if not any(place.side for place in plan.places.values()):
        train, test = _roles(plan, plan.places)
        plan.piles = [Pile("AB", _whole(train), _whole(test))]
        return plan
    places = _sided(plan)
    train, test = _roles(plan, places)
    _need_both(plan, train, "pairs are pictures with A left and B right, or folders A/ and B/")
    alone: dict[str, str] = {}
    pile = Pile("AB", _matched(train, alone), _matched(test, alone))
    # Of trainA and trainB some names may be equal by chance: then none of them are pairs.
    if alone and (not pile.train or any(place.fused for place in places.values())):
        name, why = next(iter(alone.items()))
        raise Refused(
            f"{plan.where}: {len(alone):,} of {len(places):,} pictures are in no pair (the first, "
            f"{plain(name)}: {plain(why)}); name partners alike in folders A/ and B/, "
            "where any that are left are skipped, or train a family that takes two folders"
        )
    plan.piles = [pile]
    plan.skipped |= alone
    return plan


def two(names: Sequence[str], where: str) -> Plan:
    """What there is to read of two folders; raises Refused, naming `where`, if one is missing."""
    plan = Plan(where, places_of(names))
    way_out = "put pictures in trainA/ and trainB/, or in A/ and B/"
    _need_both(plan, plan.places, way_out)
    train, test = _roles(plan, _sided(plan))
    _need_both(plan, train, way_out)
    plan.piles = [Pile(side, _of_side(side, train), _of_side(side, test)) for side in "AB"]
    return plan
