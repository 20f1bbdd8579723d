"""Every knob of the toolkit: its type, default, unit, one-line help and check.

Order of authority: default below < the family's default < `--config` file < the user's flag.
Only the standard library is imported here, so that `--help` answers at once.
"""

import dataclasses
import difflib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from gan.errors import Refused

COMPARE, GENERATE, EVALUATE = ("compare",), ("generate",), ("evaluate",)
TRAIN, TRANSLATE, EXPORT = ("train", *COMPARE), ("translate",), ("export",)
DRAW = (*GENERATE, *EVALUATE)
ALL = (*TRAIN, *DRAW, *TRANSLATE)
NETS = (*ALL, *EXPORT)
ALIASES = {"image_size": "img_size", "h": "help"}
ORDERS = ("resume", "overwrite")  # what to do now; no part of what a run is
BUDGET = ("max_epoch", "max_images", "max_minutes")
BESIDE = ("name", "gpu", "num_workers", "save_every", "save_minutes")  # a run is the same without


def knob(
    default: Any,
    text: str,
    *,
    used: tuple[str, ...] = TRAIN,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    only: tuple[Any, ...] = (),
    fixed: str = "",
) -> Any:
    """A dataclass field: `low <= value <= high`, `value > above`, or one of `only`.

    `used` names the commands that take it; `fixed` says why `--resume` may not change it.
    """
    return dataclasses.field(
        default=default,
        metadata={
            "help": text,
            "used": used,
            "low": low,
            "above": above,
            "high": high,
            "only": only,
            "fixed": fixed,
        },
    )


