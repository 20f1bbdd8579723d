"""One HTML file that draws faces in the browser, from a double click: G and its page in one."""

import base64
import functools
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from config import Config, RunFacts
from gan import latent, pages, sample, web_program

FOLDER = pages.TEMPLATES / "web"
SCRIPTS = ("noise.js", "gif.js", "workers.js", "page.js")
SLIDERS = 6  # directions on the page


@dataclass(frozen=True)
class Written:
    """What the page became."""

    file_bytes: int
    weight_bytes: int
    half: bool  # weights in half precision, not single
    off: int  # largest difference of a byte between its pictures and G's


@functools.cache
def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def write_page(G: nn.Module, config: Config, facts: RunFacts, path: Path, about: str) -> Written:
    """Write the page of G, which is on the CPU; `about` is a line at its foot.

    Face and seed are those of `generate`. Raises Refused for a G with a layer that the page cannot
    run; nothing is written then.
    """
    source = sample.NoiseSource.of(config, len(facts.class_names))
    program = web_program.compile_program(G, source(0, web_program.TRIED))
    measured = latent.measured_faces(config, len(facts.class_names))
    found = latent.directions(G, measured, SLIDERS, "weights", torch.device("cpu"))
    data = {
        "seed": str(config.seed),
        "nz": config.nz,
        "kind": config.noise,
        "classes": facts.class_names,
        "reach": latent.REACH,
        "directions": [[round(x, 6) for x in vector] for vector in found.vectors.tolist()],
        "program": program.as_json(),
    }
    weights = program.weight_bytes()
    pages.write_page(
        path,
        "web/page.html",
        title=f"Faces of {config.name}" if config.name else "Faces",
        style=pages.markup(_text("page.css")),
        about=about,
        data=pages.markup(json.dumps(data).replace("<", "\\u003c")),
        weights=_base64(weights),
        kernels=_base64((FOLDER / "kernels.wasm").read_bytes()),
        engine=pages.markup(_text("engine.js")),
        scripts=pages.markup("\n".join(map(_text, SCRIPTS))),
    )
    return Written(path.stat().st_size, len(weights), program.half, program.off)
