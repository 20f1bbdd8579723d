"""`export`: G in one file for other programs."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from commands import flags, runs
from config import option


@dataclass(frozen=True)
class ExportOptions:
    """What `export` takes besides the settings of a run."""

    best: bool = option(True, "export the best-scored state of the run, not the newest")
    file: str = option("faces.onnx", "G in one file: .onnx or .safetensors")


FLAGS = flags.CommandFlags(
    "export",
    ExportOptions,
    settings=(*flags.OF_LOADED_RUNS, *flags.OF_TRANSLATION),
    usage="export [--file=faces.onnx] ...",
)


def main(stray: tuple[str, ...], words: Mapping[str, str]) -> None:
    """Write G for other programs; see `python main.py export --help`."""
    request = flags.read(FLAGS, stray, words)
    from gan import export

    path = Path(request.options.file)
    export.check_suffix(path)
    G, run, back = runs.load_generator(request.settings, best=request.options.best)
    config, classes = run.config, len(run.facts.class_names)
    task = run.family.task
    example = task.example(config, classes, back)
    saved = {**dataclasses.asdict(config), "classes": "/".join(run.facts.class_names)}
    difference = export.export(G, example, path, {"config": json.dumps(saved)})
    print(f"export: {run.source} -> {path}; pixels (-1 to 1) differ by {difference:.1g} at most")
    inputs = [
        f"{name} [N, {', '.join(map(str, part.shape[1:]))}]"
        for name, part in zip(task.inputs, example, strict=False)
    ]
    print(f"export: input {' and '.join(inputs)}; output pictures in -1 to 1")
