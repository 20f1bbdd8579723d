"""Where a run keeps its files, and what is refused if they are not there, before torch is imported.

Only the standard library is imported here.
"""

import os
import tempfile
from pathlib import Path

from config import Config, Settings, read_config
from gan.errors import Refused

WEIGHTS = ("netg_path", "netd_path")
UNNAMED = "@default"  # what TensorBoard calls the run without a name; no --name can be that


def folder_of(kind: str, name: str) -> Path:
    """The folder of run `name` in `checkpoints`, `imgs` or `runs`.

    A run without a name is in the folder itself, except for its log: TensorBoard calls a run by its
    folder. The log of a run that an earlier version began stays where it is.
    """
    top = Path(kind)
    if not name and kind == "runs" and not (top / "log.jsonl").exists():
        return top / UNNAMED
    return top / name if name else top


def name_of_folder(path: Path) -> str:
    """The run in whose folder in checkpoints/ a file is; "" for any other place.

    What a file says its run is called does not decide where this one writes.
    """
    folder, top = path.resolve().parent, Path("checkpoints").resolve()
    return folder.name if folder.parent == top else ""


def files_of_run(config: Config) -> list[Path]:
    """The files that a run of this name has left."""
    files: list[Path] = []
    for kind, patterns in {
        "checkpoints": ("state_*.pth", "best.pth", "netg_*.pth", "netd_*.pth", "config.json"),
        "imgs": ("[0-9]*.png",),
        "runs": ("log.jsonl", "events.out.tfevents.*"),
    }.items():
        files += [file for p in patterns for file in folder_of(kind, config.name).glob(p)]
    return [file for file in files if file.suffix != ".png" or file.stem.isdecimal()]


def has_results(config: Config) -> bool:
    """Whether a run of this name has left weights or pictures."""
    return any(file.suffix in (".pth", ".png") for file in files_of_run(config))


def check_data_path(data_path: str, flag: str = "--data-path") -> None:
    """Raises Refused, without torch, if there is nothing at `data_path`, which `flag` gave."""
    if data_path and not Path(os.path.expanduser(data_path)).exists():
        from gan.data import READERS
        from gan.readers import find_source

        find_source(data_path, flag, READERS)


def check_files(given: Settings, config_file: str) -> None:
    """Raises Refused, without torch, if a file that a new run starts from is not there."""
    if config_file:
        read_config(config_file)
    for name in WEIGHTS:
        if (path := str(given.get(name, ""))) and not Path(path).exists():
            raise Refused(f"{path}: no such file")
    if init := str(given.get("init", "")):
        if any(given.get(name) for name in WEIGHTS):
            raise Refused(f"--init={init}: not with --netg-path or --netd-path; leave one out")
        path_or_run = (Path(os.path.expanduser(init)), folder_of("checkpoints", init))
        if not any(path.exists() for path in path_or_run):
            raise no_origin(init)


def no_origin(init: str) -> Refused:
    return Refused(f"--init={init}: neither a run in checkpoints/ nor a file of a state")


def check_states(resume: bool | str, name: str) -> None:
    """Raises Refused, without torch, if there is nothing to go on from."""
    if isinstance(resume, str):
        if not Path(resume).exists():
            raise Refused(f"{resume}: no such file")
    elif not has_states(folder_of("checkpoints", name)):
        raise no_state(name)


def has_states(folder: Path) -> bool:
    return any(True for pattern in ("state_*.pth", "best.pth") for _ in folder.glob(pattern))


def no_state(name: str) -> Refused:
    return Refused(
        f"--resume: no valid state in {folder_of('checkpoints', name)}; start the run without "
        "--resume, or name another one with --name=..."
    )


def _try_writing(folder: Path, given: str) -> None:
    """Refuse a folder in which, or in whose place, nothing can be written; nothing is left."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    try:
        with tempfile.TemporaryFile(dir=nearest) as file:
            file.write(b"x")
    except OSError as error:
        raise Refused(f"{given}: {folder} cannot be written ({error.strerror})") from None


def check_folders(config: Config) -> None:
    """Refuse a run whose folders cannot be made or written, or would be among its own data."""
    data = Path(os.path.expanduser(config.data_path)).resolve() if config.data_path else None
    for kind in ("checkpoints", "imgs", "runs"):
        folder = folder_of(kind, config.name)
        for path in (folder, *folder.parents):
            if path.exists() and not path.is_dir():
                raise Refused(f"--name={config.name}: {path} is a file, not a folder to write to")
        if data in (folder.resolve(), *folder.resolve().parents):
            raise Refused(
                f"--data-path={config.data_path}: the run would write into it ({folder}); put the "
                "images elsewhere, or give another --name"
            )
        _try_writing(folder, f"--name={config.name}")


def check_checkpoint(given: Settings) -> None:
    """Raises Refused, without torch, if there are no weights to draw with."""
    if any(name in given for name in WEIGHTS):
        if not given.get("netg_path"):
            raise Refused("--netg-path: give the weights of G too")
        check_files({name: given[name] for name in WEIGHTS if name in given}, "")
        return
    top = folder_of("checkpoints", str(given.get("name", "")))
    folders = [top] if "name" in given else [top, *top.glob("*/")]
    if not any(map(has_states, folders)):
        where = f"of run {given['name']} in {top}" if "name" in given else f"in {top}"
        raise Refused(f"no checkpoint {where}; train first, or give --netg-path and --netd-path")
