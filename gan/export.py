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

from gan.checkpoint import write_beside
from gan.errors import Refused

CLOSE = 1e-3  # of -1 to 1: an eighth of what a byte can tell


def as_onnx(G: nn.Module, example: Tensor, path: Path, about: Mapping[str, str]) -> float:
    """Write G for any number of inputs; the largest difference of what ONNX Runtime draws."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch.onnx asks for it)
    except ImportError:
        raise Refused(
            f"--file={path}: needs packages that nothing else does: pip install onnx onnxscript "
            "onnxruntime; or give a file that ends in .safetensors"
        ) from None
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of deprecations inside the exporter
        program: Any = torch.onnx.export(
            G,
            (example,),
            input_names=["input"],
            output_names=["image"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    program.model.metadata_props.update(about)
    worst = 0.0

    def write(part: Path) -> None:
        nonlocal worst
        program.save(str(part))
        session = onnxruntime.InferenceSession(str(part), providers=["CPUExecutionProvider"])
        for inputs in (example[:1], torch.cat([example, example.flip(0), example])):
            drawn = session.run(None, {"input": inputs.numpy()})[0]
            worst = max(worst, float((torch.from_numpy(drawn) - G(inputs)).abs().max()))
        if worst > CLOSE:
            raise Refused(
                f"--file={path}: ONNX Runtime draws other pictures, up to {worst:.2g} off"
            )

    write_beside(path, write)
    return worst


def as_safetensors(G: nn.Module, example: Tensor, path: Path, about: Mapping[str, str]) -> float:
    """Write the weights of G alone; 0, for they are the same to the bit."""
    weights = {key: value.contiguous() for key, value in G.state_dict().items()}

    def write(part: Path) -> None:
        save_file(weights, part, dict(about))
        again = load_file(part)
        assert all(torch.equal(again[key], value) for key, value in weights.items())

    write_beside(path, write)
    return 0.0


KINDS: dict[str, Callable[[nn.Module, Tensor, Path, Mapping[str, str]], float]] = {
    ".onnx": as_onnx,
    ".safetensors": as_safetensors,
}


def check(path: Path) -> None:
    """Raises Refused for a name that says no kind of file."""
    if path.suffix.lower() not in KINDS:
        raise Refused(f"--file={path}: give it a name that ends in {' or '.join(KINDS)}")


@torch.no_grad()
def export(G: nn.Module, example: Tensor, path: Path, about: Mapping[str, str]) -> float:
    """Write G, in evaluation mode, in the way that the name of the file asks for.

    `example` [N >= 2, ...] is what G draws from; `about` is kept inside the file. Returns the
    largest difference, of -1 to 1, between what G and the file draw. Raises Refused for missing
    packages and, writing nothing, if the file draws other pictures.
    """
    return KINDS[path.suffix.lower()](G.eval(), example, path, about)
