"""What a run is: every setting with its type, default, range, unit and one-line help.

Order of authority: default below < the family's default < `--config` file < the user's flag.
Only the standard library is imported here, so that `--help` answers at once.
"""

import dataclasses
import difflib
import hashlib
import json
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from gan.errors import Refused

Value = bool | int | float | str
Settings = dict[str, Value]  # of a run, by name: those that were given
T = TypeVar("T")

LARGEST_WHOLE = 10**15  # of a flag without a range: a year of images has 10^13
LARGEST = 1e30  # the same of numbers: their products stay in float32
MAX_CONFIG_BYTES = 2**20  # of a config.json
SUM = "sha256"  # what a config.json calls its sum

BUDGET = ("max_epoch", "max_images", "max_minutes")
# what does not change the result of a run
OPERATIONAL = ("name", "gpu", "num_workers", "save_every", "save_minutes", "keep")
PATHS = ("data_path", "netg_path", "netd_path")
# the groups of settings in `--help`: each begins with this one
GROUPS = {
    "family": "the run",
    "data_path": "data",
    "channels_a": "pictures to pictures",
    "nz": "nets",
    "batch_size": "updates",
    "max_epoch": "budget",
    "save_every": "files and scores",
}
# what the nets of a run were built with: later commands may repeat these, not change them
OF_NETS = ("family", "img_size", "channels", "channels_a", "channels_b", "nz", "ngf", "ndf")
# options of commands, which config.json files of earlier versions hold too
FORMER = (
    "best", "diverse", "fake_path", "features", "file", "gen_dir", "gen_img", "gen_index",
    "gen_mean", "gen_num", "gen_search_num", "gen_std", "input", "label", "output", "overwrite",
    "rank", "report", "resize", "resume", "seeds", "side_by_side",
)  # fmt: skip


def option(
    default: T,
    text: str,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    choices: tuple[Value, ...] = (),
    fixed: str = "",
) -> T:
    """A dataclass field: `low <= value <= high`, `value > above`, or one of `choices`.

    `fixed` says why `--resume` may not change it.
    """
    found: T = dataclasses.field(
        default=default,
        metadata={
            "help": text,
            "low": low,
            "above": above,
            "high": high,
            "choices": choices,
            "fixed": fixed,
        },
    )
    return found


