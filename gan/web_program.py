"""A generator as the short program and the weights that the web page runs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from gan import fold
from gan.errors import Refused
from gan.modern import modulated
from gan.sample import Inputs, to_uint8

Op = dict[str, int | float | str]
PANEL_COLUMNS = 8  # of kernels.c
TRIED = 32  # faces whose pixels are compared
HALF_OFF = 1  # steps of a byte that half precision may change, else weights stay in single


@dataclass
class Program:
    """What the page runs; the fields of `as_json` are those of engine.js."""

    values: list[int] = field(default_factory=list)  # numbers in each value, value 0 the input
    ops: list[Op] = field(default_factory=list)
    weights: list[NDArray[np.float32]] = field(default_factory=list)
    scratch: int = 1
    panel: int = 1
    output: int = 0
    shape: tuple[int, ...] = ()  # of the picture: [C, H, W]
    half: bool = True  # weights in half precision
    off: int = 0  # largest difference of a byte between its pictures and G's

    def keep(self, tensor: Tensor | None) -> int:
        """Append weights; their offset, or -1 for none."""
        if tensor is None:
            return -1
        offset = sum(map(len, self.weights))
        self.weights.append(tensor.detach().float().contiguous().flatten().numpy())
        return offset

    def as_json(self) -> dict[str, object]:
        return {
            "values": self.values, "ops": self.ops, "scratch": self.scratch, "panel": self.panel,
            "output": self.output, "shape": self.shape, "half": self.half,
        }  # fmt: skip

    def weight_bytes(self) -> bytes:
        """All weights, little-endian, in half or single precision."""
        return np.concatenate(self.weights).astype("<f2" if self.half else "<f4").tobytes()


Shape = tuple[int, ...]  # of one value, without the batch
Writer = Callable[[Program, nn.Module, Shape, Shape], Op]


def _linear(program: Program, layer: nn.Module, given: Shape, made: Shape) -> Op:
    assert isinstance(layer, nn.Linear)
    a, b = program.keep(layer.weight), program.keep(layer.bias)
    return {"op": "linear", "m": layer.out_features, "k": layer.in_features, "a": a, "b": b}


def _number(layer: nn.Module, name: str, values: tuple[int, ...]) -> int:
    if len(set(values)) > 1:
        raise Refused(f"--to=web: {type(layer).__name__} with {name} {values} is not square")
    return values[0]


def _geometry(layer: nn.Conv2d | nn.ConvTranspose2d, given: Shape, made: Shape) -> Op:
    if layer.groups != 1 or set(layer.dilation) != {1} or layer.padding_mode != "zeros":
        raise Refused(f"--to=web: the page cannot run {layer}")
    assert not isinstance(layer.padding, str)
    return {
        "c": given[0], "h": given[1], "w": given[2], "m": made[0], "outH": made[1],
        "outW": made[2], "side": _number(layer, "kernel_size", layer.kernel_size),
        "step": _number(layer, "stride", layer.stride),
        "pad": _number(layer, "padding", layer.padding),
    }  # fmt: skip


def _convolve(program: Program, layer: nn.Module, given: Shape, made: Shape) -> Op:
    assert isinstance(layer, nn.Conv2d)
    found = _geometry(layer, given, made)
    pad = int(found["pad"])
    program.scratch = max(program.scratch, given[0] * (given[1] + 2 * pad) * (given[2] + 2 * pad))
    program.panel = max(program.panel, PANEL_COLUMNS * layer.weight[0].numel())
    a, b = program.keep(layer.weight), program.keep(layer.bias)
    return {"op": "convolve", **found, "a": a, "b": b}


def _transposed(program: Program, layer: nn.Module, given: Shape, made: Shape) -> Op:
    assert isinstance(layer, nn.ConvTranspose2d)
    found = _geometry(layer, given, made)
    program.scratch = max(program.scratch, layer.weight[0].numel() * given[1] * given[2])
    program.panel = max(program.panel, PANEL_COLUMNS * given[0])
    a, b = program.keep(layer.weight.permute(1, 2, 3, 0)), program.keep(layer.bias)
    return {"op": "transposed", **found, "a": a, "b": b}


def _leaky(program: Program, layer: nn.Module, given: Shape, made: Shape) -> Op:
    slope = layer.negative_slope if isinstance(layer, nn.LeakyReLU) else 0.0
    return {"op": "leaky", "slope": slope}


def _tanh(program: Program, layer: nn.Module, given: Shape, made: Shape) -> Op:
    return {"op": "tanh"}


def _affine(program: Program, layer: nn.Module, given: Shape, made: Shape) -> Op:
    assert isinstance(layer, nn.BatchNorm2d)
    scale, shift = (program.keep(part) for part in fold.scale_and_shift(layer))
    return {"op": "affine", "m": made[0], "n": prod(made[1:]), "a": scale, "b": shift}


WRITERS: dict[type[nn.Module], Writer] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolve,
    nn.ConvTranspose2d: _transposed,
    nn.BatchNorm2d: _affine,  # only where it could not be folded
    nn.ReLU: _leaky,
    nn.LeakyReLU: _leaky,
    nn.Tanh: _tanh,
}
SAME = ("cat", "getitem", "reshape", "view", "flatten", "unsqueeze")  # numbers stay in their order
ADDS = ("add", "iadd", "add_")


def _shape(node: fx.Node) -> Shape:
    return tuple(node.meta["tensor_meta"].shape[1:])


class _Compiler:
    """Turns the nodes of a graph into ops, one after the other."""

    def __init__(self, graph: fx.GraphModule, inputs: Inputs) -> None:
        self.modules = dict(graph.named_modules())
        self.program = Program(values=[sum(part.shape[1] for part in inputs)])
        self.values: dict[fx.Node, int] = {}
        self.given: list[fx.Node] = []
        for node in graph.graph.nodes:
            self.visit(node)

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.given.append(node)
            self.values[node] = 0
        elif node.op == "output":
            (made,) = node.args
            assert isinstance(made, fx.Node)
            self.program.output, self.program.shape = self.values[made], _shape(made)
        elif node.op == "call_module":
            self.visit_module(node, self.modules[str(node.target)])
        else:
            self.visit_function(node)

    def visit_module(self, node: fx.Node, layer: nn.Module) -> None:
        (before,) = node.args
        assert isinstance(before, fx.Node)
        if isinstance(layer, (*fold.RESHAPES, nn.Dropout)):
            self.values[node] = self.values[before]
        elif type(layer) in WRITERS:
            op = WRITERS[type(layer)](self.program, layer, _shape(before), _shape(node))
            self.emit(node, {**op, "x": self.values[before]})
        else:
            raise Refused(f"--to=web: the page cannot run {type(layer).__name__}; --to=onnx can")

    def visit_function(self, node: fx.Node) -> None:
        name = getattr(node.target, "__name__", str(node.target))
        parts = [part for part in node.all_input_nodes if part in self.values]
        same = prod(_shape(node)) == sum(prod(_shape(part)) for part in parts)
        whole = name != "cat" or [*parts] == self.given  # the page is given both in a row
        if name in SAME and same and whole:
            self.values[node] = self.values[parts[0]]
        elif name in ADDS and len(parts) == 2 and len({_shape(part) for part in parts}) == 1:
            x, z = (self.values[part] for part in parts)
            self.emit(node, {"op": "add", "x": x, "z": z})
        elif node.target is modulated:
            x, z = (self.values[part] for part in parts)
            channels, *sides = _shape(node)
            self.emit(node, {"op": "modulate", "m": channels, "n": prod(sides), "x": x, "z": z})
        else:
            raise Refused(f"--to=web: the page cannot run {name}; --to=onnx can")

    def emit(self, node: fx.Node, op: Op) -> None:
        self.program.values.append(prod(_shape(node)))
        self.values[node] = len(self.program.values) - 1
        self.program.ops.append({**op, "y": self.values[node]})


@torch.no_grad()
def compile_program(G: nn.Module, inputs: Inputs) -> Program:
    """The program of G, with weights in half precision if that hardly changes the pictures.

    `inputs` are some of G's, [n, ...], n at least 2; their pictures are compared, by bytes. Raises
    Refused for a G with a layer that the page cannot run.
    """
    graph = fold.folded(G, inputs)
    ShapeProp(graph).propagate(*(part[:2] for part in inputs))
    program = _Compiler(graph, inputs).program
    wanted = to_uint8(G.eval()(*inputs)).int()
    for half in (True, False):
        if half:
            rounded = fold.folded(G, inputs)
            for weight in rounded.parameters():
                weight.copy_(weight.half().float())
        off = int((to_uint8((rounded if half else graph)(*inputs)).int() - wanted).abs().max())
        program.half, program.off = half, off
        if off <= HALF_OFF:
            break
    return program
