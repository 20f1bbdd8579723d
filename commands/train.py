"""`train`: one run, new or resumed, from the flags to its last state."""

import contextlib
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from commands import flags, places, runs
from config import BUDGET, FIELDS, Config, RunFacts, changes, flag, option, shared_config_json
from gan import job, wandb_sync
from gan.console import alarm, command_line, result, say, shown
from gan.errors import Refused, counted

if TYPE_CHECKING:
    import torch

    from gan.loop import Outcome
    from gan.saves import Folders
    from gan.state import SavedState, State
    from gan.tasks import Data


PICTURES = (".png", ".jpg", ".webp")  # suffixes of a contact sheet


@dataclass(frozen=True)
class TrainOptions:
    """What `train` takes besides the settings of the run."""

    resume: bool | str = option(
        False, "go on from the newest state of this run, or from the file named"
    )
    overwrite: bool = option(False, "replace the earlier run of this name")
    config: str = option("", "start from the settings in a saved config.json")
    contact_sheet: str = option("", "picture to write, of 64 images as D will see them")
    wandb: bool | str = option(
        False, "send the curves to Weights & Biases too: True, or the project's name"
    )


FLAGS = flags.CommandFlags(
    "train",
    TrainOptions,
    settings=tuple(FIELDS),
    usage="train [--data-path=FOLDER_OR_ZIP] [--max-minutes=60] [--gpu=True] ...\ntrain --resume",
    does="Trains a GAN: a new run, or with --resume one that stopped.",
    examples=(
        "train --max-minutes=10",
        "train --data-path=FOLDER_OR_ZIP --name=mine --max-minutes=60",
        "train --name=mine --resume --max-minutes=120",
    ),
    meanings={
        "netg_path": "weights of G to start from",
        "netd_path": "weights of D to start from",
    },
)


@dataclass
class Start:
    """What a training starts from."""

    config: Config
    saved: "SavedState | None"  # the state to go on from
    events: list[dict[str, object]]  # what the log says first
    choose_precision: bool = True  # else that of the saved state is kept
    no_budget: bool = False  # was given: it is the default


def refuse_early(request: flags.Request[TrainOptions]) -> None:
    """Refuse what names and folders alone say, before torch is imported."""
    options, given = request.options, request.settings
    name, sheet = str(given.get("name", "")), options.contact_sheet
    if sheet and Path(sheet).suffix.lower() not in PICTURES:
        raise Refused(f"--contact-sheet={sheet}: a name that ends in {' or '.join(PICTURES)}")
    if options.wandb:
        wandb_sync.check()
    places.check_data_path(str(given.get("data_path", "")))
    places.check_files(given, options.config)
    if options.resume:
        _check_resume(request)
        places.check_states(options.resume, name)
        return
    runs.check_new_config(given, options.config)
    places.check_folders(Config(name=name, data_path=str(given.get("data_path", ""))))
    if not options.overwrite:
        refuse_earlier_run(name)


def _check_resume(request: flags.Request[TrainOptions]) -> None:
    """Refuse what does not go together with --resume."""
    if request.options.overwrite:
        raise Refused("--overwrite: not with --resume, which goes on with the run; leave one out")
    for other in ("config", "init", *places.WEIGHTS):
        if getattr(request.options, other, "") or request.settings.get(other):
            raise Refused(f"{flag(other)}: not with --resume; the run has its own")


def refuse_earlier_run(name: str) -> None:
    """Raises Refused if there is a run of this name."""
    if places.has_results(Config(name=name)):
        raise Refused(
            f"{places.folder_of('checkpoints', name)} holds an earlier run; --resume goes on "
            "with it, --name=... starts another one, --overwrite replaces it"
        )


def plan_start(request: flags.Request[TrainOptions]) -> Start:
    """What the flags start: a new run, or one that is resumed."""
    options = request.options
    if options.resume:
        return _plan_resume(options.resume, request)
    config = runs.new_config(request.settings, options.config)
    if not options.overwrite:
        refuse_earlier_run(config.name)
    no_budget = not options.config and not any(request.settings.get(name) for name in BUDGET)
    return Start(config, None, [{"event": "start"}], no_budget=no_budget)


def after_restart(request: flags.Request[TrainOptions]) -> flags.Request[TrainOptions]:
    """What a job that torchrun has started again does: it goes on from its newest state."""
    options, name = request.options, str(request.settings.get("name", ""))
    if not job.attempt() or options.resume is True:
        return request
    if places.has_states(places.folder_of("checkpoints", name)):
        options = replace(options, resume=True, overwrite=False, config="")
        return replace(request, options=options, settings={"name": name})
    # nothing of the first attempt was saved
    return replace(request, options=replace(options, overwrite=not options.resume))


