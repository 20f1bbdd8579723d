"""`translate`: every picture of a file, folder or zip, translated by a trained generator."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from commands import flags, places, runs
from config import option
from gan.console import result, shown
from gan.errors import Refused, one_line, what_failed

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import nn

SMALLEST = 5  # pixels on a side: of less, CycleGAN's two halvings leave nothing
LARGEST = 4_000_000  # pixels of a picture that is translated at its own size


@dataclass(frozen=True)
class TranslateOptions:
    """What `translate` takes besides the settings of a run."""

    best: bool = option(True, "draw with the best-scored state of the run, not the newest")
    input: str = option("", "picture, folder or zip to translate")
    output: str = option("translated", "folder for the results, which keep the names")
    dropout: bool = option(
        False, "draw in training mode, as the reference's test does: dropout, by --seed, adds noise"
    )
    resize: bool = option(False, "translate at the training size, then enlarge the result")
    side_by_side: str = option("", "HTML page of before and after to write")


FLAGS = flags.CommandFlags(
    "translate",
    TranslateOptions,
    settings=(*flags.OF_DRAWING, *flags.OF_TRANSLATION, "value_range"),
    usage="translate --input=PICTURE_OR_FOLDER [--direction=AtoB] ...",
    does="Turns every picture of a file, folder or zip into one of the other kind.",
    examples=(
        "translate --name=pairs --input=FOLDER",
        "translate --name=pairs --input=FOLDER --output=out --side-by-side=page.html",
        "translate --name=two --input=photo.jpg --direction=BtoA",
    ),
    meanings={
        **flags.MEANINGS_OF_LOADED_RUNS,
        "batch_size": "of weights of pix2pix: 1 for instance norm, 2 for batch norm",
        "seed": "of the noise of --dropout: the same seed draws the same pictures",
    },
    loads_run=True,
)


@dataclass
class Targets:
    """Where results are written: named as the pictures, never over each other or an input."""

    source: Path  # the input, resolved
    folder: Path
    taken: set[str] = field(default_factory=set)

    def path_for(self, name: str) -> Path:
        """`a/b.jpg` -> a/b.png in the folder, or a/b.jpg.png if that is taken."""
        path, full = Path(name).with_suffix(".png"), name
        while str(path) in self.taken:
            full = f"{full}.png"
            path = Path(full)
        self.taken.add(str(path))
        path = self.folder / path
        if self.source in (path.resolve(), *path.resolve().parents):
            raise Refused(f"--output={self.folder}: {path} is in --input; give another folder")
        return path


def translate_picture(
    G: "nn.Module", picture: "Image.Image", size: int | None, device: "torch.device"
) -> "Image.Image":
    """One picture through G at its own size; with `size`, resized to that and back."""
    import numpy as np
    import torch
    from PIL import Image

    from gan import feed, sample

    own = picture.size
    if size:
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(picture).reshape(picture.height, picture.width, -1).transpose(2, 0, 1)
    with torch.no_grad():
        drawn = G(feed.to_float(pixels[None].copy(), device))
    result = sample.as_picture(sample.to_uint8(drawn)[0])
    return result.resize(own, Image.Resampling.BICUBIC) if size else result


def refusal_of(picture: "Image.Image", resize: bool) -> str:
    """Why a picture cannot be translated; "" if it can."""
    if not resize and picture.width * picture.height > LARGEST:
        return f"larger than {LARGEST:,} pixels; give --resize"
    if not resize and min(picture.size) < SMALLEST:
        return f"less than {SMALLEST} pixels on a side; give --resize"
    return ""


def _try_translation(
    G: "nn.Module", picture: "Image.Image | str", size: int | None, device: "torch.device"
) -> "Image.Image | str":
    """The translated picture, or why there is none; a `str` is why one could not be read."""
    from gan import machine

    if isinstance(picture, str):
        return picture
    if why := refusal_of(picture, resize=bool(size)):
        return why
    try:
        return translate_picture(G, picture, size, device)
    except (MemoryError, RuntimeError) as error:
        if not machine.is_out_of_memory(error):
            raise
        return "out of memory; give --resize"


def _load(request: flags.Request[TranslateOptions]) -> "tuple[nn.Module, runs.LoadedRun, bool]":
    """The generator in the mode in which it draws, its run, and whether it is the way back."""
    from torch import nn

    options = request.options
    G, run, back = runs.load_generator(request.settings, best=options.best, command="translate")
    config, task = run.config, run.family.task
    if task.command != "translate":
        raise Refused(
            f"translate: {run.source} is a {config.family}, which draws from noise; use "
            f"{task.command}"
        )
    if options.dropout and not any(isinstance(part, nn.Dropout) for part in G.modules()):
        raise Refused(
            f"--dropout: {run.source}, a {config.family} of {config.img_size} px, has none; leave "
            "the flag out"
        )
    return G.train(options.dropout), run, back


def main(stray: tuple[str, ...], words: Mapping[str, str]) -> None:
    """Turn pictures of A into pictures of B; see `python main.py translate --help`."""
    request = flags.read(FLAGS, stray, words)
    options = request.options
    if not options.input:
        raise Refused("--input: give the picture, folder or zip to translate")
    source, out = (Path(path).resolve() for path in (options.input, options.output))
    if source in (out, *out.parents) or out / source.with_suffix(".png").name == source:
        raise Refused(f"--output={options.output}: it would mix with --input; give another folder")
    places.check_data_path(options.input, "--input")
    places.check_checkpoint(request.settings)
    G, run, back = _load(request)
    config = run.config
    import torch

    from gan import feed, machine, pairs, sample

    device = machine.pick_device(config.gpu)
    G.to(device)
    channels = config.channels_wanted if back else config.channels_given
    targets = Targets(source, Path(options.output))
    size = config.img_size if options.resize else None
    skipped: list[str] = []
    rows: list[tuple[str, Path, Path]] = []
    pictures = pairs.stream(options.input, "--input", channels, config.value_range)
    for index, (name, picture) in enumerate(pictures):
        torch.manual_seed(feed.step_seed(config.seed, index))  # of the dropout
        drawn = _try_translation(G, picture, size, device)
        if isinstance(drawn, str) or isinstance(picture, str):
            skipped.append(f"{name}: {drawn}")
            continue
        try:
            path = targets.path_for(name)
            before = targets.path_for(f"given/{name}") if options.side_by_side else path
            sample.save_picture(drawn, path)
            if options.side_by_side:
                sample.save_picture(picture, before)
        except (OSError, ValueError) as error:  # a name that this system cannot have
            skipped.append(f"{name}: {what_failed(error)}")
            continue
        rows.append((name, before, path))
    if options.side_by_side:
        from gan import pages

        pages.write_side_by_side(Path(options.side_by_side), rows)
    result(
        f"translate: {len(rows):,} pictures from {run.source} in {shown(targets.folder)}",
        targets.folder,
    )
    if skipped:
        more = f"; and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        listed = "; ".join(one_line(line, 110) for line in skipped[:5])
        raise Refused(f"{len(skipped)} skipped: {listed}{more}")
