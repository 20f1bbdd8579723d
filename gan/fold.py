"""A generator as a graph of plain layers, its batch norms folded into the layers before them.

In evaluation mode batch norm is y = scale * x + shift with fixed numbers for each channel, and a
linear or convolutional layer before it can do that itself (Jacob et al. 2018, arXiv:1712.05877,
section 3.2). What is left draws the same pictures, up to rounding, in fewer operations.
"""

import copy

import torch
from torch import Tensor, fx, nn

from gan.errors import Refused
from gan.sample import Inputs

Layer = nn.Linear | nn.Conv2d | nn.ConvTranspose2d
RESHAPES = (nn.Unflatten, nn.Flatten, nn.Identity)


class OfOne(nn.Module):
    """G of one input: neither the tracer nor ONNX's exporter knows `*condition`."""

    def __init__(self, G: nn.Module) -> None:
        super().__init__()
        self.G = G

    def forward(self, given: Tensor) -> Tensor:
        return self.G(given)


class OfTwo(OfOne):
    """A conditional G."""

    def forward(self, given: Tensor, condition: Tensor) -> Tensor:  # type: ignore[override]
        return self.G(given, condition)


def fixed_inputs(G: nn.Module, inputs: Inputs) -> nn.Module:
    """G as a module whose `forward` has as many arguments as there are inputs, 1 or 2."""
    return OfOne(G) if len(inputs) == 1 else OfTwo(G)


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What batch norm multiplies by and adds in evaluation mode: [C] and [C], in float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift + norm.bias.double() if norm.bias is not None else shift


def _scaled(layer: Layer, scale: Tensor, shift: Tensor) -> Layer:
    """A copy of the layer that does scale * x + shift too; each is [C] or, for Linear, [C k]."""
    found = copy.deepcopy(layer)
    axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    shape = [1] * layer.weight.dim()
    shape[axis] = -1
    bias = torch.zeros_like(scale) if layer.bias is None else layer.bias.double()
    found.weight = nn.Parameter((layer.weight.double() * scale.view(shape)).float(), False)
    found.bias = nn.Parameter((bias * scale + shift).float(), False)
    return found


def _layer_before(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node | None:
    """The layer whose output, perhaps reshaped, is all that `node` takes; None if none is."""
    before = node.args[0]
    while isinstance(before, fx.Node) and len(before.users) == 1 and before.op == "call_module":
        module = modules[str(before.target)]
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            return before if getattr(module, "groups", 1) == 1 else None
        if not isinstance(module, RESHAPES):
            return None
        before = before.args[0]
    return None


@torch.no_grad()
def folded(G: nn.Module, inputs: Inputs) -> fx.GraphModule:
    """G in evaluation mode as a graph, without the batch norms that can be folded; a copy.

    Raises Refused for a G whose `forward` depends on the numbers that it is given.
    """
    try:
        graph = fx.symbolic_trace(fixed_inputs(copy.deepcopy(G).eval().cpu(), inputs))
    except Exception as error:  # what the tracer raises depends on what it meets
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise Refused(f"this generator cannot be written as a fixed graph ({reason})") from error
    modules = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        before = _layer_before(node, modules)
        if before is None:
            continue
        name = str(before.target)
        layer = modules[name]
        assert isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
        scale, shift = scale_and_shift(norm)
        if isinstance(layer, nn.Linear):  # each channel is a run of its outputs
            run = layer.out_features // len(scale)
            scale, shift = scale.repeat_interleave(run), shift.repeat_interleave(run)
        modules[name] = _scaled(layer, scale, shift)
        parent, _, leaf = name.rpartition(".")
        setattr(graph.get_submodule(parent), leaf, modules[name])
        node.replace_all_uses_with(node.args[0])
        graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph
