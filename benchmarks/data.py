"""Reading data: the cache against Pillow, batches against torchvision, memory, near-duplicates.

    python benchmarks/data.py ANIME_ZIP [build] [batches] [cold] [memory] [duplicates] [prepare] \
[index]
    python benchmarks/data.py table

ANIME_ZIP holds faces of 128 pixels. Each part keeps its rows in docs/data.json as it goes, `table`
prints them; without a word, all parts that have no rows yet. Both sides of a row are measured in
one run, in processes of their own that import no torch. CPU seconds, of all processes together,
and memory mean the same on a busy machine; images/s only on an idle one.
"""

import io
import json
import os
import resource
import shutil
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gan import contact, data, delivery, examine, intake, selection, split  # noqa: E402

RESULTS = ROOT / "docs" / "data.json"
SIZE = 96  # pixels on a side
BATCH = 64
BATCHES = 300  # that are timed
COUNTS = (2_400, 20_000, 100_000)  # images of a set
ROUNDS = 2  # of both sides of a row, one after the other
SEED_SIZE = 64  # pixels of the pictures that near-duplicates are looked for in
COLD_BYTES = 2 * 2**30  # of the cache that is read from the disk
COLD_STEPS = 60
STEP_SECONDS = 0.05  # of a training step, in which the disk can read ahead
FILES = int(os.environ.get("BENCHMARK_FILES", "1000000"))  # in the index of `prepare`
Result = TypeVar("Result")
Rows = dict[str, list[str]]  # what was measured -> here, there, what is there, how many times


@dataclass(frozen=True)
class Cost(Generic[Result]):
    """What a call returned and took."""

    result: Result
    seconds: float  # by the clock
    cpu: float  # seconds, its processes together
    memory: float  # the most it had, MB
    others: float  # the most that one of its processes had, MB


def alone(call: Callable[..., Result], *given: object) -> Cost[Result]:
    """`call` in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_measured, call, given).result()


def _cpu() -> float:
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def _measured(call: Callable[..., Result], given: tuple[object, ...]) -> Cost[Result]:
    began, cpu = time.perf_counter(), _cpu()
    result = call(*given)
    seconds, cpu = time.perf_counter() - began, _cpu() - cpu
    memory, others = (
        resource.getrusage(who).ru_maxrss / 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return Cost(result, seconds, cpu, memory, others)


# --- the pictures --------------------------------------------------------------------------------


def unpack(anime: str, folder: Path, count: int) -> Path:
    """A folder of `count` files, in folders of 10,000: the pictures of the zip, linked again."""
    with zipfile.ZipFile(anime) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        archive.extractall(folder / "first", names)
    files = sorted((folder / "first").rglob("*.jpg"))
    out = folder / "set"
    for i in range(count):
        part = f"{out}/{i // 10_000:03}"
        if i % 10_000 == 0:
            os.makedirs(part)
        os.link(files[i % len(files)], f"{part}/{i:06}.jpg")
    return out


# --- building ------------------------------------------------------------------------------------


def build(folder: Path, cache: Path) -> None:
    """Build the cache of a folder, near-duplicates and the seal included."""
    shutil.rmtree(cache, ignore_errors=True)
    data.open_images(str(folder), SIZE, 3, cache=cache)


def decode(path: Path) -> bytes:
    with Image.open(path) as image:
        image.draft(None, (2 * SIZE, 2 * SIZE))
        return ImageOps.fit(image.convert("RGB"), (SIZE, SIZE), Image.Resampling.BICUBIC).tobytes()


def decode_in_pool(folder: Path) -> None:
    """Decode the same with Pillow in a pool of processes, and write nothing."""
    files = sorted(folder.rglob("*.jpg"))
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for _ in pool.map(decode, files, chunksize=16):
            pass


def show_build(anime: str, folder: Path) -> Iterator[Rows]:
    count = COUNTS[1]
    pictures = unpack(anime, folder, count)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(alone(build, pictures, folder / "cache"))
        theirs.append(alone(decode_in_pool, pictures))
    there = "Pillow in a pool, nothing written"
    cpu = [min(cost.cpu for cost in costs) for costs in (ours, theirs)]
    rates = [count / min(cost.seconds for cost in costs) for costs in (ours, theirs)]
    yield {
        f"cache of {count:,}, CPU s": [*(f"{s:.1f}" for s in cpu), there, f"{cpu[1] / cpu[0]:.2f}"],
        f"cache of {count:,}, images/s": [
            *(f"{rate:,.0f}" for rate in rates), there, f"{rates[0] / rates[1]:.2f}"
        ],
    }  # fmt: skip


# --- batches -------------------------------------------------------------------------------------


def our_batches(folder: Path, cache: Path, count: int) -> float:
    """Images/s of `count` batches."""
    images = data.open_images(str(folder), SIZE, 3, cache=cache)
    began = time.perf_counter()
    for step in range(count):
        images.batch_at(step, BATCH, 0)
    return count * BATCH / (time.perf_counter() - began)


def their_batches(folder: Path, count: int) -> float:
    """The same of torchvision's ImageFolder and PyTorch's DataLoader, with a process a core."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    steps = [transforms.Resize(SIZE), transforms.CenterCrop(SIZE), transforms.PILToTensor()]
    images = datasets.ImageFolder(str(folder), transforms.Compose(steps))
    workers = os.cpu_count() or 1
    loader = DataLoader(
        images, BATCH, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True
    )
    next(iter(loader))  # the processes have started
    began, left = time.perf_counter(), count
    while left > 0:
        for _ in loader:
            left -= 1
    return (count - left) * BATCH / (time.perf_counter() - began)


