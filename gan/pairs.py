"""Pictures of two kinds, A and B, as pairs or not -> uint8 maps; a batch is f(seed, step).

Every picture, of pairs or not, is resized to a square without keeping its proportions, as in the
reference (junyanz/pytorch-CycleGAN-and-pix2pix): nothing is cut off. To be jittered, those to
train on are kept 286/256 times as large as asked for, else at the size itself, with no further
resizing: so jitter is part of the cache's key. Those to score with are kept at the size itself.
`gan/layout.py` says which file is what. This room does not import torch.
"""

import contextlib
import functools
import hashlib
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gan import data, layout, split
from gan.errors import Refused, plain
from gan.layout import Example, Item, Plan

VERSION = 1  # of the cache's layout and of the decoding; part of the key
LEAST = 28  # pixels on a side of half a picture: a smaller one is no half but a mistake


@dataclass(frozen=True)
class Sides:
    """Pictures of A and B, ready to train on. S pixels asked for, S' = `stored_size(S, jitter)`."""

    a: NDArray[np.uint8]  # [Na, channels of A, S', S'], a read-only memory map: to train on
    b: NDArray[np.uint8]  # [Nb, channels of B, S', S']; if `paired`, b[i] belongs to a[i]
    test_a: NDArray[np.uint8]  # [Ma, channels of A, S, S]: to score with
    test_b: NDArray[np.uint8]  # [Mb, channels of B, S, S]
    test_names_a: tuple[str, ...]  # the files of `test_a`, in its order
    test_names_b: tuple[str, ...]  # of pairs side by side the same files
    paired: bool
    test_paired: bool  # test_b[i] belongs to test_a[i]; of two folders, if their names match
    digest: str  # SHA-256 of all shapes and pixels: two data sets with one digest are one
    skipped: dict[str, str]  # file name -> why it is not among the pictures
    folder: Path

    @property
    def size(self) -> int:
        """S, pixels on a side of what `batch_at` gives."""
        return int(self.test_a.shape[-1])

    def __len__(self) -> int:
        """How many pairs there are to train on; of two folders, how many on the larger side."""
        return len(self.a) if self.paired else max(len(self.a), len(self.b))

    def batch_at(
        self, step: int, batch_size: int, seed: int, jitter: bool, flip: bool = True
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """A and B of training step `step`: uint8 [batch_size, C, S, S] each.

        A function of its arguments. Each epoch is a permutation of its own, of pairs or of the
        larger side, without the last incomplete batch; the smaller side runs through permutations
        of its own without end. With `jitter` the place of each crop is drawn by lot and, unless
        `flip` is False, half are mirrored: both sides of a pair alike, two folders one by one.
        Without it the crop is the centre: the whole picture if opened with jitter=False.
        """
        a, lots = self._drawn(len(self.a), 0, step, batch_size, seed)
        b, lots_b = (
            (a, lots) if self.paired else self._drawn(len(self.b), 1, step, batch_size, seed)
        )
        return (
            cut(self.a, a, self.size, lots if jitter else None, flip),
            cut(self.b, b, self.size, lots_b if jitter else None, flip),
        )

    def _drawn(
        self, count: int, side: int, step: int, batch_size: int, seed: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Which of the `count` pictures of a side come in a step; a number in 0..1 for each."""
        nth = np.arange(batch_size)
        if count == len(self):
            epoch, i = divmod(step, count // batch_size)
            turns, at = np.full(batch_size, epoch), i * batch_size + nth
        else:
            turns, at = np.divmod(step * batch_size + nth, count)
        places, lots = np.empty(batch_size, np.int64), np.empty(batch_size)
        for turn in np.unique(turns):
            here = turns == turn
            order, chance = data.order(seed, int(turn), count, side)
            places[here], lots[here] = order[at[here]], chance[at[here]]
        return places, lots


def stored_size(size: int, jitter: bool) -> int:
    """Pixels on a side of a kept picture, from which crops of `size` are taken if `jitter`."""
    return round(286 / 256 * size) if jitter else size


def cut(
    pictures: NDArray[np.uint8],
    places: NDArray[np.int64],
    size: int,
    lots: NDArray[np.float64] | None,
    flip: bool,
) -> NDArray[np.uint8]:
    """A square of each of these pictures: uint8 [len(places), C, size, size].

    One of `lots`, numbers in 0..1, says from where and whether mirrored; None: from the centre.
    """
    room = pictures.shape[-1] - size  # pixels that it can be moved by
    top = left = np.full(len(places), room // 2)
    mirrored = np.zeros(len(places), np.int64)
    if lots is not None:
        ways = (2, room + 1, room + 1)
        mirrored, top, left = np.unravel_index((lots * math.prod(ways)).astype(np.int64), ways)
    squares = np.empty((len(places), pictures.shape[1], size, size), np.uint8)
    for i, (place, y, x) in enumerate(zip(places, top, left, strict=True)):
        square = pictures[place, :, y : y + size, x : x + size]
        squares[i] = square[..., ::-1] if flip and mirrored[i] else square
    return squares


# --- the cache -----------------------------------------------------------------------------------


class Geometry(NamedTuple):
    """What is made of the pictures."""

    size: int  # pixels on a side
    stored: int  # the same, of those to train on
    channels: dict[str, int]  # by side

    def shape(self, count: int, name: str) -> tuple[int, int, int, int]:
        """[N, C, H, W] of "a", "b", "test_a" or "test_b"."""
        side = self.size if name.startswith("test") else self.stored
        return count, self.channels[name[-1].upper()], side, side


def halves(image: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Left and right of an upright picture; raises ValueError if they differ or are too small."""
    width, height = image.size
    if width % 2:
        raise ValueError(f"{width} pixels wide: an odd number has no two halves")
    middle = width // 2
    if min(middle, height) < LEAST:
        raise ValueError(f"halves of {middle} x {height} pixels, less than {LEAST} x {LEAST}")
    return image.crop((0, 0, middle, height)), image.crop((middle, 0, width, height))


def _decode(
    source_open: Callable[[str, int], Image.Image], size: int, channels: dict[str, int], item: Item
) -> dict[str, bytes]:
    """The pixels [C, size, size] of each side that a file shows."""
    name, sides = item
    with source_open(name, size) as image:
        if image.format == "JPEG" and len(sides) == 1:  # coarser, two halves could share a pixel
            image.draft(None, (2 * size, 2 * size))  # large photos: decode at a fraction
        upright = data.to_rgb(image)
    found = {}
    for side, picture in zip(sides, halves(upright) if sides == "AB" else [upright], strict=True):
        picture = picture if channels[side] == 3 else picture.convert("L")
        pixels = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))
        found[side] = pixels.reshape(size, size, -1).transpose(2, 0, 1).tobytes()
    return found


