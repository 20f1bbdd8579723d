"""How a run is started, resumed and loaded."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from commands.places import (
    WEIGHTS,
    check_checkpoint,
    folder_of,
    has_results,
    no_origin,
    no_state,
)
from config import (
    OF_NETS,
    Config,
    RunFacts,
    Settings,
    flag,
    parse_config,
    read_config,
    resolve,
)
from gan import filesystem
from gan.console import alarm, command_line, say, timed
from gan.errors import Refused
from gan.families import ONLY_SOME, ROWS, check_batch, check_data, find_row

if TYPE_CHECKING:
    from torch import nn

    from gan.family import Family
    from gan.losses import Nets
    from gan.state import SavedState
    from gan.tasks import Data

# settings of a run that another, which starts from its nets, has too
SHARED = (*OF_NETS, "noise")


def family_of(config: Config) -> "Family":
    """The row of the run's family."""
    from models import find_family

    return find_family(config.family)


def open_data(config: Config, *, to_train: bool = False) -> "Data":
    """The run's data; `to_train` refuses fewer images than one batch."""
    at_least = config.batch_size if to_train else 1
    with timed("the pictures"):
        data: Data = family_of(config).task.open_data(config, at_least)
    return data


def join_job(given: Settings) -> None:
    """Join the other processes that torchrun has started, if it has; `--gpu=False`: on the CPU.

    Raises Refused if there are fewer devices than processes.
    """
    from gan import distributed

    distributed.start(on_gpu=given.get("gpu") is not False)


# --- starting and resuming -----------------------------------------------------------------------


def command_to_resume(config: Config) -> str:
    return command_line("train", f"--name={config.name}" if config.name else "", "--resume")


def find_state(resume: bool | str, name: str) -> "tuple[Path, SavedState]":
    """The newest whole state of run `name`, or the one in the file `resume`."""
    from gan import checkpoint
    from models import read_state_to_resume

    if isinstance(resume, str):
        path = Path(resume)
        try:
            return path, read_state_to_resume(path)
        except Refused as error:
            raise Refused(f"--resume={error}") from None
    folder = folder_of("checkpoints", name)
    for path, state in checkpoint.newest(folder, read_state_to_resume):
        return path, state
    raise no_state(name)


def find_origin(init: str) -> "tuple[Path, SavedState]":
    """The state that `--init` names: that of a file, else the newest of a run or its folder.

    Raises Refused if there is none.
    """
    from gan import checkpoint
    from models import read_state_to_resume

    path = Path(os.path.expanduser(init))
    if path.is_file():
        try:
            return path, read_state_to_resume(path)
        except Refused as error:
            hint = "bare weights go to --netg-path and --netd-path"
            raise Refused(f"--init={error}; {hint}") from None
    for folder in (path, folder_of("checkpoints", init)):
        for found, state in checkpoint.newest(folder, read_state_to_resume):
            return found, state
    raise no_origin(init)


def _settings_of_origin(init: str) -> Settings:
    """The settings that nets need to take over the weights of `--init`."""
    from models import settings_of

    path, state = find_origin(init)
    try:
        saved = settings_of(state)
    except Refused as error:
        raise Refused(f"--init={path}: {error}") from None
    return {name: saved[name] for name in SHARED if name in saved} | {"init": str(path)}


@contextlib.contextmanager
def lock_run(config: Config) -> Iterator[None]:
    """Within it no other training of this name can start; raises Refused if one is running.

    What a killed one was writing is removed.
    """
    from gan.filesystem import clear_parts

    folder = folder_of("checkpoints", config.name)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            filesystem.lock(file)
        except BlockingIOError:
            raise Refused(
                f"{folder}: a training of this name is going on; wait for it, or give "
                "another --name=..."
            ) from None
        for kind in ("checkpoints", "imgs", "runs"):
            clear_parts(folder_of(kind, config.name))
        yield


def check_branch(path: Path, step: int, config: Config) -> None:
    """Refuse to go on from `path` in another run's folder; print what going back will delete."""
    from gan import checkpoint

    folder = folder_of("checkpoints", config.name)
    if path.parent.resolve() != folder.resolve():
        if has_results(config):
            raise Refused(f"--resume={path}: {folder} holds another run; give another --name=...")
        return
    here = checkpoint.state_of(folder, step)
    later = [state for state in checkpoint.states(folder) if state > here]
    if later:
        say(f"resume: going back; the first save will delete {', '.join(p.name for p in later)}")


