"""The model card beside an exported generator: what it is, and how to load it in a few lines."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from config import Config, RunFacts
from gan import avatars
from gan.filesystem import atomic_write

FACES = 32  # on its picture
LOADING = {
    ".onnx": """import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("{file}")
z = np.random.randn(16, {nz}).astype(np.float32){classes_numpy}
images, = session.run(None, {{"input": z{feed}}})
# [16, {channels}, {side}, {side}]
pixels = ((images + 1) * 127.5).round().clip(0, 255).astype(np.uint8)""",
    ".pt": """import torch
G = torch.jit.load("{file}")
z = torch.randn(16, {nz}){classes_torch}
images = G(z{argument})
# [16, {channels}, {side}, {side}]
pixels = images.add(1).mul(127.5).round().clamp(0, 255).byte()""",
    ".safetensors": """# in a checkout of the toolkit; the config is inside the file
python main.py generate --netg-path={file} --gen-num=64""",
}


def _data_line(config: Config) -> str:
    name = Path(config.data_path).name
    if avatars.matches(config.data_path):
        return "rendered cartoon avatars of DiceBear (Adventurer by Lisa Wischofsky, CC BY 4.0)"
    return f"`{name}`, {config.img_size} x {config.img_size} pixels"


def _training(config: Config, log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Images, minutes and the best score, from the log; nothing for weights without one."""
    images = max((line["images"] for line in log if "images" in line), default=0)
    seconds = max((line["seconds"] for line in log if "seconds" in line), default=0.0)
    scores = [line for line in log if line.get("event") == "score" and "score" in line]
    found = [f"- trained on {images:,} images in {seconds / 60:.1f} minutes"] if images else []
    if scores:
        best = min(scores, key=lambda line: float(line["score"]))
        names = [name for name in best if "(" in name]
        values = ", ".join(f"{name} {best[name]:.3f}" for name in names)
        found.append(f"- best score in training, at {best['images']:,} images: {values}")
    return found


def _loading(config: Config, facts: RunFacts, file: Path) -> str:
    classes = len(facts.class_names)
    words = {
        "file": file.name, "nz": config.nz, "side": config.img_size, "channels": config.channels,
        "classes_numpy": f"; y = np.eye({classes}, dtype=np.float32)[[0] * 16]" if classes else "",
        "feed": ', "class": y' if classes else "",
        "classes_torch": f"; y = torch.eye({classes})[[0] * 16]" if classes else "",
        "argument": ", y" if classes else "",
    }  # fmt: skip
    return LOADING[file.suffix.lower()].format(**words)


def write(
    file: Path, picture: Path, config: Config, facts: RunFacts, log: Sequence[Mapping[str, Any]]
) -> Path:
    """Write the card of the generator in `file`, atomically, as Markdown beside it.

    `picture` shows FACES faces of it; `log` are the lines of its training, if there are any.
    """
    noise = {"normal": "N(0, 1)", "uniform": "U(-1, 1)"}[config.noise]
    language = "sh" if file.suffix.lower() == ".safetensors" else "python"
    classes = [f"- classes: {', '.join(facts.class_names)}"] if facts.class_names else []
    lines = [
        "---", "license: other", "tags: [gan, image-generation]", "---", "",
        f"# {config.name or 'Faces'}", "",
        f"![{FACES} faces, not chosen]({picture.name})", "",
        f"A GAN that draws faces: family `{config.family}`, {config.img_size} pixels, "
        f"{config.channels} channels, noise {noise} of {config.nz} numbers.", "",
        f"- data: {_data_line(config)}",
        *classes,
        *_training(config, log),
        f"- seed {config.seed}; the picture shows its faces 0 to {FACES - 1}", "",
        "## Load it", "", f"```{language}", _loading(config, facts, file), "```", "",
        "Pictures are in -1 to 1. The settings of the run are inside the file, as `config`.", "",
        "## Licence", "",
        "The toolkit is MIT. What may be done with these weights depends on the licence of the "
        "images they were trained on: check it, and name it here, before you publish them.", "",
    ]  # fmt: skip
    path = file.with_suffix(".md")
    text = "\n".join(lines)
    atomic_write(path, lambda part: part.write_text(text, encoding="utf-8"))
    return path