@dataclass
class Config:
    """All knobs of one run; the table `train --help` prints is made from these lines."""

    # the run
    family: str = knob(
        "modern", "which GAN: a row of FAMILIES in models.py", used=NETS, fixed="other networks"
    )
    name: str = knob("", "name of the run: its sub-folder in checkpoints, imgs and runs", used=NETS)
    gpu: bool | str = knob(
        "auto", "True, False or auto (CUDA, then Apple MPS, then CPU)", used=ALL, only=("auto",)
    )
    seed: int = knob(
        0,
        "the run is a function of it, if its budget is in images or epochs",
        used=ALL,
        low=0,
        high=2**63 - 1,
        fixed="other noise",
    )
    seeds: int = knob(
        1, "runs of each setting, with --seed and the seeds after it", used=COMPARE, low=1, high=100
    )
    resume: bool | str = knob(
        False, "go on: the newest state of this run, or the file named", used=("train",)
    )
    overwrite: bool = knob(False, "replace the earlier run of this name")

    # data
    data_path: str = knob("", "folder or zip of images; nothing: 4,096 drawn avatars", used=ALL)
    img_size: int = knob(
        96,
        "pixels on a side (also --image-size)",
        used=NETS,
        low=28,
        high=256,
        fixed="other networks",
    )
    channels: int = knob(
        3, "3 colour, 1 greyscale", used=NETS, low=1, high=3, only=(1, 3), fixed="other networks"
    )
    held_out: float = knob(
        0.1,
        "share of images to score with, not to train on (0: none, else 28 or more, at most half)",
        used=(*TRAIN, *EVALUATE),
        low=0,
        high=0.5,
        fixed="other data",
    )
    dedup: bool = knob(True, "draw pictures that are the same as one", fixed="other data")
    flip: bool = knob(True, "mirror half of the images at random", fixed="other data")
    num_workers: int = knob(
        0,
        "processes that decode images; 0: one a core",
        used=(*TRAIN, *GENERATE, *EVALUATE),
        low=0,
    )

    conditional: bool = knob(
        False, "one G and D for all classes: sub-folders, or IDX labels", fixed="other networks"
    )
    classes: str = knob("", "the classes found, with / between them", used=())

    # pictures to pictures
    channels_a: int = knob(
        3,
        "of pictures A: 3 or 1",
        used=(*TRAIN, *TRANSLATE, *EXPORT),
        only=(1, 3),
        fixed="other networks",
    )
    channels_b: int = knob(
        3,
        "of pictures B: 3 or 1",
        used=(*TRAIN, *TRANSLATE, *EXPORT),
        only=(1, 3),
        fixed="other networks",
    )
    direction: str = knob(
        "AtoB",
        "AtoB, or BtoA",
        used=(*TRAIN, *TRANSLATE, *EXPORT),
        only=("AtoB", "BtoA"),
        fixed="other networks",
    )
    jitter: bool = knob(
        True, "cut pictures at random from 286/256 of the size, and mirror them", fixed="other data"
    )
    l1: float = knob(100.0, "weight of pix2pix's L1", low=0)
    cycle: float = knob(10.0, "weight of CycleGAN's way there and back", low=0)
    identity: float = knob(0.5, "of --cycle: weight of B staying as it is on the way to B", low=0)
    pool: int = knob(
        50, "earlier fakes that CycleGAN's D is shown", low=0, high=10**6, fixed="another state"
    )
    spectral: bool = knob(False, "spectral norm in PatchGAN's D", fixed="other networks")
    input: str = knob("", "picture, folder or zip to translate", used=TRANSLATE)
    output: str = knob("translated", "folder for the results, by their names", used=TRANSLATE)
    resize: bool = knob(
        False, "translate at the size trained at, and enlarge the result", used=TRANSLATE
    )
    side_by_side: str = knob("", "HTML page of before and after to write", used=TRANSLATE)

    # networks
    nz: int = knob(
        64, "numbers in a noise vector", used=NETS, low=1, high=65536, fixed="other networks"
    )
    noise: str = knob(
        "normal",
        "its distribution: normal(0, 1) or uniform(-1, 1)",
        only=("normal", "uniform"),
        fixed="other noise",
    )
    ngf: int = knob(
        32, "channels of G's last wide layer", used=NETS, low=1, high=4096, fixed="other networks"
    )
    ndf: int = knob(
        32, "channels of D's first layer", used=NETS, low=1, high=4096, fixed="other networks"
    )
    netg_path: str = knob("", "weights of G to start from, or to draw with", used=NETS)
    netd_path: str = knob("", "weights of D to start from, or to rank with", used=ALL)

    # updates
    batch_size: int = knob(
        16,
        "images a step",
        used=NETS,
        low=1,
        high=65536,
        fixed="it sets which image comes when",
    )
    optimizer: str = knob(
        "adam", "of both nets: adam or rmsprop", only=("adam", "rmsprop"), fixed="another state"
    )
    lr1: float = knob(4e-4, "learning rate of G", above=0, high=1)
    lr2: float = knob(4e-4, "learning rate of D", above=0, high=1)
    beta1: float = knob(0.0, "Adam's first beta", low=0, high=0.9999)
    beta2: float = knob(0.99, "Adam's second beta", low=0, high=0.999999)
    warm_up: int = knob(200, "steps in which the learning rates rise to their values", low=0)
    lr_end: float = knob(
        0.125,
        "learning rates at the end of the budget, as a share: down from half-way on",
        low=0,
        high=1,
    )
    lr_fall: str = knob("cosine", "how they go down: cosine or linear", only=("cosine", "linear"))
    augment: float = knob(
        0.8, "probability that D sees a picture moved, and with a hole", low=0, high=0.95
    )
    d_every: int = knob(
        1, "update D on every n-th batch (2: one D update to two of G)", low=1, high=10**6
    )
    g_every: int = knob(
        1,
        "update G on every n-th batch (5: five D updates, each on new images, to one of G)",
        low=1,
    )
    d_lead: int = knob(0, "steps at the start in which G waits for every 25th batch", low=0)
    fake_label: float = knob(
        0.0, "what D's logistic loss calls a fake (1: a published mistake)", low=0, high=1
    )
    loss: str = knob(
        "",
        "another family's loss: logistic, hinge, least-squares or critic; nothing: its own",
        only=("", "logistic", "hinge", "least-squares", "critic"),
        fixed="another game",
    )
    amp: bool | str = knob(
        "auto",
        "mixed precision, bfloat16: True, False or auto (if the machine has it)",
        only=("auto",),
    )
    penalty: float = knob(10.0, "weight of wgan-gp's gradient penalty", low=0)
    clip: float = knob(0.1, "wgan's bound on every weight of D", above=0)
    ema: bool = knob(True, "draw with the moving average of G", fixed="it starts at step 0")
    ema_images: int = knob(20_000, "EMA half-life, images (at most 5 % of those seen)", low=1)

    # budget: the first one reached ends the run; 0 is no limit
    max_epoch: int = knob(200, "passes over the data; 200 only if no other budget is given", low=0)
    max_images: int = knob(0, "images shown to D, all sessions of the run together", low=0)
    max_minutes: float = knob(0.0, "minutes of training, all sessions of the run together", low=0)

    # what is written when
    save_every: int = knob(
        10,
        "epochs from one preview, weights and state to the next (from the 21st on a minute apart)",
        low=1,
    )
    save_minutes: float = knob(10.0, "save at least this often, minutes", above=0)
    log_every: int = knob(20, "steps from one log line to the next", low=1)
    eval_every: int = knob(0, "images from one score to the next; 0: about 5 % of the run", low=0)
    rescue: bool = knob(True, "after NaN or collapse go back to the best state, at half the rates")

    # generate and evaluate
    best: bool = knob(
        True,
        "draw with the best-scored state of the run, not the newest",
        used=(*DRAW, *TRANSLATE, *EXPORT),
    )
    file: str = knob("faces.onnx", "G in one file: .onnx or .safetensors", used=EXPORT)
    gen_num: int = knob(64, "faces to keep, or to score (evaluate: 2000)", used=DRAW, low=1)
    gen_search_num: int = knob(512, "candidates to draw and rank", used=GENERATE, low=1)
    rank: str = knob(
        "",
        "best by: realism, ratio, score (D's) or none; nothing: realism, for bare weights score",
        used=GENERATE,
        only=("", "realism", "ratio", "score", "none"),
    )
    diverse: bool = knob(
        False, "of the best, those least like each other; no training image", used=GENERATE
    )
    gen_mean: float = knob(0.0, "mean of the noise", used=GENERATE)
    gen_std: float = knob(1.0, "standard deviation of the noise", used=GENERATE, above=0)
    label: str = knob("", "class to draw, of a conditional run: its name or number", used=GENERATE)
    gen_img: str = knob("result.png", "file of the grid, best face first", used=GENERATE)
    gen_dir: str = knob("", "folder for one file a face", used=GENERATE)
    gen_index: str = knob("", "draw these candidates again: 17 or 17,4,99", used=GENERATE)
    fake_path: str = knob("", "score the images of this folder or zip instead", used=EVALUATE)
    features: str = knob(
        "lite0",
        "what sees: lite0, inception or random",
        used=EVALUATE,
        only=("lite0", "inception", "random"),
    )
    report: str = knob(
        "",
        "page to write, with a .json beside it; nothing: evaluate.html, compare.html",
        used=(*COMPARE, *EVALUATE),
    )

    @property
    def labels(self) -> list[str]:
        """Names of the classes of a conditional run."""
        return self.classes.split("/") if self.classes else []

    @property
    def inputs(self) -> int:
        """Numbers that G is fed: the noise, and one for each class."""
        return self.nz + len(self.labels)

    def turned(self, sides: tuple[Any, Any]) -> tuple[Any, Any]:
        """What there is of A and of B, as what is given and what is wanted."""
        return sides if self.direction == "AtoB" else sides[::-1]

    @property
    def sides(self) -> tuple[int, int]:
        """Channels of the pictures given and of those wanted."""
        return self.turned((self.channels_a, self.channels_b))

    def save(self, path: Path) -> None:
        knobs = {k: v for k, v in dataclasses.asdict(self).items() if k not in ORDERS}
        path.write_text(json.dumps(knobs, indent=2) + "\n", encoding="utf-8")