def plan_job(request: flags.Request[TrainOptions]) -> Start:
    """`plan_start`, and what else can be refused before any process opens the data."""
    from gan import distributed

    if job.is_job():
        refuse_early(request)
    start = plan_start(request)
    distributed.check_batch(start.config.batch_size)
    places.check_folders(start.config)
    return start


def _plan_resume(resume: bool | str, request: flags.Request[TrainOptions]) -> Start:
    from models import settings_of

    given = request.settings
    path, saved = runs.find_state(resume, str(given.get("name", "")))
    say(f"resume: {path}")
    # runs of earlier versions kept all weights
    earlier = {**vars(Config()), "keep": "all"}
    own = {**earlier, **settings_of(saved), "name": places.name_of_folder(path)}
    own["gpu"] = own["gpu"] and "auto"  # this may be another machine
    given = runs.in_todays_names(given, own)
    changed = changes(own, given)
    for name, (old, new) in changed.items():
        say(f"resume: {flag(name)} {old} -> {new}")
    config = runs.merge_layers(own, given)
    runs.check_branch(path, saved["step"], config)
    if "lr1" in changed or "lr2" in changed:
        saved["rescues"] = 0  # rates that were just chosen are not halved
    event: dict[str, object] = {"event": "resume", "state": str(path), "changed": changed}
    return Start(config, saved, [event], choose_precision="amp" in given)


def find_facts(config: Config, data: "Data", device: "torch.device") -> RunFacts:
    """What a new run finds out; raises Refused for a conditional one without classes."""
    may_mirror = runs.family_of(config).task.may_mirror
    flip = may_mirror(data) if config.flip == "auto" else config.flip is True
    exact = choose_precision(config, device)
    return RunFacts(find_classes(config, data), exact, flip, find_parts(config))


def find_parts(config: Config, before: int = 1) -> int:
    """In how many parts a batch is computed: as `--accumulate` says, else as `before`.

    Raises Refused for a number that does not divide the batch of each process.
    """
    from gan import distributed

    parts = before if isinstance(config.accumulate, str) else config.accumulate
    size = config.batch_size // distributed.count()
    if size % parts:
        near = min((n for n in range(1, size + 1) if not size % n), key=lambda n: abs(n - parts))
        raise Refused(
            f"--accumulate={parts}: {size} images cannot be divided into {parts} parts of one "
            f"size; {near} would do"
        )
    return parts


def choose_precision(config: Config, device: "torch.device") -> bool:
    """Whether the nets compute in bfloat16."""
    from gan import machine

    return machine.has_bfloat16(device) if config.amp == "auto" else config.amp is True


def find_classes(config: Config, data: "Data") -> tuple[str, ...]:
    """The classes of a conditional run; raises Refused if the data has none."""
    if not config.conditional:
        return ()
    names = tuple(getattr(data, "class_names", ()))
    if not names:
        where = config.data_path or "the avatars"
        if why := getattr(data, "why_no_classes", ""):
            raise Refused(f"--conditional: no classes in {where}: {why}")
        raise Refused(
            f"--conditional: no classes in {where}; it needs one "
            "sub-folder per class, or IDX files with labels"
        )
    return names


def resumed_facts(start: Start, data: "Data", device: "torch.device") -> RunFacts:
    """The facts of a resumed run; raises Refused if the data has other classes than it."""
    from gan import machine

    assert start.saved is not None
    saved = RunFacts.of_state(start.saved)
    if saved.class_names != find_classes(start.config, data):
        classes = "/".join(saved.class_names)
        raise Refused(f"--resume: the run has the classes {classes}, the data has others")
    saved = replace(saved, accumulate=find_parts(start.config, saved.accumulate))
    if start.choose_precision:
        return replace(saved, mixed_precision=choose_precision(start.config, device))
    if saved.mixed_precision is not machine.has_bfloat16(device):
        exact, other = ("bfloat16", "float32")[:: 1 if saved.mixed_precision else -1]
        say(f"resume: still in {exact}; this machine is faster in {other}: --amp=auto changes it")
    return saved


