"""`prepare`: from whatever people have to a clean data set, and a page that shows why."""

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from commands import flags
from config import flag, option
from gan.console import alarm, result, say, shown
from gan.errors import Refused, counted

if TYPE_CHECKING:
    from gan.intake import Intake
    from gan.selection import Rules

WITH_FACES = ("detector", "cascade", "margin")  # flags of --crop=faces
FEW_FACES = 0.3  # share of pictures with a face, below which another detector is suggested


@dataclass(frozen=True)
class PrepareOptions:
    """What `prepare` takes besides --data-path."""

    out: str = option("", "folder, .zip, or .tar for WebDataset shards, to write")
    crop: str = option(
        "none",
        "faces: a square around each face; center: the centre square; none: whole pictures",
        choices=("faces", "center", "none"),
    )
    img_size: int = option(
        0, "pixels on a side of what is written; 0: as it is cut", low=0, high=4096
    )
    dedup: bool = option(True, "keep one picture of each group of near-duplicates")
    min_size: int = option(48, "pixels: pictures or faces with a shorter side are skipped", low=1)
    keep: str = option("", "list of names to keep, whatever else is said")
    drop: str = option("", "list of names to leave out")
    detector: str = option(
        "photo",
        "who finds faces: photo (OpenCV's cascade, for photographs) or anime (drawn faces)",
        choices=("photo", "anime"),
    )
    cascade: str = option("", "file of an OpenCV cascade that finds faces instead")
    margin: float = option(
        0.3, "around a face, on every side, as a share of its side", low=0, high=3
    )
    trim: bool = option(False, "cut off plain bars at the borders, with or without text")
    every: str = option("1s", "time between two frames of a video or an animation")
    format: str = option(
        "png",
        "of what is changed: png, jpg or webp; unchanged pictures keep their bytes",
        choices=("png", "jpg", "webp"),
    )


FLAGS = flags.CommandFlags(
    "prepare",
    PrepareOptions,
    settings=("data_path", "value_range", "num_workers"),
    usage="prepare --data-path=ANYTHING --out=FOLDER [--crop=faces] [--img-size=128] ...",
    does="Makes a clean data set of whatever there is: reads it, crops it, drops near-duplicates.",
    examples=(
        "prepare --data-path=FOLDER_OR_ZIP --out=clean --crop=faces --img-size=128",
        "prepare --data-path=clip.mp4 --out=frames.zip --every=2s",
        "prepare --data-path=FOLDER --out=clean --min-size=96 --format=jpg",
    ),
    meanings={"data_path": "what to read"},
    notes=(
        "Reads folders, zips, tars, parquet and arrow tables, animations and videos. Beside --out,",
        "OUT.html shows what was kept and what not, and why; OUT.tsv names all. The same command",
        "goes on from OUT.prepare; with --keep, --drop, --min-size or --dedup it decides anew at",
        "once. Delete that folder when you are content.",
    ),
)


def _beside(out: str, end: str) -> Path:
    """`faces.zip` -> faces.html: a file beside --out."""
    path = Path(out)
    return path.with_name(f"{path.stem if path.suffix in ('.zip', '.tar') else path.name}{end}")


def _check(request: flags.Request[PrepareOptions]) -> None:
    """Raises Refused for flags that do not go together."""
    options = request.options
    if "data_path" not in request.given:
        raise Refused("--data-path: give the folder or file with the pictures")
    if not options.out.strip("/. "):
        raise Refused("--out: give the folder, .zip or .tar to write")
    for name in WITH_FACES:
        if name in request.given and options.crop != "faces":
            raise Refused(f"{flag(name)}: it goes with --crop=faces; add that, or leave it out")
    if options.cascade and "detector" in request.given:
        raise Refused("--detector, --cascade: either finds faces; leave one out")


def _open(request: flags.Request[PrepareOptions]) -> "Intake":
    """The state of this preparation; raises Refused before anything is written."""
    from gan import delivery, detect, unpack
    from gan.examine import Treatment
    from gan.intake import Intake
    from gan.readers import expanded

    options, data_path = request.options, str(request.settings["data_path"])
    every = unpack.parse_seconds(options.every)
    if not expanded(data_path).exists():
        raise Refused(f"--data-path={data_path}: no such folder or file")
    state = _beside(options.out, ".prepare")
    delivery.check_place(options.out, data_path, state)
    finder = ("", "", 0.0)
    if options.crop == "faces":
        detect.check_detector(options.detector, options.cascade)
        finder = ("" if options.cascade else options.detector, options.cascade, options.margin)
    treatment = Treatment(
        options.crop, options.img_size, options.trim, finder[2], options.format, *finder[:2]
    )
    return Intake(state, data_path, treatment, every, str(request.settings.get("value_range", "")))


def _say_settings(request: flags.Request[PrepareOptions]) -> str:
    """What was done to every picture."""
    options = request.options
    size = f"{options.img_size} pixels on a side" if options.img_size else "as large as it is cut"
    return (
        f"{request.settings['data_path']}: crop {options.crop}, {size}; skipped below "
        f"{options.min_size} pixels"
    )


def _say_faces(intake: "Intake", options: PrepareOptions) -> list[str]:
    """Whether faces were found; with few of them, what else may find them."""
    if options.crop != "faces":
        return []
    from gan import examine

    without = intake.count("kind = ?", examine.NO_FACE)
    faces = intake.count("side > 0 and kind != ?", examine.NO_FACE)
    by = options.cascade or f"--detector={options.detector}"
    line = f"{counted(faces, 'face')} found by {by}; none in {counted(without, 'picture')}"
    if faces < FEW_FACES * (faces + without):
        other = "anime" if options.detector == "photo" and not options.cascade else "photo"
        line += f"; are these the pictures it is for? --detector={other} or --cascade=FILE may do"
    return [line]


def main(stray: tuple[str, ...], words: Mapping[str, str]) -> None:
    """Prepare a data set; see `python main.py prepare --help`."""
    request = flags.read(FLAGS, stray, words)
    options = request.options
    _check(request)
    from gan.selection import Rules, read_list

    keep, drop = read_list(options.keep, "--keep"), read_list(options.drop, "--drop")
    with contextlib.closing(_open(request)) as intake:
        try:
            intake.list_units()
            lines = intake.examine(int(request.settings.get("num_workers", 0)))
        except KeyboardInterrupt:
            alarm("prepare: stopped; the same command goes on")
            sys.exit(130)
        lines = [_say_settings(request), *lines, *_say_faces(intake, options)]
        _write(intake, options.out, Rules(options.min_size, options.dedup, keep, drop), lines)


def _write(intake: "Intake", out: str, rules: "Rules", lines: list[str]) -> None:
    """Decide, write the pictures, the list and the page, and say what was done."""
    from gan import contact, delivery, selection

    selection.select(intake, rules)
    count = delivery.deliver(intake, out)
    listed, page = _beside(out, ".tsv"), _beside(out, ".html")
    delivery.write_list(intake, listed)
    contact.write_page(intake, page, f"Prepared: {Path(out).name}", lines, listed.name)
    for line in lines:
        say(f"prepare: {line}")
    for verdict, reason, number in selection.summary(intake):
        say(f"prepare: {verdict:8}{number:>10,}  {reason}".rstrip())
    for kind, number in selection.notes(intake):
        say(f"prepare: {'of these':8}{number:>10,}  {kind}")
    result(
        f"prepare: {counted(count, 'picture')} in {shown(out)}; {shown(page)} shows why; "
        f"names: {listed}",
        out,
    )
