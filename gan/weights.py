"""Bare state dicts into nets: exactly what fits, or one line that names what differs."""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from gan import validate
from gan.errors import Refused
from gan.translation import ThereAndBack

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before a key
WAY_OUT = "give the --family, --img-size, --channels, --ngf etc. these weights were trained with"


# where training scripts keep the weights of a net in a larger dict; the averaged ones first
PLACES = {
    "G": ("g_ema", "G_ema", "netG_ema", "netG", "net_g", "generator", "gen", "G"),
    "D": ("netD", "net_d", "discriminator", "disc", "D"),
}
PLACES_OF_ONE = ("params_ema", "state_dict", "model_state_dict", "model", "params")  # of one net


def find_weights(saved: object, player: str, path: Path | str) -> object:
    """The bare state dict of G or D in what a training script saved, a state of ours among them.

    A bare state dict is returned as it is. Raises Refused for a dict without any.
    """
    if not isinstance(saved, Mapping) or _is_bare(saved):
        return saved
    nets = saved.get("nets")
    if isinstance(nets, Mapping):
        saved = {**nets, "g_ema": saved.get("ema")}
    for place in (*PLACES[player], *PLACES_OF_ONE):
        if _is_bare(saved.get(place)):
            return saved[place]
    held = ", ".join(map(str, list(saved)[:5]))
    raise Refused(f"{path}: no weights of {player} found in it; it holds {held}")


def _is_bare(saved: object) -> bool:
    """Whether it is a dict of tensors, at least one."""
    return isinstance(saved, Mapping) and bool(saved) and all(map(torch.is_tensor, saved.values()))


def load_weights(net: nn.Module, weights: object, path: Path | str) -> None:
    """Load a bare state dict; raises Refused, naming what differs, unless it fits exactly.

    What other programs write is taken too: a leading `module.` (DataParallel) or `_orig_mod.`
    (torch.compile) goes, and so do the statistics that
    old files hold for instance norm; the two biases of the classic 96 px nets, which its later
    variants lack, are zero; of a cycle's two generators one is enough to draw with. A net that
    is refused stays as it was.
    """
    if not isinstance(weights, Mapping) or not all(torch.is_tensor(v) for v in weights.values()):
        raise Refused(f"{path}: not a bare state dict of tensors, such as netg_10.pth")
    theirs = {_plain_key(str(key)): value for key, value in weights.items()}
    if isinstance(net, ThereAndBack) and not any(key.startswith("there.") for key in theirs):
        net = net.there
    for key, value in theirs.items():
        if problem := validate.tensor_problem(value):
            diverged = ", so the training diverged before it" if "NaN" in problem else ""
            raise Refused(f"{path}: {key} {problem}{diverged}")
    own = net.state_dict()
    theirs = _completed(theirs, own, net)
    for key, ours in own.items():
        if key not in theirs:
            raise Refused(f"{path}: has no {key}, so it is of another network; {_way_out(theirs)}")
        if theirs[key].shape != ours.shape:
            raise Refused(
                f"{path}: {key} is {list(theirs[key].shape)}, this network's {list(ours.shape)}; "
                f"{_way_out(theirs)}"
            )
    if extra := [key for key in theirs if key not in own]:
        raise Refused(
            f"{path}: has {extra[0]} too, so it is of another network; {_way_out(theirs)}"
        )
    net.load_state_dict(theirs)


def _plain_key(key: str) -> str:
    while key.startswith(WRAPPERS):
        key = key.partition(".")[2]
    return key


def _way_out(theirs: Mapping[str, Tensor]) -> str:
    """The flags for the weights of a G, read off their shapes; else which flags to give."""
    names = [key for key in theirs if re.fullmatch(r"main\.\d+\.weight", key)]
    kernels = [theirs[key].shape for key in names if theirs[key].dim() == 4]
    first = theirs.get("main.0.weight")
    if first is not None and first.dim() == 2 and "main.2.running_mean" in theirs and kernels:
        nz = first.shape[1]
        flags = f"--channels={kernels[-1][0]} --nz={nz} --ngf={2 * kernels[-1][1]}"
        return f"these look like weights of --family=unmodulated {flags}, or of rpgan"
    if len(kernels) < 3 or kernels[-1][1] not in (1, 3):
        return WAY_OUT
    (nz, _, side, _), (ngf, channels, *_) = kernels[0], kernels[-1]
    side *= math.prod(kernel[2] - 2 for kernel in kernels[1:])  # k4 doubles, k5 triples
    flags = f"--img-size={side} --channels={channels} --nz={nz} --ngf={ngf}"
    return f"these look like weights of --family=dcgan {flags}"


def _completed(
    theirs: dict[str, Tensor], own: Mapping[str, Tensor], net: nn.Module
) -> dict[str, Tensor]:
    """Their tensors, without what instance norm ignores and with what may be missing."""
    norms = {name for name, part in net.named_modules() if isinstance(part, nn.InstanceNorm2d)}
    kept = {}
    for key, value in theirs.items():
        parent, _, name = key.rpartition(".")
        if not (name in STATISTICS and parent in norms):
            kept[key] = value
    bias = getattr(net, "may_lack", None)
    if isinstance(bias, str) and bias in own:
        kept.setdefault(bias, torch.zeros_like(own[bias]))
    for key, ours in own.items():
        if key.endswith("num_batches_tracked"):  # files older than PyTorch 0.4.1 have none
            kept.setdefault(key, ours)
    return kept


def without_bias(net: nn.Module) -> tuple[dict[str, Tensor], float]:
    """The weights for the classic scripts whose nets lack the bias `net.may_lack`, and a shift.

    G's is before batch norm, which takes it out again: it moves into the running mean, and G draws
    what it drew. D's last one is in every score alike: without it scores are lower by that shift,
    in the same order. Raises ValueError for a net that no such script has.
    """
    key = str(getattr(net, "may_lack", ""))
    biased = [name for name, _ in net.named_parameters() if name.endswith(".bias")]
    norms = {name for name, part in net.named_modules() if isinstance(part, nn.BatchNorm2d)}
    if [name for name in biased if name.removesuffix(".bias") not in norms] != [key]:
        raise ValueError("not the biases of a classic net")
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    bias = weights.pop(key)
    after = f"main.{int(key.split('.')[1]) + 1}"
    if after in norms:
        weights[f"{after}.running_mean"] -= bias
        return weights, 0.0
    if after in dict(net.named_modules()) or bias.numel() > 1:
        raise ValueError("the bias is in the picture, or in the scores of classes")
    return weights, float(bias)