def new_config(given: Settings, file: str = "") -> Config:
    """The config of a new run: the settings in `file`, overridden by those that were given."""
    saved = read_config(file)[0] if file else {}
    saved.pop("name", None)  # else --overwrite would replace the run that the file is from
    if init := str(given.get("init", saved.get("init", ""))):
        if any(given.get(name) for name in WEIGHTS):
            raise Refused(f"--init={init}: not with --netg-path or --netd-path; leave one out")
        origin = _settings_of_origin(init)
        saved, given = {**saved, **origin}, {**given, "init": origin["init"]}
    config = merge_layers(saved, given)
    check_batch(config)
    check_data(config)
    return config


def check_new_config(given: Settings, file: str) -> None:
    """Raises Refused, without torch, for settings that no new run can have.

    Those of a run with `--init` are looked at later: they depend on the nets of the other run.
    """
    if not (given.get("init") or (file and read_config(file)[0].get("init"))):
        new_config(given, file)


def merge_layers(saved: Settings, given: Settings) -> Config:
    """The defaults, overridden by the family's, by saved settings and by given ones, in turn."""
    name = str(given.get("family", saved.get("family", Config.family)))
    family = find_row(name)
    for other in ONLY_SOME:
        if other in given and other not in family.settings:
            able = [row for row in ROWS if other in ROWS[row].settings]
            verb = "do" if len(able) > 1 else "does"
            raise Refused(f"{flag(other)}: {name} has no use for it; {', '.join(able)} {verb}")
    saved = {k: v for k, v in saved.items() if k not in ONLY_SOME or k in family.settings}
    config = resolve(family.defaults, saved, given)
    if config.img_size > family.largest:
        raise Refused(
            f"--img-size={config.img_size}: {name} has weights for each pixel; at most "
            f"{family.largest}, or a family of convolutions, such as --family=modern"
        )
    for beta in ("beta1", "beta2"):
        if beta in given and config.optimizer == "rmsprop":
            raise Refused(f"--{beta}: rmsprop has no use for it; --optimizer=adam does")
    if given.get("identity") and config.channels_a != config.channels_b:
        raise Refused("--identity: A and B have different numbers of channels; leave it out")
    return config


def weights_loader(config: Config) -> "Callable[[Nets], None]":
    """A function that loads `--init`, `--netg-path`, `--netd-path` into nets; it reads them now."""
    from gan import checkpoint
    from gan.weights import find_weights, load_weights

    given: list[tuple[str, str, object]] = [
        (player, path, find_weights(checkpoint.load(Path(path)), player, path))
        for player, path in (("G", config.netg_path), ("D", config.netd_path))
        if path
    ]
    if config.init:
        nets = find_origin(config.init)[1]["nets"]
        given += [(player, config.init, nets[player]) for player in ("G", "D")]

    def load(nets: "Nets") -> None:
        for player, path, weights in given:
            load_weights(getattr(nets, player), weights, path)

    return load


def in_todays_names(given: Settings, own: Settings) -> Settings:
    """`given`, in which a run with the settings `own` may be called what its family was called."""
    from models import FORMER_NAMES

    if "family" in given and given["family"] == FORMER_NAMES.get(str(own.get("family"))):
        return {**given, "family": own["family"]}
    return given


# --- loading what was trained --------------------------------------------------------------------


@dataclass(frozen=True)
class LoadedRun:
    """A trained run, to draw with."""

    nets: "Nets"
    config: Config
    facts: RunFacts
    source: str  # the file that its weights are from

    @property
    def family(self) -> "Family":
        return family_of(self.config)


def _command_of(folder: Path) -> str:
    """The command that draws with the run in `folder`; "" if its config.json cannot be read."""
    try:
        saved, _ = read_config(str(folder / "config.json"))
        return family_of(resolve(saved)).task.command
    except Refused:
        return ""


