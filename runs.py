"""Where a run keeps its files: what to go on from, what to draw with, what is in the way."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

import config as knobs
from gan.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from models import Family, Nets


# what a run's nets were built with: flags may repeat it, no more
OF_NETS = ("family", "img_size", "channels", "channels_a", "channels_b", "nz", "ngf", "ndf")


def room(kind: str, name: str) -> Path:
    """The folder of run `name` in `checkpoints`, `imgs` or `runs`."""
    return Path(kind) / name if name else Path(kind)


def family(config: knobs.Config) -> "Family":
    """The row of the run's family."""
    from models import family_of

    return family_of(config.family)


def open_data(config: knobs.Config) -> Any:
    """The run's data: `Images`, or the `Sides` of a family that goes from pictures to pictures."""
    from gan import data, pairs

    kind, cache = family(config).data, Path("data/cache")
    shared: dict[str, Any] = {
        "batch_size": config.batch_size,
        "workers": config.num_workers,
        "held_out": config.held_out,
    }
    if kind == "images":
        size, channels = config.img_size, config.channels
        return data.open_images(
            config.data_path, size, channels, cache, dedup=config.dedup, **shared
        )
    if not config.data_path:
        raise Refused(f"--data-path: {config.family} has no data of its own; give a folder or zip")
    return pairs.open_sides(
        kind,
        config.data_path,
        config.img_size,
        config.channels_a,
        config.channels_b,
        cache,
        jitter=config.jitter,
        **shared,
    )


def command_to_resume(config: knobs.Config) -> str:
    return f"python main.py train{f' --name={config.name}' if config.name else ''} --resume"


def find_state(resume: bool | str, name: str) -> tuple[Path, dict[str, Any]]:
    """The newest valid state of run `name`, or the one named."""
    from gan import checkpoint

    if isinstance(resume, str):
        path = Path(resume)
        return path, checkpoint.load(path)
    folder = room("checkpoints", name)
    for path, state in checkpoint.newest(folder):
        return path, state
    raise Refused(
        f"--resume: no valid state in {folder}; start the run without --resume, or name another "
        "one with --name=..."
    )


def earlier_run(config: knobs.Config) -> list[Path]:
    """The files of an earlier run of this name."""
    files = []
    for kind, patterns in {
        "checkpoints": ("state_*.pth", "best.pth", "netg_*.pth", "netd_*.pth", "config.json"),
        "imgs": ("[0-9]*.png",),
        "runs": ("log.jsonl", "events.out.tfevents.*"),
    }.items():
        files += [file for p in patterns for file in room(kind, config.name).glob(p)]
    return [file for file in files if file.suffix != ".png" or file.stem.isdecimal()]


def check_rooms(config: knobs.Config) -> None:
    """Refuse a run whose folders cannot be, or would be among its own data."""
    data = Path(config.data_path).expanduser().resolve() if config.data_path else None
    for kind in ("checkpoints", "imgs", "runs"):
        folder = room(kind, config.name)
        for path in (folder, *folder.parents):
            if path.exists() and not path.is_dir():
                raise Refused(f"--name={config.name}: {path} is a file, not a folder to write to")
        if data in (folder.resolve(), *folder.resolve().parents):
            raise Refused(
                f"--data-path={config.data_path}: the run would write into it ({folder}); put the "
                "images elsewhere, or give another --name"
            )


@contextlib.contextmanager
def claimed(config: knobs.Config) -> "Iterator[None]":
    """Within it no other training of this name starts; raises Refused if one is going on."""
    folder = room("checkpoints", config.name)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused(
                    f"{folder}: a training of this name is going on; wait for it, or give "
                    "another --name=..."
                ) from None
        yield


def holds_work(config: knobs.Config) -> bool:
    """Whether an earlier run of this name left weights or pictures."""
    return any(file.suffix in (".pth", ".png") for file in earlier_run(config))


def check_branch(path: Path, step: int, config: knobs.Config) -> None:
    """Refuse to go on from `path` in the folder of another run; tell what going back gives up."""
    from gan import checkpoint

    folder = room("checkpoints", config.name)
    if path.parent.resolve() != folder.resolve():
        if holds_work(config):
            raise Refused(f"--resume={path}: {folder} holds another run; give another --name=...")
        return
    here = checkpoint.state_of(folder, step)
    later = [state for state in checkpoint.states(folder) if state > here]
    if later:
        print(f"resume: going back; the first save will delete {', '.join(p.name for p in later)}")


def configured(flags: dict[str, Any]) -> knobs.Config:
    """The config of a new run: the knobs of `--config` lie below the other flags."""
    file: dict[str, Any] = knobs.read_file(flags["config"]) if "config" in flags else {}
    file.pop("name", None)  # or --overwrite would replace the run that the knobs are of
    file.pop("classes", None)  # the data of the new run will tell
    config = layered(file, {name: value for name, value in flags.items() if name != "config"})
    if config.batch_size == 1 and family(config).data == "images":
        raise Refused("--batch-size=1: drawn from noise, D has to see several images; 2 or more")
    return config


