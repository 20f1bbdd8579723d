"""Pictures of two kinds, A and B, in pairs or not -> uint8 arrays; a batch is f(seed, step).

Every picture is resized to a square without keeping its proportions, as in the reference
(junyanz/pytorch-CycleGAN-and-pix2pix): nothing is cut off. With jitter, pictures to train on are
stored 286/256 times as large as asked for, to be cropped; else at the size itself: so jitter is
part of the cache's key. Pictures to score with are stored at the size itself. `gan/layout.py` says
which file is what, `gan/cache.py` makes the cache. Nothing here imports torch.
"""

import dataclasses
import functools
import itertools
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gan import cache as caches
from gan import data, depth, layout, overview, progress, split
from gan.cache import Builder, DataSet, Decoded, Item
from gan.console import say
from gan.depth import Ranges
from gan.errors import Refused, counted, plain
from gan.layout import Plan
from gan.readers import FILE_READERS, OpenPicture, Source, expanded, find_source, open_file

VERSION = 1  # of the cache's layout and of the decoding; part of the key
MIN_SIZE = 28  # pixels on a side of half a picture: a smaller one is no half but a mistake
SQUARE = 0.02  # how far from square a half may be: a wider or narrower one is no half but a mistake
DIRECTIONS = ("AtoB", "BtoA")