@dataclass
class Config:
    """All settings of one run; the table that `train --help` prints is made from these lines."""

    # the run
    family: str = option("modern", "which GAN: a row of gan/families.py", fixed="other nets")
    name: str = option("", "name of the run: its sub-folder in checkpoints, imgs and runs")
    gpu: bool | str = option(
        "auto", "True, False or auto (CUDA, then Apple MPS, then CPU)", choices=("auto",)
    )
    seed: int = option(
        0,
        "the same seed gives the same run, if the budget is in images or epochs",
        low=0,
        high=2**63 - 1,
        fixed="other noise",
    )

    # data
    data_path: str = option(
        "", "folder, zip or .tar of images, or simple-avatars; empty: 4,096 rendered avatars"
    )
    img_size: int = option(
        96, "pixels on a side (also --image-size)", low=28, high=1024, fixed="other nets"
    )
    channels: int = option(
        3, "3: colour, 1: greyscale", low=1, high=3, choices=(1, 3), fixed="other nets"
    )
    held_out: float = option(
        0.1,
        "share of images to score with, not to train on (0: none; else at least 28, at most half)",
        low=0,
        high=0.5,
        fixed="other data",
    )
    dedup: bool = option(True, "show a group of near-duplicates as one image", fixed="other data")
    flip: bool | str = option(
        "auto",
        "mirror half of the images at random: True, False or auto (if the set is symmetric)",
        choices=("auto",),
        fixed="other data",
    )
    value_range: str = option(
        "",
        "LOW,HIGH: black and white of pictures with more than 8 bits; empty: found over the set",
        fixed="other data",
    )
    num_workers: int = option(0, "processes that decode images; 0: one per core", low=0, high=1024)
    conditional: bool = option(
        False, "one G and D for all classes: sub-folders, or IDX labels", fixed="other nets"
    )

    # pictures to pictures
    channels_a: int = option(3, "of pictures A: 3 or 1", choices=(1, 3), fixed="other nets")
    channels_b: int = option(3, "of pictures B: 3 or 1", choices=(1, 3), fixed="other nets")
    direction: str = option("AtoB", "AtoB, or BtoA", choices=("AtoB", "BtoA"), fixed="other nets")
    jitter: bool = option(
        True, "crop at random from 286/256 of the size, and mirror at random", fixed="other data"
    )
    l1: float = option(100.0, "weight of pix2pix's L1", low=0)
    cycle: float = option(10.0, "weight of CycleGAN's cycle consistency", low=0)
    identity: float = option(
        0.5, "weight of CycleGAN's identity loss, as a share of --cycle", low=0
    )
    half_squares: bool = option(
        False,
        "halve the least-squares loss beside L1 or the cycle, as runs of earlier versions do",
        fixed="another game",
    )
    pool: int = option(
        50, "earlier fakes that CycleGAN's D is shown", low=0, high=10**6, fixed="another state"
    )
    spectral: bool = option(False, "spectral norm in PatchGAN's D", fixed="other nets")

    # networks
    nz: int = option(64, "numbers in a noise vector", low=1, high=65536, fixed="other nets")
    noise: str = option(
        "normal",
        "distribution of the noise: normal(0, 1) or uniform(-1, 1)",
        choices=("normal", "uniform"),
        fixed="other noise",
    )
    ngf: int = option(32, "channels of G's last wide layer", low=1, high=4096, fixed="other nets")
    ndf: int = option(32, "channels of D's first layer", low=1, high=4096, fixed="other nets")
    netg_path: str = option("", "weights of G to start from, or to draw with")
    netd_path: str = option("", "weights of D to start from, or to rank with")
    init: str = option(
        "", "run, or file of a state, to start from; D's first layers learn after a third only"
    )

    # updates
    batch_size: int = option(
        16, "images per step", low=1, high=65536, fixed="it sets which image comes when"
    )
    accumulate: int | str = option(
        "auto", "parts of a batch, in turn, if memory is short; each has its own batch norm",
        low=1, choices=("auto",),
    )  # fmt: skip
    optimizer: str = option(
        "adam", "of both nets: adam or rmsprop", choices=("adam", "rmsprop"), fixed="another state"
    )
    lr1: float = option(8e-4, "learning rate of G", above=0, high=1)
    lr2: float = option(8e-4, "learning rate of D", above=0, high=1)
    beta1: float = option(0.0, "Adam's first beta", low=0, high=0.9999)
    beta2: float = option(0.99, "Adam's second beta", low=0, high=0.999999)
    warm_up: int = option(200, "steps in which the learning rates rise to their values", low=0)
    lr_end: float = option(
        0.125,
        "share of the learning rates that is left at the end; they fall from half-way on",
        low=0,
        high=1,
    )
    lr_fall: str = option(
        "cosine", "how the learning rates fall: cosine or linear", choices=("cosine", "linear")
    )
    augment: float = option(
        0.8, "probability of each augmentation of the pictures D sees", low=0, high=0.95
    )
    d_every: int = option(
        1, "update D on every n-th batch (2: one D update to two of G)", low=1, high=10**6
    )
    g_every: int = option(
        1,
        "update G on every n-th batch (5: five D updates, each on new images, to one of G)",
        low=1,
    )
    d_lead: int = option(
        0, "steps at the start in which G is updated only on every 25th batch", low=0
    )
    fake_label: float = option(
        0.0, "label of fakes in D's logistic loss (1: a published mistake)", low=0, high=1
    )
    loss: str = option(
        "",
        "another loss: logistic, hinge, least-squares, critic or relativistic; empty: the family's",
        choices=("", "logistic", "hinge", "least-squares", "critic", "relativistic"),
        fixed="another game",
    )
    amp: bool | str = option(
        "auto",
        "mixed precision, bfloat16: True, False or auto (if the machine has it)",
        choices=("auto",),
    )
    penalty: float = option(10.0, "weight of D's penalty: wgan-gp's, or R1 and R2's", low=0)
    penalty_every: int = option(
        1,
        "updates of D per penalty, whose weight grows with it (lazy regularisation)",
        low=1,
        high=10**6,
    )
    clip: float = option(0.1, "wgan's bound on every weight of D", above=0, high=1e6)
    ema: bool = option(True, "draw with the moving average of G", fixed="it starts at step 0")
    ema_images: int = option(20_000, "EMA half-life, images (at most 5 % of those seen)", low=1)

    # budget: the first one reached ends the run; 0 is no limit
    max_epoch: int = option(200, "passes over the data; 200 if no other budget is given", low=0)
    max_images: int = option(0, "images shown to D, all sessions of the run together", low=0)
    max_minutes: float = option(0.0, "minutes of training, all sessions of the run together", low=0)

    # what is written when
    save_every: int = option(
        10,
        "epochs from one save to the next (from the 100th save on ten times as many, and so on)",
        low=1,
    )
    save_minutes: float = option(10.0, "save at least this often, minutes", above=0)
    keep: int | str = option(
        3,
        "saves whose netg and netd stay: the newest, and others evenly spaced; or all",
        low=1,
        choices=("all",),
    )
    log_every: int = option(20, "steps from one log line to the next", low=1)
    eval_every: int = option(0, "images from one score to the next; 0: about 5 % of the run", low=0)
    rescue: bool = option(
        True, "after NaN or a collapse, go back to the best state at half the rates"
    )

    @property
    def channels_given(self) -> int:
        """Channels of the pictures that are translated."""
        return self.channels_a if self.direction == "AtoB" else self.channels_b

    @property
    def channels_wanted(self) -> int:
        """Channels of the pictures they are translated to."""
        return self.channels_b if self.direction == "AtoB" else self.channels_a