FIELDS = {field.name: field for field in dataclasses.fields(Config)}


def names(command: str) -> list[str]:
    return [name for name, field in FIELDS.items() if command in field.metadata["used"]]


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _parse(name: str, kind: type, text: str) -> Any:
    """One word from the command line as `kind`, or ValueError."""
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
    only = FIELDS[name].metadata["only"]
    if only and text not in only:
        raise ValueError(text)
    return os.path.expanduser(text)  # in --x=~/y the shell leaves it


def coerce(name: str, text: str) -> Any:
    """The value of knob `name` written as `text`; raises Refused for a wrong type or range."""
    field = FIELDS[name]
    kinds = get_args(field.type) or (field.type,)
    for kind in kinds:
        try:
            value = _parse(name, kind, text)
            break
        except (ValueError, KeyError, OverflowError):
            continue
    else:
        words = " or ".join(map(str, field.metadata["only"]))
        says = {bool: "True or False", int: "a whole number", float: "a number", str: words}
        wanted = " or ".join(says[kind] for kind in kinds)
        raise Refused(f"{flag(name)}={text}: wants {wanted} (default {field.default!r})")
    rule = field.metadata
    if not isinstance(value, (bool, str)):
        if rule["low"] is not None and value < rule["low"]:
            raise Refused(f"{flag(name)}={text}: at least {rule['low']}")
        if rule["above"] is not None and value <= rule["above"]:
            raise Refused(f"{flag(name)}={text}: more than {rule['above']}")
        if rule["high"] is not None and value > rule["high"]:
            raise Refused(f"{flag(name)}={text}: at most {rule['high']}")
        if rule["only"] and value not in rule["only"]:
            raise Refused(f"{flag(name)}={text}: one of {', '.join(map(str, rule['only']))}")
    return value