@dataclass
class Cache:
    """A cache that is being made: `a.u8`, `b.u8`, `test_a.u8`, `test_b.u8` and the index."""

    folder: Path
    source: data.Source
    to: Geometry
    workers: int
    skipped: dict[str, str]  # file name -> why
    counts: dict[str, int] = field(default_factory=dict)  # pictures in "a", "b", "test_a", ...

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.u8"

    def shape(self, name: str) -> tuple[int, int, int, int]:
        return self.to.shape(self.counts[name], name)

    def write(self, prefix: str, sides: str, examples: list[Example]) -> list[Example]:
        """Decode to the file of each side, `prefix` "" or "test_"; the examples that are whole."""
        size = self.to.size if prefix else self.to.stored
        work = functools.partial(_decode, self.source.open, size, self.to.channels)
        items = [item for example in examples for item in example]
        label = f"{self.source.label} {prefix.replace('_', ' ')}{sides}"
        decoded = data.read_all(work, items, self.workers, label)
        whole = []
        with contextlib.ExitStack() as stack:
            names = {side: prefix + side.lower() for side in sides}
            out = {s: stack.enter_context(open(self.file(n), "wb")) for s, n in names.items()}
            for example in examples:
                broken: dict[str, str] = {}
                pixels: dict[str, bytes] = {}
                for name, _ in example:
                    found = next(decoded)
                    if isinstance(found, str):
                        broken[name] = found
                    else:
                        pixels |= found
                if broken:
                    partner = "its partner cannot be read"
                    self.skipped |= {name: broken.get(name, partner) for name, _ in example}
                    continue
                whole.append(example)
                for side, picture in pixels.items():
                    out[side].write(picture)
            next(decoded, None)  # so that the bar is closed
            for file in out.values():
                file.flush()
                os.fsync(file.fileno())
        self.counts |= dict.fromkeys(names.values(), len(whole))
        return whole

    def hold_out(self, names: list[str], share: float) -> list[int]:
        """Take a share of the pictures out of these files; which, so that they can be read anew.

        By whole clusters of near-duplicates: of pairs, neither A nor B has its like in training.
        """
        maps = [data.mapped(self.file(name), self.shape(name)) for name in names]
        clusters = functools.reduce(split.joined, [split.near_duplicates(x) for x in maps])
        # Pairs with the same A are in one cluster, so the hash of A says enough.
        hashes = np.array([split.content_hash(x.tobytes()) for x in maps[0]], np.uint64)
        train, held = split.held_out(hashes, clusters, share)
        del maps  # some systems cut no file that is mapped
        for name in names:
            pictures = np.memmap(self.file(name), np.uint8, "r+", shape=self.shape(name))
            for to, place in enumerate(train):  # to <= place: nothing is lost
                pictures[to] = pictures[place]
            pictures.flush()
            del pictures
            self.counts[name] = len(train)
            os.truncate(self.file(name), math.prod(self.shape(name)))
        return held.tolist()

    def digest(self) -> str:
        """SHA-256 of all shapes and pixels."""
        found = hashlib.sha256()
        for name in sorted(self.counts):
            found.update(f"{name} {self.shape(name)}".encode())
            with open(self.file(name), "rb") as file:
                while block := file.read(2**20):
                    found.update(block)
        return found.hexdigest()