def new_state(config: Config, facts: RunFacts, device: "torch.device") -> "State":
    """Step 0 of a run, from the weights that are given, if any; raises Refused if none fit."""
    from gan import distributed
    from gan.state import State

    state = State(runs.family_of(config), config, facts, device)
    if any((config.netg_path, config.netd_path, config.init)):
        nets = state.nets
        distributed.from_first(lambda: runs.weights_loader(config)(nets))
        distributed.send_weights(nets.G, nets.D)
    state.restart()
    return state


def prepare(config: Config) -> "tuple[Data, State]":
    """Data and first state of a new run; raises Refused if anything that it needs is missing."""
    from gan import machine

    device = machine.pick_device(config.gpu)
    data = runs.open_data(config, to_train=True)
    return data, new_state(config, find_facts(config, data, device), device)


def _clear_earlier_run(state: "State", data: "Data") -> "State":
    """Delete what an earlier run of this name left, once the first step is known to fit in memory.

    Returns the state to start from: the first step is tried with `state` and thrown away.
    """
    from gan import distributed, loop

    config = state.config
    earlier = distributed.from_first(lambda: places.files_of_run(config))
    if not earlier:
        return state
    feed = state.family.task.feed(config, state.facts, data, state.device)
    loop.train_step(state, feed.batch(0))
    fresh = new_state(config, state.facts, state.device)
    kept = {
        Path(path).resolve() for path in (config.netg_path, config.netd_path, config.init) if path
    }
    for file in earlier if job.is_first() else ():
        if file.resolve() not in kept:
            file.unlink()
    return fresh


def folders_of(config: Config) -> "Folders":
    from gan.saves import Folders

    return Folders(
        *(places.folder_of(kind, config.name) for kind in ("checkpoints", "imgs", "runs"))
    )


def _write_contact_sheet(state: "State", data: "Data", file: str) -> None:
    from gan import feed, sample

    sheet = feed.contact_sheet(
        state.family.task.feed(state.config, state.facts, data, state.device)
    )
    sample.save_picture(sample.as_picture(sheet.cpu()), Path(file))
    say(f"data: images as D will see them in {file}")


def _train(start: Start, options: TrainOptions) -> "Outcome | None":
    """From the start to the end of the budget, or to a signal; None if there is nothing to do."""
    from gan import distributed, loop, machine
    from gan.state import State

    config = start.config
    device = machine.pick_device(config.gpu)
    data = distributed.first_then_all(lambda: runs.open_data(config, to_train=True))
    _check_same(config, data)
    if start.saved is None:
        facts = distributed.from_first(lambda: find_facts(config, data, device))
        state = new_state(config, facts, device)
    else:
        saved = start.saved
        facts = distributed.from_first(lambda: resumed_facts(start, data, device))
        state = State(runs.family_of(config), config, facts, device)
        distributed.everywhere(lambda: loop.resume(state, saved, data, folders_of(config)))
        if is_finished(state, data):
            return None
    if options.contact_sheet and job.is_first():
        _write_contact_sheet(state, data, options.contact_sheet)
    distributed.from_first(lambda: say_start(state, data, start.no_budget))
    with contextlib.ExitStack() as held:
        distributed.from_first(lambda: held.enter_context(runs.lock_run(config)))
        if start.saved is None:
            state = _clear_earlier_run(state, data)
        score = state.family.task.scorer(config, data, device)
        events = [{**event, "machine": machine.describe()} for event in start.events]
        folders, told = folders_of(config), shared_config_json(config, state.facts)
        wanted = job.is_first() and options.wandb
        with wandb_sync.synced(wanted, folders.runs.name, told, folders.runs):
            return loop.fit(state, data, folders, score=score, events=events)


def _check_same(config: Config, data: "Data") -> None:
    """Raises Refused unless all processes of the job have one program, settings and data."""
    from gan import distributed

    if distributed.count() > 1:
        distributed.check_equal(
            {
                "the program": distributed.digest_of_program(),
                f"the data at --data-path={config.data_path}": data.digest,
            }
        )


