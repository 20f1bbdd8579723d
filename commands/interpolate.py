"""`interpolate`: walks from face to face, as a film or as a sheet of rows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from commands import faces, flags, runs
from config import option
from gan.console import result, shown
from gan.errors import Refused

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from gan import film, sample
    from gan.sample import Inputs

FORMATS = ("gif", "webp", "mp4", "png")
MOST_FRAMES = 10_000_000


@dataclass(frozen=True)
class InterpolateOptions:
    """What `interpolate` takes besides the settings of a run."""

    best: bool = option(True, "draw with the best-scored state of the run, not the newest")
    seeds: str = option("", "walk through the first face of each seed: 3,14,15 or 0-7")
    gen_index: str = option("", "walk through these faces of --seed: 17,4,99")
    wander: str = option("", "a smooth random film of this length instead, without a jump: 30s")
    frames: int = option(30, "frames from one face to the next", low=1, high=1_000_000)
    fps: float = option(20.0, "frames per second", above=0, high=100)
    loop: bool = option(False, "go back to the first face, so that the film repeats without a jump")
    label: str = option("", "class, of a conditional run: cat, 7, cat+dog or cat:0.3+dog:0.7")
    labels: str = option("", "class of each face, to walk from class to class: cat,dog,owl")
    trunc: float = option(0.0, "cut the noise off at plus and minus this; 0: not", low=0, high=100)
    upscale: int = option(1, "enlarge pictures: 1, 2 or 4 times", choices=(1, 2, 4))
    columns: int = option(8, "pictures in a row of the sheet", low=2, high=100)
    output: str = option(
        "walk.gif", "file to write: .gif, .webp, .mp4, or .png for a sheet of rows"
    )
    formats: str = option("", "several formats: gif,webp,mp4,png or all; empty: that of --output")
    large: bool = option(False, "write a film of more than 1 GB or half an hour of work too")


FLAGS = flags.CommandFlags(
    "interpolate",
    InterpolateOptions,
    settings=flags.OF_DRAWING_NOISE,
    usage="interpolate [--seeds=3,14,15] [--loop] [--wander=30s] [--formats=all] ...",
    does="Walks from face to face through the noise of a run, as a film or a sheet.",
    examples=(
        "interpolate --name=mine --seeds=3,14,15 --loop",
        "interpolate --name=mine --gen-index=17,4,99 --output=walk.png",
        "interpolate --name=mine --wander=30s --output=walk.mp4",
    ),
    meanings=flags.MEANINGS_OF_LOADED_RUNS,
    loads_run=True,
    notes=(
        "Without --seeds, --gen-index and --wander it walks through faces 0 to 3 of --seed.",
        "Normal noise goes on the sphere (slerp), uniform noise in a straight line.",
    ),
)


def seconds(text: str) -> float:
    """The length that `--wander=30s` names."""
    try:
        found = float(text.removesuffix("s"))
    except ValueError:
        found = 0.0
    if not 0 < found <= 86_400:
        raise Refused(f"--wander={text}: a length such as 30s, at most 86400s")
    return found


def check(options: InterpolateOptions) -> int:
    """How many faces are walked through, 0 to wander; raises Refused for a contradiction."""
    ways = [name for name in ("seeds", "gen_index", "wander") if getattr(options, name)]
    if len(ways) > 1:
        raise Refused(f"--{ways[0]}, --{ways[1]}: one of them names the faces; leave one out"
                      .replace("_", "-"))  # fmt: skip
    if options.label and options.labels:
        raise Refused("--label, --labels: one class for all or one for each; leave one out")
    if options.wander:
        if options.labels:
            raise Refused("--labels: --wander has no faces to go through; give --label")
        seconds(options.wander)
        return 0
    if options.seeds:
        count = len(faces.numbers(options.seeds, "seeds", faces.END_OF_SEEDS))
    else:
        count = len(faces.numbers(options.gen_index or "0-3", "gen_index", faces.END_OF_INDICES))
    labels = options.labels.count(",") + 1 if options.labels else 1
    if labels > 1 < count != labels:
        raise Refused(f"--labels={options.labels}: {labels} classes for {count} faces")
    if max(count, labels) < 2:
        raise Refused("one face leads nowhere: give two or more, such as --seeds=3,14")
    return max(count, labels)


def points(options: InterpolateOptions, source: "sample.NoiseSource", count: int) -> "torch.Tensor":
    """The noise of the faces to walk through: [count, nz]."""
    from dataclasses import replace

    import torch

    if options.seeds:
        seeds = faces.numbers(options.seeds, "seeds", faces.END_OF_SEEDS)
        found = [replace(source, seed=seed)(0, 1)[0] for seed in seeds]
    else:
        indices = faces.numbers(options.gen_index or "0-3", "gen_index", faces.END_OF_INDICES)
        found = [source(index, 1)[0] for index in indices]
    z = torch.cat(found)
    return z.expand(count, -1) if len(z) == 1 else z[:count]


def inputs_of_film(
    options: InterpolateOptions, source: "sample.NoiseSource", names: tuple[str, ...], count: int
) -> "Inputs":
    """G's inputs, a row for each frame."""
    import torch

    from gan import latent

    nz, kind = source.nz, source.kind
    if options.wander:
        length = seconds(options.wander)
        total = max(1, round(length * options.fps))
        z = latent.wander(source.seed, nz, total, length, kind)
        if options.trunc:
            z = z.clamp(-options.trunc, options.trunc)
    else:
        z = latent.walk(
            points(options, source, count), options.frames, loop=options.loop, kind=kind
        )
    if not names:
        if options.label or options.labels:
            faces.class_index(options.label or options.labels, names)  # which says so
        return (z,)
    if options.labels:
        given = [faces.class_index(word, names, "--labels") for word in options.labels.split(",")]
        given = given * count if len(given) == 1 else given
        ends = torch.eye(len(names))[given]
        return z, latent.mixing(ends, options.frames, loop=options.loop)
    shares = source.shares or (1.0, *(0.0 for _ in names[1:]))
    return z, torch.tensor(shares).expand(len(z), -1)


