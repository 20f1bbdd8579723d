"""`directions`: what the strongest directions of the noise change, as a sheet of rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from commands import faces, flags
from config import option
from gan.console import result, say, shown
from gan.errors import Refused


@dataclass(frozen=True)
class DirectionsOptions:
    """What `directions` takes besides the settings of a run."""

    best: bool = option(True, "draw with the best-scored state of the run, not the newest")
    by: str = option(
        "weights",
        "weights (closed form on G's first layer) or features (PCA half-way to the picture)",
        choices=("weights", "features"),
    )
    count: int = option(6, "directions to show, the one that changes most first", low=1, high=64)
    gen_index: str = option("0", "faces to move, each with its own rows: 17 or 17,4")
    steps: int = option(7, "pictures in a row, from -3 to +3", low=3, high=61)
    label: str = option("", "class, of a conditional run: cat, 7, cat+dog or cat:0.3+dog:0.7")
    upscale: int = option(1, "enlarge pictures: 1, 2 or 4 times", choices=(1, 2, 4))
    output: str = option("directions.png", "picture to write; the numbers go beside it as .json")


FLAGS = flags.CommandFlags(
    "directions",
    DirectionsOptions,
    settings=flags.OF_DRAWING_NOISE,
    usage="directions [--count=6] [--by=weights] ...",
    does="Finds directions in the noise of a run along which its faces change, and shows them.",
    examples=(
        "directions --name=mine",
        "directions --name=mine --gen-index=17,4 --count=3",
        "directions --name=mine --by=weights --steps=9 --output=ways.png",
    ),
    meanings=flags.MEANINGS_OF_LOADED_RUNS,
    loads_run=True,
    notes=(
        "generate --direction-2=1.5 moves faces along the second of --by=weights.",
        "A direction is what this generator happens to have learned: most change several things.",
    ),
)


def main(stray: tuple[str, ...], words: Mapping[str, str]) -> None:
    """Write the sheet; see `python main.py directions --help`."""
    request = flags.read(FLAGS, stray, words)
    options, path = request.options, Path(request.options.output)
    faces.check_file(path, "--output")
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise Refused(f"--output={path}: .png, .jpg or .webp")
    indices = faces.numbers(options.gen_index, "gen_index", faces.END_OF_INDICES)
    if len(indices) > 16:
        raise Refused(f"--gen-index={options.gen_index}: at most 16 faces")
    run = faces.load(request.settings, "directions", best=options.best)
    import torch

    from gan import latent, machine, pages, sample, sheet

    device = machine.pick_device(run.config.gpu)
    G = run.nets.G.to(device)
    source = faces.source_of(run, options.label, 0.0)
    measured = latent.measured_faces(run.config, len(run.facts.class_names))
    found = latent.directions(G, measured, options.count, options.by, device)
    amounts = torch.linspace(-latent.REACH, latent.REACH, options.steps)
    pictures, captions = [], []
    for number, vector in enumerate(found.vectors, 1):
        for index in indices:
            row = latent.row_of(G, source(index, 1), vector, amounts, device)
            pictures += [
                sheet.enlarged(sheet.as_rgb(image), options.upscale) for image in row.numpy()
            ]
            captions += [f"{number}: {amount:+.1f}" for amount in amounts.tolist()]
    sample.save_picture(sheet.grid(pictures, options.steps, captions=captions), path)
    pages.write_json(
        path.with_suffix(".json"),
        {
            "checkpoint": run.source,
            "by": options.by,
            "change": found.change.tolist(),
            "vectors": found.vectors.tolist(),
        },
    )
    result(
        f"directions: {len(found.vectors)} of {run.source}, the strongest first: {shown(path)}",
        path,
    )
    say("direction  mean change of a byte from -3 to +3")
    for number, change in enumerate(found.change.tolist(), 1):
        say(f"{number:9}  {change:.1f}")
