"""What is exported draws what G draws."""

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import refused
from safetensors import safe_open
from torch import nn

from commands import export as command
from config import resolve
from gan import checkpoint, export
from gan.errors import Refused
from gan.sample import Inputs
from gan.weights import load_weights
from models import FAMILIES

Inside = Callable[..., None]
SMALL = {"ngf": 4, "ndf": 4, "nz": 8}


def make(name: str, *, classes: int = 0, **more: Any) -> tuple[nn.Module, Inputs]:
    """G of a family with statistics that are not those of new batch norms, and two inputs."""
    family = FAMILIES[name]
    torch.manual_seed(0)
    config = resolve(family.defaults, {"family": name, "img_size": 28, **SMALL, **more})
    G = family.build(config, classes).G
    for module in G.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return G, family.task.example(config, classes, False)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("modern", {}),
        ("dcgan", {"img_size": 50, "channels": 1}),
        ("mlp", {}),
        ("pix2pix", {"img_size": 45, "channels_a": 1, "batch_size": 4}),
        ("cyclegan", {"img_size": 30}),
        ("dcgan", {"classes": 3}),
        ("modern", {"classes": 2}),
    ],
)
def test_onnx_draws_what_g_draws(name: str, more: dict[str, Any], tmp_path: Path) -> None:
    G, example = make(name, **more)
    path = tmp_path / "deep" / "x.onnx"
    off = export.export(G, example, path, {"config": "{}"})
    assert off < 1e-5
    onnx.checker.check_model(str(path))
    assert not G.training
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = ["input", "class"] if "classes" in more else ["input"]
    assert [each.name for each in session.get_inputs()] == names
    given = example[0]
    # five inputs of other numbers and, of a conditional G, all of the second one's class
    inputs = (
        torch.cat([given, given * 0.5, given.flip(0)])[:5],
        *(x[[1] * 5] for x in example[1:]),
    )
    fed = {each: x.numpy() for each, x in zip(names, inputs, strict=True)}
    (drawn,) = session.run(["image"], fed)
    assert np.abs(drawn - G(*inputs).detach().numpy()).max() < 1e-5
    assert session.get_modelmeta().custom_metadata_map == {"config": "{}"}
    assert [file.name for file in path.parent.iterdir()] == ["x.onnx"]


def test_safetensors_hold_the_weights_to_the_bit(tmp_path: Path) -> None:
    G, example = make("modern")
    path = tmp_path / "x.safetensors"
    assert export.export(G, example, path, {"config": "{}"}) == 0
    other, _ = make("modern", nz=8)
    nn.init.zeros_(next(iter(other.parameters())))
    load_weights(other, checkpoint.load(path), path)
    assert torch.equal(other.eval()(*example), G(*example))
    with safe_open(path, "pt") as file:
        assert file.metadata()["config"] == "{}"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(Refused, match=r"x\.safetensors: damaged"):
        checkpoint.load(path)


def test_a_file_that_draws_other_pictures_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    G, example = make("modern")
    path = tmp_path / "x.onnx"
    path.write_text("the old one")
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(Refused, match=r"--file=.*x\.onnx: ONNX Runtime draws other pictures"):
        export.export(G, example, path, {})
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [
        ("x.onnx", "the old one")
    ]


