"""`evaluate`: scores of a run's pictures, or of those in a folder, as a table and a page."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from commands import faces, flags, places, runs
from config import Config, file_name, flag, option, resolve
from gan import job
from gan.console import alarm, result, say, say_table, shown
from gan.errors import Refused

if TYPE_CHECKING:
    from gan.evaluation import Evaluation
    from gan.tasks import Data


@dataclass(frozen=True)
class EvaluateOptions:
    """What `evaluate` takes besides the settings of a run."""

    best: bool = option(True, "score the best-scored state of the run, not the newest")
    gen_num: int = option(2000, "faces to score", low=1, high=10**9)
    fake_path: str = option("", "score this folder or zip instead, against all of --data-path")
    features: str = option(
        "lite0",
        "network whose features are compared: lite0, inception or random",
        choices=("lite0", "inception", "random"),
    )
    report: str = option("", "page to write, with a .json beside it; empty: evaluate.html")


FLAGS = flags.CommandFlags(
    "evaluate",
    EvaluateOptions,
    settings=(*flags.OF_DRAWING, "held_out", "num_workers", "value_range"),
    usage="evaluate [--fake-path=FOLDER_OR_ZIP] ...",
    does="Scores what a run draws, or the pictures of a folder, and writes a page about it.",
    examples=(
        "evaluate --name=mine",
        "evaluate --name=mine --gen-num=10000 --report=mine.html",
        "evaluate --fake-path=DRAWN --data-path=REAL",
    ),
    meanings={
        **flags.MEANINGS_OF_LOADED_RUNS,
        "data_path": "folder or zip of the real images to compare with",
        "held_out": "with --fake-path: share of --data-path to compare with; 0: all of it",
        "img_size": "pixels on a side; with --fake-path, those at which folders are compared",
    },
    loads_run=True,
)
FEATURE_BYTES = 4 * 4 * 1280  # of a face: at two sizes, and as much again while scores are taken
# the flags that go together with --fake-path
OF_FOLDERS = (
    "fake_path", "data_path", "img_size", "channels", "held_out", "features", "report",
    "num_workers", "gpu", "value_range",
)  # fmt: skip


def main(stray: tuple[str, ...], words: Mapping[str, str]) -> None:
    """Score pictures; see `python main.py evaluate --help`."""
    request = flags.read(FLAGS, stray, words)
    page = flags.page_path(request.options.report, "evaluate.html")
    refuse_early(request, page)
    if job.is_job():
        runs.join_job(request.settings)
    if "fake_path" in request.given:
        source, data_path, found = _evaluate_folder(request)
    else:
        source, data_path, found = _evaluate_run(request)
    if found.headline:
        say(f"evaluate: {source}, {found.headline}")
    if not job.is_first():
        return
    from gan import pages

    say_table(found.table)
    data = file_name(data_path) or "avatars"
    numbers = {"drawn_by": file_name(source), "data": data, **found.numbers}
    pages.write_evaluation(page, numbers, found.table, found.notes, found.pictures)
    if pages.REFERENCE in found.table[0]:
        say(f"{pages.REFERENCE}: what real images reach")
    numbered = page.with_suffix(".json")
    result(f"evaluate: page {shown(page)}, which explains each number, and {numbered}", page)


def refuse_early(request: flags.Request[EvaluateOptions], page: Path) -> None:
    """Refuse what names and folders alone say, before torch is imported."""
    faces.check_file(page, "--report")
    places.check_data_path(str(request.settings.get("data_path", "")))
    if "fake_path" not in request.given:
        places.check_checkpoint(request.settings)
        return
    for other in request.given - flags.COMMON.keys():
        if other not in OF_FOLDERS:
            raise Refused(f"{flag(other)}: --fake-path is scored, not a run; leave one of them out")
    places.check_data_path(request.options.fake_path, "--fake-path")


def _evaluate_folder(request: flags.Request[EvaluateOptions]) -> "tuple[str, str, Evaluation]":
    """The pictures of `--fake-path` against all of `--data-path`, or against a held-out share."""
    options = request.options
    from gan import data, distributed, evaluation, machine, tasks

    config = resolve({"held_out": 0.0, **request.settings})
    device = machine.pick_device(config.gpu)
    images = distributed.first_then_all(lambda: tasks.open_images(config, 1))
    fakes = distributed.first_then_all(
        lambda: data.open_images(
            options.fake_path,
            config.img_size,
            config.channels,
            workers=config.num_workers,
            value_range=config.value_range,
            flag="--fake-path",
        )
    )
    reals = file_name(config.data_path) or "the avatars"
    if config.held_out:
        found = evaluation.compare_images(fakes.array, images, options.features, device)
        used = (
            f"all {len(fakes.array):,} images, against the {len(images.held_out):,} held out of "
            f"{reals}; copies are looked for among its other {len(images.train):,}"
        )
    else:
        found = evaluation.compare_sets(fakes.array, images, options.features, device)
        used = f"all {len(fakes.array):,} images, against all {len(images.array):,} of {reals}"
    notes = f"Used: {used}.\n{found.notes}"
    return options.fake_path, config.data_path, replace(found, headline=used, notes=notes)


def with_held_out(config: Config) -> Config:
    """The config, with the default share held out if it holds out nothing to score with."""
    return replace(config, held_out=config.held_out or Config.held_out)


def _evaluate_run(request: flags.Request[EvaluateOptions]) -> "tuple[str, str, Evaluation]":
    """The pictures of a run against the images or pictures that it was not trained on."""
    options = request.options
    given = {k: v for k, v in request.settings.items() if k != "held_out"}
    run = runs.load_run(given, best=options.best)
    config, task = run.config, run.family.task
    held_out = request.settings.get("held_out", config.held_out)
    if held_out != config.held_out:
        raise Refused(
            f"--held-out={held_out}: the run was trained with {config.held_out}, and images that "
            "it was trained on are no test of it; leave it out"
        )
    for other in ("features", "gen_num"):
        if other in request.given and other not in task.evaluate_options:
            raise Refused(
                f"{flag(other)}: {config.family} is scored on its test pictures, all of them, by "
                "lite0; leave it out"
            )
    from gan import distributed, machine

    device = machine.pick_device(config.gpu)
    data: Data = distributed.first_then_all(lambda: runs.open_data(with_held_out(config)))
    if not config.held_out:
        say("evaluate: this run was trained on all its images, also on those held out now")
    if "data_path" not in request.given and runs.images_digest(run.source) not in (
        None,
        data.digest,
    ):
        alarm(
            f"evaluate: the images are not those that {run.source} was trained on; some that are "
            "held out now may have been among them"
        )
    if "gen_num" in task.evaluate_options:
        pixels = config.channels * config.img_size**2
        need = options.gen_num * (pixels + FEATURE_BYTES)
        machine.check_memory(need, f"--gen-num={options.gen_num}")
    found = task.evaluate(
        run.nets, config, run.facts, data, device, options.gen_num, options.features
    )
    return run.source, config.data_path, found