def read_flags(command: str, stray: Iterable[str], options: Mapping[str, str]) -> dict[str, Any]:
    """The flags of one call, typed and checked; raises Refused for the first that is wrong."""
    known = [*names(command), *(["config"] if command in TRAIN else [])]
    for word in stray:
        hint = f"did you mean {flag(str(word))}=...?" if str(word) in known else "flags are --x=y"
        raise Refused(f"{word}: a stray word; {hint}")
    flags: dict[str, Any] = {}
    for given, text in options.items():
        name = ALIASES.get(given, given)
        if name not in known and name.startswith("no") and name[2:] in known:
            name, text = name[2:], {"True": "False"}.get(str(text), f"no{text}")
            if bool not in (get_args(FIELDS[name].type) or (FIELDS[name].type,)):
                raise Refused(f"{flag(given)}: {flag(name)} is not a switch; give it a value")
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *ALIASES], 1)
            hint = f"did you mean {flag(near[0])}?" if near else f"see {command} --help"
            if name in FIELDS and FIELDS[name].metadata["used"]:
                hint = f"it belongs to {' and '.join(FIELDS[name].metadata['used'])}"
            raise Refused(f"{flag(given)}: no such flag of {command}; {hint}")
        if name in flags:
            raise Refused(f"{flag(given)}: given twice")
        flags[name] = os.path.expanduser(text) if name == "config" else coerce(name, str(text))
    if flags.get("data_path") == "":
        raise Refused("--data-path=: empty; for the drawn avatars leave the flag out")
    if not flags.get("name", "x").replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise Refused(f"--name={flags['name']}: letters, digits, '-', '_' and '.' only")
    if Path(flags.get("report") or "x.html").suffix.lower() not in (".html", ".htm"):
        raise Refused(f"--report={flags['report']}: a name that ends in .html")
    return flags


def read_file(path: str, given: str = "--config=") -> dict[str, Any]:
    """The knobs of a saved config, checked like flags; `given` by the flag that messages name."""
    try:
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(f"{given}{path}: {error.strerror}") from error
    except ValueError as error:
        raise Refused(f"{given}{path}: not JSON ({error})") from error
    if not isinstance(saved, dict):
        raise Refused(f"{given}{path}: not a table of knobs")
    for name in saved:
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise Refused(f"{given}{path}: no knob is called {name}{hint}")
    try:
        return {k: coerce(k, str(value)) for k, value in saved.items() if k not in ORDERS}
    except Refused as error:
        raise Refused(f"{given}{path}: {error}") from None


def resolve(*layers: Mapping[str, Any]) -> Config:
    """One Config from layers of knobs, weakest first.

    A layer that names any part of the budget replaces the whole of it, so that
    `--max-minutes=60` is not cut short by the default number of epochs.
    """
    knobs: dict[str, Any] = {}
    for layer in layers:
        if any(layer.get(name) for name in BUDGET):
            knobs.update(dict.fromkeys(BUDGET, 0))
        knobs.update(layer)
    config = Config(**knobs)
    if not any(getattr(config, name) for name in BUDGET):
        raise Refused("--max-epoch, --max-images, --max-minutes: all are 0; set one of them")
    if config.fake_label and config.loss not in ("", "logistic"):
        raise Refused(
            f"--fake-label={config.fake_label}: only the logistic loss has labels; leave out this "
            f"flag or --loss={config.loss}"
        )
    if config.gen_num > config.gen_search_num:
        raise Refused(
            f"--gen-num={config.gen_num}: more than the {config.gen_search_num} candidates; "
            f"give --gen-search-num={config.gen_num} or more"
        )
    return config


def difference(saved: Mapping[str, Any], wanted: Config) -> str:
    """The first knob in which a run of config `saved` is not the run `wanted`; "" if none."""
    for name in names("train"):
        old, new = saved.get(name, FIELDS[name].default), getattr(wanted, name)
        if old != new and new != "auto" and name not in (*ORDERS, *BESIDE):
            return f"{flag(name)} {old}, not {new}"
    return ""


def changes(saved: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, list[Any]]:
    """{knob: [old, new]} for `--resume`; raises Refused for one that may not change in mid-run."""
    changed = {
        name: [saved[name], value]
        for name, value in flags.items()
        if name in saved and saved[name] != value and name not in ("resume", "gpu")
    }
    for name, (old, new) in changed.items():
        reason = FIELDS[name].metadata["fixed"]
        if reason:
            raise Refused(
                f"{flag(name)}={new}: the run has {old} and cannot change it in mid-run "
                f"({reason}); leave it out, or start another run with --name=..."
            )
    return changed
