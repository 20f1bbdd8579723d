"""Atomic save, verified load, newest, prune. Knows dicts and files, no networks.

Files are ordinary `torch.save` archives, so any PyTorch code can load them with
`weights_only=True`; their zip checksums are what a damaged file is known by.
"""

import contextlib
import copy
import functools
import hashlib
import json
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import safetensors.torch
import torch

from gan import filesystem
from gan.errors import Refused

BEST = "best.pth"  # the state with the best score so far
# how files begin that are taken for weights, and what they are
BEGINNINGS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; `git lfs pull` fetches it",
    b"<!doctype html": "an HTML page, not the file itself; download it again",
    b"<html": "an HTML page, not the file itself; download it again",
    b"\x89hdf": "an HDF5 file, as Keras writes it, not weights of PyTorch",
    b"\x1f\x8b": "a gzip archive; unpack it first",
}
# of a .safetensors file of ours: where its metadata has the sum of all that it holds; the format
# itself has none
SUM = "facegan_sha256"
Found = TypeVar("Found")


def _write_payload(payload: dict[str, Any], twin: Path | None, part: Path) -> None:
    if twin is not None:
        with contextlib.suppress(OSError):  # a file system without links
            return os.link(twin, part)
    try:
        with open(part, "wb") as file:
            torch.save(payload, file)
    except RuntimeError as error:  # torch's words for a write that failed
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def save(path: Path, payload: dict[str, Any]) -> None:
    """Write `payload` (tensors, numbers, strings and containers of them) to `path`, atomically.

    Raises OSError where there is no room or no right to.
    """
    save_all({path: payload})


def save_all(
    payloads: Mapping[Path, dict[str, Any]], twins: Mapping[Path, Path] = MappingProxyType({})
) -> None:
    """The same for several files of a folder: they get their names, in order, when all are written.

    `twins` are files that hold the same payload: a link to them takes no room. Raises OSError; all
    files are then what they were, as long as each name is that of a file.
    """
    filesystem.write_all(
        {
            path: functools.partial(_write_payload, payload, twins.get(path))
            for path, payload in payloads.items()
        }
    )


def size_of(payload: object) -> int:
    """Bytes of the tensors in `payload`: about the size of its file."""
    return sum(tensor.nbytes for tensor in _tensors_in(payload))


def _tensors_in(payload: object) -> Iterator[torch.Tensor]:
    if torch.is_tensor(payload):
        yield payload
    elif isinstance(payload, Mapping | list | tuple):
        for part in payload.values() if isinstance(payload, Mapping) else payload:
            yield from _tensors_in(part)


def copied(payload: Found) -> Found:
    """A copy of `payload`, its tensors on the CPU: what is done to them later is not in it.

    Tensors that are in it twice are copied once.
    """
    tensors = {id(tensor): tensor for tensor in _tensors_in(payload)}
    copies: dict[int, object] = {
        key: tensor.to("cpu", copy=True) for key, tensor in tensors.items()
    }
    return copy.deepcopy(payload, copies)


def load(path: Path) -> Any:
    """What `path` holds, on the CPU; raises Refused if it is missing, damaged or foreign."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise Refused(f"{path}: not a file")  # a pipe would be waited for
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # torch itself does not check the sums
                damaged = archive.testzip()
            if damaged:
                raise Refused(f"{path}: damaged (checksum of {damaged})")
        if path.suffix == ".safetensors" and path.is_file():
            return _load_safetensors(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of the old file format; it still loads
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise Refused(f"{path}: no such file") from None
    except IsADirectoryError:
        raise Refused(f"{path}: a folder; give a file in it") from None
    except Refused:
        raise
    except Exception as error:  # torch raises half a dozen types for a file it cannot read
        raise Refused(f"{path}: {_kind_of(path, str(error))}") from error


def sum_of(tensors: Mapping[str, torch.Tensor], about: Mapping[str, str]) -> str:
    """SHA-256 of tensors, their names, types and shapes, and of `about` without a sum in it."""
    texts = sorted((key, text) for key, text in about.items() if key != SUM)
    found = hashlib.sha256(json.dumps(texts).encode())
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        found.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Its tensors; raises Refused if the file has a sum that is not theirs."""
    tensors = safetensors.torch.load_file(path)
    about = metadata_of(path)
    if SUM in about and about[SUM] != sum_of(tensors, about):
        raise Refused(f"{path}: damaged (checksum of its weights); export it again")
    return tensors


