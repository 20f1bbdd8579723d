"""What is exported draws what G draws."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from torch import nn

import config as knobs
from gan import checkpoint, export
from gan.errors import Refused
from models import FAMILIES, load_weights

Inside = Callable[..., None]
SMALL = {"ngf": 4, "ndf": 4, "nz": 8}


def made(name: str, **more: Any) -> tuple[nn.Module, torch.Tensor]:
    """G of a family with statistics that are not those of new batch norms, and two inputs."""
    family = FAMILIES[name]
    torch.manual_seed(0)
    config = knobs.resolve(family.defaults, {"family": name, "img_size": 28, **SMALL, **more})
    G = family.build(config).G
    for module in G.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    if family.data == "images":
        return G, torch.randn(2, config.inputs)
    size = config.img_size
    return G, torch.rand(2, config.sides[0], size, size) * 2 - 1


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("modern", {}),
        ("dcgan", {"img_size": 50, "channels": 1}),
        ("mlp", {}),
        ("pix2pix", {"img_size": 45, "channels_a": 1, "batch_size": 4}),
        ("cyclegan", {"img_size": 30}),
    ],
)
def test_onnx_draws_what_g_draws(name: str, more: dict[str, Any], tmp_path: Path) -> None:
    G, given = made(name, **more)
    path = tmp_path / "deep" / "x.onnx"
    off = export.export(G, given, path, {"config": "{}"})
    assert off < 1e-5
    onnx.checker.check_model(str(path))
    assert not G.training
    inputs = torch.cat([given, given * 0.5, given.flip(0)])[:5]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (drawn,) = session.run(["image"], {"input": inputs.numpy()})
    assert np.abs(drawn - G(inputs).detach().numpy()).max() < 1e-5
    assert session.get_modelmeta().custom_metadata_map == {"config": "{}"}
    assert [file.name for file in path.parent.iterdir()] == ["x.onnx"]


def test_safetensors_hold_the_weights_to_the_bit(tmp_path: Path) -> None:
    G, given = made("modern")
    path = tmp_path / "x.safetensors"
    assert export.export(G, given, path, {"config": "{}"}) == 0
    other, _ = made("modern", nz=8)
    nn.init.zeros_(next(iter(other.parameters())))
    load_weights(other, checkpoint.load(path), path)
    assert torch.equal(other.eval()(given), G(given))
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"config": "{}"}
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(Refused, match=r"x\.safetensors: damaged"):
        checkpoint.load(path)


def test_a_file_that_draws_other_pictures_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    G, given = made("modern")
    path = tmp_path / "x.onnx"
    path.write_text("the old one")
    monkeypatch.setattr(export, "CLOSE", -1.0)
    with pytest.raises(Refused, match=r"--file=.*x\.onnx: ONNX Runtime draws other pictures"):
        export.export(G, given, path, {})
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [
        ("x.onnx", "the old one")
    ]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(Refused, match="pip install onnx onnxscript onnxruntime"):
        export.export(G, given, path, {})


def test_a_run_is_exported_by_its_name(inside: Inside, faces: Path, tmp_path: Path) -> None:
    words = ["--img-size=28", "--ngf=4", "--ndf=4", "--nz=8", "--gpu=False", f"--data-path={faces}"]
    inside("train", *words, "--max-images=64", "--name=x")
    inside("export", "--name=x", "--file=out/g.safetensors")
    with safe_open(tmp_path / "out" / "g.safetensors", "pt") as file:
        assert json.loads(file.metadata()["config"])["nz"] == 8
    # and drawn with again, as any weights
    nets = [word for word in words if word.startswith(("--img", "--n"))]
    inside("generate", *nets, "--netg-path=out/g.safetensors", "--rank=none", "--gen-num=2")
    inside("generate", "--name=x", "--rank=none", "--gen-num=2", "--gen-img=own.png")
    assert (tmp_path / "result.png").read_bytes() == (tmp_path / "own.png").read_bytes()
    for file, says in (("g.pt", r"ends in \.onnx or \.safetensors"), ("g", "ends in")):
        with pytest.raises(Refused, match=f"--file={file}: .*{says}"):
            inside("export", "--name=x", f"--file={file}")
    with pytest.raises(Refused, match="no checkpoint of run y"):
        inside("export", "--name=y")
