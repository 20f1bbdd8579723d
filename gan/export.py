"""G in one file for other programs, ONNX or safetensors; what was written is read and tried."""

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gan.checkpoint import atomic_write
from gan.errors import Refused
from gan.sample import Inputs

TOLERANCE = 1e-3  # of -1 to 1: an eighth of what a byte can tell
INPUT_NAMES = ["input", "class"]


class _OfOne(nn.Module):
    """G of one input: the exporter knows no `*condition`."""

    def __init__(self, G: nn.Module) -> None:
        super().__init__()
        self.G = G

    def forward(self, given: Tensor) -> Tensor:
        return self.G(given)


class _OfTwo(_OfOne):
    """A conditional G."""

    def forward(self, given: Tensor, condition: Tensor) -> Tensor:  # type: ignore[override]
        return self.G(given, condition)


def write_onnx(G: nn.Module, example: Inputs, path: Path, about: Mapping[str, str]) -> float:
    """Write G for any number of inputs; the largest difference of what ONNX Runtime draws."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch.onnx asks for it)
    except ImportError:
        raise Refused(
            f"--file={path}: needs packages that nothing else does: pip install onnx onnxscript "
            "onnxruntime; or give a file that ends in .safetensors"
        ) from None
    names = INPUT_NAMES[: len(example)]
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of deprecations inside the exporter
        program: Any = torch.onnx.export(
            _OfOne(G) if len(example) == 1 else _OfTwo(G),
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
        save_file(weights, part, dict(about))
        again = load_file(part)
        assert all(torch.equal(again[key], value) for key, value in weights.items())

    atomic_write(path, write)
    return 0.0


KINDS: dict[str, Callable[[nn.Module, Inputs, Path, Mapping[str, str]], float]] = {
    ".onnx": write_onnx,
    ".safetensors": write_safetensors,
}


def check_suffix(path: Path) -> None:
    """Raises Refused for a name of no known kind of file."""
    if path.suffix.lower() not in KINDS:
        raise Refused(f"--file={path}: give it a name that ends in {' or '.join(KINDS)}")


@torch.no_grad()
def export(G: nn.Module, example: Inputs, path: Path, about: Mapping[str, str]) -> float:
    """Write G, in evaluation mode, in the way that the name of the file asks for.

    `example` is two inputs of G, [2, ...] each; `about` is kept inside the file. Returns the
    largest difference, of -1 to 1, between what G and the file draw. Raises Refused for missing
    packages and, writing nothing, if the file draws other pictures.
    """
    return KINDS[path.suffix.lower()](G.eval(), example, path, about)
