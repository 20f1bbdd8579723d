"""Weights of other programs: those that load, and what a file is called that holds none."""

import itertools
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TINY, refused
from torch import Tensor, nn

from commands import runs
from config import Config
from gan import checkpoint
from gan.errors import Refused
from gan.weights import find_weights, load_weights
from models import NetD, NetG, find_family

Inside = Callable[..., None]
Weights = dict[str, Tensor]


def example_g(nz: int = 100, ngf: int = 64) -> nn.Module:
    """G of PyTorch's DCGAN example: 64 px, no bias anywhere."""
    layers: list[nn.Module] = []
    widths = [nz, ngf * 8, ngf * 4, ngf * 2, ngf]
    for index, (c_in, c_out) in enumerate(itertools.pairwise(widths)):
        stride, padding = (2, 1) if index else (1, 0)
        layers += [nn.ConvTranspose2d(c_in, c_out, 4, stride, padding, bias=False)]
        layers += [nn.BatchNorm2d(c_out), nn.ReLU(True)]
    net = nn.Module()
    net.main = nn.Sequential(*layers, nn.ConvTranspose2d(ngf, 3, 4, 2, 1, bias=False), nn.Tanh())
    return net


def example_d(ndf: int = 64) -> nn.Module:
    """D of the same: a sigmoid after the last convolution."""
    layers: list[nn.Module] = [nn.Conv2d(3, ndf, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for width in (ndf, ndf * 2, ndf * 4):
        layers += [nn.Conv2d(width, width * 2, 4, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(width * 2), nn.LeakyReLU(0.2)]
    net = nn.Module()
    net.main = nn.Sequential(*layers, nn.Conv2d(ndf * 8, 1, 4, 1, 0, bias=False), nn.Sigmoid())
    return net


def test_weights_of_pytorchs_example_draw_what_they_drew(inside: Inside) -> None:
    G, D = example_g(ngf=8).eval(), example_d(ndf=8).eval()
    # the example wraps its nets for several GPUs
    torch.save({f"module.{k}": v for k, v in G.state_dict().items()}, "netG_epoch_24.pth")
    torch.save(D.state_dict(), "netD_epoch_24.pth")
    ours, score = NetG(100, 8, 64), NetD(8, 64)
    load_weights(ours, checkpoint.load(Path("netG_epoch_24.pth")), "g")
    load_weights(score, checkpoint.load(Path("netD_epoch_24.pth")), "d")
    z = torch.randn(2, 100)
    picture = G.main(z[:, :, None, None])
    assert torch.allclose(ours.eval()(z), picture, atol=1e-6)
    assert torch.allclose(score.eval()(picture).sigmoid(), D.main(picture).flatten(), atol=1e-6)
    # and on the command line: the flags are said, and D is found beside G
    words = ["generate", "--netg-path=netG_epoch_24.pth", "--gen-num=2", "--gen-search-num=3"]
    asked = "--family=dcgan --img-size=64 --channels=3 --nz=100 --ngf=8"
    refused(inside, *words, says=f"these look like weights of {asked}")
    inside(*words, *asked.split(), "--ndf=8")
    assert Path("result.png").exists()


def linear() -> Weights:
    return dict(nn.Linear(2, 3).state_dict())


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda own: own,
        lambda own: {"epoch": 3, "state_dict": own, "optimizer": {"param_groups": [{"lr": 1.0}]}},
        lambda own: {"model_state_dict": own, "loss": 0.1},
        lambda own: {"netG": own, "netD": linear(), "optimizerG": {"state": {}}},
        lambda own: {"G_ema": own, "G": linear(), "D": linear()},
        lambda own: {"nets": {"G": own, "D": linear()}, "ema": None, "step": 1, "config": {}},
        lambda own: {"nets": {"G": linear(), "D": linear()}, "ema": own, "step": 1, "config": {}},
        lambda own: {"state_dict": {f"module.{k}": v for k, v in own.items()}},
        lambda own: {f"_orig_mod.module.{k}": v for k, v in own.items()},
    ],
    ids=[
        "bare", "optimiser", "model_state_dict", "two nets", "average", "state", "state with an "
        "average", "DataParallel", "compiled",
    ],
)  # fmt: skip
def test_weights_inside_a_larger_checkpoint_load(
    wrapped: Callable[[Weights], object], tmp_path: Path
) -> None:
    config = Config(family="mlp-tiny", img_size=28, channels=1, nz=4)
    build = find_family(config.family).build
    theirs, ours = build(config, 0).G, build(config, 0).G
    config.netg_path = str(tmp_path / "g.pth")
    torch.save(wrapped(dict(theirs.state_dict())), config.netg_path)
    nets = build(config, 0)
    runs.weights_loader(config)(nets)
    for key, value in theirs.state_dict().items():
        assert torch.equal(nets.G.state_dict()[key], value)
        assert value.dim() < 2 or not torch.equal(ours.state_dict()[key], value)


def test_d_is_taken_for_d_and_nothing_for_nothing() -> None:
    g, d = linear(), linear()
    both = {"generator": g, "discriminator": d}
    assert find_weights(both, "G", "x") is g
    assert find_weights(both, "D", "x") is d
    assert find_weights([1], "G", "x") == [1]  # which load_weights refuses
    with pytest.raises(Refused, match=r"^x: no weights of D found in it; it holds epoch, netG$"):
        find_weights({"epoch": 1, "netG": g}, "D", "x")


class Whole(nn.Linear):
    """A module that someone pickled whole."""


def scripted(path: Path) -> None:
    torch.jit.trace(nn.Linear(1, 1), torch.zeros(1)).save(str(path))


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (
            lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\n"),
            "a Git LFS pointer, not the file itself; `git lfs pull` fetches it",
        ),
        (lambda p: p.write_text("\n<!DOCTYPE html><html>Sign in"), "an HTML page, not the file"),
        (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "an HDF5 file, as Keras"),
        (lambda p: p.write_bytes(b""), "empty"),
        (lambda p: p.mkdir(), "a folder; give a file in it"),
        (lambda p: torch.save(Whole(1, 1), p), "holds a pickled object (test_weights.Whole)"),
        (lambda p: p.write_bytes(pickle.dumps(Whole(1, 1))), "holds a pickled object"),
        (scripted, "a TorchScript program, not weights"),
        (lambda p: p.write_bytes(struct.pack("<QQ", 1, 2)), "damaged, or not a checkpoint"),
    ],
    ids=["lfs", "html", "hdf5", "empty", "folder", "module", "pickle", "script", "noise"],
)  # fmt: skip
def test_a_file_without_weights_is_called_what_it_is(
    write: Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "g.pth"
    write(path)
    with pytest.raises(Refused) as refusal:
        checkpoint.load(path)
    assert str(refusal.value).startswith(f"{path}: {says}")


def test_weights_of_a_diverged_training_are_refused(inside: Inside, faces: Path) -> None:
    net = NetG(8, 4, 28)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    weights = {key: value.clone() for key, value in net.state_dict().items()}
    weights["main.3.weight"][1] = float("nan")
    with pytest.raises(Refused, match=r"^w.pth: main\.3\.weight holds NaN or infinity"):
        load_weights(net, weights, "w.pth")
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    torch.save(weights, "g.pth")
    words = ["train", *TINY, "--family=dcgan", f"--data-path={faces}", "--netg-path=g.pth"]
    refused(inside, *words, says="g.pth: main.3.weight holds NaN")
    assert not Path("checkpoints").exists()
