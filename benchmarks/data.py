"""Reading data: the cache against Pillow, batches against torchvision, memory, near-duplicates.

    python benchmarks/data.py ANIME_ZIP [build] [batches] [cold] [memory] [duplicates] [prepare]

ANIME_ZIP holds faces of 128 pixels. Both sides of a row are measured in one run, one after the
other, in processes of their own; without a word, all rows. About ten minutes on two idle cores.
"""

import io
import os
import resource
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import common
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from gan import data, examine, intake, split

SIZE = 96  # pixels on a side
BATCH = 64
BATCHES = 300  # that are timed
COUNTS = (2_400, 20_000, 100_000)  # images of a set
SEED_SIZE = 64  # pixels of the pictures that near-duplicates are looked for in
COLD_BYTES = 2 * 2**30  # of the cache that is read from the disk
COLD_STEPS = 60
STEP_SECONDS = 0.05  # of a training step, in which the disk can read ahead
Result = TypeVar("Result")


def alone(call: Callable[..., Result], *given: object) -> tuple[Result, float]:
    """What `call` returns in a process of its own, and the most memory that it took, MB."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_measured, call, given).result()


def _measured(call: Callable[..., Result], given: tuple[object, ...]) -> tuple[Result, float]:
    result = call(*given)
    return result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# --- the pictures --------------------------------------------------------------------------------


def unpack(anime: str, folder: Path, count: int) -> Path:
    """A folder of `count` files, in folders of 10,000: the pictures of the zip, linked again."""
    with zipfile.ZipFile(anime) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        archive.extractall(folder / "first", names)
    files = sorted((folder / "first").rglob("*.jpg"))
    out = folder / "set"
    for i in range(count):
        part = out / f"{i // 10_000:03}"
        part.mkdir(parents=True, exist_ok=True)
        os.link(files[i % len(files)], part / f"{i:06}.jpg")
    return out


# --- building ------------------------------------------------------------------------------------


def build(folder: Path, cache: Path) -> float:
    """Seconds to build the cache of a folder, near-duplicates and the seal included."""
    began = time.perf_counter()
    data.open_images(str(folder), SIZE, 3, cache=cache)
    return time.perf_counter() - began


def decode(path: Path) -> bytes:
    with Image.open(path) as image:
        image.draft(None, (2 * SIZE, 2 * SIZE))
        return ImageOps.fit(image.convert("RGB"), (SIZE, SIZE), Image.Resampling.BICUBIC).tobytes()


def decode_in_pool(folder: Path) -> float:
    """Seconds to decode the same with Pillow in a pool of processes, and write nothing."""
    files = sorted(folder.rglob("*.jpg"))
    began = time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for _ in pool.map(decode, files, chunksize=16):
            pass
    return time.perf_counter() - began


def show_build(anime: str, folder: Path) -> None:
    pictures = unpack(anime, folder, 20_000)
    ours, _ = alone(build, pictures, folder / "cache")
    theirs, _ = alone(decode_in_pool, pictures)
    rates = [20_000 / seconds for seconds in (ours, theirs)]
    row = ["building a cache of 20,000, images/s", *(f"{rate:,.0f}" for rate in rates)]
    common.print_row([*row, "Pillow in a pool", f"{rates[0] / rates[1]:.2f}"])


# --- batches -------------------------------------------------------------------------------------


def our_batches(folder: Path, cache: Path) -> float:
    """Images/s of BATCHES batches."""
    images = data.open_images(str(folder), SIZE, 3, cache=cache)
    began = time.perf_counter()
    for step in range(BATCHES):
        images.batch_at(step, BATCH, 0)
    return BATCHES * BATCH / (time.perf_counter() - began)


def their_batches(folder: Path) -> float:
    """The same of torchvision's ImageFolder and PyTorch's DataLoader, with a process a core."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    steps = [transforms.Resize(SIZE), transforms.CenterCrop(SIZE), transforms.PILToTensor()]
    images = datasets.ImageFolder(str(folder), transforms.Compose(steps))
    loader = DataLoader(
        images, BATCH, shuffle=True, num_workers=os.cpu_count() or 1, drop_last=True
    )
    batches = iter(loader)
    next(batches)  # the processes have started
    began, count = time.perf_counter(), 0
    for _ in zip(range(BATCHES), batches, strict=False):
        count += 1
    return count * BATCH / (time.perf_counter() - began)


def show_batches(anime: str, folder: Path) -> None:
    pictures = unpack(anime, folder, 2_400)
    alone(build, pictures, folder / "cache")
    ours, _ = alone(our_batches, pictures, folder / "cache")
    theirs, _ = alone(their_batches, pictures)
    row = [f"batches of {BATCH}, images/s", f"{ours:,.0f}", f"{theirs:,.0f}"]
    common.print_row([*row, "ImageFolder + DataLoader", f"{ours / theirs:.0f}"])


# --- from the disk -------------------------------------------------------------------------------


