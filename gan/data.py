"""Folder, zip or the drawn avatars -> one verified uint8 memory map; a batch is f(seed, step).

Pictures are decoded once, on all cores, into `cache/<key>/images.u8`; the key is a hash of the
names, sizes and dates of the files and of the geometry, so a changed folder gets a new cache.
This room does not import torch: its worker processes start in a fraction of a second.
"""

import contextlib
import functools
import hashlib
import io
import itertools
import json
import math
import os
import shutil
import signal
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tqdm import tqdm

from gan import avatars, idx, split
from gan.errors import Refused, plain

VERSION = 4  # of the cache's layout and of the decoding; part of the key
MAX_BYTES = 512 * 2**20  # of one file; a larger one is no photograph but a zip bomb


Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Images:
    """A data set, ready to train on."""

    array: NDArray[np.uint8]  # [N, C, H, W], a read-only memory map
    train: NDArray[np.int64]  # which of them to train on
    held_out: NDArray[np.int64]  # which to score with: none is like one trained on
    digest: str  # SHA-256 of all pixels: two data sets with one digest are one
    skipped: dict[str, str]  # file name -> why it is not among the images
    folder: Path
    groups: split.Groups  # of `train`: each is drawn as if it were one image
    labels: NDArray[np.int64] | None = None  # [N], the class of each, if they have classes
    classes: tuple[str, ...] = ()  # names of the classes

    def __len__(self) -> int:
        """How many images there are to train on, those that are the same counted once."""
        return len(self.groups.sizes)

    @property
    def train_labels(self) -> NDArray[np.int64] | None:
        """The class of each image to train on, if they have classes."""
        return None if self.labels is None else self.labels[self.train]

    def batch_at(self, step: int, batch_size: int, seed: int) -> NDArray[np.uint8]:
        """The images of training step `step`: uint8 [batch_size, C, H, W]."""
        return self.array[self.places_at(step, batch_size, seed)]

    def places_at(self, step: int, batch_size: int, seed: int) -> NDArray[np.int64]:
        """Which images are those of training step `step`: [batch_size].

        Each epoch is a permutation of its own, a function of (seed, epoch), and shows of every
        group one image, by lot; its last incomplete batch is dropped.
        """
        epoch, i = divmod(step, len(self) // batch_size)
        groups, lots = order(seed, epoch, len(self))
        part = slice(i * batch_size, (i + 1) * batch_size)
        return self.train[self.groups.member(groups[part], lots[part])]


@functools.lru_cache(maxsize=4)
def order(
    seed: int, epoch: int, count: int, stream: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The permutation of `count` groups in `epoch` and a number in 0..1 for each, both [count].

    Every `stream` has its own.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, stream]))
    return generator.permutation(count), generator.random(count)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture Pillow opens as 8-bit RGB, upright, transparent parts over white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # 16-bit, 32-bit or float grey: convert() would clip
        grey = np.asarray(image, dtype=np.float64)
        top = 65535 if image.mode.startswith("I") else 255
        scale = next((limit for limit in (1, 255, 65535) if grey.max() <= limit), grey.max())
        scale = max(scale, top) if image.mode.startswith("I") else scale
        image = Image.fromarray((grey / scale * 255).clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def square(image: Image.Image, size: int, channels: int) -> NDArray[np.uint8]:
    """Short side to `size` (antialiased), centre crop: uint8 [channels, size, size]."""
    if image.format == "JPEG":
        image.draft(None, (2 * size, 2 * size))  # large photos: decode at a fraction of the size
    image = to_rgb(image)
    if channels == 1:
        image = image.convert("L")
    image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)


# --- sources: what there is to read --------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Where pictures come from: their names, what the cache's key is made of, how to open one."""

    label: str  # as people call it, for messages and the cache's folder
    names: list[str]
    stamp: str
    open: Callable[[str, int], Image.Image]  # (name, size in pixels if it can be chosen)
    ignored: int = 0
    labels: list[str] | None = None  # the class of each name


