"""The classic nets, layer by layer, and the weights of the classic scripts."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from config import Config
from gan.errors import Refused
from gan.weights import load_weights, without_bias
from models import FAMILIES, ModernD, ModernG, NetD, NetG, find_family, project, pyramid, restore


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_parameter_counts_of_the_classic_96_pixel_nets() -> None:
    # conv = in * out * k * k; batch norm = 2 * channels; the only biases: 128 and 1
    g = 100 * 512 * 16 + 1024 + 512 * 256 * 16 + 512 + 256 * 128 * 16 + 128 + 256
    g += 128 * 64 * 16 + 128 + 64 * 3 * 25
    d = 3 * 64 * 25 + 64 * 128 * 16 + 256 + 128 * 256 * 16 + 512 + 256 * 512 * 16 + 1024
    d += 512 * 1 * 16 + 1
    assert (count(NetG()), count(NetD())) == (g, d) == (3_578_560, 2_767_297)


def test_parameter_counts_of_the_classic_144_pixel_nets() -> None:
    g = 40 * 256 * 16 + 512 + 256 * 128 * 16 + 256 + 128 * 64 * 16 + 64 + 128
    g += 64 * 32 * 25 + 64 + 32 * 3 * 25
    d = 3 * 32 * 25 + 32 * 64 * 25 + 128 + 64 * 128 * 16 + 256 + 128 * 256 * 16 + 512
    d += 256 * 1 * 16 + 1
    assert (count(NetG(40, 32, 144)), count(NetD(32, 144))) == (g, d) == (873_824, 713_953)


def test_parameter_counts_of_the_other_sources() -> None:
    """Dense: in * out + out. At 64 px without the biases that batch norm cancels."""
    expected = {
        "mlp": (
            100 * 256 + 256 + 256 * 512 + 512 + 512 * 784 + 784,
            784 * 512 + 512 + 512 * 256 + 256 + 256 + 1,
        ),
        "mlp-tiny": (100 * 128 + 128 + 128 * 784 + 784, 784 * 128 + 128 + 128 + 1),
        "dcgan-64": (
            16 * (100 * 1024 + 1024 * 512 + 512 * 256 + 256 * 128 + 128)
            + 2 * (1024 + 512 + 256 + 128)
            + 256,  # the bias of the classic script's third layer
            16 * (128 + 128 * 256 + 256 * 512 + 512 * 1024 + 1024) + 2 * (256 + 512 + 1024) + 1,
        ),
        "dcgan-144": (873_824, 713_953),
        "wgan": (
            16 * (100 * 256 + 256 * 128 + 128 * 64 + 64 * 3) + 2 * (256 + 128 + 64) + 64,
            16 * (3 * 64 + 64 * 128 + 128 * 256 + 256) + 2 * (128 + 256) + 1,
        ),
        "wgan-gp": (
            36 * 40 * 256 + 16 * (256 * 128 + 128 * 64 + 64 * 3) + 2 * (256 + 128 + 64) + 64,
            16 * (3 * 64 + 64 * 128 + 128 * 256) + 36 * 256 + 64 + 128 + 256 + 1,  # all biased
        ),
    }
    for name, counts in expected.items():
        family = FAMILIES[name]
        nets = family.build(Config(**family.defaults), 0)
        assert (count(nets.G), count(nets.D)) == counts, name


def test_only_batch_norm_or_spectral_norm_or_none() -> None:
    kinds = {
        norm: [type(layer).__name__ for layer in NetD(4, 48, norm=norm).main]
        for norm in ("batch", "none", "spectral")
    }
    assert kinds["batch"].count("BatchNorm2d") == 2
    assert not {"BatchNorm2d"} & {*kinds["none"], *kinds["spectral"]}
    assert kinds["spectral"].count("ParametrizedConv2d") == 4
    D = NetD(4, 48, norm="spectral")
    for layer in D.main[::2]:
        layer.parametrizations.weight.original.data *= 100
    for _ in range(30):
        D(torch.randn(2, 3, 48, 48))
    for layer in D.main[::2]:
        norm = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
        assert float(norm) == pytest.approx(1, 0.1)


def test_a_conditional_score_is_the_score_and_that_of_its_class() -> None:
    scores = torch.tensor([[1.0, 10.0, 100.0], [2.0, 20.0, 200.0]])
    assert project(scores[:, :1]).tolist() == [1, 2]
    assert project(scores, torch.eye(2)).tolist() == [11, 202]


@pytest.mark.parametrize("name", [n for n, row in FAMILIES.items() if row.task.name == "noise"])
def test_every_family_can_be_conditional(name: str) -> None:
    defaults = {**FAMILIES[name].defaults, "ngf": 4, "ndf": 4, "nz": 6, "img_size": 28}
    nets = FAMILIES[name].build(Config(**defaults), 3)
    z, classes, others = torch.randn(3, 6), torch.eye(3), torch.eye(3)[[1, 2, 0]]
    images = nets.G(z, classes)
    scores = nets.D(images, classes)
    assert scores.shape == (3,)
    assert not torch.equal(scores, nets.D(images, others))
    assert not torch.equal(images, nets.G(z, others))


def test_sides_of_the_layers() -> None:
    def sides(size: int) -> list[int]:
        return [side for side, _ in pyramid(size)]

    assert sides(96) == [96, 32, 16, 8, 4]
    assert sides(144) == [144, 48, 16, 8, 4]
    assert sides(64) == [64, 32, 16, 8, 4]
    assert sides(48) == [48, 24, 12, 6]
    assert sides(28) == [28, 14, 7]
    assert sides(100) == [100, 50, 25, 12, 6]


def test_any_size_and_both_channel_counts() -> None:
    sizes = {*range(28, 66), *range(67, 257, 9), 80, 96, 100, 112, 128, 144, 192, 255, 256}
    with torch.device("meta"):  # shapes without numbers
        for size in sorted(sizes):
            for channels in (1, 3):
                images = NetG(5, 2, size, channels)(torch.empty(2, 5))
                assert images.shape == (2, channels, size, size)
                assert NetD(2, size, channels)(images).shape == (2,)
                images = ModernG(5, 4, size, channels)(torch.empty(2, 5))
                assert images.shape == (2, channels, size, size)


@pytest.mark.parametrize("size", [28, 29, 57, 96, 100])
def test_the_modern_discriminator_takes_any_size(size: int) -> None:
    assert ModernD(4, size, 1)(torch.zeros(2, 1, size, size)).shape == (2,)


def test_parameter_counts_of_the_modern_96_pixel_nets() -> None:
    g = 64 * 256 * 36 + 2 * 256 + 256 * 128 * 16 + 2 * 128 + 128 * 64 * 16 + 2 * 64
    g += 64 * 32 * 16 + 2 * 32 + 32 * 32 * 9 + 2 * 32 + 32 * 16 * 16 + 2 * 16 + 16 * 3 * 9 + 3
    d = 12 * 32 * 9 + 32 + 32 * 48 * 16 + 48 + 48 * 96 * 16 + 96 + 96 * 192 * 16 + 192
    d += 192 * 192 * 9 + 192 + 192 * 36 + 1
    assert (count(ModernG()), count(ModernD())) == (g, d) == (1_296_851, 735_921)
    channels = 256 + 128 + 64 + 32 + 32 + 16  # of the norms: two numbers each, now of the style
    g += 65 * 128 + 129 * 128 + 129 * 2 * channels - 2 * channels
    d += 192 * 9  # of the channel that holds the deviation of the batch
    nets = FAMILIES["modern"].build(Config(), 0)
    assert (count(nets.G), count(nets.D)) == (g, d) == (1_456_851, 737_649)


def test_spectral_norm_holds_every_convolution_of_the_modern_discriminator() -> None:
    D = ModernD(8, 32)
    for _ in range(50):  # one power iteration a pass
        D(torch.randn(2, 3, 32, 32))
    convolutions = [layer for layer in D.main if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 4
    for conv in convolutions:
        assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item() == pytest.approx(1, 0.01)


def classic_g() -> nn.Sequential:
    """The published 96-pixel generator, written out."""
    t = nn.ConvTranspose2d
    return nn.Sequential(
        t(100, 512, 4, 1, 0, bias=False), nn.BatchNorm2d(512), nn.ReLU(),
        t(512, 256, 4, 2, 1, bias=False), nn.BatchNorm2d(256), nn.ReLU(),
        t(256, 128, 4, 2, 1), nn.BatchNorm2d(128), nn.ReLU(),
        t(128, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        t(64, 3, 5, 3, 1, bias=False), nn.Tanh(),
    )  # fmt: skip


def classic_d() -> nn.Sequential:
    """The published 96-pixel discriminator, written out; it ends in a sigmoid."""
    c, leaky = nn.Conv2d, nn.LeakyReLU
    return nn.Sequential(
        c(3, 64, 5, 3, 1, bias=False), leaky(0.2),
        c(64, 128, 4, 2, 1, bias=False), nn.BatchNorm2d(128), leaky(0.2),
        c(128, 256, 4, 2, 1, bias=False), nn.BatchNorm2d(256), leaky(0.2),
        c(256, 512, 4, 2, 1, bias=False), nn.BatchNorm2d(512), leaky(0.2),
        c(512, 1, 4, 1, 0), nn.Sigmoid(),
    )  # fmt: skip


def published(net: nn.Sequential) -> "OrderedDict[str, Tensor]":
    return OrderedDict((f"main.{key}", value) for key, value in net.state_dict().items())


def test_classic_weights_load_and_give_the_same_pictures_and_scores() -> None:
    torch.manual_seed(0)
    g, d, net_g, net_d = classic_g().eval(), classic_d().eval(), NetG().eval(), NetD().eval()
    load_weights(net_g, published(g), "g.pth")
    load_weights(net_d, published(d), "d.pth")
    z = torch.randn(2, 100)
    with torch.no_grad():
        images = g(z[:, :, None, None])
        assert torch.equal(net_g(z), images)
        assert torch.equal(net_d(images).sigmoid(), d(images).flatten())


def test_ours_load_in_the_classic_script() -> None:
    for net, classic in ((NetG(), classic_g()), (NetD(), classic_d())):
        bare = {key.removeprefix("main."): value for key, value in net.state_dict().items()}
        classic.load_state_dict(bare)  # strict


def with_statistics(net: nn.Module) -> nn.Module:
    """The net, as if trained: every bias and every statistic of batch norm is some number."""
    torch.manual_seed(0)
    for name, value in net.state_dict().items():
        if name.endswith(("bias", "running_mean")):
            value.uniform_(-0.3, 0.3)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2)
    return net.eval()


def test_ours_load_in_the_classic_script_without_the_two_biases() -> None:
    """G draws what it drew, in evaluation and in training; D's scores all shift alike."""
    g, d = classic_g().eval(), classic_d().eval()
    for classic, place in ((g, 6), (d, 11)):
        classic[place].register_parameter("bias", None)  # now only batch norm has biases
    net_g, net_d = with_statistics(NetG()), with_statistics(NetD())
    bias = net_d.get_parameter("main.11.bias")
    for net, classic, shift in ((net_g, g, 0.0), (net_d, d, bias.item())):
        before = {key: value.clone() for key, value in net.state_dict().items()}
        weights, found = without_bias(net)
        assert found == shift
        classic.load_state_dict({k.removeprefix("main."): v for k, v in weights.items()})  # strict
        assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    z = torch.randn(4, 100)
    with torch.no_grad():
        images = net_g(z)
        assert torch.allclose(g(z[:, :, None, None]), images, atol=1e-5)
        logits = d[:-1](images).flatten()
        assert torch.allclose(logits, net_d(images) - bias, atol=1e-5)
        again = NetG().eval()
        load_weights(again, without_bias(net_g)[0], "netg.pth")  # and back
        assert torch.allclose(again(z), images, atol=1e-5)
        assert torch.allclose(g.train()(z[:, :, None, None]), net_g.train()(z), atol=1e-5)


