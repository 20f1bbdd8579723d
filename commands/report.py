"""`report`: one page about a run, or about several side by side."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from commands import faces, flags, places, runs
from config import FIELDS, Config, file_name, flag, option, shared_config_json
from gan.console import command_line, result, shown
from gan.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from PIL import Image

    from commands.compare_curves import RunLog
    from commands.report_page import RunPart
    from gan import sample
    from gan.data import Images

CANDIDATES = 256  # that the best faces are chosen from
SHOWN = 32
COMPARED = 16  # of the best, shown with the training images nearest to them


@dataclass(frozen=True)
class ReportOptions:
    """What `report` takes besides the name of a run."""

    best: bool = option(True, "draw with the best-scored state of the run, not the newest")
    names: str = option("", "several runs on one page: a,b,c")
    scores: str = option("evaluate.json", "scores to show, if they are of the run (see evaluate)")
    faces: bool = option(True, "draw faces and compare them with training images")
    report: str = option("", "page to write; empty: report.html")


FLAGS = flags.CommandFlags(
    "report",
    ReportOptions,
    settings=("name", "data_path", "num_workers", "gpu"),
    usage="report --name=mine [--report=mine.html] ...",
    does="Writes one page about a run, or several: its settings, curves, previews and best faces.",
    examples=(
        "report --name=mine",
        "report --name=mine --report=mine.html",
        "report --names=mine,other --report=both.html",
    ),
    meanings={
        "name": "the run; empty: the newest",
        "data_path": "folder or zip of the training images, if they have moved",
    },
    loads_run=True,
)


def describe(run: runs.LoadedRun, log: "RunLog") -> list[tuple[str, str]]:
    """What the run is and did, in a few lines."""
    from commands.compare_curves import LITE0
    from gan import machine

    config = run.config
    budget = [
        f"{flag(name)}={value}"
        for name in ("max_epoch", "max_images", "max_minutes")
        if (value := getattr(config, name))
    ]
    speeds = sorted(log.speeds)
    speed = f", {speeds[len(speeds) // 2]:.0f} images/s" if speeds else ""
    kind = next((name for name in ("score", LITE0) if name in log.curves), "score")
    best = min(log.curves.get(kind, []), key=lambda point: point[2], default=None)
    found = [
        ("family", f"{config.family}, {config.img_size} pixels"),
        ("images", file_name(config.data_path) or "rendered avatars"),
        ("classes", ", ".join(run.facts.class_names)),
        ("budget", ", ".join(budget)),
        ("trained", f"{log.images:,} images in {log.seconds / 60:.1f} minutes{speed}"),
        ("time by part", time_by_part(log)),
        (f"best {kind}", f"{best[2]:.3f} at {best[0]:,} images" if best else "none was taken"),
        ("alarms, rescues", f"{log.alarms}, {len(log.events) - log.alarms}"),
        ("mirrored", "half of the images" if run.facts.flip else "no"),
        ("precision", "bfloat16" if run.facts.mixed_precision else "float32"),
        ("weights", file_name(run.source)),
        ("trained on", "; ".join(log.machines)),
        ("page made on", machine.describe()),
    ]
    return [(name, text) for name, text in found if text]


def time_by_part(log: "RunLog") -> str:
    """How long it trained, scored and saved; "" of a log of earlier versions, which do not say."""
    from gan.progress import duration

    if not log.pauses:
        return ""
    parts = {"training": log.seconds, **log.pauses}
    whole = max(sum(parts.values()), 1e-9)
    return ", ".join(
        f"{name} {duration(seconds)} ({100 * seconds / whole:.0f} %)"
        for name, seconds in parts.items()
    )


def settings_of(run: runs.LoadedRun) -> list[tuple[str, str, str]]:
    """All settings, those that are not the family's defaults first."""
    from models import FAMILIES

    defaults = {**vars(Config()), **FAMILIES[run.config.family].defaults}
    rows = [
        (flag(name), str(value), str(defaults.get(name, "")))
        for name, value in shared_config_json(run.config, run.facts).items()
        if name in FIELDS
    ]
    return sorted(rows, key=lambda row: row[1] == row[2])