def as_array(picture: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def shard_batches(shard: Path, count: int) -> float:
    """The same of the `webdataset` library: batches of one shard, again and again."""
    import webdataset  # type: ignore[import-not-found]  # no part of the toolkit

    images = webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False).repeat()
    batches = images.shuffle(1000).decode("pil").to_tuple("jpg").map_tuple(as_array).batched(BATCH)
    loader = webdataset.WebLoader(batches, batch_size=None, num_workers=1)  # one shard, one process
    read = iter(loader)
    next(read)
    began = time.perf_counter()
    for _ in range(count):
        next(read)
    return count * BATCH / (time.perf_counter() - began)


def write_shard(pictures: Path, shard: Path) -> None:
    with tarfile.open(shard, "w") as archive:
        for index, file in enumerate(sorted(pictures.rglob("*.jpg"))):
            archive.add(file, f"{index:06}.jpg")


def show_batches(anime: str, folder: Path) -> Iterator[Rows]:
    pictures = unpack(anime, folder, COUNTS[0])
    alone(build, pictures, folder / "cache")
    epoch = COUNTS[0] // BATCH
    few, many = epoch, 9 * epoch  # whole epochs: what a longer run takes more is that of batches
    ours = [alone(our_batches, pictures, folder / "cache", 100 * n) for n in (few, many)]
    theirs = [alone(their_batches, pictures, n) for n in (few, many)]
    there = "ImageFolder + DataLoader"
    cpu = [
        1000 * (long.cpu - short.cpu) / (many - few) / scale
        for (short, long), scale in ((ours, 100), (theirs, 1))
    ]
    rates = [ours[1].result, theirs[1].result]
    yield {
        f"a batch of {BATCH}, CPU ms": [
            f"{cpu[0]:.2f}", f"{cpu[1]:.1f}", there, f"{cpu[1] / cpu[0]:.0f}"
        ],
        f"batches of {BATCH}, images/s": [
            f"{rates[0]:,.0f}", f"{rates[1]:,.0f}", there, f"{rates[0] / rates[1]:.0f}"
        ],
    }  # fmt: skip

    if find_spec("webdataset") is None:
        return
    write_shard(pictures, folder / "0.tar")
    short, long = (alone(shard_batches, folder / "0.tar", n) for n in (few, many))
    there, each = "webdataset, one process", 1000 * (long.cpu - short.cpu) / (many - few)
    yield {
        f"a batch of {BATCH}, CPU ms, again": [
            f"{cpu[0]:.2f}", f"{each:.1f}", there, f"{each / cpu[0]:.0f}"
        ],
        f"batches of {BATCH}, images/s, again": [
            f"{rates[0]:,.0f}", f"{long.result:,.0f}", there, f"{rates[0] / long.result:.0f}"
        ],
    }  # fmt: skip


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