@pytest.mark.parametrize(
    "net",
    [
        NetG(4, 2, 28, 1),  # its third convolution makes the picture
        NetD(2, 28, classes=2),
        NetD(2, 28, norm="none"),
        NetD(2, 28, norm="spectral"),
        ModernG(4, 2, 28),
        nn.Linear(2, 2),
    ],
    ids=["28", "classes", "none", "spectral", "modern", "linear"],
)
def test_nets_that_no_classic_script_has_keep_their_biases(net: nn.Module) -> None:
    with pytest.raises(ValueError, match="bias"):
        without_bias(net)


@pytest.mark.parametrize(
    ("net", "key"), [(NetG(), "main.6.bias"), (NetD(), "main.11.bias")], ids=["G", "D"]
)
def test_one_missing_bias_is_zero_and_anything_else_is_refused(net: nn.Module, key: str) -> None:
    whole = dict(net.state_dict())
    without = {k: v for k, v in whole.items() if k != key}
    load_weights(net, without, "w.pth")
    assert not net.state_dict()[key].any()
    for broken, says in (
        ({k: v for k, v in whole.items() if k != "main.0.weight"}, "has no main.0.weight"),
        ({**whole, "main.99.bias": torch.zeros(1)}, "has main.99.bias too"),
        ({**whole, "main.0.weight": torch.zeros(2, 2)}, r"main.0.weight is \[2, 2\]"),
        ({"state_dict": whole}, "not a bare state dict"),
        ([1], "not a bare state dict"),
    ):
        with pytest.raises(Refused, match=f"^w.pth: .*{says}"):
            load_weights(net, broken, "w.pth")


def test_weights_older_than_the_batch_counter_load() -> None:
    old = {k: v for k, v in NetG().state_dict().items() if not k.endswith("num_batches_tracked")}
    load_weights(NetG(), old, "old.pth")


def test_an_unknown_family_is_refused_with_the_nearest() -> None:
    assert find_family("dcgan") is FAMILIES["dcgan"]
    with pytest.raises(Refused, match=r"did you mean dcgan\?"):
        find_family("dcgann")


def test_a_file_that_is_no_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "netg.pth"
    torch.save(NetG(img_size=28, ngf=2).state_dict(), path)
    with pytest.raises(Refused, match="not a training state"):
        restore(path)


def test_one_channel_is_wide_enough() -> None:
    assert ModernG(nz=2, ngf=1, img_size=28)(torch.zeros(2, 2)).shape == (2, 3, 28, 28)
