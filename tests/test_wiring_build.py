"""How the families build their nets from a config, and how weights and states are loaded."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from config import Config, RunFacts
from gan import checkpoint
from gan.errors import Refused
from gan.losses import Nets
from gan.modern import Modulation
from gan.translation import CycleD, PatchD, ThereAndBack, UNet
from gan.weights import load_weights
from models import FAMILIES, MlpD, MlpG, ModernD, ModernG, ModulatedG, NetD, NetG, restore

Weights = dict[str, Tensor]


def config_of(name: str, **flags: Any) -> Config:
    small = {"img_size": 28, "ngf": 2, "ndf": 3, "nz": 5, "pool": 4}
    return Config(**{**FAMILIES[name].defaults, **small, "family": name, **flags})


def build(name: str, classes: int = 0, **flags: Any) -> Nets:
    return FAMILIES[name].build(config_of(name, **flags), classes)


def load(net: nn.Module, weights: object) -> None:
    load_weights(net, weights, "w.pth")


def save_state(
    path: Path, config: Config, nets: Nets, average: Mapping[str, Tensor] | None, *names: str
) -> None:
    """A state as the loop saves it; `names` are its classes."""
    weights = {"G": nets.G.state_dict(), "D": nets.D.state_dict()}
    fields = {**vars(config), "a_flag_of_an_older_version": 1}
    facts = {"class_names": list(names), "mixed_precision": False}
    checkpoint.save(path, {"config": fields, "facts": facts, "nets": weights, "ema": average})


def two_ways(G: nn.Module) -> tuple[nn.Module, nn.Module]:
    assert isinstance(G, ThereAndBack)
    return G.there, G.back


def two_discriminators(D: nn.Module) -> tuple[nn.Module, nn.Module]:
    assert isinstance(D, CycleD)
    return D.there, D.back


def pools(D: nn.Module) -> tuple[Tensor, Tensor]:
    """The pictures that the pools hold."""
    assert isinstance(D, CycleD)
    return D.pool_there.images, D.pool_back.images


# What the nets are made of


def found(net: nn.Module, *kinds: type[nn.Module]) -> list[Any]:
    return [module for module in net.modules() if isinstance(module, kinds)]


def convolutions(net: nn.Module) -> list[Any]:
    return found(net, nn.Conv2d, nn.ConvTranspose2d)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def spectral(net: nn.Module) -> int:
    return sum(parametrize.is_parametrized(module) for module in net.modules())


def norms(net: nn.Module) -> set[str]:
    names = {"BatchNorm2d": "batch", "InstanceNorm2d": "instance"}
    return {names[type(m).__name__] for m in found(net, nn.BatchNorm2d, nn.InstanceNorm2d)}


# Families of noise: 28 pixels, grey, nz 5, ngf 2, ndf 3, classes a and b; 28 -> 14 -> 7 pixels

DCGAN_G = 7 * 4 * 49 + 2 * 4 + 4 * 2 * 16 + 2 * 2 + 2 * 16 + 1
DCGAN_D = (
    3 * 16 + 3 * 6 * 16 + 6 * 3 * 49 + 3
)  # then two numbers a channel of batch norm, or biases
MLP_G, MLP_D = (
    7 * 256 + 256 + 256 * 512 + 512 + 512 * 784 + 784,
    784 * 512 + 512 + 512 * 256 + 256 + 256 * 3 + 3,
)
TINY_G, TINY_D = 7 * 128 + 128 + 128 * 784 + 784, 784 * 128 + 128 + 128 * 3 + 3
MODERN_G = 7 * 4 * 49 + 8 + 4 * 2 * 16 + 4 + 2 * 2 * 9 + 4 + 2 * 16 + 2 + 9 + 1
MODERN_D = 4 * 3 * 9 + 3 + 3 * 4 * 16 + 4 + 4 * 4 * 9 + 4 + 4 * 49 * 3 + 3
# the mapping of 7 numbers to a style of 128, and for each of 4 norms a linear layer from it that
# makes two numbers a channel, of which there are 4, 2, 2 and 1 (the norms have none of their own)
MODULATED_G = MODERN_G - 2 * 9 + 8 * 128 + 129 * 128 + 129 * 2 * 9
# G, D, their parameters, norms of D, its spectral convolutions
BUILDS: dict[str, tuple[type, type, int, int, set[str], int]] = {
    # one channel more for the last convolution of D
    "modern": (ModulatedG, ModernD, MODULATED_G, MODERN_D + 4 * 9, set(), 3),
    "unmodulated": (ModernG, ModernD, MODERN_G, MODERN_D, set(), 3),
    "rpgan": (ModernG, ModernD, MODERN_G, MODERN_D, set(), 0),
    "dcgan": (NetG, NetD, DCGAN_G, DCGAN_D + 12, {"batch"}, 0),
    "dcgan-64": (NetG, NetD, DCGAN_G, DCGAN_D + 12, {"batch"}, 0),
    "dcgan-144": (NetG, NetD, DCGAN_G, DCGAN_D + 12, {"batch"}, 0),
    "mlp": (MlpG, MlpD, MLP_G, MLP_D, set(), 0),
    "mlp-tiny": (MlpG, MlpD, TINY_G, TINY_D, set(), 0),
    "lsgan": (NetG, NetD, DCGAN_G, DCGAN_D + 12, {"batch"}, 0),
    "hinge": (NetG, NetD, DCGAN_G, DCGAN_D + 9, set(), 3),
    "wgan": (NetG, NetD, DCGAN_G, DCGAN_D + 12, {"batch"}, 0),
    "wgan-gp": (NetG, NetD, DCGAN_G, DCGAN_D + 9, set(), 0),
}


@pytest.mark.parametrize("name", BUILDS)
def test_nets_of_noise(name: str) -> None:
    nets = build(name, 2, channels=1)
    G, D, g_count, d_count, d_norms, d_spectral = BUILDS[name]
    assert (type(nets.G), type(nets.D)) == (G, D)
    assert (count(nets.G), count(nets.D)) == (g_count, d_count)
    assert (norms(nets.D), spectral(nets.D), spectral(nets.G)) == (d_norms, d_spectral, 0)
    one_hot = torch.eye(2)
    images = nets.G(torch.randn(2, 5), one_hot)
    assert images.shape == (2, 1, 28, 28)
    assert nets.D(images, one_hot).shape == (2,)


@pytest.mark.parametrize("name", BUILDS)
def test_size_and_channels_without_classes(name: str) -> None:
    nets = build(name, img_size=32, channels=3)
    images = nets.G(torch.randn(2, 5))
    assert images.shape == (2, 3, 32, 32)
    assert nets.D(images).shape == (2,)


@pytest.mark.parametrize("name", BUILDS)
def test_nets_of_noise_start_from_the_weights_of_torch(name: str) -> None:
    """Uniform within 1/sqrt(fan-in), where N(0, 0.02) would leave it or fall short of it.

    But for the layers from style to modulation: they are N(0, 0.02), without bias.
    """
    torch.manual_seed(0)
    nets = build(name, ngf=16, ndf=16)
    by_style = [module.style for module in found(nets.G, Modulation)]
    assert bool(by_style) == (name == "modern")
    for layer in by_style:
        error = 5 * layer.weight.numel() ** -0.5
        assert layer.weight.std().item() == pytest.approx(0.02, rel=error)
        assert not layer.bias.any()
    for layer in (*found(nets.G, nn.Linear, nn.Conv2d), *found(nets.D, nn.Linear, nn.Conv2d)):
        if (
            layer not in by_style
            and not parametrize.is_parametrized(layer)
            and layer.weight.numel() > 400
        ):
            bound = (layer.weight.numel() / len(layer.weight)) ** -0.5
            assert 0.95 * bound < layer.weight.abs().max() <= bound


# Pictures to pictures


@pytest.mark.parametrize(("direction", "given", "wanted"), [("AtoB", 1, 3), ("BtoA", 3, 1)])
def test_pix2pix_goes_from_the_given_to_the_wanted(direction: str, given: int, wanted: int) -> None:
    nets = build("pix2pix", channels_a=1, channels_b=3, direction=direction)
    assert isinstance(nets.G, UNet)
    assert isinstance(nets.D, PatchD)
    images = torch.zeros(1, given, 28, 28)
    assert nets.G(images).shape == (1, wanted, 28, 28)
    # D is shown both together
    assert nets.D(torch.cat([images, nets.G(images)], 1)).shape == (1, 1, 1, 1)
    assert convolutions(nets.D)[0].in_channels == given + wanted


@pytest.mark.parametrize(("direction", "given", "wanted"), [("AtoB", 1, 3), ("BtoA", 3, 1)])
def test_cyclegan_goes_there_and_back(direction: str, given: int, wanted: int) -> None:
    nets = build("cyclegan", channels_a=1, channels_b=3, direction=direction)
    assert isinstance(nets.G, ThereAndBack)
    there, back = two_ways(nets.G)
    images = torch.zeros(1, given, 28, 28)
    assert there(images).shape == nets.G(images).shape == (1, wanted, 28, 28)
    assert back(there(images)).shape == (1, given, 28, 28)
    d_there, d_back = two_discriminators(nets.D)
    assert d_there(there(images)).shape == d_back(images).shape == (1, 1, 1, 1)
    held_there, held_back = pools(nets.D)
    assert held_there.shape == (4, wanted, 28, 28)
    assert held_back.shape == (4, given, 28, 28)


@pytest.mark.parametrize(("batch", "norm"), [(1, "instance"), (2, "batch"), (64, "batch")])
def test_pix2pix_has_instance_norm_at_batch_1(batch: int, norm: str) -> None:
    nets = build("pix2pix", batch_size=batch)
    assert norms(nets.G) == norms(nets.D) == {norm}


@pytest.mark.parametrize("batch", [1, 4])
def test_cyclegan_has_instance_norm_at_any_batch(batch: int) -> None:
    nets = build("cyclegan", batch_size=batch)
    assert norms(nets.G) == norms(nets.D) == {"instance"}


@pytest.mark.parametrize("name", ["pix2pix", "cyclegan"])
def test_spectral_norm_is_asked_for(name: str) -> None:
    discriminators = 1 if name == "pix2pix" else 2
    assert spectral(build(name).D) == 0
    nets = build(name, spectral=True)
    assert (spectral(nets.D), spectral(nets.G), norms(nets.D)) == (5 * discriminators, 0, set())


@pytest.mark.parametrize("name", ["pix2pix", "cyclegan"])
def test_widths(name: str) -> None:
    nets = build(name, ngf=2, ndf=3)
    ways = (nets.G,) if name == "pix2pix" else two_ways(nets.G)
    discriminators = (nets.D,) if name == "pix2pix" else two_discriminators(nets.D)
    for way in ways:
        assert convolutions(way)[0].out_channels == 2
    for patch_d in discriminators:
        assert [conv.out_channels for conv in convolutions(patch_d)] == [3, 6, 12, 24, 1]


@pytest.mark.parametrize("size", [28, 64, 256])
def test_depth_is_set_by_the_size(size: int) -> None:
    """The U-Net halves down to a pixel, convolutions there and back; 6 residual blocks, or 9."""
    assert len(convolutions(build("pix2pix", img_size=size).G)) == {28: 8, 64: 12, 256: 16}[size]
    for way in two_ways(build("cyclegan", img_size=size).G):
        assert len(convolutions(way)) == 6 + 2 * (9 if size == 256 else 6)


@pytest.mark.parametrize("with_spectral", [False, True])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", ["pix2pix", "cyclegan"])
def test_nets_of_pictures_start_from_the_weights_of_their_papers(
    name: str, batch: int, with_spectral: bool
) -> None:
    """N(0, 0.02), batch norm N(1, 0.02), every bias 0: within five standard errors."""
    torch.manual_seed(0)
    nets = build(name, ngf=8, ndf=8, batch_size=batch, spectral=with_spectral)
    for net in (nets.G, nets.D):
        for key, parameter in net.named_parameters():
            if key.endswith("bias"):
                assert not parameter.any(), key
                continue
            mean, error = float(parameter.ndim == 1), 5 / parameter.numel() ** 0.5
            assert parameter.mean().item() == pytest.approx(mean, abs=0.02 * error), key
            assert parameter.std().item() == pytest.approx(0.02, rel=error), key


# Weights

LOADED: dict[str, Callable[[], nn.Module]] = {
    "NetG": lambda: build("dcgan").G,
    "NetD": lambda: build("dcgan").D,
    "NetD-spectral": lambda: build("hinge").D,
    "NetD-none": lambda: build("wgan-gp").D,
    "MlpG": lambda: MlpG(5, (4,), 28, 1),
    "MlpD": lambda: MlpD((4,), 28, 1),
    "ModulatedG": lambda: build("modern").G,
    "ModernD-deviation": lambda: build("modern").D,
    "ModernG": lambda: build("unmodulated").G,
    "ModernD": lambda: build("unmodulated").D,
    "ModernD-none": lambda: build("rpgan").D,
    "UNet": lambda: build("pix2pix", batch_size=2).G,
    "UNet-instance": lambda: build("pix2pix").G,
    "PatchD": lambda: build("pix2pix", batch_size=2).D,
    "two-ResNetG": lambda: build("cyclegan").G,
    "two-PatchD": lambda: build("cyclegan").D,
}
# the one bias that files of later variants of the classic script lack
MAY_LACK = {
    "NetG": "main.6.bias",
    "NetD": "main.5.bias",
    "NetD-spectral": "main.4.bias",
    "NetD-none": "main.4.bias",
}


def weights_of(net: nn.Module) -> Weights:
    return {key: value.clone() for key, value in net.state_dict().items()}


def differing(net: nn.Module, weights: Weights) -> list[str]:
    own = net.state_dict()
    assert own.keys() == weights.keys()
    return [key for key in own if not torch.equal(own[key], weights[key])]


def other(net: nn.Module) -> Weights:
    """Weights of the same shapes, each of them different."""
    return {key: value + 1 for key, value in weights_of(net).items()}


@pytest.mark.parametrize("name", LOADED)
def test_whole_weights_are_loaded(name: str) -> None:
    net = LOADED[name]()
    weights = other(net)
    load(net, weights)
    assert differing(net, weights) == []


@pytest.mark.parametrize("name", LOADED)
def test_any_key_missing_or_misshapen_is_refused(name: str) -> None:
    net = LOADED[name]()
    before, weights = weights_of(net), other(net)
    for key in weights:
        changes = [{**weights, key: torch.zeros(2, 3, 5)}]
        if not key.endswith("num_batches_tracked") and key != MAY_LACK.get(name):
            changes.append({k: v for k, v in weights.items() if k != key})
        for change in changes:
            with pytest.raises(Refused, match=rf"^w.pth: .*{key}.*--family"):
                load(net, change)
    assert differing(net, before) == []  # nothing was loaded by halves


@pytest.mark.parametrize("name", LOADED)
def test_a_key_too_many_is_refused(name: str) -> None:
    net = LOADED[name]()
    before = weights_of(net)
    spare = "there.spare.weight" if name.startswith("two") else "spare.weight"
    with pytest.raises(Refused, match=rf"^w.pth: has {spare} too"):
        load(net, {**other(net), spare: torch.zeros(1)})
    assert differing(net, before) == []


@pytest.mark.parametrize("name", LOADED)
def test_anything_but_tensors_by_name_is_refused(name: str) -> None:
    net = LOADED[name]()
    for weights in ([1, 2], {"step": 3}, {**other(net), "config": {}}, None):
        with pytest.raises(Refused, match=r"^w\.pth: not a bare state dict of tensors"):
            load(net, weights)


@pytest.mark.parametrize("name", MAY_LACK)
def test_the_bias_that_may_be_missing_becomes_zero(name: str) -> None:
    net, key = LOADED[name](), MAY_LACK[name]
    weights = other(net)
    load(net, {k: v for k, v in weights.items() if k != key})
    assert differing(net, {**weights, key: torch.zeros_like(weights[key])}) == []


@pytest.mark.parametrize("name", ["NetG", "UNet"])
def test_the_counter_of_batches_may_be_missing(name: str) -> None:
    net = LOADED[name]()
    weights = other(net)
    load(net, {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")})
    assert {key.rpartition(".")[2] for key in differing(net, weights)} == {"num_batches_tracked"}


def reference_file(net: nn.Module) -> Weights:
    """As the reference saves it from several GPUs, with what old files hold of instance norm."""
    old = {f"module.{key}": value for key, value in other(net).items()}
    for key, module in net.named_modules():
        if isinstance(module, nn.InstanceNorm2d):
            old[f"module.{key}.running_mean"] = torch.zeros(1)
    return old


def test_pix2pix_takes_files_of_the_reference() -> None:
    G = build("pix2pix").G
    weights = other(G)
    load(G, reference_file(G))
    assert differing(G, weights) == []


def test_cyclegan_takes_one_file_of_the_reference_for_the_way_there() -> None:
    G = build("cyclegan").G
    there, back = two_ways(G)
    untouched, weights = weights_of(back), other(there)
    load(G, reference_file(there))
    assert differing(there, weights) == []
    assert differing(back, untouched) == []


def test_cyclegan_takes_both_ways_or_is_refused() -> None:
    G = build("cyclegan").G
    before, whole = weights_of(G), other(G)
    half = {key: value for key, value in whole.items() if key.startswith("there.")}
    with pytest.raises(Refused, match=r"^w\.pth: has no back\."):
        load(G, half)
    assert differing(G, before) == []
    with pytest.raises(Refused, match=r"^w\.pth: has no model\."):
        load(G, {key: value for key, value in whole.items() if key.startswith("back.")})
    assert differing(G, before) == []


# States


@pytest.mark.parametrize("averaged", [True, False])
@pytest.mark.parametrize("name", ["modern", "unmodulated", "dcgan", "wgan-gp", "hinge", "mlp-tiny"])
def test_restore_gives_the_average_if_there_is_one(
    name: str, averaged: bool, tmp_path: Path
) -> None:
    config, path = config_of(name, channels=1), tmp_path / "state.pth"
    nets = build(name, 2, channels=1)
    average = other(nets.G)
    save_state(path, config, nets, average if averaged else None, "a", "b")
    restored, stored, facts = restore(path)
    assert (stored, facts) == (config, RunFacts(("a", "b"), False))
    assert differing(restored.G, average if averaged else weights_of(nets.G)) == []
    assert differing(restored.D, weights_of(nets.D)) == []


@pytest.mark.parametrize("name", ["pix2pix", "cyclegan"])
def test_restore_of_pictures(name: str, tmp_path: Path) -> None:
    """The pools with what they hold included."""
    flags = {"batch_size": 2, "spectral": True, "channels_a": 1, "direction": "BtoA"}
    nets, path = build(name, **flags), tmp_path / "state.pth"
    if name == "cyclegan":
        for held in pools(nets.D):
            held.normal_()
    save_state(path, config_of(name, **flags), nets, None)
    restored, stored, facts = restore(path)
    assert (stored, facts) == (config_of(name, **flags), RunFacts())
    assert differing(restored.G, weights_of(nets.G)) == []
    assert differing(restored.D, weights_of(nets.D)) == []


def test_restore_of_an_earlier_version(tmp_path: Path) -> None:
    """Which kept the classes, and whether it computed in bfloat16, among the settings."""
    path, nets = tmp_path / "state.pth", build("dcgan", 2)
    fields = {**vars(config_of("dcgan")), "classes": "a/b", "amp": True}
    weights = {"G": nets.G.state_dict(), "D": nets.D.state_dict()}
    checkpoint.save(path, {"config": fields, "nets": weights, "ema": None})
    restored, stored, facts = restore(path)
    assert (stored, facts) == (config_of("dcgan", amp=True), RunFacts(("a", "b"), True))
    assert differing(restored.G, weights_of(nets.G)) == []


@pytest.mark.parametrize("missing", ["config", "nets", "ema"])
def test_a_state_without_a_part_is_refused(missing: str, tmp_path: Path) -> None:
    path = tmp_path / "state.pth"
    state: dict[str, Any] = {"config": {}, "nets": {}, "ema": None}
    del state[missing]
    checkpoint.save(path, state)
    with pytest.raises(Refused, match=r"state\.pth: not a training state.*--netg-path"):
        restore(path)


@pytest.mark.parametrize("player", ["G", "D", "average"])
def test_a_state_of_other_nets_is_refused(player: str, tmp_path: Path) -> None:
    """Wider ones than its config says."""
    path, nets, wide = tmp_path / "state.pth", build("dcgan"), build("dcgan", ngf=4, ndf=4)
    mixed = Nets(wide.G if player == "G" else nets.G, wide.D if player == "D" else nets.D)
    average = wide.G.state_dict() if player == "average" else None
    save_state(path, config_of("dcgan"), mixed, average)
    with pytest.raises(Refused, match=r"state\.pth: main\.\d+\.weight is"):
        restore(path)
