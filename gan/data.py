"""Images to train on, of a folder, a zip, IDX files or the avatars; a batch is f(seed, step).

Images are decoded once into `images.u8` of a cache (gan/cache.py). Nothing here imports torch.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from gan import avatars, idx, split
from gan import cache as caches
from gan.cache import DataSet, Item
from gan.errors import Refused, counted
from gan.readers import FILE_READERS, OpenPicture, Reader, Source, find_source

CACHE = Path("data/cache")  # of every command, in the working directory

# Who reads what: the first that matches. A new kind of data is one row here.
READERS: dict[str, Reader] = {
    "avatars": Reader(avatars.matches, avatars.open_source),
    "IDX": Reader(idx.matches, idx.open_source),
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


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture Pillow opens as 8-bit RGB: upright, and over white where it is transparent."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # 16-bit, 32-bit or float grey: convert() would clip
        grey = np.asarray(image, dtype=np.float64)
        white = 65535 if image.mode.startswith("I") else 255
        scale = next((limit for limit in (1, 255, 65535) if grey.max() <= limit), grey.max())
        scale = max(scale, white) if image.mode.startswith("I") else scale
        image = Image.fromarray((grey / scale * 255).clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def to_square(image: Image.Image, size: int, channels: int) -> NDArray[np.uint8]:
    """The largest centre square, resized with antialiasing: uint8 [channels, size, size]."""
    if image.format == "JPEG":
        image.draft(None, (2 * size, 2 * size))  # large photos: decode at a fraction of the size
    image = to_rgb(image)
    if channels == 1:
        image = image.convert("L")
    image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)


def _decode(open_picture: OpenPicture, size: int, channels: int, item: Item) -> dict[str, bytes]:
    with open_picture(item[0], size) as image:
        return {"images": to_square(image, size, channels).tobytes()}


# --- the cache -----------------------------------------------------------------------------------


class Index(TypedDict):
    """What `index.json` holds."""

    shape: list[int]  # [N, C, H, W] of images.u8
    digest: str
    names: list[str]  # the file of each image
    labels: list[str] | None  # the name of the class of each image
    skipped: dict[str, str]


def _build(folder: Path, source: Source, size: int, channels: int, workers: int) -> None:
    builder = caches.Builder(folder, source, {"images": (channels, size, size)}, workers)
    decode = functools.partial(_decode, source.open, size, channels)
    whole = builder.write(["images"], [((name, ""),) for name in source.names], decode)
    names = [name for ((name, _),) in whole]
    array = builder.array("images")
    hashes = np.array([split.content_hash(image.tobytes()) for image in array], np.uint64)
    clusters = split.near_duplicates(array).astype(np.uint64)
    np.save(folder / "split.npy", np.stack([hashes, clusters]))
    classes = dict(zip(source.names, source.classes or (), strict=False))
    builder.write_index(
        {
            "shape": array.shape,
            "digest": builder.digest({"images": ""}),
            "names": names,
            "labels": [classes[name] for name in names] if source.classes else None,
        }
    )


def _sorted_classes(names: set[str]) -> list[str]:
    """2 before 10 where all are numbers, else in alphabetical order."""
    return sorted(names, key=int if all(name.isdecimal() for name in names) else None)


def _read(held_out: float, dedup: bool, folder: Path) -> Images:
    """The cache in `folder`; raises OSError, EOFError, ValueError, KeyError if it is not whole."""
    index: Index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    hashes, clusters = np.load(folder / "split.npy")
    clusters = clusters.astype(np.int64)
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
    flag: str = "--data-path",
) -> Images:
    """The images at `data_path` ("": the avatars), decoded at the first call.

    `size` in pixels, `channels` 1 or 3. `held_out` is the share 0..1 that is kept from training,
    to score with (`split.held_out`); with `dedup` an epoch shows one image of each group of
    near-duplicates. `workers` are processes that decode, 0 one for each core. `flag` is named in
    refusals. Raises Refused for a path without pictures, and for fewer usable ones than one batch.
    """
    source = find_source(data_path, flag, READERS)
    folder = caches.folder_of(cache, source, f"{size}px-{channels}ch", f"{size} {channels}")
    images = caches.open_or_build(
        folder,
        functools.partial(_read, held_out, dedup),
        lambda part: _build(part, source, size, channels, workers),
    )
    _report(images, source.ignored)
    if len(images) < batch_size:
        smaller = f"give --batch-size={len(images)} or less, or" if len(images) > 1 else "please"
        raise Refused(
            f"--batch-size={batch_size}: only {counted(len(images), 'usable image')} in "
            f"{data_path or 'the avatars'} ({len(images.skipped):,} skipped, "
            f"{len(images.held_out):,} held out); {smaller} add images"
        )
    return images


def _report(images: Images, ignored: int) -> None:
    print(
        f"data: {counted(len(images.train), 'image')} to train on, {len(images.held_out):,} held "
        f"out to score with, {images.array.nbytes / 2**20:.0f} MiB in {images.folder}"
    )
    sizes = images.groups.sizes[images.groups.sizes > 1]
    if len(sizes):
        print(
            f"data: {int(sizes.sum()):,} of them are near-duplicates, in "
            f"{counted(len(sizes), 'group')}, the largest of {sizes.max():,}; an epoch shows one "
            "image of each group (--dedup=False: all)"
        )
    caches.report_skipped(ignored, images, "unreadable picture")
