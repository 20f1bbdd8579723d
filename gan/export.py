"""A net in one file for other programs; what was written is read and tried.

G as ONNX, TorchScript or safetensors; G or D as the bare weights of the classic scripts that have
fewer biases.
"""

import contextlib
import copy
import io
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as as_safetensors
from torch import nn

from gan import checkpoint, fold
from gan.errors import Refused
from gan.filesystem import atomic_write
from gan.sample import Inputs
from gan.weights import load_weights, without_bias

TOLERANCE = 1e-3  # of -1 to 1: an eighth of what a byte can tell
INPUT_NAMES = ["input", "class"]


def _graph(G: nn.Module, example: Inputs) -> nn.Module:
    """G with its batch norm folded in, or as it is where it cannot be written as a fixed graph."""
    try:
        return fold.folded(G, example)
    except Refused:
        return fold.fixed_inputs(G, example)


def write_onnx(G: nn.Module, example: Inputs, path: Path, about: Mapping[str, str]) -> float:
    """Write G for any number of inputs; the largest difference of what ONNX Runtime draws."""
    import onnxruntime

    names = INPUT_NAMES[: len(example)]
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of deprecations inside the exporter
        program: Any = torch.onnx.export(
            _graph(G, example),
            example,
            input_names=names,
            output_names=["image"],
            dynamic_shapes=tuple({0: batch} for _ in example),
            dynamo=True,
            verbose=False,
        )
    program.model.metadata_props.update(about)
    worst = 0.0

    def write(part: Path) -> None:
        nonlocal worst
        program.save(str(part))
        session = onnxruntime.InferenceSession(str(part), providers=["CPUExecutionProvider"])
        for rows in ([0], [0, 1, 1, 0, 0, 1]):  # other numbers than that of the example
            inputs = tuple(each[rows] for each in example)
            fed = {name: each.numpy() for name, each in zip(names, inputs, strict=True)}
            drawn = session.run(None, fed)[0]
            worst = max(worst, float((torch.from_numpy(drawn) - G(*inputs)).abs().max()))
        if worst > TOLERANCE:
            raise Refused(
                f"--file={path}: ONNX Runtime draws other pictures, up to {worst:.2g} off"
            )

    atomic_write(path, write)
    return worst


def write_safetensors(G: nn.Module, example: Inputs, path: Path, about: Mapping[str, str]) -> float:
    """Write the weights of G alone; 0, for they are the same to the bit."""
    weights = {key: value.contiguous() for key, value in G.state_dict().items()}

    def write(part: Path) -> None:
        kept = {**about, checkpoint.SUM: checkpoint.sum_of(weights, about)}
        part.write_bytes(as_safetensors(weights, kept))  # `save_file` ignores the umask
        again = load_file(part)
        assert all(torch.equal(again[key], value) for key, value in weights.items())

    atomic_write(path, write)
    return 0.0


def write_torchscript(G: nn.Module, example: Inputs, path: Path, about: Mapping[str, str]) -> float:
    """Write G for programs that have PyTorch and none of this code: `torch.jit.load(path)`."""
    worst = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, which PyTorch keeps but no longer grows
        program = torch.jit.trace(_graph(G, example).eval(), example, check_trace=False)

    def write(part: Path) -> None:
        nonlocal worst
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(program, str(part), _extra_files=dict(about))
            again = torch.jit.load(str(part))
        for rows in ([1], [1, 0, 0, 1, 1]):  # other numbers than that of the example
            inputs = tuple(each[rows] for each in example)
            worst = max(worst, float((again(*inputs) - G(*inputs)).abs().max()))
        if worst > TOLERANCE:
            raise Refused(f"--file={path}: TorchScript draws other pictures, up to {worst:.2g} off")

    atomic_write(path, write)
    return worst


def write_classic(net: nn.Module, example: Inputs, path: Path, about: Mapping[str, str]) -> float:
    """Write the bare weights of G or D for classic scripts that have no bias but batch norm's.

    Returns the largest difference of what the net makes of them, the shift of D's scores aside.
    """
    try:
        weights, shift = without_bias(net)
    except ValueError:
        raise Refused(
            f"--file={path}: a file that ends in .pth is for the classic scripts, which have no "
            "such net; give one that ends in .safetensors, or take netg_*.pth of the run"
        ) from None
    worst = 0.0

    def write(part: Path) -> None:
        nonlocal worst
        torch.save(weights, part)
        again = copy.deepcopy(net)
        load_weights(again, checkpoint.load(part), path)
        worst = float((net(*example) - again(*example) - shift).abs().max())
        if worst > TOLERANCE:
            raise Refused(f"--file={path}: these weights draw other pictures, {worst:.2g} off")

    atomic_write(path, write)
    return worst


KINDS: dict[str, Callable[[nn.Module, Inputs, Path, Mapping[str, str]], float]] = {
    ".onnx": write_onnx,
    ".safetensors": write_safetensors,
    ".pt": write_torchscript,
    ".pth": write_classic,
}


@torch.no_grad()
def export(G: nn.Module, example: Inputs, path: Path, about: Mapping[str, str]) -> float:
    """Write G, in evaluation mode, in the way that the name of the file asks for.

    `example` is two inputs of it, [2, ...] each; `about` is kept inside the file, except in .pth,
    which a D may be written to as well. Returns the largest difference, of -1 to 1, between what G
    and the file draw. Raises Refused for missing packages and, writing nothing, if the file draws
    other pictures, or is of a net that this kind of file is not for.
    """
    return KINDS[path.suffix.lower()](G.eval(), example, path, about)
