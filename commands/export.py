"""`export`: G in one file for other programs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from commands import flags, runs
from config import config_json, option
from gan.errors import Refused


@dataclass(frozen=True)
class ExportOptions:
    """What `export` takes besides the settings of a run."""

    best: bool = option(True, "export the best-scored state of the run, not the newest")
    file: str = option(
        "faces.onnx",
        "G in one file: .onnx, .safetensors, or .pth for classic 96 px scripts with fewer biases",
    )
    net: str = option("G", "which net: G, or D as .pth", choices=("G", "D"))


FLAGS = flags.CommandFlags(
    "export",
    ExportOptions,
    settings=(*flags.OF_LOADED_RUNS, "netd_path", *flags.OF_TRANSLATION),
    usage="export [--file=faces.onnx] ...",
)


def _export_d(request: flags.Request[ExportOptions], path: Path) -> None:
    """Write D's bare weights for the classic scripts."""
    import torch

    from gan import export

    if path.suffix.lower() != ".pth":
        raise Refused("--net=D: only as .pth; give --file=netd.pth")
    run = runs.load_run(request.settings, best=request.options.best, ranks=True)
    size, channels = run.config.img_size, run.config.channels
    D = run.nets.D
    export.export(D, (torch.rand(2, channels, size, size) * 2 - 1,), path, {})
    bias = float(D.state_dict()[str(D.may_lack)])
    print(f"export: D of {run.source} -> {path}; {bias:.2g} is no longer added to each score")


def main(stray: tuple[str, ...], words: Mapping[str, str]) -> None:
    """Write G for other programs; see `python main.py export --help`."""
    request = flags.read(FLAGS, stray, words)
    from gan import export

    path = Path(request.options.file)
    export.check_suffix(path)
    if request.options.net == "D":
        _export_d(request, path)
        return
    G, run, back = runs.load_generator(request.settings, best=request.options.best)
    config, classes = run.config, len(run.facts.class_names)
    task = run.family.task
    example = task.example(config, classes, back)
    saved = json.dumps(config_json(config, run.facts))
    difference = export.export(G, example, path, {"config": saved})
    print(f"export: {run.source} -> {path}; pixels (-1 to 1) differ by {difference:.1g} at most")
    inputs = [
        f"{name} [N, {', '.join(map(str, part.shape[1:]))}]"
        for name, part in zip(task.inputs, example, strict=False)
    ]
    print(f"export: input {' and '.join(inputs)}; output pictures in -1 to 1")
