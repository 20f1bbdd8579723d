"""`film`: the film of a training, from its previews."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from commands import faces, flags, places
from config import option
from gan.console import result, shown
from gan.errors import Refused

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("gif", "webp", "mp4")


@dataclass(frozen=True)
class FilmOptions:
    """What `film` takes besides the name of a run."""

    output: str = option("", "file to write: .gif, .webp or .mp4; empty: film.webp")
    formats: str = option("", "several formats: gif,webp,mp4 or all; empty: that of --output")
    fps: float = option(4.0, "previews per second", above=0, high=100)
    hold: float = option(3.0, "seconds that the last preview is shown longer", low=0, high=600)
    upscale: int = option(1, "enlarge the previews: 1, 2 or 4 times", choices=(1, 2, 4))
    rows: int = option(0, "rows of the previews to show; 0: all", low=0)
    large: bool = option(False, "write a film of more than 1 GB or half an hour of work too")


FLAGS = flags.CommandFlags(
    "film",
    FilmOptions,
    settings=("name",),
    usage="film --name=mine [--output=film.mp4] ...",
    does="Makes a film of the previews of a run: the same noise from the first save to the last.",
    examples=(
        "film --name=mine",
        "film --name=mine --output=film.mp4 --fps=8",
        "film --name=mine --rows=2 --upscale=2 --formats=all",
    ),
    meanings={"name": "the run; empty: the one without a name"},
    loads_run=True,
    notes=("The previews are imgs/<name>/<epoch>.png: the same noise at each save.",),
)


def previews_of(name: str) -> list[Path]:
    """The previews of run `name` by epoch; raises Refused for fewer than two."""
    folder = places.folder_of("imgs", name)
    found = [path for path in folder.glob("*.png") if path.stem.isdecimal()]
    if len(found) < 2:
        raise Refused(
            f"--name={name}: {folder} has {len(found)} previews, and a film needs two; train on, "
            "with a smaller --save-every, or name another run"
        )
    return sorted(found, key=lambda path: int(path.stem))


def open_preview(path: Path, rows: int, upscale: int) -> "Image.Image":
    """A preview with its epoch below it; raises Refused for a file that is no picture."""
    from PIL import Image

    from gan import sheet

    try:
        picture = Image.open(path).convert("RGB")
    except OSError as error:
        raise Refused(f"{path}: no picture that can be read ({error}); remove it") from None
    if rows:  # eight columns, so that a picture is as high as an eighth of the width
        each = (picture.width - sheet.GAP_PIXELS) // sheet.COLUMNS
        picture = picture.crop((0, 0, picture.width, min(picture.height, rows * each + 2)))
    return sheet.labelled(sheet.enlarged(picture, upscale), f"epoch {int(path.stem)}")


def main(stray: tuple[str, ...], words: Mapping[str, str]) -> None:
    """Write the film; see `python main.py film --help`."""
    request = flags.read(FLAGS, stray, words)
    options = request.options
    paths = faces.film_targets(options.output or "film.webp", options.formats, FORMATS)
    previews = previews_of(str(request.settings.get("name", "")))
    from gan import film

    film.check_formats([path.suffix.lower()[1:] for path in paths], f"--output={paths[0]}")
    size = open_preview(previews[-1], options.rows, options.upscale).size

    def frames(first: int, count: int) -> "Iterator[Image.Image]":
        for path in previews[first : first + count]:
            picture = open_preview(path, options.rows, options.upscale)
            yield picture if picture.size == size else picture.resize(size)

    film.write_films(
        frames, film.Timing(len(previews), options.fps, options.hold), paths,
        allow_large=options.large, way_out="give --rows=2, or --large to write it all the same",
    )  # fmt: skip
    first, last = (int(previews[place].stem) for place in (0, -1))
    for path in paths:
        result(
            f"film: {len(previews)} previews, epochs {first} to {last} -> {shown(path)}, "
            f"{path.stat().st_size / 1e6:.1f} MB"
        )