def _written_at(path: Path) -> float:
    """When the file was written; 0 for one that a training has deleted meanwhile."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _state_paths(given: Settings, best: bool, command: str) -> list[Path]:
    """The states to try, in this order."""
    from gan import checkpoint

    top = folder_of("checkpoints", str(given.get("name", "")))
    folders = [top] if "name" in given else [top, *top.glob("*/")]
    states = [path for folder in folders for path in checkpoint.states(folder)]
    states = states or [file for folder in folders if (file := folder / checkpoint.BEST).exists()]
    # the run written last comes first; its own states go by their steps, whatever the clock said
    written: dict[Path, float] = {}
    for path in states:
        written[path.parent] = max(_written_at(path), written.get(path.parent, 0.0))
    states.sort(key=lambda path: written[path.parent], reverse=True)
    if command and "name" not in given:
        able = {path.parent: _command_of(path.parent) == command for path in states}
        states.sort(key=lambda path: not able[path.parent])
    if states and best and (file := states[0].with_name(checkpoint.BEST)).exists():
        states.insert(0, file)
    return states


def load_run(
    given: Settings, *, best: bool = True, ranks: bool = False, command: str = ""
) -> LoadedRun:
    """A run to draw with and, if it `ranks`, to rank with; `given` overrides its config.

    Without a name it is the newest run; with `command`, the newest that this command draws with.
    Raises Refused if there is none, or if `given` contradicts a setting that its nets depend on.
    """
    check_checkpoint(given)
    with timed("import: torch and the networks"):
        from models import restore

    if any(name in given for name in WEIGHTS):
        return _load_bare_weights(given, ranks)
    for path in _state_paths(given, best, command):
        try:
            with timed(f"read: {path}"):
                nets, saved, facts = restore(path)
        except Refused as error:
            alarm(f"{error}; trying the state before it")
            continue
        own = vars(saved)
        given = in_todays_names(given, own)
        for name in OF_NETS:
            if name in given and given[name] != own[name]:
                raise Refused(f"{flag(name)}={given[name]}: {path} has {own[name]}")
        config = resolve(own, {"gpu": "auto"}, given)  # this may be another machine
        return LoadedRun(nets, config, facts, str(path))
    raise Refused("no checkpoint that can be read; train first")


def images_digest(source: str) -> str | None:
    """The digest of the images that the state `source` was trained on; None for bare weights."""
    from gan import checkpoint

    state = checkpoint.load(Path(source))
    found = state.get("data") if isinstance(state, dict) else None
    return found if isinstance(found, str) else None


def _config_beside(given: Settings) -> tuple[Settings, tuple[str, ...]]:
    """Settings and classes of `--netg-path`, if they are of the family that is asked for.

    They are in the file itself, if `export` wrote it, or in the config.json beside it.
    """
    from gan import checkpoint

    path = Path(str(given["netg_path"]))
    file = path.with_name("config.json")
    saved: Settings = {}
    classes: tuple[str, ...] = ()
    if text := checkpoint.config_inside(path):
        saved, classes = parse_config(text, str(path))
    elif file.exists():
        saved, classes = read_config(str(file), given_as="")
    if given.get("family", saved.get("family")) != saved.get("family"):
        return {}, ()
    if "family" in saved:
        from gan.weights import find_weights
        from models import family_then

        weights = find_weights(checkpoint.load(path), "G", path)
        saved["family"] = family_then(str(saved["family"]), weights)
    return saved, classes


def twin_of(path: Path) -> Path | None:
    """The weights of D beside those of G: netd_10.pth for netg_10.pth; None if there are none."""
    twin = path.with_name(path.name.replace("netg", "netd").replace("netG", "netD"))
    return twin if twin != path and twin.exists() else None


def _load_bare_weights(given: Settings, ranks: bool) -> LoadedRun:
    """Nets from bare weights; `given` overrides the config beside them, if there is one."""
    path = Path(str(given["netg_path"]))
    if ranks and "netd_path" not in given:
        twin = twin_of(path)
        if twin is None:
            raise Refused("--netd-path: give the weights of D, which ranks what G draws")
        given = {**given, "netd_path": str(twin)}
    saved, classes = _config_beside(given)
    saved = {k: v for k, v in saved.items() if k not in (*WEIGHTS, "gpu")}
    config = merge_layers(saved, in_todays_names(given, saved))
    nets = family_of(config).make(config, len(classes))
    weights_loader(config)(nets)
    return LoadedRun(nets, config, RunFacts(classes), str(path))


def load_generator(
    given: Settings, *, best: bool = True, command: str = ""
) -> "tuple[nn.Module, LoadedRun, bool]":
    """One generator of a run, the run, and whether it is the way back.

    `--direction` chooses between the generators of a run; of weights without a config it says which
    way they go. Raises Refused if the run has no generator for it.
    """
    check_checkpoint(given)
    from gan.translation import ways

    alone = bool(given.get("netg_path")) and not _config_beside(given)[0]
    asked = "" if alone else given.get("direction", "")
    kept = given if alone else {k: v for k, v in given.items() if k != "direction"}
    run = load_run(kept, best=best, command=command)
    there, back = ways(run.nets.G)
    if asked in ("", run.config.direction):
        return there, run, False
    if back is None:
        raise Refused(
            f"--direction={asked}: this run was trained {run.config.direction} only; train another "
            f"with --direction={asked}"
        )
    return back, run, True