def _build(
    folder: Path, source: data.Source, plan: Plan, to: Geometry, share: float, workers: int
) -> None:
    with data.made_beside(folder) as part:
        cache = Cache(part, source, to, workers, dict(plan.skipped))
        names: dict[str, list[str]] = {}
        for sides, train, test in plan.piles:
            train = cache.write("", sides, train)
            if not test and train and share:
                test = [train[i] for i in cache.hold_out(list(sides.lower()), share)]
            test = cache.write("test_", sides, test)
            for side in sides:
                names[side] = [name for example in test for name, shown in example if side in shown]
        a, b = ([plan.places[name].key for name in names[side]] for side in "AB")
        index = {
            "counts": cache.counts,
            "names": names,
            "test_paired": a == b and len(a) > 0,
            "digest": cache.digest(),
        }
        data.write_index(part, index, cache.skipped)


def _opened(folder: Path, to: Geometry, paired: bool) -> Sides | None:
    """The cache in `folder` if it is whole."""
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        a, b, test_a, test_b = (
            data.mapped(folder / f"{name}.u8", to.shape(index["counts"][name], name))
            for name in ("a", "b", "test_a", "test_b")
        )
        names_a, names_b = (tuple(index["names"][side]) for side in "AB")
        test_paired, digest, skipped = index["test_paired"], index["digest"], index["skipped"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Sides(
        a, b, test_a, test_b, names_a, names_b, paired, test_paired, digest, skipped, folder
    )


LAYOUTS = {"pairs": layout.pairs, "two folders": layout.two}


def open_sides(
    kind: str,
    data_path: str,
    size: int,
    channels_a: int,
    channels_b: int,
    cache: Path,
    *,
    jitter: bool = True,
    batch_size: int = 1,
    workers: int = 0,
    held_out: float = 0.0,
    flag: str = "--data-path",
) -> Sides:
    """The "pairs" at `data_path`, or the "two folders" of A and B in no pairs: a row of LAYOUTS.

    Decoded at the first call. `size` in pixels; channels 1 or 3 each. With `jitter` pictures are
    kept larger, for `batch_at` to cut from: another cache. Those to score with are in test/, else
    in val/, else the share `held_out` of all; of two folders each side's, ordered by name, so that
    they can be compared one by one where names match. Pictures of which all or part is missing,
    damaged, too small or of an odd width are skipped. `flag` is named in refusals.
    Raises Refused for a path without such pictures, and for fewer usable ones than one batch.
    """
    paired = kind == "pairs"
    to = Geometry(size, stored_size(size, jitter), {"A": channels_a, "B": channels_b})
    if not data_path:
        raise Refused(f"{flag}: give a folder or zip with pictures of A and of B")
    source = data.find_files(data_path, flag)
    plan = LAYOUTS[kind](source.names, f"{flag}={data_path}")
    share = 0.0 if all(pile.test for pile in plan.piles) else float(held_out)
    word = kind.split()[0]
    key = f"{word} {VERSION} {to} {share}"
    folder = data.cache_folder(cache, source, f"{word}-{to.size}px", key)
    sides = _opened(folder, to, paired)
    if sides is None:
        _build(folder, source, plan, to, share, workers)
        sides = _opened(folder, to, paired)
        if sides is None:
            raise Refused(f"{folder}: cannot be written or read; delete it and try again")
    _report(sides, plan)
    data.report_skipped(source.ignored, sides.skipped, folder, "pictures")
    if not (len(sides.a) and len(sides.b)):
        what = "pairs" if paired else f"pictures of {'B' if len(sides.a) else 'A'}"
        name, why = next(iter(sides.skipped.items()))
        raise Refused(
            f"{plan.where}: no usable {what} to train on; {len(sides.skipped):,} skipped, the "
            f"first {plain(name)}: {plain(why)}; see {folder / 'skipped.txt'} for all, and add some"
        )
    if len(sides) < batch_size:
        raise Refused(
            f"--batch-size={batch_size}: only {len(sides)} usable "
            f"{'pairs' if paired else 'pictures'} to train on in {data_path} "
            f"({len(sides.skipped)} skipped, {len(sides.test_a)} to score with); give "
            f"--batch-size={len(sides)} or less, or add some"
        )
    return sides


def _report(sides: Sides, plan: Plan) -> None:
    arrays = (sides.a, sides.b, sides.test_a, sides.test_b)
    a, b, test_a, test_b = (f"{len(array):,}" for array in arrays)
    # A folder of anything looks like pairs side by side: so it is said what was taken for what.
    how = " (A left, B right)" if plan.piles[0].train[0][0][1] == "AB" else ""
    train = f"{a} pairs{how}" if sides.paired else f"{a} pictures of A and {b} of B"
    test = test_a if sides.paired else f"{test_a} and {test_b}"
    print(
        f"data: {train} to train on, {test} to score with"
        f"{', as pairs' if sides.test_paired and not sides.paired else ''}, "
        f"{sum(array.nbytes for array in arrays) / 2**20:.0f} MiB in {sides.folder}"
    )
    if plan.unused:
        print(f"data: {plan.unused:,} pictures in val/ left out, as test/ is there to score with")


# --- one at a time -------------------------------------------------------------------------------


def stream(path: str, flag: str, channels: int = 3) -> Iterator[tuple[str, Image.Image | str]]:
    """Each picture of a file, folder or zip by name, in its own size; one is in memory at a time.

    Yields (name, picture), upright, RGB or, for one channel, L; or (name, why it cannot be read).
    The name is relative, with / between folders; that of a picture leads out of no folder.
    Raises Refused, at once, if there is no such path or no picture in it.
    """
    file = Path(path).expanduser()
    if not path:
        raise Refused(f"{flag}: wants a picture, or a folder or zip of pictures")
    if file.is_file() and not zipfile.is_zipfile(file):
        return _stream(functools.partial(data.open_file, file.parent), [file.name], channels)
    source = data.find_files(path, flag)
    return _stream(source.open, source.names, channels)


def _stream(
    source_open: Callable[[str, int], Image.Image], names: list[str], channels: int
) -> Iterator[tuple[str, Image.Image | str]]:
    def upright(name: str) -> Image.Image:
        with source_open(name, 0) as image:
            return data.to_rgb(image).convert("RGB" if channels == 3 else "L")

    for name in names:
        if PurePath(name).anchor or ".." in PurePath(name).parts:  # a member of a hostile zip
            yield name, "its name leads out of the folder"
        else:
            yield name, data.attempt(upright, name)
