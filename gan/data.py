"""Images to train on, of a folder, a zip, IDX files or the avatars; a batch is f(seed, step).

Images are decoded once into `images.u8` of a cache (gan/cache.py). Nothing here imports torch.
"""

import dataclasses
import functools
import itertools
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from gan import avatars, depth, folders, idx, overview, shards, split
from gan import cache as caches
from gan.cache import DataSet, Decoded, Item
from gan.console import say
from gan.depth import NO_RANGES, Ranges
from gan.errors import Refused, counted, plain
from gan.readers import FILE_READERS, OpenPicture, Reader, Source, find_source

AHEAD = 4  # steps that images are asked for before they are wanted
CACHE = Path("data/cache")  # of every command, in the working directory

# Who reads what: the first that matches. A new kind of data is one row here.
READERS: dict[str, Reader] = {
    "avatars": Reader(avatars.matches, avatars.open_source),
    "IDX": Reader(idx.matches, idx.open_source),
    "shards": Reader(shards.matches, shards.open_source),
    **FILE_READERS,
}


@dataclass(frozen=True, kw_only=True)
class Images(DataSet):
    """Images to train on and to score with."""

    array: NDArray[np.uint8]  # [N, C, H, W], a read-only memory map
    train: NDArray[np.int64]  # [n] ascending indices of those to train on
    held_out: NDArray[np.int64]  # [m] of those to score with: no near-duplicate is in `train`
    groups: split.Groups  # of positions in `train`: an epoch shows one image of each group
    class_indices: NDArray[np.int64] | None = None  # [N] in `class_names`, if there are classes
    class_names: tuple[str, ...] = ()
    why_no_classes: str = ""  # if folders look like classes and are not
    parts: tuple[str, ...] = ()  # test, train, val: the folders of these names, if there are any

    def __len__(self) -> int:
        """How many images an epoch has: of a group of near-duplicates, one."""
        return len(self.groups.sizes)

    @property
    def train_class_indices(self) -> NDArray[np.int64] | None:
        """The classes of the images to train on, [n], if there are classes."""
        return None if self.class_indices is None else self.class_indices[self.train]

    def batch_at(self, step: int, batch_size: int, seed: int) -> NDArray[np.uint8]:
        """The images of training step `step`: uint8 [batch_size, C, H, W]."""
        return self.array[self.indices_at(step, batch_size, seed)]

    def indices_at(self, step: int, batch_size: int, seed: int) -> NDArray[np.int64]:
        """Which images are those of training step `step`: [batch_size] indices of `array`.

        Each epoch is its own permutation of the groups, a function of (seed, epoch), and shows a
        random image of each group; its last incomplete batch is dropped.
        """
        epoch, i = divmod(step, len(self) // batch_size)
        groups, uniform = order(seed, epoch, len(self))
        batch = slice(i * batch_size, (i + 1) * batch_size)
        return self.train[self.groups.sample(groups[batch], uniform[batch])]


def read_ahead(array: NDArray[np.uint8], indices: NDArray[np.int64]) -> None:
    """Ask the system to read these images, which are wanted soon, while the nets compute.

    Else each batch of a set larger than memory would wait for the disk, image by image. What is in
    memory already costs a microsecond an image. Does nothing where the system has no such call.
    """
    file = getattr(array, "_mmap", None)
    if file is None or not hasattr(file, "madvise") or not hasattr(mmap, "MADV_WILLNEED"):
        return
    size = array[0].nbytes
    for index in indices.tolist():
        start = index * size
        page = start - start % mmap.PAGESIZE
        file.madvise(mmap.MADV_WILLNEED, page, start + size - page)


@functools.lru_cache(maxsize=4)
def order(
    seed: int, epoch: int, count: int, stream: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """A permutation of `count` things and a uniform number in 0..1 for each, both [count].

    A function of its arguments: every `stream` of a seed and epoch has its own.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, stream]))
    return generator.permutation(count), generator.random(count)


# --- decoding ------------------------------------------------------------------------------------


def to_rgb(image: Image.Image, ranges: Ranges = NO_RANGES) -> Image.Image:
    """Any picture Pillow opens as 8-bit RGB: upright, and over white where it is transparent.

    `ranges` are those of pictures with more than 8 bits. Raises ValueError if it has none for this
    one, and for NaN and infinite values.
    """
    image = ImageOps.exif_transpose(depth.to_8_bits(image, ranges))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def to_square(
    image: Image.Image, size: int, channels: int, ranges: Ranges = NO_RANGES
) -> NDArray[np.uint8]:
    """The largest centre square, resized with antialiasing: uint8 [channels, size, size]."""
    if image.format == "JPEG":
        image.draft(None, (2 * size, 2 * size))  # large photos: decode at a fraction of the size
    image = to_rgb(image, ranges)
    if channels == 1:
        image = image.convert("L")
    image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)


def _decode(
    open_picture: OpenPicture, size: int, channels: int, ranges: Ranges, item: Item
) -> Decoded:
    with open_picture(item[0], size) as image:
        mode, own_size = image.mode, image.size  # before JPEG is decoded at a fraction
        square = to_square(image, size, channels, ranges)
        return Decoded({"images": square.tobytes()}, mode, own_size)


# --- the cache -----------------------------------------------------------------------------------

Shape = tuple[int, int, int]  # [C, H, W]


class Index(TypedDict):
    """What is sealed with the files of a cache."""

    shape: list[int]  # [N, C, H, W] of images.u8
    digest: str
    names: list[str]  # the file of each image
    labels: list[str] | None  # the name of the class of each image
    parts: list[str] | None  # of each image: train, val or test
    skipped: dict[str, str]
    overview: overview.Overview


SPLIT = "split.npy"  # uint64 [2, N]: hash of each image's content, number of its near-duplicates


def _build(
    folder: Path, source: Source, labels: folders.Labels, shape: Shape, workers: int, values: str
) -> None:
    builder = caches.Builder(
        folder, source, {"images": shape}, workers, skipped=dict(labels.skipped)
    )
    ranges, lines = depth.find_ranges(source, labels.names, workers, values)
    decode = functools.partial(_decode, source.open, shape[1], shape[0], ranges)
    looks = split.Looks(shape, len(labels.names))
    examples: list[caches.Example] = [((name, ""),) for name in labels.names]
    whole = builder.write(["images"], examples, decode, looks=looks)
    names = [name for ((name, _),) in whole]
    clusters = split.clusters_of(looks.signatures()).astype(np.uint64)
    np.save(folder / SPLIT, np.stack([looks.hashes(), clusters]))
    found = overview.overview_of(builder.seen, shape[1], lines)
    known = {"labels": labels.classes, "parts": labels.parts}
    of_names = {
        kind: dict(zip(labels.names, values, strict=True))
        for kind, values in known.items()
        if values
    }
    lists = {kind: [values[name] for name in names] for kind, values in of_names.items()}
    overview.write_report(
        folder,
        found,
        builder.seen,
        shape[1],
        skipped=builder.skipped,
        ignored=source.ignored,
        labels=lists,
        groups=[[names[i] for i in group] for group in split.clusters_of_several(clusters)],
    )
    builder.write_index(
        {
            "shape": builder.shape("images"),
            "digest": builder.digest({"images": ""}),
            "names": names,
            "labels": lists.get("labels"),
            "parts": lists.get("parts"),
            "overview": found,
        },
        SPLIT,
    )


def _sorted_classes(names: set[str]) -> list[str]:
    """2 before 10 where all are numbers, else in alphabetical order."""
    numbers = all(name.isdecimal() and len(name) < 20 for name in names)
    return sorted(names, key=int if numbers else None)


def _read(held_out: float, dedup: bool, folder: Path, index: Index) -> Images:
    """The cache in `folder`."""
    hashes, clusters = np.load(folder / SPLIT)
    clusters = clusters.astype(np.int64)
    if held_out and (parts := index["parts"]):
        train, held = split.held_out_parts(np.array(parts) != "train", clusters)
    else:
        train, held = split.held_out(hashes, clusters, held_out)
    names = _sorted_classes(set(index["labels"] or []))
    number = {name: i for i, name in enumerate(names)}
    return Images(
        array=caches.mapped(folder / "images.u8", tuple(index["shape"])),
        train=train,
        held_out=held,
        groups=split.Groups.of(clusters[train] if dedup else np.arange(len(train))),
        class_indices=np.array([number[x] for x in index["labels"] or []]) if names else None,
        class_names=tuple(names),
        digest=index["digest"],
        skipped=index["skipped"],
        folder=folder,
        overview=index["overview"],
        parts=tuple(sorted(set(index["parts"] or ()))),
    )


def open_images(
    data_path: str,
    size: int,
    channels: int,
    *,
    cache: Path = CACHE,
    batch_size: int = 1,
    workers: int = 0,
    held_out: float = 0.0,
    dedup: bool = False,
    value_range: str = "",
    flag: str = "--data-path",
) -> Images:
    """The images at `data_path` ("": the avatars), decoded at the first call.

    `size` in pixels, `channels` 1 or 3. `held_out` is the share 0..1 that is kept from training,
    to score with (`split.held_out`); with `dedup` an epoch shows one image of each group of
    near-duplicates. `workers` are processes that decode, 0 one for each core. `value_range`,
    "LOW,HIGH", is black and white of pictures with more than 8 bits; "": found. `flag` is named in
    refusals. Raises Refused for a path without pictures, and for fewer usable ones than one batch.

    Folders train/, val/ and test/ decide what is held out, unless the share is 0.
    """
    source = find_source(data_path, flag, READERS)
    labels = folders.read_labels(source.names, f"{flag}={data_path}", source.paths)
    labels.classes = source.classes or labels.classes
    geometry = f"{size} {channels}" + (f" {value_range}" if value_range else "")
    depth.parse_range(value_range)
    folder = caches.folder_of(cache, source, f"{size}px-{channels}ch", geometry)
    known = folder.exists()
    images = caches.open_or_build(
        folder,
        functools.partial(_read, held_out, dedup),
        lambda part: _build(part, source, labels, (channels, size, size), workers, value_range),
    )
    images = dataclasses.replace(images, why_no_classes=labels.why_no_classes)
    _report(images, source.ignored, known)
    if len(images) < batch_size:
        raise Refused(f"--batch-size={batch_size}: {_too_few(images, data_path)}")
    return images


def _too_few(images: Images, data_path: str) -> str:
    """What there is less of than one batch, and the way out."""
    count, folded = len(images), len(images.train) - len(images)
    text = f"only {counted(count, 'usable image')} in {data_path or 'the avatars'}"
    if folded:
        sizes = images.groups.sizes
        near = int(sizes[sizes > 1].sum())
        return (
            f"{text}: {near:,} near-duplicates are folded into {int((sizes > 1).sum()):,} (equal "
            "but for compression and mirroring; frames of a still clip are); --dedup=False keeps "
            "them, or add images"
        )
    smaller = f"give --batch-size={count} or less, or" if count > 1 else "please"
    why = "".join(
        f", {plain(n)}: {plain(w)}" for n, w in itertools.islice(images.skipped.items(), 1)
    )
    return (
        f"{text} ({len(images.skipped):,} skipped{why}; {len(images.held_out):,} held out); "
        f"{smaller} add images"
    )


def _report(images: Images, ignored: int, known: bool) -> None:
    """Say what was understood, in at most four lines and one for values of more than 8 bits.

    Of a set that was `known` before, all but the first have been said.
    """
    found, (count, _, side, _) = images.overview, images.array.shape
    what = overview.describe(found) if found else counted(count, "image")
    given = f" in {'/ and '.join(p for p in images.parts if p != 'train')}/" if images.parts else ""
    say(
        f"data: {what}: {len(images.train):,} to train on, {len(images.held_out):,} held out to "
        f"score with{given if len(images.held_out) else ''}"
    )
    if known:
        return
    clauses = []
    sizes = images.groups.sizes[images.groups.sizes > 1]
    if len(sizes):
        clauses.append(
            f"{int(sizes.sum()):,} of those to train on are near-duplicates, in "
            f"{counted(len(sizes), 'group')}, the largest of {sizes.max():,}; an epoch shows one "
            "image of each group (--dedup=False: all)"
        )
    if dropped := count - len(images.train) - len(images.held_out):
        clauses.append(f"{dropped:,} held out are near-duplicates of those, and left out")
    clauses += overview.describe_changes(found, side, ignored)
    clauses.append(
        f"{images.array.nbytes / 2**20:.0f} MiB and {overview.FILE}, with every name, in "
        f"{images.folder}"
    )
    say(f"data: {'; '.join(clauses)}")
    if (numbers := images.class_indices) is not None:
        counts = np.bincount(numbers, minlength=len(images.class_names)).tolist()
        by_name = dict(zip(images.class_names, counts, strict=True))
        say(f"data: {overview.describe_classes(by_name)}")
    for line in found["values"] if found else ():
        say(f"data: {line}")
    caches.report_skipped(images, "unreadable picture")