def cold_reads(file: Path, count: int, ahead: bool) -> float:
    """Milliseconds a step waits for its batch, of a file that is not in memory."""
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    array = np.memmap(file, np.uint8, "r", shape=(count, 3, SIZE, SIZE))
    order = np.random.default_rng(0).permutation(count)
    batches = [order[i * BATCH : (i + 1) * BATCH] for i in range(COLD_STEPS + data.AHEAD)]
    waited = 0.0
    for step in range(COLD_STEPS):
        if ahead:
            data.read_ahead(array, batches[step + data.AHEAD])
        began = time.perf_counter()
        array[batches[step]].sum()
        waited += time.perf_counter() - began
        time.sleep(STEP_SECONDS)
    return 1000 * waited / COLD_STEPS


def show_cold(anime: str, folder: Path) -> None:
    count = COLD_BYTES // (3 * SIZE * SIZE)
    file = folder / "cold.u8"
    with open(file, "wb") as opened:
        for _ in range(count // 1000):
            opened.write(os.urandom(3 * SIZE * SIZE * 1000))
    os.truncate(file, count * 3 * SIZE * SIZE)
    without, _ = alone(cold_reads, file, count, False)
    ours, _ = alone(cold_reads, file, count, True)
    row = ["wait for a batch that is on the disk, ms", f"{ours:.1f}", f"{without:.1f}"]
    common.print_row([*row, "without reading ahead", f"{without / ours:.1f}"])


# --- memory --------------------------------------------------------------------------------------


def open_and_read(folder: Path, cache: Path) -> int:
    images = data.open_images(str(folder), SIZE, 3, cache=cache)
    for step in range(20):
        images.batch_at(step, BATCH, 0)
    return len(images.array)


def show_memory(anime: str, folder: Path) -> None:
    for count in COUNTS:
        inside = folder / f"{count}"
        inside.mkdir()
        pictures = unpack(anime, inside, count)
        _, building = alone(build, pictures, inside / "cache")
        _, opening = alone(open_and_read, pictures, inside / "cache")
        row = [f"memory at {count:,} images, MB", f"{building:,.0f} to build"]
        common.print_row([*row, f"{opening:,.0f} to open", "", ""])
        shutil.rmtree(inside)


# --- near-duplicates -----------------------------------------------------------------------------


def varied(anime: str, count: int) -> Iterator[NDArray[np.uint8]]:
    """`count` different pictures: faces of the zip, cropped, with their channels mixed and bent."""
    random = np.random.default_rng(0)
    with zipfile.ZipFile(anime) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        faces = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    small = [face.resize((SEED_SIZE, SEED_SIZE)) for face in faces]
    for i in range(count):
        left, top, cut = random.integers(0, 14, 3).tolist()
        box = (left, top, min(SEED_SIZE, left + 64 - cut), min(SEED_SIZE, top + 64 - cut))
        face = small[i % len(small)].resize((SEED_SIZE, SEED_SIZE), box=box)
        pixels = np.asarray(face)[:, :, random.permutation(3)] / 255
        yield (255 * pixels ** random.uniform(0.6, 1.6)).astype(np.uint8).transpose(2, 0, 1)


def find_duplicates(anime: str, count: int) -> tuple[float, int]:
    """Seconds to find them, and the clusters, of `count` pictures and a copy of each hundredth."""
    packed = []
    batch: list[NDArray[np.uint8]] = []
    for picture in varied(anime, count):
        batch.append(picture)
        if len(batch) == 500:
            packed.append(split.signatures(np.stack([*batch, *(x[:, :, ::-1] for x in batch[:5])])))
            batch.clear()
    signatures = np.concatenate(packed)
    began = time.perf_counter()
    clusters = split.clusters_of(signatures)
    return time.perf_counter() - began, len(split.clusters_of_several(clusters))


def show_duplicates(anime: str, folder: Path) -> None:
    for count in COUNTS[1:]:
        (seconds, clusters), memory = alone(find_duplicates, anime, count)
        row = [f"near-duplicates of {count:,}", f"{seconds:.1f} s", f"{memory:,.0f} MB"]
        common.print_row([*row, f"{clusters:,} clusters ({count // 100:,} copies)", ""])


# --- prepare -------------------------------------------------------------------------------------


def examine_all(folder: Path, state: Path) -> float:
    """Images/s of `prepare` without what is written afterwards."""
    treatment = examine.Treatment("center", SIZE, False, 0.0, "png")
    began = time.perf_counter()
    made = intake.Intake(state, str(folder), treatment, 1.0)
    made.list_units()
    made.examine(0)
    count = made.count("1")
    made.close()
    return count / (time.perf_counter() - began)


def show_prepare(anime: str, folder: Path) -> None:
    for count in (2_400, 20_000):
        inside = folder / f"{count}"
        inside.mkdir()
        pictures = unpack(anime, inside, count)
        rate, memory = alone(examine_all, pictures, inside / "state")
        row = [f"`prepare` of {count:,}, images/s", f"{rate:,.0f}", f"{memory:,.0f} MB"]
        common.print_row([*row, "", ""])


ROWS = {
    "build": show_build,
    "batches": show_batches,
    "cold": show_cold,
    "memory": show_memory,
    "duplicates": show_duplicates,
    "prepare": show_prepare,
}


def main(anime: str, *words: str) -> None:
    if not set(words) <= set(ROWS):
        sys.exit(__doc__)
    common.print_header(["", "here", "there", "there is", "times"])
    for word in words or ROWS:
        with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_FOLDER")) as folder:
            ROWS[word](anime, Path(folder))


if __name__ == "__main__":
    common.run(main)