def frames_of(
    run: runs.LoadedRun, inputs: "Inputs", device: "torch.device", upscale: int
) -> "film.Frames":
    """The pictures of these inputs, drawn when they are asked for."""
    from gan import sample, sheet

    def frames(first: int, count: int) -> "Iterator[Image.Image]":
        part = tuple(x[first : first + count] for x in inputs)
        for images in sample.draw(run.nets.G, part, run.config.batch_size, device):
            for image in sample.to_uint8(images).numpy():
                yield sheet.enlarged(sheet.as_rgb(image), upscale)

    return frames


def write_sheet(frames: "film.Frames", total: int, per_row: int, columns: int, path: Path) -> None:
    """One row of pictures from each face to the next."""
    from gan import film, sample, sheet

    pictures: list[Image.Image] = []
    for first in range(0, max(1, total - 1), per_row):

        def row(start: int, count: int, first: int = first) -> "Iterator[Image.Image]":
            return frames((first + start) % total, count)

        pictures += film.rows(row, min(per_row, total - 1) + 1, columns)
    sample.save_picture(sheet.grid(pictures, min(columns, per_row + 1)), path)


def main(stray: tuple[str, ...], words: Mapping[str, str]) -> None:
    """Write the walk; see `python main.py interpolate --help`."""
    request = flags.read(FLAGS, stray, words)
    options = request.options
    paths = faces.film_targets(options.output, options.formats, FORMATS)
    count = check(options)
    total = (
        round(seconds(options.wander) * options.fps) if options.wander else count * options.frames
    )
    if total > MOST_FRAMES:
        raise Refused(f"--frames={options.frames}: {total:,} frames; at most {MOST_FRAMES:,}")
    from gan import film

    film.check_formats([path.suffix.lower()[1:] for path in paths], f"--output={paths[0]}")
    run = faces.load(request.settings, "interpolate", best=options.best)
    from gan import machine

    device = machine.pick_device(run.config.gpu)
    run.nets.G.to(device)
    source = faces.source_of(run, options.label, options.trunc)
    inputs = inputs_of_film(options, source, run.facts.class_names, count)
    total = len(inputs[0])
    frames = frames_of(run, inputs, device, options.upscale)
    films = [path for path in paths if path.suffix.lower() != ".png"]
    fewer = "give a smaller --wander" if options.wander else "give a smaller --frames"
    film.write_films(
        frames, film.Timing(total, options.fps), films, allow_large=options.large,
        way_out=f"{fewer}, or --large to write it all the same",
    )  # fmt: skip
    for path in paths:
        if path not in films:
            per_row = max(1, total // 8) if options.wander else options.frames
            write_sheet(frames, total, per_row, options.columns, path)
        size = path.stat().st_size / 1e6
        result(
            f"interpolate: {total:,} frames from {run.source} -> {shown(path)}, {size:.1f} MB", path
        )
