"""`export`: G in one file for other programs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from commands import faces, flags, places, runs
from config import file_name, option, shared_config_json
from gan.console import result, say, shown
from gan.errors import Refused


@dataclass(frozen=True)
class ExportOptions:
    """What `export` takes besides the settings of a run."""

    best: bool = option(True, "export the best-scored state of the run, not the newest")
    to: str = option(
        "",
        "onnx, torchscript, safetensors, web (one HTML file that draws in a browser), or pth (for "
        "classic 96 px scripts with fewer biases); empty: what the name of --file says",
        choices=("", "onnx", "torchscript", "safetensors", "web", "pth"),
    )
    file: str = option("", "file to write; empty: faces.onnx, or with the suffix of --to")
    card: bool = option(
        True, "write a model card and a picture beside .onnx, .pt and .safetensors: faces.md, .png"
    )
    net: str = option("G", "which net: G, or D as .pth", choices=("G", "D"))


FLAGS = flags.CommandFlags(
    "export",
    ExportOptions,
    settings=(*flags.OF_LOADED_RUNS, "netd_path", *flags.OF_TRANSLATION),
    usage="export [--to=web] [--file=faces.html] ...",
    does="Writes G in one file for other programs; what was written is compared with G.",
    examples=(
        "export --name=mine --file=faces.onnx",
        "export --name=mine --file=faces.safetensors",
        "export --name=mine --to=web",
    ),
    meanings={
        **flags.MEANINGS_OF_LOADED_RUNS,
        "batch_size": "of weights of pix2pix: 1 for instance norm, 2 for batch norm",
        "netd_path": "file of weights of D, for --net=D",
    },
    loads_run=True,
)
SUFFIXES = {
    "": ".onnx",
    "torchscript": ".pt",
    "onnx": ".onnx",
    "safetensors": ".safetensors",
    "web": ".html",
    "pth": ".pth",
}
OF_ONNX = ("onnx", "onnxscript", "onnxruntime")  # packages


def target(options: ExportOptions) -> Path:
    """The file to write; raises Refused if it cannot be one, or is not of the kind of `--to`."""
    suffix = SUFFIXES[options.to]
    path = Path(options.file or f"faces{suffix}")
    faces.check_file(path, "--file")
    if options.to and path.suffix.lower() != suffix:
        raise Refused(f"--file={path}: --to={options.to} writes a file that ends in {suffix}")
    if path.suffix.lower() not in SUFFIXES.values():
        known = " or ".join(dict.fromkeys(SUFFIXES.values()))
        raise Refused(f"--file={path}: give it a name that ends in {known}")
    if options.net == "D" and path.suffix.lower() != SUFFIXES["pth"]:
        raise Refused("--net=D: only as .pth; give --file=netd.pth")
    if path.suffix.lower() == SUFFIXES["onnx"] and not all(map(find_spec, OF_ONNX)):
        raise Refused(
            f"--file={path}: needs packages that nothing else does: pip install "
            f"{' '.join(OF_ONNX)}; or give a file that ends in .safetensors"
        )
    return path


def _export_d(request: flags.Request[ExportOptions], path: Path) -> None:
    """Write D's bare weights for the classic scripts."""
    import torch

    from gan import export

    run = runs.load_run(request.settings, best=request.options.best, ranks=True)
    size, channels = run.config.img_size, run.config.channels
    D = run.nets.D
    export.export(D, (torch.rand(2, channels, size, size) * 2 - 1,), path, {})
    bias = float(D.state_dict()[str(D.may_lack)])
    result(
        f"export: D of {run.source} -> {shown(path)}; {bias:.2g} is no longer added to each score",
        path,
    )


def _export_web(request: flags.Request[ExportOptions], path: Path) -> None:
    """Write the page that draws faces in a browser."""
    run = runs.load_run(request.settings, best=request.options.best, command="generate")
    if run.family.task.command != "generate":
        from models import FAMILIES

        able = [name for name, family in FAMILIES.items() if family.task.command == "generate"]
        raise Refused(
            f"--to=web: a {run.config.family} draws from pictures, the page from noise; it is for "
            f"runs of {', '.join(able)}"
        )
    from gan import progress, web

    kind, source = f"{run.config.family}, {run.config.img_size} pixels", file_name(run.source)
    line = f"Family {kind}; drawn from {source}."
    with progress.stage("export", f"writing {path.name}, and comparing it with G"):
        found = web.write_page(run.nets.G, run.config, run.facts, path, line)
    kind = "half" if found.half else "single"
    result(
        f"export: {run.source} -> {shown(path)}, {found.file_bytes / 1e6:.1f} MB; weights in "
        f"{kind} precision, pixels (0 to 255) differ by {found.off} at most",
        path,
    )
    say("export: open it in a browser; it needs no server and no network")


def _write_card(path: Path, run: runs.LoadedRun) -> None:
    """Write the model card and its picture beside the file."""
    from gan import card, report, sample

    folder = Path(run.source).parent
    named = "" if folder.name == "checkpoints" else folder.name
    log = report.read_log(places.folder_of("runs", named) / "log.jsonl")
    source = sample.NoiseSource.of(run.config, len(run.facts.class_names))
    cpu = next(run.nets.G.parameters()).device
    drawn = sample.draw_uint8(run.nets.G, source(0, card.FACES), run.config.batch_size, cpu)
    picture = path.with_suffix(".png")
    sample.save_picture(sample.as_picture(sample.image_grid(drawn)), picture)
    text = card.write(path, picture, run.config, run.facts, log)
    say(f"export: model card {text}, picture {picture}")


def main(stray: tuple[str, ...], words: Mapping[str, str]) -> None:
    """Write G for other programs; see `python main.py export --help`."""
    request = flags.read(FLAGS, stray, words)
    path = target(request.options)
    places.check_checkpoint(request.settings)
    if path.suffix.lower() == SUFFIXES["web"]:
        _export_web(request, path)
        return
    from gan import export, progress

    if request.options.net == "D":
        _export_d(request, path)
        return
    G, run, back = runs.load_generator(request.settings, best=request.options.best)
    config, classes = run.config, len(run.facts.class_names)
    task = run.family.task
    example = task.example(config, classes, back)
    saved = json.dumps(shared_config_json(config, run.facts))
    with progress.stage("export", f"writing {path.name}, and comparing it with G"):
        difference = export.export(G, example, path, {"config": saved})
    result(
        f"export: {run.source} -> {shown(path)}; pixels (-1 to 1) differ by {difference:.1g} at "
        "most",
        path,
    )
    inputs = [
        f"{name} [N, {', '.join(map(str, part.shape[1:]))}]"
        for name, part in zip(task.inputs, example, strict=False)
    ]
    say(f"export: input {' and '.join(inputs)}; output pictures in -1 to 1")
    if request.options.card and path.suffix.lower() != ".pth" and task.command == "generate":
        _write_card(path, run)
