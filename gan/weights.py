"""Bare state dicts into nets: exactly what fits, or one line that names what differs."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from gan.errors import Refused
from gan.translation import ThereAndBack

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
WAY_OUT = "give the --family, --img-size, --channels, --ngf etc. these weights were trained with"


def load_weights(net: nn.Module, weights: object, path: Path | str) -> None:
    """Load a bare state dict; raises Refused, naming what differs, unless it fits exactly.

    What other programs write is taken too: a leading `module.` goes, and so do the statistics that
    old files hold for instance norm; the two biases of the classic 96 px nets, which its later
    variants lack, are zero; of a cycle's two generators one is enough to draw with. A net that
    is refused stays as it was.
    """
    if not isinstance(weights, Mapping) or not all(torch.is_tensor(v) for v in weights.values()):
        raise Refused(f"{path}: not a bare state dict of tensors, such as netg_10.pth")
    theirs = {str(key).removeprefix("module."): value for key, value in weights.items()}
    if isinstance(net, ThereAndBack) and not any(key.startswith("there.") for key in theirs):
        net = net.there
    own = net.state_dict()
    theirs = _completed(theirs, own, net)
    for key, ours in own.items():
        if key not in theirs:
            raise Refused(f"{path}: has no {key}, so it is of another network; {WAY_OUT}")
        if theirs[key].shape != ours.shape:
            raise Refused(
                f"{path}: {key} is {list(theirs[key].shape)}, this network's {list(ours.shape)}; "
                f"{WAY_OUT}"
            )
    if extra := [key for key in theirs if key not in own]:
        raise Refused(f"{path}: has {extra[0]} too, so it is of another network; {WAY_OUT}")
    net.load_state_dict(theirs)


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