def is_finished(state: "State", data: "Data") -> bool:
    """Whether a resumed run has spent its budget; if so it says what would make it go on."""
    from gan.progress import duration
    from gan.schedule import Budget

    config = state.config
    budget = Budget(config, len(data) // config.batch_size)
    if budget.fraction(state.images, state.seconds) < 1:
        return False
    limits = " or ".join(f"{flag(name)}={getattr(config, name):g}" for name in BUDGET if
                         getattr(config, name))  # fmt: skip
    say(
        f"train: this run is finished: {state.images:,} images in {duration(state.seconds)}, which "
        f"is all of {limits}; a larger one lets it go on"
    )
    return True


def budget_of(config: Config, data: "Data") -> str:
    """The budget in words."""
    from gan.progress import duration

    parts = {
        "max_minutes": duration(60 * config.max_minutes),
        "max_images": counted(config.max_images, "image"),
        "max_epoch": f"{counted(config.max_epoch, 'epoch')} of {counted(len(data), 'image')}",
    }
    given = [text for name, text in parts.items() if getattr(config, name)]
    return " or ".join(given) + (", whichever is reached first" if len(given) > 1 else "")


def say_start(state: "State", data: "Data", no_budget: bool) -> None:
    """Print what is trained on what, for how long, and how much disk that takes."""
    from gan import distributed

    config = state.config
    exact = "bfloat16" if state.facts.mixed_precision else "float32"
    many = f" x {distributed.count()}" if distributed.count() > 1 else ""
    say(
        f"train: {config.family} {config.img_size} px on {state.device}{many}, {exact}; "
        "Ctrl-C saves and stops"
    )
    if config.init:
        say(f"train: from G and D of {config.init}; D's first layers learn after a third only")
    hint = ", as no budget was given; --max-minutes=10 gives one" if no_budget else ""
    say(f"train: {budget_of(config, data)}{hint}")
    say_disk(state)


def say_disk(state: "State") -> None:
    """Print how much disk the run will take; raises Refused if it has no room for a single save."""
    from gan.progress import size

    config = state.config
    folder = places.folder_of("checkpoints", config.name)
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    own = sum(file.stat().st_size for file in places.files_of_run(config) if file.suffix == ".pth")
    room, whole, save = (
        shutil.disk_usage(there).free + own,
        state.size_of_run(),
        state.size_of_save(),
    )
    if room < save:
        raise Refused(
            f"{folder}: a save takes {size(save)}, and {size(room)} are free there; make room, or "
            "give a smaller --ngf, --ndf or --img-size"
        )
    weights = f", and {size(save - state.size_on_disk())} for each save" * (config.keep == "all")
    say(f"train: writes up to {size(whole)} to {folder}{weights}; {size(room)} are free")
    if room < whole:
        alarm("disk: this may fill it; --keep=1 takes less")


def say_end(done: "Outcome", config: Config) -> None:
    """Print what was trained, where the time went, where the results are, and what to do next."""
    from gan.progress import duration

    folders = folders_of(config)
    pauses = {"scores": done.scoring, "saves": done.saving}
    beside = [f"{duration(time)} of {name}" for name, time in pauses.items() if time >= 0.5]
    say(
        f"train: {done.images:,} images, epoch {done.epoch}, {duration(done.seconds)} of training"
        + (f"; beside it {' and '.join(beside)}" if beside else "")
    )
    preview = folders.imgs / f"{done.epoch}.png"
    result(f"train: state {shown(done.state)}, preview {shown(preview)}", done.state)
    if done.signal is None:
        say_next(config)
    else:
        say(f"stopped; go on with: {runs.command_to_resume(config)}")


def say_next(config: Config) -> None:
    """Print the command that draws with this run, and where to look."""
    command = runs.family_of(config).task.command
    name = f"--name={config.name}" if config.name else ""
    given = "--input=PICTURE_OR_FOLDER" if command == "translate" else ""
    say(f"next: {shown(command_line(command, name, given))}")
    say(f"curves: {shown('tensorboard --logdir runs')}")


def main(stray: tuple[str, ...], words: Mapping[str, str]) -> None:
    """Train; see `python main.py train --help`."""
    request = after_restart(flags.read(FLAGS, stray, words))
    if not job.is_job():  # else the first process alone looks: the others may lack its folders
        refuse_early(request)
    from gan import distributed, machine

    runs.join_job(request.settings)
    start = distributed.from_first(lambda: plan_job(request))
    config = start.config
    machine.reuse_freed_memory()
    try:
        done = _train(start, request.options)
    except (MemoryError, RuntimeError) as error:
        if not machine.is_out_of_memory(error):
            raise
        raise job.Alone(
            f"{job.where()}--batch-size={config.batch_size}: out of memory; start a run with a "
            "smaller one, or with a smaller --img-size, --ngf, --ndf or --nz"
        ) from None
    if done is None:
        say_next(config)
        return
    say_end(done, config)
    if done.signal is not None:
        sys.exit(128 + done.signal)
