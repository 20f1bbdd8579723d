"""What a file has to be before anything is built of it: weights that are numbers, a whole state.

Each function returns what is wrong, in a few words, and "" if nothing is.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from config import Config
from gan import health
from gan.losses import Nets
from gan.state import OPTIMIZERS

MAX_CLASSES = 10_000
NUMBER = (int, float)
KINDS: dict[str, type | tuple[type, ...]] = {
    "config": dict, "nets": dict, "ema": (dict, type(None)),
}  # fmt: skip
KINDS_TO_RESUME: dict[str, type | tuple[type, ...]] = {
    **KINDS, "optimizers": dict, "meters": dict, "health": dict, "step": int, "seconds": NUMBER,
    "rescues": int, "best": (*NUMBER, type(None)), "data": str,
}  # fmt: skip


def tensor_problem(value: object, *, infinite: bool = False) -> str:
    """Of one tensor; `infinite` allows infinity, but not NaN."""
    if not isinstance(value, Tensor):
        return "is no tensor"
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        return "is sparse, quantised or empty of numbers"
    if value.is_complex():
        return "is complex"
    if value.is_floating_point() and value.numel():
        bad = value.isnan() if infinite else ~value.isfinite()
        if bad.any():
            return "holds NaN" if infinite else "holds NaN or infinity"
    return ""


def weights_problem(weights: object) -> str:
    """Of a state dict: names and tensors of finite numbers."""
    if not isinstance(weights, Mapping) or not weights:
        return "no weights"
    for name, value in weights.items():
        if not isinstance(name, str):
            return "a weight without a name"
        if problem := tensor_problem(value):
            return f"{name} {problem}"
    return ""


def state_problem(saved: object, *, to_resume: bool = False) -> str:
    """Of a training state: to draw from, or to go on with. Its config is not looked into."""
    if not isinstance(saved, dict):
        return "no table of names and values"
    for name, kind in (KINDS_TO_RESUME if to_resume else KINDS).items():
        if name not in saved:
            return f"no {name}"
        if not isinstance(saved[name], kind) or isinstance(saved[name], bool):
            return f"{name} is of another type"
    nets = [(f"nets {player}", saved["nets"].get(player)) for player in ("G", "D")]
    for name, weights in [*nets, *([] if saved["ema"] is None else [("ema", saved["ema"])])]:
        if problem := weights_problem(weights):
            return f"{name}: {problem}"
    return _facts_problem(saved) or (_progress_problem(saved) if to_resume else "")


def _facts_problem(saved: Mapping[str, object]) -> str:
    """Of what the run found out: states of earlier versions have no such table."""
    facts = saved.get("facts", {})
    if not isinstance(facts, dict):
        return "facts are of another type"
    classes = facts.get("class_names", [])
    if not isinstance(classes, list | tuple) or not all(isinstance(name, str) for name in classes):
        return "facts: class_names is no list of names"
    if len(classes) > MAX_CLASSES:
        return "facts: too many classes"
    for name in ("mixed_precision", "flip"):
        if not isinstance(facts.get(name, False), bool):
            return f"facts: {name} is neither True nor False"
    parts = facts.get("accumulate", 1)
    if not isinstance(parts, int) or parts < 1:
        return "facts: accumulate is no number of parts"
    return ""


def _progress_problem(saved: Mapping[str, object]) -> str:
    """Of how far the run is, of its meters and its monitor."""
    for name in ("step", "seconds", "rescues"):
        value = saved[name]
        assert isinstance(value, NUMBER)
        if not 0 <= value < 2**53:
            return f"{name} is {value}"
    best = saved["best"]
    if isinstance(best, float) and math.isnan(best):
        return "best is NaN"
    meters = saved["meters"]
    assert isinstance(meters, dict)
    for name, values in meters.items():
        numbers = values.values() if isinstance(values, dict) else [None]
        if not isinstance(name, str) or not all(isinstance(x, NUMBER) for x in numbers):
            return "meters are no numbers"
    try:
        monitor = health.Monitor()
        monitor.load_state_dict(saved["health"])  # type: ignore[arg-type]
        usual = (monitor.peak_diversity, monitor.usual_gradient, *monitor.raised_at.values())
        fields = [value for reading in monitor.recent for value in vars(reading).values()]
    except Exception as error:  # foreign tables raise anything
        return f"health: {type(error).__name__}"
    if not all(isinstance(x, NUMBER) for x in usual):
        return "health is no numbers"
    if not all(x is None or isinstance(x, NUMBER) for x in fields):
        return "health: a reading is no numbers"
    return "" if isinstance(monitor.active, list) else "health: raised is no list"


def players_problem(saved: Mapping[str, dict[str, object]], nets: Nets, config: Config) -> str:
    """How a whole state differs from these nets of a run of `config`: in names, shapes, moments."""
    if config.ema and saved["ema"] is None:
        return "no average of G"
    for player, net in (("G", nets.G), ("D", nets.D)):
        own = net.state_dict()
        tables = [(f"nets {player}", saved["nets"][player])]
        if player == "G" and config.ema:
            tables.append(("ema", saved["ema"]))
        for name, theirs in tables:
            assert isinstance(theirs, dict)
            if problem := _difference(own, theirs):
                return f"{name}: {problem}"
        optimizer = saved["optimizers"].get(player)
        if problem := _optimizer_problem(optimizer, list(net.parameters()), config):
            return f"optimizer of {player}: {problem}"
    return ""


def _difference(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    if names := sorted(own.keys() ^ theirs.keys()):
        return f"{names[0]} is in one of them only"
    for name, value in own.items():
        if theirs[name].shape != value.shape:
            return f"{name} is {list(theirs[name].shape)}, the net's {list(value.shape)}"
    return ""


def _moments(config: Config) -> tuple[set[str], set[str]]:
    """Names of what the run's optimiser keeps of each weight, and of its settings."""
    net = nn.Linear(1, 1)
    optimizer = OPTIMIZERS[config.optimizer](net, 0.1, config, False)
    for weight in net.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    return set(optimizer.state[net.weight]), set(optimizer.param_groups[0])


def _plain(value: object) -> bool:
    """Whether it is a number, nothing, or a few of these."""
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return (
        value is None or isinstance(value, NUMBER) or (torch.is_tensor(value) and not value.dim())
    )


def _optimizer_problem(saved: object, weights: list[nn.Parameter], config: Config) -> str:
    if not isinstance(saved, dict) or not isinstance(saved.get("state"), dict):
        return "no table of moments"
    groups = saved.get("param_groups")
    if not isinstance(groups, list) or len(groups) != 1 or not isinstance(groups[0], dict):
        return "not one group of weights"
    moments, settings = _moments(config)
    group = groups[0]
    if group.get("params") != list(range(len(weights))):
        return "of other weights"
    if ("betas" in group) != ("betas" in settings) or "lr" not in group:
        return f"not of {config.optimizer}"
    if not all(_plain(value) for name, value in group.items() if name != "params"):
        return "settings are no numbers"
    for index, kept in saved["state"].items():
        if index not in range(len(weights)) or not isinstance(kept, dict):
            return "of other weights"
        if kept.keys() != moments:
            return f"not of {config.optimizer}"
        if problem := _moments_problem(kept.values(), weights[index]):
            return problem
    return ""


def _moments_problem(kept: Iterable[object], weight: nn.Parameter) -> str:
    for value in kept:
        if problem := tensor_problem(value, infinite=True):
            return f"a moment {problem}"
        assert isinstance(value, Tensor)
        if value.dim() and value.shape != weight.shape:
            return "moments of another shape"
    return ""