def layered(file: dict[str, Any], flags: dict[str, Any]) -> knobs.Config:
    """Defaults below the family's below the file's below the flags."""
    from models import FAMILIES, ONLY_SOME, family_of

    name = flags.get("family", file.get("family", knobs.Config.family))
    family = family_of(name)
    for other in ONLY_SOME:
        if other in flags and other not in family.knobs:
            able = [row for row in FAMILIES if other in FAMILIES[row].knobs]
            raise Refused(f"{knobs.flag(other)}: {name} has no use for it; {', '.join(able)} do")
    file = {k: v for k, v in file.items() if k not in ONLY_SOME or k in family.knobs}
    config = knobs.resolve(family.defaults, file, flags)
    for beta in ("beta1", "beta2"):
        if beta in flags and config.optimizer == "rmsprop":
            raise Refused(f"--{beta}: rmsprop has no use for it; --optimizer=adam does")
    if flags.get("identity") and config.channels_a != config.channels_b:
        raise Refused("--identity: A and B have to have as many channels; leave it out")
    return config


def given_weights(config: knobs.Config) -> "Callable[[Nets], None]":
    """A function that loads `--netg-path` and `--netd-path` into new nets; they are read now."""
    from gan import checkpoint
    from models import load_weights

    given = [
        (player, path, checkpoint.load(Path(path)))
        for player, path in (("G", config.netg_path), ("D", config.netd_path))
        if path
    ]

    def load(nets: "Nets") -> None:
        for player, path, weights in given:
            load_weights(getattr(nets, player), weights, path)

    return load


def translates(folder: Path) -> bool:
    """Whether the run in `folder` draws from pictures, by the config it keeps there."""
    try:
        saved = knobs.read_file(str(folder / "config.json"))
        return family(knobs.resolve(saved)).data != "images"
    except Refused:
        return False


def trained(
    flags: dict[str, Any], ranks: bool, translator: bool | None = None
) -> tuple["Nets", knobs.Config, str]:
    """Nets to draw (and, if it `ranks`, rank) with, their config under `flags`, and their file.

    Without a name they are of the newest run; if it matters, of the newest `translator`, or of
    the newest run that is none.
    """
    from gan import checkpoint
    from models import restore

    if "netg_path" in flags or "netd_path" in flags:
        return weights_given(flags, ranks)
    top = room("checkpoints", flags.get("name", ""))
    folders = [top] if "name" in flags else [top, *top.glob("*/")]
    states = [path for folder in folders for path in checkpoint.states(folder)]
    states = states or [best for folder in folders if (best := folder / checkpoint.BEST).exists()]
    states.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    if translator is not None and "name" not in flags:
        able = {
            folder: translates(folder) is translator for folder in {path.parent for path in states}
        }
        states.sort(key=lambda path: not able[path.parent])
    if (
        states
        and flags.get("best", True)
        and (best := states[0].with_name(checkpoint.BEST)).exists()
    ):
        states.insert(0, best)
    for path in states:
        try:
            nets, saved = restore(path)
        except Refused as error:
            print(f"{error}; trying the state before it", file=sys.stderr)
            continue
        own = vars(saved)
        for name in OF_NETS:
            if name in flags and flags[name] != own[name]:
                raise Refused(f"{knobs.flag(name)}={flags[name]}: {path} has {own[name]}")
        return nets, knobs.resolve(own, flags), str(path)
    where = f"of run {flags['name']} in {top}" if "name" in flags else f"in {top}"
    raise Refused(f"no checkpoint {where}; train first, or give --netg-path and --netd-path")


def trained_on(source: str) -> str | None:
    """The digest of the images that the state `source` was trained on, if it is one."""
    from gan import checkpoint

    state = checkpoint.load(Path(source))
    return state.get("data") if isinstance(state.get("data"), str) else None


def one_way(nets: "Nets", config: knobs.Config, asked: str) -> tuple["nn.Module", bool]:
    """The generator for a direction ("" the run's own), and whether that turns the run's round.

    Raises Refused if the run has none for it.
    """
    if asked in ("", config.direction):
        return getattr(nets.G, "there", nets.G), False
    back: nn.Module | None = getattr(nets.G, "back", None)
    if back is not None:
        return back, True
    raise Refused(
        f"--direction={asked}: this run was trained {config.direction} only; train another "
        f"with --direction={asked}"
    )


def generator(
    flags: dict[str, Any], translator: bool | None = None
) -> tuple["nn.Module", knobs.Config, str, bool]:
    """One generator of a run, its config and file, and whether it goes the other way round."""
    alone = flags.get("netg_path") and not beside(flags)
    asked = "" if alone else flags.pop("direction", "")  # alone: the flag says what they do
    nets, config, source = trained(flags, ranks=False, translator=translator)
    G, turned = one_way(nets, config, asked)
    return G, config, source, turned


def beside(flags: dict[str, Any]) -> dict[str, Any]:
    """The knobs in the config beside `--netg-path`, if there is one and it is of that family."""
    file = Path(flags["netg_path"]).with_name("config.json")
    saved = knobs.read_file(str(file), given="") if file.exists() else {}
    return saved if flags.get("family", saved.get("family")) == saved.get("family") else {}


def weights_given(flags: dict[str, Any], ranks: bool) -> tuple["Nets", knobs.Config, str]:
    """Nets from bare weights; their config is the one beside them, if any, under `flags`."""
    from models import family_of

    if not flags.get("netg_path"):
        raise Refused("--netg-path: give the weights of G too")
    path = Path(flags["netg_path"])
    if ranks and "netd_path" not in flags:
        twin = path.with_name(path.name.replace("netg", "netd"))
        if twin == path or not twin.exists():
            raise Refused("--netd-path: give the weights of D, which ranks what G draws")
        flags["netd_path"] = str(twin)
    others = ("netg_path", "netd_path")
    config = layered({k: v for k, v in beside(flags).items() if k not in others}, flags)
    nets = family_of(config.family).build(config)
    given_weights(config)(nets)
    return nets, config, str(path)