@dataclass(frozen=True, kw_only=True)
class PictureSet(DataSet):
    """Pictures for G and those wanted of it: A and B, or B and A.

    S is the size asked for in pixels, S' the `stored_size(S, jitter)`. With `paired`, wanted[i]
    belongs to given[i].
    """

    given: NDArray[np.uint8]  # [N, C, S', S'] to train on, a read-only memory map
    wanted: NDArray[np.uint8]  # [M, C', S', S']
    test_given: NDArray[np.uint8]  # [n, C, S, S] to score with
    test_wanted: NDArray[np.uint8]  # [m, C', S, S]
    test_names_given: tuple[str, ...]  # [n] the files of `test_given`
    test_names_wanted: tuple[str, ...]  # [m]; of pairs side by side the same files
    paired: bool
    test_paired: bool  # test_wanted[i] belongs to test_given[i]; of two folders, if names match
    streams: tuple[
        int, int
    ]  # of random numbers, of given and wanted: A has 0, B 1, a pair shares 0

    @property
    def size(self) -> int:
        """S, pixels on a side of what `batch_at` gives."""
        return int(self.test_given.shape[-1])

    def __len__(self) -> int:
        """How many pairs there are to train on; of two folders, how many in the larger one."""
        return max(len(self.given), len(self.wanted))

    def batch_at(
        self, step: int, batch_size: int, seed: int, jitter: bool, flip: bool = True
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Given and wanted of training step `step`: uint8 [batch_size, C, S, S] each.

        A function of its arguments. Each epoch is its own permutation of the pairs, or of the
        larger folder, without the last incomplete batch; the smaller folder runs through
        permutations of its own without end. With `jitter` crops are taken at random and, with
        `flip`, half of them mirrored: both pictures of a pair alike, of two folders each by
        itself. Without `jitter` the crop is the centre: all of a picture opened with jitter=False.
        """

        def side(pictures: NDArray[np.uint8], stream: int) -> NDArray[np.uint8]:
            indices, uniform = self._sample(len(pictures), stream, step, batch_size, seed)
            return crop(pictures, indices, self.size, uniform if jitter else None, flip)

        return side(self.given, self.streams[0]), side(self.wanted, self.streams[1])

    def _sample(
        self, count: int, stream: int, step: int, batch_size: int, seed: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Which of `count` pictures come in a step, and a uniform number in 0..1 for each."""
        nth = np.arange(batch_size)
        if count == len(self):
            epoch, i = divmod(step, count // batch_size)
            epochs, positions = np.full(batch_size, epoch), i * batch_size + nth
        else:
            epochs, positions = np.divmod(step * batch_size + nth, count)
        indices, uniform = np.empty(batch_size, np.int64), np.empty(batch_size)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            order, numbers = data.order(seed, int(epoch), count, stream)
            indices[here], uniform[here] = order[positions[here]], numbers[positions[here]]
        return indices, uniform

    def reversed(self) -> "PictureSet":
        """The same pictures from wanted to given, each side with the stream that it has."""
        return dataclasses.replace(
            self,
            given=self.wanted,
            wanted=self.given,
            test_given=self.test_wanted,
            test_wanted=self.test_given,
            test_names_given=self.test_names_wanted,
            test_names_wanted=self.test_names_given,
            streams=self.streams[::-1],
        )


def stored_size(size: int, jitter: bool) -> int:
    """Pixels on a side of a stored picture; with `jitter` crops of `size` are taken from it.

    286 pixels for crops of 256, as in the reference.
    """
    return round(286 / 256 * size) if jitter else size


def crop(
    pictures: NDArray[np.uint8],
    indices: NDArray[np.int64],
    size: int,
    uniform: NDArray[np.float64] | None,
    flip: bool,
) -> NDArray[np.uint8]:
    """A square of each of pictures[indices]: uint8 [len(indices), C, size, size].

    Its position, and with `flip` whether it is mirrored, is chosen by `uniform` [len(indices)] in
    [0, 1); None: the centre.
    """
    margin = pictures.shape[-1] - size  # pixels a crop can be moved by
    top = left = np.full(len(indices), margin // 2)
    mirrored = np.zeros(len(indices), np.int64)
    if uniform is not None:
        ways = (2, margin + 1, margin + 1)
        mirrored, top, left = np.unravel_index((uniform * math.prod(ways)).astype(np.int64), ways)
    squares = np.empty((len(indices), pictures.shape[1], size, size), np.uint8)
    for i, (index, y, x) in enumerate(zip(indices, top, left, strict=True)):
        square = pictures[index, :, y : y + size, x : x + size]
        squares[i] = square[..., ::-1] if flip and mirrored[i] else square
    return squares


# --- the cache -----------------------------------------------------------------------------------

STEMS = ("a", "b", "test_a", "test_b")  # of the files of pixels


class Geometry(NamedTuple):
    """What is made of the pictures. Its repr is part of the cache's key."""

    size: int  # pixels on a side
    stored: int  # the same, of those to train on
    channels: dict[str, int]  # by side

    def shape(self, stem: str) -> tuple[int, int, int]:
        """[C, H, W] of the pictures of a file."""
        size = self.size if stem.startswith("test") else self.stored
        return self.channels[stem[-1].upper()], size, size


class Index(TypedDict):
    """What is sealed with the files of a cache."""

    counts: dict[str, int]  # pictures, by stem
    names: dict[str, list[str]]  # the files to score with, by side
    test_paired: bool
    digest: str
    skipped: dict[str, str]
    overview: overview.Overview


def halves(image: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Left and right half of an upright picture.

    Raises ValueError if its width is odd, or a half smaller than MIN_SIZE on a side or not square.
    """
    width, height = image.size
    if width % 2:
        raise ValueError(f"{width} pixels wide: an odd number has no two halves")
    middle = width // 2
    if min(middle, height) < MIN_SIZE:
        raise ValueError(f"halves of {middle} x {height} pixels, less than {MIN_SIZE} x {MIN_SIZE}")
    if abs(middle - height) > SQUARE * height:
        raise ValueError(f"{width} x {height} pixels, not twice as wide as high: no two halves")
    return image.crop((0, 0, middle, height)), image.crop((middle, 0, width, height))


def _decode(
    open_picture: OpenPicture,
    size: int,
    channels: dict[str, int],
    ranges: dict[str, Ranges],
    prefix: str,
    item: Item,
) -> Decoded:
    """The pixels [C, size, size] of each side that a file shows, by stem of the cache's file."""
    name, sides = item
    with open_picture(name, size) as image:
        mode, (width, height) = image.mode, image.size  # before JPEG is decoded at a fraction
        if image.format == "JPEG" and len(sides) == 1:  # coarser, two halves could share a pixel
            image.draft(None, (2 * size, 2 * size))  # large photos: decode at a fraction
        upright = data.to_rgb(image, ranges[sides])
    found = {}
    for side, picture in zip(sides, halves(upright) if sides == "AB" else [upright], strict=True):
        picture = picture if channels[side] == 3 else picture.convert("L")
        pixels = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))
        found[f"{prefix}{side.lower()}"] = (
            pixels.reshape(size, size, -1).transpose(2, 0, 1).tobytes()
        )
    return Decoded(found, mode, (width // len(sides), height))


def _hold_out(builder: Builder, stems: list[str], share: float) -> list[int]:
    """Take a share of the pictures out of these files; which, so that they can be read anew.

    By whole clusters of near-duplicates: of pairs, neither A nor B has one in training.
    """
    arrays = [builder.array(stem) for stem in stems]
    clusters = functools.reduce(split.merge_clusters, [split.near_duplicates(x) for x in arrays])
    # Pairs with the same A are in one cluster, so the hash of A is enough to choose by.
    hashes = np.array([split.content_hash(x.tobytes()) for x in arrays[0]], np.uint64)
    train, held = split.held_out(hashes, clusters, share)
    del arrays  # some systems truncate no file that is mapped
    for stem in stems:
        builder.keep(stem, train)
    return held.tolist()


def _find_ranges(
    source: Source, plan: Plan, workers: int, value_range: str
) -> tuple[dict[str, Ranges], list[str]]:
    """The ranges of values of A and of B, or of "AB", each by itself; and lines that say them."""
    names: dict[str, list[str]] = {}
    for group in plan.groups:
        for name, sides in itertools.chain(*group.train, *group.test):
            names.setdefault(sides, []).append(name)
    found, lines = {}, []
    for sides, files in names.items():
        found[sides], said = depth.find_ranges(source, files, workers, value_range)
        lines += [f"{sides}: {line}" if len(names) > 1 else line for line in said]
    return found, lines


def _build(
    folder: Path,
    source: Source,
    plan: Plan,
    geometry: Geometry,
    share: float,
    workers: int,
    value_range: str,
) -> None:
    ranges, lines = _find_ranges(source, plan, workers, value_range)
    shapes = {stem: geometry.shape(stem) for stem in STEMS}
    builder = Builder(folder, source, shapes, workers, dict(plan.skipped))

    def write(prefix: str, sides: str, examples: list[caches.Example]) -> list[caches.Example]:
        size = geometry.size if prefix else geometry.stored
        decode = functools.partial(_decode, source.open, size, geometry.channels, ranges, prefix)
        stems = [prefix + side.lower() for side in sides]
        return builder.write(stems, examples, decode, prefix.replace("_", " ") + sides)

    names: dict[str, list[str]] = {}
    for sides, train, test in plan.groups:
        train = write("", sides, train)
        if not test and train and share:
            test = [train[i] for i in _hold_out(builder, list(sides.lower()), share)]
        test = write("test_", sides, test)
        for side in sides:
            names[side] = [name for example in test for name, shown in example if side in shown]
    a, b = ([plan.roles[name].key for name in names[side]] for side in "AB")
    found = overview.overview_of(builder.seen, geometry.size, lines)
    overview.write_report(
        folder,
        found,
        builder.seen,
        geometry.size,
        skipped=builder.skipped,
        ignored=source.ignored,
        labels={},
        groups=[],
    )
    headers = {stem: f"{stem} {builder.shape(stem)}" for stem in sorted(STEMS)}
    builder.write_index(
        {
            "counts": builder.counts,
            "names": names,
            "test_paired": a == b and len(a) > 0,
            "digest": builder.digest(headers),
            "overview": found,
        }
    )


def _read(geometry: Geometry, paired: bool, folder: Path, index: Index) -> PictureSet:
    """The cache in `folder`, from A to B."""
    a, b, test_a, test_b = (
        caches.mapped(folder / f"{stem}.u8", (index["counts"][stem], *geometry.shape(stem)))
        for stem in STEMS
    )
    return PictureSet(
        given=a,
        wanted=b,
        test_given=test_a,
        test_wanted=test_b,
        test_names_given=tuple(index["names"]["A"]),
        test_names_wanted=tuple(index["names"]["B"]),
        paired=paired,
        test_paired=index["test_paired"],
        streams=(0, 0) if paired else (0, 1),
        digest=index["digest"],
        skipped=index["skipped"],
        folder=folder,
        overview=index["overview"],
    )


def open_pictures(
    paired: bool,
    data_path: str,
    size: int,
    channels_a: int,
    channels_b: int,
    *,
    direction: str = "AtoB",
    cache: Path = data.CACHE,
    jitter: bool = True,
    batch_size: int = 1,
    workers: int = 0,
    held_out: float = 0.0,
    value_range: str = "",
    flag: str = "--data-path",
) -> PictureSet:
    """The pairs at `data_path` or, not `paired`, its two folders of A and of B.

    Decoded at the first call. `size` in pixels; channels 1 or 3 each; `direction` is one of
    DIRECTIONS: with "BtoA" B is given and A wanted. With `jitter` pictures are stored larger, for
    `batch_at` to crop: another cache. Those to score with are in test/, else in val/, else the
    share `held_out` 0..1 of all (`split.held_out`), of two folders of each. They are ordered by
    name, so where names match they can be compared one by one. Pictures of which all or part is
    missing, damaged, too small or of an odd width are skipped. `value_range`, "LOW,HIGH", is black
    and white of pictures with more than 8 bits; "": found. `flag` is named in refusals.
    Raises Refused for a path without such pictures, and for fewer usable ones than one batch.
    """
    if direction not in DIRECTIONS:
        raise Refused(f"--direction={direction}: give one of {', '.join(DIRECTIONS)}")
    if not data_path:
        raise Refused(f"{flag}: give a folder or zip with pictures of A and of B")
    geometry = Geometry(size, stored_size(size, jitter), {"A": channels_a, "B": channels_b})
    source = find_source(data_path, flag, FILE_READERS)
    read_names = layout.pairs if paired else layout.two_folders
    plan = read_names(source.names, f"{flag}={data_path}")
    share = 0.0 if all(group.test for group in plan.groups) else float(held_out)
    kind = "pairs" if paired else "two"
    key = f"{kind} {VERSION} {geometry} {share}" + (f" {value_range}" if value_range else "")
    depth.parse_range(value_range)
    folder = caches.folder_of(cache, source, f"{kind}-{size}px", key)
    known = folder.exists()
    pictures = caches.open_or_build(
        folder,
        functools.partial(_read, geometry, paired),
        lambda part: _build(part, source, plan, geometry, share, workers, value_range),
    )
    _report(pictures, plan, source.ignored, known)
    _check_enough(pictures, plan.where, batch_size, data_path)
    return pictures if direction == "AtoB" else pictures.reversed()


def _check_enough(pictures: PictureSet, where: str, batch_size: int, data_path: str) -> None:
    """Raises Refused if there are not enough of A and of B for one batch."""
    if not (len(pictures.given) and len(pictures.wanted)):
        side = "B" if len(pictures.given) else "A"
        noun = "pairs" if pictures.paired else f"pictures of {side}"
        name, why = next(iter(pictures.skipped.items()))
        raise Refused(
            f"{where}: no usable {noun} to train on; {len(pictures.skipped):,} skipped, the "
            f"first {plain(name)}: {plain(why)}; see {pictures.folder / 'skipped.txt'} for all, "
            "and add some"
        )
    if len(pictures) < batch_size:
        noun = "usable pair" if pictures.paired else "usable picture"
        raise Refused(
            f"--batch-size={batch_size}: only {counted(len(pictures), noun)} to train on in "
            f"{data_path} ({len(pictures.skipped):,} skipped, {len(pictures.test_given):,} to "
            f"score with); give --batch-size={len(pictures)} or less, or add some"
        )


def _report(pictures: PictureSet, plan: Plan, ignored: int, known: bool) -> None:
    """Say what was understood of a set from A to B: four lines, one more for each deep kind.

    Of a set that was `known` before, all but the first have been said.
    """
    test_a, test_b = len(pictures.test_given), len(pictures.test_wanted)
    if pictures.paired:
        # Any folder looks like pairs side by side, so say what was taken for A and for B.
        how = f" ({plan.how})" if plan.how else ""
        found = f"{counted(len(pictures.given), 'pair')}{how} to train on, {test_a:,} to score with"
    else:
        matched = ", as pairs" if pictures.test_paired else ""
        found = (
            f"{counted(len(pictures.given), 'picture')} of A and {len(pictures.wanted):,} of B to "
            f"train on, {test_a:,} and {test_b:,} to score with{matched}"
        )
    arrays = (pictures.given, pictures.wanted, pictures.test_given, pictures.test_wanted)
    size = sum(array.nbytes for array in arrays) / 2**20
    say(f"data: {found}")
    if known:
        return
    clauses = overview.describe_changes(pictures.overview, pictures.size, ignored)
    if seen := pictures.overview:
        clauses.insert(0, overview.describe(seen))
    if plan.unused:
        unused = counted(plan.unused, "picture")
        clauses.append(f"{unused} in val/ left out, as test/ is there to score with")
    where = f"{overview.FILE}, with every name, in {pictures.folder}"
    say(f"data: {'; '.join([*clauses, f'{size:.0f} MiB and {where}'])}")
    for line in seen["values"] if seen else ():
        say(f"data: {line}")
    caches.report_skipped(pictures, "picture")


# --- one at a time -------------------------------------------------------------------------------


def stream(
    path: str, flag: str, channels: int = 3, value_range: str = ""
) -> Iterator[tuple[str, Image.Image | str]]:
    """Each picture of a file, folder or zip by name, in its own size; one is in memory at a time.

    Yields (name, picture), upright, RGB or, with `channels` 1, L; or (name, why it is not read).
    The name is relative, with / between folders; the name of a picture never leads out of them.
    `value_range`, "LOW,HIGH", is black and white of pictures with more than 8 bits; "": found over
    all of them, and said. Raises Refused, at once, if there is no such path or no picture in it.
    """
    file = expanded(path)
    if not path:
        raise Refused(f"{flag}: wants a picture, or a folder or zip of pictures")
    if file.is_file() and not zipfile.is_zipfile(file):
        open_one = functools.partial(open_file, file.parent)
        source = Source(file.stem, [file.name], "", open_one)
    else:
        source = find_source(path, flag, FILE_READERS)
    ranges, lines = depth.find_ranges(source, source.names, 1, value_range)
    for line in lines:
        say(f"data: {line}")
    found = _stream(source, channels, ranges)
    return progress.track(found, "translating", len(source.names), "pictures")


def _stream(
    source: Source, channels: int, ranges: Ranges
) -> Iterator[tuple[str, Image.Image | str]]:
    def upright(name: str) -> Image.Image:
        with source.open(name, 0) as image:
            return data.to_rgb(image, ranges).convert("RGB" if channels == 3 else "L")

    for name in source.names:
        if PurePath(name).anchor or ".." in PurePath(name).parts:  # a member of a hostile zip
            yield name, "its name leads out of the folder"
        else:
            yield name, caches.attempt(upright, name)