@dataclass(frozen=True)
class RunFacts:
    """What a run finds out when it starts; its states keep it apart from what was asked for."""

    class_names: tuple[str, ...] = ()  # of a conditional run
    mixed_precision: bool = False  # whether the nets compute in bfloat16
    flip: bool = True  # whether images are mirrored at random
    accumulate: int = 1  # parts in which a batch is computed

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> "RunFacts":
        """The facts in a saved state; earlier versions kept them with the settings."""
        if "facts" in state:
            known = {field.name for field in dataclasses.fields(cls)}
            facts = {name: value for name, value in state["facts"].items() if name in known}
            return cls(**{**facts, "class_names": tuple(facts.get("class_names", ()))})
        config = state["config"]
        classes = split_classes(config.get("classes", ""))
        return cls(classes, config.get("amp") is True, config.get("flip") is not False)


def split_classes(text: str) -> tuple[str, ...]:
    """The names in "cat/dog", as a config.json has them."""
    return tuple(text.split("/")) if text else ()


Field = dataclasses.Field  # of Config, or of a command's own options
FIELDS = {field.name: field for field in dataclasses.fields(Config)}


def flag(name: str) -> str:
    """`img_size` -> `--img-size`."""
    return "--" + name.replace("_", "-")


def types_of(field: "Field[Any]") -> tuple[type, ...]:
    """The types that a field takes, in the order in which they are tried."""
    return get_args(field.type) or (field.type,)


def _convert(field: "Field[Any]", kind: type, text: str) -> Value:
    """The text as `kind`; raises ValueError or KeyError."""
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}[text.strip().lower()]
    if kind is int:
        number = float(text)  # so that 1e5 is a number of images
        exact = int(text) if text.strip().lstrip("+-").replace("_", "").isdigit() else int(number)
        if exact != number and abs(number) < 2**53:
            raise ValueError(text)
        return exact
    if kind is float:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(text)
        return number
    choices = field.metadata["choices"]
    if choices and text not in choices:
        raise ValueError(text)
    return os.path.expanduser(text)  # in --x=~/y the shell leaves the ~


def parse(field: "Field[Any]", text: str) -> Value:
    """The value of `field` that is written as `text`; raises Refused for a wrong type or range."""
    kinds = types_of(field)
    if field.name == "img_size" and "x" in text:
        raise Refused(
            f"--img-size={text}: one number; images are squares, cut out of the centre of pictures"
        )
    for kind in kinds:
        try:
            value = _convert(field, kind, text)
            break
        except (ValueError, KeyError, OverflowError):
            continue
    else:
        words = " or ".join(str(choice) for choice in field.metadata["choices"] if choice)
        names = {bool: "True or False", int: "a whole number", float: "a number", str: words}
        wanted = " or ".join(names[kind] for kind in kinds)
        raise Refused(f"{flag(field.name)}={text}: wants {wanted} (default {field.default!r})")
    if not isinstance(value, bool | str):
        _check_range(field, text, value)
    return value


def _check_range(field: "Field[Any]", text: str, value: float) -> None:
    rule, given = field.metadata, f"{flag(field.name)}={text}"
    if abs(value) > (LARGEST_WHOLE if isinstance(value, int) else LARGEST) and not rule["high"]:
        raise Refused(f"{given}: larger than any use of it")
    if rule["low"] is not None and value < rule["low"]:
        raise Refused(f"{given}: at least {rule['low']}")
    if rule["above"] is not None and value <= rule["above"]:
        raise Refused(f"{given}: more than {rule['above']}")
    if rule["high"] is not None and value > rule["high"]:
        raise Refused(f"{given}: at most {rule['high']}")
    numbers = [choice for choice in rule["choices"] if not isinstance(choice, str)]
    if numbers and value not in numbers:
        raise Refused(f"{given}: one of {', '.join(map(str, numbers))}")


def config_json(config: Config, facts: RunFacts) -> dict[str, Value]:
    """What `config.json` holds: the settings, and the classes that bare weights are of."""
    return {**dataclasses.asdict(config), "classes": "/".join(facts.class_names)}