def show_cold(anime: str, folder: Path) -> Iterator[Rows]:
    count = COLD_BYTES // (3 * SIZE * SIZE)
    file = folder / "cold.u8"
    with open(file, "wb") as opened:
        for _ in range(count // 1000):
            opened.write(os.urandom(3 * SIZE * SIZE * 1000))
    os.truncate(file, count * 3 * SIZE * SIZE)
    without, ours = (alone(cold_reads, file, count, ahead).result for ahead in (False, True))
    row = [f"{ours:.1f}", f"{without:.1f}", "without reading ahead", f"{without / ours:.1f}"]
    yield {"wait for a batch that is on the disk, ms": row}


# --- memory --------------------------------------------------------------------------------------


def open_and_read(folder: Path, cache: Path) -> None:
    images = data.open_images(str(folder), SIZE, 3, cache=cache)
    for step in range(20):
        images.batch_at(step, BATCH, 0)


def show_memory(anime: str, folder: Path) -> Iterator[Rows]:
    for count in COUNTS:
        inside = folder / f"{count}"
        inside.mkdir()
        pictures = unpack(anime, inside, count)
        building = alone(build, pictures, inside / "cache")
        opening = alone(open_and_read, pictures, inside / "cache")
        shutil.rmtree(inside)
        text = f"{building.memory:,.0f} to build, {opening.memory:,.0f} to open"
        more = f"each process that decodes: {building.others:,.0f}"
        yield {f"memory at {count:,} images, MB": [text, "", more, ""]}


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
    """CPU seconds to find them, and the clusters, of that many and a copy of each hundredth."""
    looks = split.Looks((3, SEED_SIZE, SEED_SIZE), count + count // 100)
    for index, picture in enumerate(varied(anime, count)):
        looks.add(picture.tobytes())
        if index % 100 == 0:
            looks.add(picture[:, :, ::-1].tobytes())
    signatures = looks.signatures()
    began = _cpu()
    clusters = split.clusters_of(signatures)
    return _cpu() - began, len(split.clusters_of_several(clusters))


def show_duplicates(anime: str, folder: Path) -> Iterator[Rows]:
    for count in COUNTS[1:]:
        cost = alone(find_duplicates, anime, count)
        seconds, clusters = cost.result
        more = f"{clusters:,} clusters, {count // 100:,} mirrored copies"
        row = [f"{seconds:.1f} CPU s, {cost.memory:,.0f} MB", "", more, ""]
        yield {f"near-duplicates of {count:,}": row}


# --- prepare -------------------------------------------------------------------------------------


def _intake(folder: Path, state: Path) -> intake.Intake:
    treatment = examine.Treatment("center", SIZE, False, 0.0, "png")
    return intake.Intake(state, str(folder), treatment, 1.0)


def examine_all(folder: Path, state: Path) -> int:
    """What `prepare` does but for what is written afterwards; returns the number of pictures."""
    made = _intake(folder, state)
    made.list_units()
    made.examine(0)
    count = made.count("1")
    made.close()
    return count


def show_prepare(anime: str, folder: Path) -> Iterator[Rows]:
    for count in COUNTS[:2]:
        inside = folder / f"{count}"
        inside.mkdir()
        cost = alone(examine_all, unpack(anime, inside, count), inside / "state")
        each = 1000 * cost.cpu / cost.result
        row = [f"{each:.2f} CPU ms a picture, {cost.memory:,.0f} MB", "", "", ""]
        yield {f"`prepare` of {count:,}": row}


def tiny_picture() -> bytes:
    """The bytes of every picture that is made up."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "tan").save(file, "JPEG")
    return file.getvalue()


def signatures_of(anime: str) -> split.Signatures:
    """Those of the faces of the zip."""
    looks = split.Looks((3, SEED_SIZE, SEED_SIZE), COUNTS[0])
    for picture in varied(anime, COUNTS[0]):
        looks.add(picture.tobytes())
    return looks.signatures()


def made_up_rows(known: split.Signatures, count: int) -> Iterator[intake.Row]:
    """A row of the state of `prepare` for each file: quarters of four faces, in other colours."""
    random, size = np.random.default_rng(1), len(tiny_picture())
    for start in range(0, count, 1000):
        number = min(1000, count - start)
        four = known[random.integers(0, len(known), (4, number)), 16:]
        parts = four.reshape(4, number, 3, 2, 8, 2, 8).astype(np.float32)
        mixed = np.empty(parts.shape[1:], np.float32)
        for quarter in range(4):
            down, across = divmod(quarter, 2)
            mixed[:, :, down, :, across] = parts[quarter, :, :, down, :, across]
        gains = random.uniform(0.4, 1.0, (number, 3, 1, 1, 1, 1))
        thumbs = (mixed * gains).astype(np.uint8).reshape(number, -1)
        signs = random.integers(0, 256, (number, 8), np.uint8)
        packed = np.concatenate([signs, np.full((number, 8), 255, np.uint8), thumbs], 1)
        for i in range(number):
            name = f"{(start + i) // 10_000:03}/{start + i:06}.jpg"
            place = ("made-up.bin", 0, size, "jpg", packed[i].tobytes())
            yield (name, name, 128, 128, 128, "", "", "[]", *place)


def index_all(known: split.Signatures, folder: Path, state: Path, count: int) -> int:
    """What `prepare` does with so many files, but that none is examined; returns how many stay."""
    made = _intake(folder, state)
    made.list_units()
    (state / "made-up.bin").write_bytes(tiny_picture())
    made.db.execute("begin")
    made.db.executemany(intake.INSERT, made_up_rows(known, count))
    made.db.execute("update units set done = ?", (intake.DONE,))
    made.db.execute("commit")
    made.examine(0)
    selection.select(made, selection.Rules(48, True))
    kept = delivery.deliver(made, str(state.with_name("out.tar")))
    delivery.write_list(made, state.with_name("out.tsv"))
    contact.write_page(made, state.with_name("out.html"), "index", [], "out.tsv")
    made.close()
    return kept


def show_index(anime: str, folder: Path) -> Iterator[Rows]:
    pictures = unpack(anime, folder, FILES)
    known = alone(signatures_of, anime).result
    cost = alone(index_all, known, pictures, folder / "out.prepare", FILES)
    more = "files listed; pictures made up, not examined; chosen, written, page"
    row = [f"{cost.memory:,.0f} MB, {cost.cpu:,.0f} CPU s", "", more, ""]
    yield {f"index of `prepare` with {FILES:,} files": row}


PARTS: dict[str, Callable[[str, Path], Iterator[Rows]]] = {
    "build": show_build,
    "batches": show_batches,
    "cold": show_cold,
    "memory": show_memory,
    "duplicates": show_duplicates,
    "prepare": show_prepare,
    "index": show_index,
}


def read_results() -> dict[str, Rows]:
    """The rows that were measured, by part."""
    if not RESULTS.is_file():
        return {}
    found: dict[str, Rows] = json.loads(RESULTS.read_text("utf-8"))
    return found


def measure(part: str, anime: str) -> None:
    """Measure the rows of a part; each is kept as soon as it is there."""
    found: Rows = {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_FOLDER")) as folder:
        for rows in PARTS[part](anime, Path(folder)):
            found |= rows
            print(json.dumps(rows), flush=True)
            text = json.dumps({**read_results(), part: found}, indent=1)
            RESULTS.write_text(text + "\n", "utf-8")


def main(anime: str = "", *words: str) -> None:
    known = read_results()
    if not anime or not set(words) <= set(PARTS) or (anime == "table" and words):
        sys.exit(__doc__)
    if anime != "table":
        for part in words or [part for part in PARTS if part not in known]:
            measure(part, anime)
    # only now: a process is counted the memory of the one that started it, and this imports torch
    from common import print_header, print_row

    print_header(["", "here", "there", "there is", "times"])
    for part, rows in read_results().items():
        if anime == "table" or part in words or not words:
            for name, row in rows.items():
                print_row([name, *row])


if __name__ == "__main__":
    main(*sys.argv[1:])