def _readable() -> set[str]:
    Image.init()
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def _is_picture(name: str, suffixes: set[str]) -> bool:
    parts = name.split("/")
    return (
        os.path.splitext(name)[1].lower() in suffixes
        and not any(part.startswith(".") for part in parts)
        and "__MACOSX" not in parts
    )


def _walk(root: Path) -> Iterator[Path]:
    """Every file below `root`, through links, each folder once."""
    seen: set[str] = set()

    def unreadable(error: OSError) -> None:
        print(f"data: {plain(str(error.filename))}: {error.strerror}, passed over", file=sys.stderr)

    for folder, inner, files in os.walk(root, onerror=unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        yield from (Path(folder, file) for file in files)


def _stamp(file: Path) -> str:
    try:
        status = file.stat()
    except OSError as error:  # a broken link: it will be among the skipped
        return str(error.strerror)
    return f"{status.st_size} {status.st_mtime_ns}"


def open_file(root: Path, name: str, size: int) -> Image.Image:
    """Open a picture below `root`; the size cannot be chosen."""
    path = root / name
    if not path.is_file():  # a pipe would be waited for; a broken link says what it is
        path.stat()
        raise ValueError("no regular file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
    return Image.open(path)


@functools.lru_cache(maxsize=1)
def _archive(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _open_member(path: Path, name: str, size: int) -> Image.Image:
    archive = _archive(path)
    if archive.getinfo(name).file_size > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
    return Image.open(io.BytesIO(archive.read(name)))


def _open_avatar(name: str, size: int) -> Image.Image:
    return avatars.portrait(int(name.split()[1]), size)


def _open_idx(paths: dict[str, Path], name: str, size: int) -> Image.Image:
    part, index = name.rsplit(" ", 1)
    return Image.fromarray(idx.read(paths[part], 3)[int(index)])


def _find_idx(path: Path, parts: list[idx.Part]) -> Source:
    """The pictures of IDX files, in their order."""
    names, labels = [], []
    for part in parts:
        idx.read(part.images, 3)  # refused now if it is damaged
        names += [f"{part.images.name} {index:06}" for index in range(part.count)]
        labels += [str(label) for label in idx.read(part.labels, 1)] if part.labels else []
    files = {part.images.name: part.images for part in parts}
    read = [file for part in parts for file in (part.images, part.labels) if file]
    stamp = "\n".join(f"{file.name} {_stamp(file)}" for file in read)
    opener = functools.partial(_open_idx, files)
    known = labels if len(labels) == len(names) else None
    return Source(path.resolve().stem, names, stamp, opener, 0, known)


def _folders_of(names: list[str]) -> list[str] | None:
    """The top folder of each name, if all are in one of several: these are classes."""
    tops = [name.split("/", 1)[0] if "/" in name else "" for name in names]
    return tops if "" not in tops and len(set(tops)) > 1 else None


def find(data_path: str, flag: str = "--data-path") -> Source:
    """The pictures at `data_path`; raises Refused, naming `flag`, if there are none."""
    if not data_path:
        names = [f"avatar {index:05}" for index in range(avatars.COUNT)]
        return Source("avatars", names, avatars.version(), _open_avatar)
    path = Path(data_path).expanduser()
    if path.is_dir() and (parts := idx.find(path)):
        return _find_idx(path, parts)
    return find_files(data_path, flag)


def find_files(data_path: str, flag: str) -> Source:
    """The picture files in a folder or a zip, by name; raises Refused if there are none."""
    path = Path(data_path).expanduser()
    if path.is_dir():
        stamps = {file.relative_to(path).as_posix(): _stamp(file) for file in _walk(path)}
        opener: Callable[[str, int], Image.Image] = functools.partial(open_file, path)
    elif zipfile.is_zipfile(path):
        try:
            members = [m for m in _archive(path).infolist() if not m.is_dir()]
        except (zipfile.BadZipFile, OSError) as error:
            raise Refused(f"{flag}={data_path}: cannot be read ({error})") from error
        stamps = {m.filename: f"{m.file_size} {m.CRC}" for m in members}
        opener = functools.partial(_open_member, path)
    elif path.exists():
        raise Refused(f"{flag}={data_path}: neither a folder nor a zip")
    else:
        raise Refused(f"{flag}={data_path}: no such folder or zip")
    suffixes = _readable()
    names = sorted(name for name in stamps if _is_picture(name, suffixes))
    if not names:
        raise Refused(f"{flag}={data_path}: no pictures in it ({len(stamps)} other files)")
    stamp = "\n".join(f"{name} {stamps[name]}" for name in names)
    ignored = len(stamps) - len(names)
    return Source(path.resolve().stem, names, stamp, opener, ignored, _folders_of(names))


# --- the cache -----------------------------------------------------------------------------------


def attempt(work: Callable[[Item], Result], item: Item) -> Result | str:
    """What `work` makes of `item`, or why it fails: no file may stop the others."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return work(item)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plug-ins raise anything for a damaged file
        return f"{type(error).__name__}: {error}".splitlines()[0]


def _ignore_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers


def _in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[Result]:
    workers = min(workers or os.cpu_count() or 1, len(items) // 64)
    if workers <= 1:
        yield from map(work, items)
        return
    # Spawned, not forked: a fork of a process with torch's threads in it may hang.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_ignore_interrupt)
    try:
        rest = iter(items)
        # In portions, so that decoded pictures never pile up faster than the disk takes them.
        while portion := list(itertools.islice(rest, 2048)):
            yield from pool.map(work, portion, chunksize=16)
    except BrokenProcessPool as error:
        raise Refused(
            "a process decoding images was killed (out of memory?); try --num-workers=1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def read_all(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, label: str
) -> Iterator[Result | str]:
    """`attempt(work, item)` of each item, in their order, on all cores (0 workers), with a bar."""
    return iter(
        tqdm(
            _in_processes(functools.partial(attempt, work), items, workers),
            f"reading {label}",
            len(items),
            unit="img",
            mininterval=0.1 if sys.stderr.isatty() else 10,
            disable=not items,
        )
    )


def _decode(
    source_open: Callable[[str, int], Image.Image], size: int, channels: int, name: str
) -> bytes:
    with source_open(name, size) as image:
        return square(image, size, channels).tobytes()


def cache_folder(cache: Path, source: Source, kind: str, layout: str) -> Path:
    """Where pictures of `source` lie decoded; `layout` says what else the bytes depend on."""
    text = f"{VERSION} {layout}\n{source.stamp}"
    key = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]
    return cache / f"{source.label}-{kind}-{key}"


@contextlib.contextmanager
def made_beside(folder: Path) -> Iterator[Path]:
    """A new folder to write to, which becomes `folder`; if anything is raised, it is removed."""
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process made the same cache meanwhile
            os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_index(folder: Path, index: Mapping[str, Any], skipped: Mapping[str, str]) -> None:
    """`index.json`, all that is known of a cache; `skipped.txt` if anything was skipped."""
    (folder / "index.json").write_text(json.dumps({**index, "skipped": skipped}), encoding="utf-8")
    if skipped:
        lines = "".join(f"{plain(name)}\t{plain(why)}\n" for name, why in skipped.items())
        (folder / "skipped.txt").write_text(lines, "utf-8")


def _build(folder: Path, source: Source, size: int, channels: int, workers: int) -> None:
    work = functools.partial(_decode, source.open, size, channels)
    skipped: dict[str, str] = {}
    kept: list[str] = []
    labels: list[str] = []
    hashes: list[int] = []
    digest = hashlib.sha256()
    with made_beside(folder) as part:
        with open(part / "images.u8", "wb") as file:
            pictures = read_all(work, source.names, workers, source.label)
            known = source.labels or [""] * len(source.names)
            for name, label, picture in zip(source.names, known, pictures, strict=True):
                if isinstance(picture, str):
                    skipped[name] = picture
                    continue
                kept.append(name)
                labels.append(label)
                hashes.append(split.content_hash(picture))
                digest.update(picture)
                file.write(picture)
            file.flush()
            os.fsync(file.fileno())
        shape = (len(kept), channels, size, size)
        clusters = split.near_duplicates(mapped(part / "images.u8", shape))
        np.save(
            part / "split.npy", np.stack([np.array(hashes, np.uint64), clusters.astype(np.uint64)])
        )
        index = {
            "shape": shape,
            "digest": digest.hexdigest(),
            "names": kept,
            "labels": labels if source.labels else None,
        }
        write_index(part, index, skipped)


def mapped(file: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The file as a read-only array; raises ValueError if it is not of that size."""
    if file.stat().st_size != math.prod(shape):
        raise ValueError(f"{file}: not {math.prod(shape)} bytes")
    if not shape[0]:  # an empty file cannot be mapped
        return np.empty(shape, np.uint8)
    return np.memmap(file, np.uint8, "r", shape=shape)


def _in_order(names: set[str]) -> list[str]:
    """2 before 10 where all are numbers, else by the alphabet."""
    return sorted(names, key=int if all(name.isdecimal() for name in names) else None)


def _opened(folder: Path, held_out: float, dedup: bool) -> Images | None:
    """The cache in `folder` if it is whole."""
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        array = mapped(folder / "images.u8", tuple(index["shape"]))
        hashes, clusters = np.load(folder / "split.npy")
        clusters = clusters.astype(np.int64)
        train, held = split.held_out(hashes, clusters, held_out)
        groups = split.Groups.of(clusters[train] if dedup else np.arange(len(train)))
        classes = _in_order(set(index["labels"] or []))
        number = {name: place for place, name in enumerate(classes)}
        labels = np.array([number[name] for name in index["labels"]]) if classes else None
        digest, skipped = index["digest"], index["skipped"]
        return Images(array, train, held, digest, skipped, folder, groups, labels, tuple(classes))
    except (OSError, EOFError, ValueError, KeyError):
        return None


def open_images(
    data_path: str,
    size: int,
    channels: int,
    cache: Path,
    *,
    batch_size: int = 1,
    workers: int = 0,
    held_out: float = 0.0,
    dedup: bool = False,
    flag: str = "--data-path",
) -> Images:
    """The pictures at `data_path` ("": the drawn avatars), decoded at the first call.

    `held_out` is the share that is kept from training, to score with; with `dedup` pictures that
    are the same are drawn as one; `flag` is named in refusals.
    Raises Refused for a path without pictures, and for fewer usable ones than one batch.
    """
    source = find(data_path, flag)
    folder = cache_folder(cache, source, f"{size}px-{channels}ch", f"{size} {channels}")
    images = _opened(folder, held_out, dedup)
    if images is None:
        _build(folder, source, size, channels, workers)
        images = _opened(folder, held_out, dedup)
        if images is None:
            raise Refused(f"{folder}: cannot be written or read; delete it and try again")
    _report(images, source)
    if len(images) < batch_size:
        smaller = f"give --batch-size={len(images)} or less, or" if len(images) > 1 else "please"
        raise Refused(
            f"--batch-size={batch_size}: only {len(images)} usable images in "
            f"{data_path or 'the avatars'} ({len(images.skipped)} skipped, {len(images.held_out)} "
            f"held out); {smaller} add images"
        )
    return images


def _report(images: Images, source: Source) -> None:
    size = images.array.nbytes / 2**20
    print(
        f"data: {len(images.train):,} images to train on, {len(images.held_out):,} held out to "
        f"score with, {size:.0f} MiB in {images.folder}"
    )
    if folded := len(images.train) - len(images):
        several = images.groups.sizes[images.groups.sizes > 1]
        print(
            f"data: {folded:,} of them are near-duplicates: {int(several.sum()):,} drawn as "
            f"{len(several):,}, the largest group has {several.max():,} (--dedup=False: one by one)"
        )
    report_skipped(source.ignored, images.skipped, images.folder, "unreadable pictures")


def report_skipped(ignored: int, skipped: Mapping[str, str], folder: Path, what: str) -> None:
    """Say how many files of a cache's source are not in it, and where their names are."""
    if ignored:
        print(f"data: {ignored} files that are no pictures passed over")
    if skipped:
        first = ", ".join(map(plain, itertools.islice(skipped, 5)))
        print(
            f"data: {len(skipped)} {what} skipped ({first}, ...): "
            f"all with their reasons in {folder / 'skipped.txt'}",
            file=sys.stderr,
        )