def file_name(path: str) -> str:
    """The last part of a path, as files that are made to be shared name it; "" stays "".

    A path below the working folder tells nothing of the machine and stays as it is.
    """
    parts = Path(path).parts
    inside = not Path(path).is_absolute() and ".." not in parts and not path.startswith("~")
    return path if inside else Path(path).name


def shared_config_json(config: Config, facts: RunFacts) -> dict[str, Value]:
    """The same for files that leave this machine: of paths the last part alone."""
    found = config_json(config, facts)
    return {**found, **{name: file_name(str(found[name])) for name in PATHS}}


def write_config(config: Config, facts: RunFacts, path: Path) -> None:
    """Write `config.json`, and the sum of it, by which a change is seen."""
    table = config_json(config, facts)
    text = json.dumps({**table, SUM: _sum(table)}, indent=2)
    path.write_text(f"{text}\n", encoding="utf-8")


def _sum(table: Mapping[str, object]) -> str:
    """SHA-256 of what a config.json holds beside it."""
    others = {name: value for name, value in table.items() if name != SUM}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def _read_small(path: Path) -> str:
    """The text of a file; raises ValueError for a pipe, a device, or one that is too large."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError("no file")
    if path.is_file() and path.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError("too large")
    return path.read_text(encoding="utf-8")


def read_config(path: str, given_as: str = "--config=") -> tuple[Settings, tuple[str, ...]]:
    """Settings and class names in a config.json, checked like flags.

    Raises Refused, naming the file after `given_as`.
    """
    try:
        text = _read_small(Path(path))
    except OSError as error:
        raise Refused(f"{given_as}{path}: {error.strerror}") from error
    except ValueError as error:
        raise Refused(f"{given_as}{path}: not JSON ({error})") from error
    return parse_config(text, path, given_as)


def parse_config(text: str, path: str, given_as: str = "") -> tuple[Settings, tuple[str, ...]]:
    """The same of the text of a config.json, which `path` holds."""
    try:
        saved = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{given_as}{path}: not JSON ({error})") from error
    if not isinstance(saved, dict):
        raise Refused(f"{given_as}{path}: not a table of settings")
    if SUM in saved and saved.pop(SUM) != _sum(saved):
        told = "changed by other hands since a run wrote it; its settings are taken as they are"
        warnings.warn(f"{given_as}{path}: {told}", stacklevel=2)
    classes = split_classes(str(saved.pop("classes", "")))
    for name in saved:
        if name not in FIELDS and name not in FORMER:
            near = difflib.get_close_matches(name, FIELDS, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise Refused(f"{given_as}{path}: no setting is called {name}{hint}")
    try:
        return {k: parse(FIELDS[k], str(v)) for k, v in saved.items() if k in FIELDS}, classes
    except Refused as error:
        raise Refused(f"{given_as}{path}: {error}") from None


def resolve(*layers: Mapping[str, Value]) -> Config:
    """One Config from layers of settings, weakest first; raises Refused if it has no budget.

    A layer that names any part of the budget replaces the whole of it, so that
    `--max-minutes=60` is not cut short by the default number of epochs.
    """
    settings: Settings = {}
    for layer in layers:
        if any(layer.get(name) for name in BUDGET):
            settings.update(dict.fromkeys(BUDGET, 0))
        settings.update(layer)
    config = Config(**settings)  # type: ignore[arg-type]
    if not any(getattr(config, name) for name in BUDGET):
        raise Refused("--max-epoch, --max-images, --max-minutes: all are 0; set one of them")
    if config.fake_label and config.loss not in ("", "logistic"):
        raise Refused(
            f"--fake-label={config.fake_label}: only the logistic loss has labels; leave out this "
            f"flag or --loss={config.loss}"
        )
    return config


def difference(saved: Mapping[str, Value], wanted: Config) -> str:
    """The first setting in which a run saved as `saved` differs from `wanted`; "" if none."""
    for name, field in FIELDS.items():
        old, new = saved.get(name, field.default), getattr(wanted, name)
        if old != new and new != "auto" and name not in OPERATIONAL:
            return f"{flag(name)} {old}, not {new}"
    return ""


def changes(saved: Mapping[str, Value], given: Mapping[str, Value]) -> dict[str, list[Value]]:
    """{setting: [old, new]} of `--resume`; raises Refused for one that a run may not change."""
    changed = {
        name: [saved[name], value]
        for name, value in given.items()
        if name in saved and saved[name] != value and name != "gpu"
    }
    for name, (old, new) in changed.items():
        reason = FIELDS[name].metadata["fixed"]
        if reason:
            raise Refused(
                f"{flag(name)}={new}: the run has {old!r} and cannot change it in mid-run "
                f"({reason}); leave it out, or start another run with --name=..."
            )
    return changed