def _kind_of(path: Path, error: str) -> str:
    """What a file is that torch could not load, with its words for it."""
    with open(path, "rb") as file:
        start = file.read(64)
    if not start:
        return "empty"
    for beginning, kind in BEGINNINGS.items():
        if start.lstrip().lower().startswith(beginning):
            return kind
    if "TorchScript" in error:
        return "a TorchScript program, not weights; save its state_dict() where it was made"
    named = re.search(r"GLOBAL (?!collections\.|torch\._utils\.)([\w.]+)", error)
    if named or start.startswith(b"\x80"):  # of a pickle
        name = f" ({named[1]})" if named else ""
        return (
            f"holds a pickled object{name}, which needs its own code and could run any; load it "
            "there, and save the state_dict() of its net"
        )
    return f"damaged, or not a checkpoint ({(error.splitlines() or ['unknown'])[0][:100]})"


def metadata_of(path: Path) -> dict[str, str]:
    """The texts that a .safetensors file keeps beside its tensors; none of what cannot be read."""
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            return dict(file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return {}  # `load` says what is wrong with it


def config_inside(path: Path) -> str:
    """The text of the config that `export` keeps in a .safetensors file; "" for none."""
    return metadata_of(path).get("config", "")


def state_of(folder: Path, step: int) -> Path:
    """Where the state of `step` is: names sort as steps do."""
    return folder / f"state_{step:08}.pth"


def states(folder: Path) -> list[Path]:
    """The run's states in `folder`, newest first."""
    return sorted(folder.glob("state_*.pth"), key=lambda path: path.name, reverse=True)


def newest(folder: Path, read: Callable[[Path], Found]) -> Iterator[tuple[Path, Found]]:
    """What `read` gives for the states of `folder`, newest first, the best one last.

    One for which it raises Refused is named and passed over.
    """
    for path in [*states(folder), *folder.glob(BEST)]:
        try:
            found = read(path)
        except Refused as error:
            warnings.warn(f"{error}; trying the one before it", stacklevel=2)
        else:
            yield path, found


def prune(current: Path, keep: int) -> None:
    """Keep `current` and the `keep - 1` states before it; the run's other states are deleted.

    Later ones too: they are of a future that was given up by resuming from an older state.
    """
    ordered = states(current.parent)
    first = ordered.index(current)
    for path in [*ordered[:first], *ordered[first + keep :]]:
        path.unlink(missing_ok=True)


def evenly_spaced(epochs: Sequence[int], keep: int) -> list[int]:
    """`keep` of ascending `epochs`: the last, and others about as far apart from each other.

    One is dropped at a time, where its neighbours (of the first: 0) are closest together. So it
    hardly matters which of them were dropped before.
    """
    kept = list(epochs)
    while len(kept) > keep:
        before = [0, *kept]
        gaps = [kept[i + 1] - before[i] for i in range(len(kept) - 1)]
        del kept[gaps.index(min(gaps)) if gaps else 0]
    return kept


def thin_out(folder: Path, newest: int, keep: int, given: Iterable[Path] = ()) -> None:
    """Delete the weights of all saves in `folder` but `keep`, the newest and others evenly spaced.

    `newest` is its epoch; weights of later ones are of a future that was given up. Files whose
    names end in no number are somebody else's and stay, and so do those `given` to start from.
    """
    stay = {path.resolve() for path in given}
    files: dict[int, list[Path]] = {}
    for path in folder.glob("net[gd]_*.pth"):
        number = path.stem[len("netg_") :]
        if number.isdecimal() and path.resolve() not in stay:
            files.setdefault(int(number), []).append(path)
    past = sorted(epoch for epoch in files if epoch <= newest)
    for epoch in files.keys() - set(evenly_spaced(past, keep)):
        for path in files[epoch]:
            path.unlink(missing_ok=True)