def test_missing_packages_are_named_before_a_run_is_read(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    refused(inside, "export", says="--file=faces.onnx: needs packages that nothing else does: pip")
    refused(inside, "export", "--to=pth", says="no checkpoint in checkpoints")


def test_every_kind_of_file_has_a_name() -> None:
    assert set(command.SUFFIXES.values()) == {*export.KINDS, ".html"}


def test_a_run_is_exported_by_its_name(inside: Inside, faces: Path, tmp_path: Path) -> None:
    words = ["--img-size=28", "--ngf=4", "--ndf=4", "--nz=8", "--gpu=False", f"--data-path={faces}"]
    inside("train", *words, "--max-images=64", "--name=x")
    inside("export", "--name=x", "--file=out/g.safetensors")
    with safe_open(tmp_path / "out" / "g.safetensors", "pt") as file:
        assert json.loads(file.metadata()["config"])["nz"] == 8
    # and drawn with again, as any weights
    nets = [word for word in words if word.startswith(("--img", "--n"))]
    inside("generate", *nets, "--netg-path=out/g.safetensors", "--rank-by=none", "--gen-num=2")
    inside("generate", "--name=x", "--rank-by=none", "--gen-num=2", "--gen-img=own.png")
    assert (tmp_path / "result.png").read_bytes() == (tmp_path / "own.png").read_bytes()
    for file, says in (
        ("g.bin", r"ends in \.onnx or \.pt or \.safetensors or \.html or \.pth"),
        ("g", "ends in"),
    ):
        with pytest.raises(Refused, match=f"--file={file}: .*{says}"):
            inside("export", "--name=x", f"--file={file}")
    with pytest.raises(Refused, match="no checkpoint of run y"):
        inside("export", "--name=y")


def test_classic_weights_without_biases_by_command(
    inside: Inside, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    family = FAMILIES["dcgan"]
    config = resolve(family.defaults, {"family": "dcgan", "img_size": 50, **SMALL})
    nets = family.build(config, 0)
    nn.init.constant_(nets.D.get_parameter(str(nets.D.may_lack)), 0.75)
    torch.save(nets.G.state_dict(), tmp_path / "netg_1.pth")
    torch.save(nets.D.state_dict(), tmp_path / "netd_1.pth")
    words = ["export", "--family=dcgan", "--img-size=50", "--ngf=4", "--ndf=4", "--nz=8"]
    words.append("--netg-path=netg_1.pth")
    inside(*words, "--file=out/netg.pth")
    inside(*words, "--net=D", "--file=out/netd.pth")
    assert "0.75 is no longer added to each score" in capsys.readouterr().out
    for name, net in (("netg", nets.G), ("netd", nets.D)):
        weights = torch.load(tmp_path / "out" / f"{name}.pth", weights_only=True)
        assert weights.keys() == net.state_dict().keys() - {net.may_lack}
    for more, says in (
        (["--net=D", "--file=x.onnx"], "^--net=D: only as .pth"),
        (["--net=E", "--file=x.pth"], "^--net=E: wants G or D"),
        (["--net=D", "--netd-path=netg_1.pth", "--file=x.pth"], "netg_1.pth: main.0.weight is"),
    ):
        with pytest.raises(Refused, match=says):
            inside(*words, *more)
    G, example = make("modern")
    with pytest.raises(
        Refused, match=r"--file=.*x\.pth: .*classic scripts, which have no such net"
    ):
        export.export(G, example, tmp_path / "x.pth", {})
    assert not (tmp_path / "x.pth").exists()


def test_classic_weights_that_draw_other_pictures_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    G, example = make("dcgan", img_size=50)
    nn.init.constant_(G.get_parameter(str(G.may_lack)), 2.0)
    path = tmp_path / "netg.pth"
    assert export.export(G, example, path, {}) < 1e-5
    path.unlink()
    dropped = {k: v for k, v in G.state_dict().items() if k != G.may_lack}
    monkeypatch.setattr(export, "without_bias", lambda net: (dropped, 0.0))
    with pytest.raises(Refused, match=r"netg\.pth: these weights draw other pictures"):
        export.export(G, example, path, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "more"), [("modern", {}), ("dcgan", {"classes": 3}), ("pix2pix", {"img_size": 45})]
)
def test_torchscript_draws_what_g_draws_without_this_code(
    name: str, more: dict[str, Any], tmp_path: Path
) -> None:
    G, example = make(name, **more)
    path = tmp_path / "x.pt"
    assert export.export(G, example, path, {"config": "{}"}) < 1e-5
    files = {"config": ""}
    again = torch.jit.load(str(path), _extra_files=files)
    assert files["config"] == b"{}"
    inputs = tuple(part[[1, 0, 0, 1, 1]] for part in example)
    assert (again(*inputs) - G(*inputs)).abs().max() < 1e-5


def test_batch_norm_is_folded_into_what_other_programs_get(tmp_path: Path) -> None:
    G, example = make("modern")
    export.export(G, example, tmp_path / "x.onnx", {})
    kinds = {node.op_type for node in onnx.load(str(tmp_path / "x.onnx")).graph.node}
    assert "BatchNormalization" not in kinds
    assert "ConvTranspose" in kinds


@pytest.mark.parametrize("kind", ["onnx", "pt"])
def test_the_card_says_how_to_load_it(
    kind: str, inside: Inside, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label, chosen in (("left", slice(0, 30)), ("right", slice(30, 60))):
        (tmp_path / "data" / label).mkdir(parents=True)
        for file in sorted(faces.iterdir())[chosen]:
            (tmp_path / "data" / label / file.name).write_bytes(file.read_bytes())
    words = ["--img-size=28", "--ngf=4", "--ndf=4", "--nz=8", "--gpu=False", "--held-out=0"]
    inside("train", *words, "--data-path=data", "--conditional", "--max-images=32", "--name=x")
    inside("export", "--name=x", f"--file=out/g.{kind}")
    assert "model card out/g.md, picture out/g.png" in capsys.readouterr().out
    text = (tmp_path / "out" / "g.md").read_text()
    for says in ("family `modern`, 28 pixels", "`data`, 28 x 28", "classes: left, right",
                 "trained on 32 images", "depends on the licence of the images"):  # fmt: skip
        assert says in text.replace("\n", " "), says
    code = text.split("```python")[1].split("```")[0]
    found: dict[str, Any] = {}
    exec(code.replace(f"g.{kind}", f"out/g.{kind}"), found)
    assert tuple(found["pixels"].shape) == (16, 3, 28, 28)


def test_safetensors_are_drawn_with_by_their_own_config(
    inside: Inside, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--img-size=28", "--ngf=4", "--ndf=4", "--nz=8", "--gpu=False", f"--data-path={faces}"]
    inside("train", *words, "--max-images=64", "--name=x", "--seed=4")
    inside("export", "--name=x", "--to=safetensors")
    inside("generate", "--netg-path=faces.safetensors", "--gen-num=2", "--gen-search-num=2")
    assert "not ranked, as there are no weights of D" in capsys.readouterr().out
    inside("generate", "--name=x", "--rank-by=none", "--gen-num=2", "--gen-img=own.png")
    assert (tmp_path / "result.png").read_bytes() == (tmp_path / "own.png").read_bytes()
    inside("export", "--name=x", "--to=safetensors", "--file=b.safetensors", "--no-card")
    assert not (tmp_path / "b.md").exists()
    refused = pytest.raises(Refused, match="give the weights of D")
    with refused:
        inside("generate", "--netg-path=b.safetensors", "--rank-by=score")


@pytest.mark.parametrize(("off", "fits"), [(0.0009, True), (0.0011, False)])
def test_an_onnx_file_is_within_a_thousandth(
    off: float, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest difference counts, and batches larger than the example are tried too."""
    G = torch.nn.Linear(2, 2)
    about: dict[str, str] = {}

    class Session:
        def __init__(self, path: str, providers: list[str]) -> None:
            assert Path(path).read_text() == "program"

        def run(self, names: Any, given: dict[str, Any]) -> list[Any]:
            found = G(torch.from_numpy(given["input"])).numpy().copy()
            if len(found) > 2:
                found[-1, 1] -= off
            return [found]

    program = types.SimpleNamespace(
        model=types.SimpleNamespace(metadata_props=about),
        save=lambda path: Path(path).write_text("program"),
    )
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: program)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    path = tmp_path / "x.onnx"
    if fits:
        assert export.export(G, (torch.ones(2, 2),), path, {"config": "c"}) == pytest.approx(
            off, 1e-2
        )
        assert about == {"config": "c"}
        assert path.exists()
    else:
        with pytest.raises(Refused, match=r"other pictures, up to 0\.0011 off"):
            export.export(G, (torch.ones(2, 2),), path, {"config": "c"})
        assert not list(tmp_path.iterdir())