def scores_of(path: Path, run: runs.LoadedRun) -> "Sequence[Sequence[str]]":
    """The table of `evaluate`, if the file has the scores of this run."""
    from gan import pages

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if Path(found["drawn_by"]).parent != Path(run.source).parent:
            return ()
        return pages.score_rows(found)
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def add_faces(part: "RunPart", run: runs.LoadedRun) -> None:
    """Random faces, the best ones, and the training images nearest to these."""
    from gan import machine, pages, sample
    from gan.data import Images

    device = machine.pick_device(run.config.gpu)
    G = run.nets.G.to(device)
    source = sample.NoiseSource.of(run.config, len(run.facts.class_names))
    drawn = sample.draw_uint8(G, source(0, SHOWN), run.config.batch_size, device)
    random = sample.as_picture(sample.image_grid(drawn))
    part.pictures.append(
        ("Random faces", f"Faces 0 to {SHOWN - 1} of its seed.", pages.data_uri(random))
    )
    try:
        images = runs.open_data(run.config)
    except Refused as error:
        part.notes.append(
            f"The best faces are left out, since the images cannot be read ({error})."
        )
        return
    assert isinstance(images, Images)
    best = rank(run, images, source, device)
    part.pictures.append(
        (
            "Best faces",
            f"The {SHOWN} of {CANDIDATES} that look most real to two networks, within their kinds.",
            pages.data_uri(sample.as_picture(sample.image_grid(best.images))),
        )
    )
    part.pictures.append(
        (
            "Nearest training images",
            "Above a face, below the training image that is nearest to it as a thumbnail.",
            pages.data_uri(nearest_rows(best.images[:COMPARED], images)),
        )
    )


def rank(
    run: runs.LoadedRun, images: "Images", source: "sample.NoiseSource", device: "torch.device"
) -> "sample.Ranked":
    """The SHOWN best of CANDIDATES faces, ranked as `generate` ranks them."""
    from gan import features, ranking, sample

    train = features.Subset(images.array, images.train)
    real = ranking.Reals(train, images.features_file)

    def sample_fakes() -> "torch.Tensor":
        given = source(ranking.RATIO_FIRST_INDEX, ranking.RATIO_SAMPLES)
        return sample.draw_uint8(run.nets.G, given, run.config.batch_size, device)

    inputs = ranking.RankingInputs(run.nets.D, real, sample_fakes, str(device))
    row = ranking.RANKERS["consensus"]
    judge, kind_of = row.make_judge(inputs), row.make_kinds(inputs)
    candidates = sample.first_candidates(source, CANDIDATES, run.config.batch_size, device)
    return sample.rank(run.nets.G, judge, candidates, SHOWN, kind_of)


def nearest_rows(drawn: "torch.Tensor", images: "Images") -> "Image.Image":
    """Rows of faces, each with a row of the nearest training images below it."""
    import torch

    from gan import features, metrics, sample

    train = features.Subset(images.array, images.train)
    _, indices, mirrored = metrics.nearest(drawn.numpy(), train)
    near = [
        torch.from_numpy(train[int(i) : int(i) + 1][0][..., :: -1 if m else 1].copy())
        for i, m in zip(indices, mirrored, strict=True)
    ]
    rows = []
    for first in range(0, len(drawn), sample.COLUMNS):
        rows += [*drawn[first : first + sample.COLUMNS], *near[first : first + sample.COLUMNS]]
    return sample.as_picture(sample.image_grid(torch.stack(rows)))


def make_part(request: flags.Request[ReportOptions], name: str) -> "tuple[RunPart, RunLog]":
    """What the page shows of run `name`."""
    from commands.compare_curves import Run, read_run
    from commands.report_page import RunPart

    options = request.options
    given = {**request.settings, **({"name": name} if name else {})}
    run = runs.load_run(given, best=options.best)
    found = Path(run.source).parent.name
    name = name or (found if found != "checkpoints" else "")
    log = read_run(
        Run(name or "the run", name, run.config.seed, places.folder_of("runs", name) / "log.jsonl",
            places.folder_of("imgs", name))
    )  # fmt: skip
    part = RunPart(name or "the run", describe(run, log), settings_of(run))
    part.scores = scores_of(Path(options.scores), run)
    if part.scores:
        from gan import pages

        part.score_notes = pages.score_notes(part.scores).split("\n")
    else:
        scored = command_line("evaluate", f"--name={name}" if name else "")
        part.notes.append(f"Scores with their references: {scored}, then report again.")
    if options.faces and run.family.task.command == "generate":
        add_faces(part, replace(run, config=replace(run.config, name=name)))
    return part, log


def main(stray: tuple[str, ...], words: Mapping[str, str]) -> None:
    """Write the page; see `python main.py report --help`."""
    request = flags.read(FLAGS, stray, words)
    options = request.options
    path = flags.page_path(options.report, "report.html")
    faces.check_file(path, "--report")
    if options.names and "name" in request.given:
        raise Refused("--name, --names: one run or several; leave one out")
    names = options.names.split(",") if options.names else [str(request.settings.get("name", ""))]
    for name in names:
        if options.names and not places.folder_of("checkpoints", name).is_dir():
            raise Refused(f"--names={options.names}: there is no run called {name}")
        places.check_checkpoint({**request.settings, **({"name": name} if name else {})})
    places.check_data_path(str(request.settings.get("data_path", "")))
    parts = [make_part(request, name) for name in names]
    from commands import report_page

    command = command_line("report", *(flags.word_of(k, str(v)) for k, v in words.items()))
    report_page.write(path, [part for part, _ in parts], [log for _, log in parts], command)
    named = ", ".join(part.name for part, _ in parts)
    result(f"report: {named} -> {shown(path)}, {path.stat().st_size / 1e6:.1f} MB", path)
