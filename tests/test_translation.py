"""Image-to-image networks: shapes, sizes, what a patch sees, the pool, published weights."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan.errors import Refused
from gan.translation import PatchD, Pool, ResNetG, UNet, init_weights
from gan.weights import load_weights

SIZES = [28, 30, 50, 64, 96, 100, 128, 144, 256]
NORMED = (nn.BatchNorm2d, nn.InstanceNorm2d)
Weights = dict[str, Tensor]


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def biased(net: nn.Module) -> list[bool]:
    """For each convolution in the order they run: does it have a bias?"""
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    return [conv.bias is not None for conv in convs]


# Shapes


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", [UNet, ResNetG])
def test_a_picture_keeps_its_sides(make: Callable[..., nn.Module], size: int) -> None:
    for channels_in, channels_out in [(1, 3), (3, 1)]:
        net = make(channels_in, channels_out, size, 2).eval()
        for height, width in [(size, size), (size, size + 13), (size // 2 + 3, size)]:
            with torch.no_grad():
                generated = net(torch.randn(1, channels_in, height, width))
            assert generated.shape == (1, channels_out, height, width)
            assert generated.abs().max() <= 1


def test_sizes_next_to_the_powers_of_two() -> None:
    for size in (29, 31, 33, 47, 63, 65, 99, 127, 129, 191, 255):
        images = torch.zeros(1, 3, size, size)
        for make in (UNet, ResNetG):
            with torch.no_grad():
                assert make(3, 1, size, 1)(images).shape == (1, 1, size, size)


def test_scores_of_patches() -> None:
    # 256 -> 128, 64, 32, 31, 30; 96 -> 48, 24, 12, 11, 10; 28 -> 14, 7, 3, 2, 1
    for size, side in {256: 30, 96: 10, 28: 1, 24: 1}.items():
        assert PatchD(1, 1)(torch.zeros(2, 1, size, size)).shape == (2, 1, side, side)
    assert PatchD(6, 1, n_layers=2)(torch.zeros(1, 6, 64, 40)).shape == (1, 1, 14, 8)


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("size", [28, 50, 64])
def test_no_norm_ever_sees_a_single_pixel(size: int, norm: str) -> None:
    seen = []
    for make in (UNet, ResNetG):
        net = make(3, 3, size, 2, norm=norm)
        for module in net.modules():
            if isinstance(module, NORMED):
                module.register_forward_pre_hook(lambda _, x: seen.append(min(x[0].shape[2:])))
        for sides in [(size, size), (size, size + 7), (size // 3, size)]:
            net(torch.randn(1, 3, *sides))  # batch 1, in training mode
    assert min(seen) == 2


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_the_smallest_picture_a_discriminator_takes(norm: str) -> None:
    for layers in (1, 2, 3, 4):
        side = 3 * 2**layers  # 24 -> 12, 6, 3, 2, 1: the last norm sees 2 x 2
        assert PatchD(3, 2, layers, norm)(torch.randn(1, 3, side, side)).shape == (1, 1, 1, 1)
        with pytest.raises((RuntimeError, ValueError)):
            PatchD(3, 2, layers, norm)(torch.randn(1, 3, side - 1, side - 1))


def test_the_u_net_goes_down_to_one_pixel() -> None:
    # halved, rounding down: 144 72 36 18 9 4 2 1; 100 50 25 12 6 3 1; 28 14 7 3 1
    for size, levels in {256: 8, 144: 7, 128: 7, 100: 6, 64: 6, 50: 5, 28: 4}.items():
        maps: list[torch.Size] = []
        net = UNet(3, 3, size, 1)
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda _, x, y, to=maps: to.append(y.shape[2:]))
        net(torch.zeros(1, 3, size, size))
        assert len(maps) == levels
        assert maps[-1] == (1, 1)


def test_every_weight_is_trained_at_an_odd_size() -> None:
    for net in (UNet(3, 3, 30, 2), ResNetG(3, 3, 30, 2, "batch")):
        net(torch.randn(2, 3, 30, 27)).square().mean().backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


# Layers


def test_parameter_counts_are_those_the_reference_prints() -> None:
    # In millions as its train.py prints them: 54.414 and 2.769 for pix2pix (unet_256, batch norm,
    # D on 3 + 3 channels), 11.378 and 2.765 for CycleGAN (resnet_9blocks, instance norm).
    # conv = in * out * k * k, then the bias; batch norm = 2 * channels
    down = [(3, 64), (64, 128), (128, 256), (256, 512), *[(512, 512)] * 4]
    up = [(512, 512), *[(1024, 512)] * 3, (1024, 256), (512, 128), (256, 64), (128, 3)]
    u_net = sum(c_in * c_out * 16 for c_in, c_out in [*down, *up]) + 3
    u_net += sum(2 * c for c in (128, 256, 512, 512, 512, 512))  # none outermost and innermost
    u_net += sum(2 * c for c in (512, 512, 512, 512, 256, 128, 64))

    resnet = 3 * 64 * 49 + 64 + 64 * 128 * 9 + 128 + 128 * 256 * 9 + 256
    resnet += 9 * 2 * (256 * 256 * 9 + 256)
    resnet += 256 * 128 * 9 + 128 + 128 * 64 * 9 + 64 + 64 * 3 * 49 + 3

    convs = 64 * 128 * 16 + 128 * 256 * 16 + 256 * 512 * 16 + 512 * 16 + 1
    instance_d = 3 * 64 * 16 + 64 + convs + 128 + 256 + 512
    batch_d = 6 * 64 * 16 + 64 + convs + 2 * (128 + 256 + 512)
    with torch.device("meta"):
        nets = [UNet(3, 3, 256), ResNetG(3, 3, 256), PatchD(3), PatchD(6, norm="batch")]
        assert count(ResNetG(3, 3, 255)) == resnet - 3 * 2 * (256 * 256 * 9 + 256)
    assert [count(net) for net in nets] == [u_net, resnet, instance_d, batch_d]
    assert [u_net, resnet, instance_d, batch_d] == [54_413_955, 11_378_179, 2_764_737, 2_768_705]


def test_biases() -> None:
    # Batch norm: none at convolutions of the reference U-Net but the last, normed or not.
    assert biased(UNet(3, 3, 64, 1)) == [False] * 11 + [True]
    assert biased(ResNetG(3, 3, 64, 1, "batch")) == [False] * 17 + [True]
    assert biased(PatchD(3, 1, norm="batch")) == [True, False, False, False, True]
    # Instance norm without scale and shift: everywhere.
    for net in (UNet(3, 3, 64, 1, "instance"), ResNetG(3, 3, 64, 1), PatchD(3, 1)):
        assert all(biased(net))
        assert not any(m.affine for m in net.modules() if isinstance(m, nn.InstanceNorm2d))


@pytest.mark.parametrize(("size", "layers"), [(256, 3), (128, 2), (64, 1), (50, 0), (28, 0)])
def test_dropout_of_the_u_net(size: int, layers: int) -> None:
    def dropouts(net: nn.Module) -> list[float]:
        return [m.p for m in net.modules() if isinstance(m, nn.Dropout)]

    assert dropouts(UNet(3, 3, size, 1)) == [0.5] * layers
    assert dropouts(UNet(3, 3, size, 1, dropout=False)) == []


def test_dropout_of_the_resnet() -> None:
    net, images = ResNetG(3, 3, 64, 4, dropout=True), torch.randn(1, 3, 32, 32)
    assert not torch.equal(net(images), net(images))
    net.eval()
    assert torch.equal(net(images), net(images))


# PatchGAN


def test_a_patch_is_70_pixels_by_arithmetic() -> None:
    for layers, pixels in {1: 16, 2: 34, 3: 70, 4: 142}.items():
        seen = 1  # one score, going back: (seen - 1) * stride + kernel
        for conv in reversed(
            [m for m in PatchD(3, 1, layers).modules() if isinstance(m, nn.Conv2d)]
        ):
            seen = (seen - 1) * conv.stride[0] + conv.kernel_size[0]
        assert seen == pixels


@pytest.mark.parametrize("spectral", [False, True])
def test_a_patch_is_70_pixels_by_gradient(spectral: bool) -> None:
    # Batch norm in eval mode, where no statistics link a score to pixels elsewhere.
    net = PatchD(3, 2, norm="batch", spectral=spectral).double().eval()
    images = torch.randn(1, 3, 256, 256, dtype=torch.double, requires_grad=True)
    scores = net(images)
    assert scores.shape == (1, 1, 30, 30)
    scores[0, 0, 12, 17].backward()
    assert images.grad is not None
    touched = images.grad[0].abs().sum(0) > 0
    rows, columns = touched.any(1).nonzero().flatten(), touched.any(0).nonzero().flatten()
    # score i starts at pixel 8 i - 23: the paddings of the five layers reach back 1 + 2 + 4 + 8 + 8
    assert rows.tolist() == list(range(8 * 12 - 23, 8 * 12 - 23 + 70))
    assert columns.tolist() == list(range(8 * 17 - 23, 8 * 17 - 23 + 70))


def test_spectral_norm_is_on_every_convolution_and_alone() -> None:
    net = PatchD(3, 8, norm="batch", spectral=True)
    init_weights(net)
    assert biased(net) == [True] * 5
    assert not any(isinstance(m, NORMED) for m in net.modules())
    for conv in (m for m in net.eval().modules() if isinstance(m, nn.Conv2d)):
        largest = torch.linalg.matrix_norm(conv.weight.flatten(1), 2)
        assert largest.item() == pytest.approx(1, abs=0.1)


# The pool


def picture(value: float) -> Tensor:
    return torch.full((1, 1, 2, 2), float(value))


def values(images: Tensor) -> list[float]:
    return images[:, 0, 0, 0].tolist()


def test_the_pool_fills_and_then_swaps_or_passes() -> None:
    torch.manual_seed(0)
    pool = Pool((1, 2, 2), size=3)
    assert values(pool(torch.cat([picture(1), picture(2)]))) == [1, 2]
    assert int(pool.filled) == 2
    assert values(pool(picture(3))) == [3]
    assert values(pool.images) == [1, 2, 3]
    passed, slots = 0, []
    for new in range(4, 2004):
        before = values(pool.images)
        (shown,) = values(pool(picture(new)))
        if shown == new:
            passed += 1
            assert values(pool.images) == before
        else:
            slots.append(before.index(shown))
            before[slots[-1]] = new
            assert values(pool.images) == before
    # 2,000 fakes: 1,000 +- 4 standard deviations of 22; a third of about 1,000 swaps in each slot
    assert abs(passed - 1000) < 89
    assert all(abs(slots.count(slot) - 333) < 60 for slot in range(3))


def test_one_of_a_batch_may_come_back_for_a_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool((1, 2, 2), size=1)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(0.0))  # always swap
    assert values(pool(torch.cat([picture(n) for n in (1, 2, 3, 4)]))) == [1, 1, 2, 3]
    assert values(pool.images) == [4]


def test_what_the_pool_returns_shares_nothing_with_it_or_the_graph() -> None:
    torch.manual_seed(0)
    pool = Pool((1, 2, 2), size=1)
    fakes = picture(1).requires_grad_()
    shown = pool(fakes)
    assert not shown.requires_grad
    shown.fill_(7)
    assert values(pool.images) == values(fakes) == [1]
    while values(shown := pool(picture(2))) == [2]:
        pass
    pool.images.fill_(9)
    assert values(shown) == [1]


def test_a_pool_of_none_passes_everything() -> None:
    pool, fakes = Pool((1, 2, 2), size=0), torch.randn(20, 1, 2, 2)
    assert torch.equal(pool(fakes), fakes)


def test_the_pool_goes_on_bit_for_bit_from_its_state_dict() -> None:
    def play(pool: Pool, first: int, last: int) -> list[Tensor]:
        shown = []
        for step in range(first, last):
            torch.manual_seed(step)  # as the loop does
            shown.append(pool(torch.randn(4, 3, 5, 5)))
        return shown

    whole, part, resumed = (Pool((3, 5, 5), size=6) for _ in range(3))
    expected = play(whole, 0, 12)
    play(part, 0, 5)
    resumed.load_state_dict({key: value.clone() for key, value in part.state_dict().items()})
    for ours, theirs in zip(play(resumed, 5, 12), expected[5:], strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(resumed.images, whole.images)


# Weights


def test_init_weights() -> None:
    torch.manual_seed(0)
    for net in (UNet(3, 3, 64, 16), ResNetG(3, 3, 64, 16), PatchD(3, 16, spectral=True)):
        for parameter in net.parameters():
            parameter.data.fill_(5)
        init_weights(net)
        for name, parameter in net.named_parameters():
            if name.endswith("bias"):
                assert not parameter.any(), name
            else:
                mean = 1.0 if parameter.ndim == 1 else 0.0  # batch norm, convolutions
                error = 5 / math.sqrt(parameter.numel())
                assert parameter.mean().item() == pytest.approx(mean, abs=0.02 * error), name
                assert parameter.std().item() == pytest.approx(0.02, rel=error), name


def conv_weights(weights: Weights, key: str, shape: tuple[int, int, int, int], bias: int) -> None:
    """Add a random kernel, and a bias of `bias` numbers if that is not 0."""
    weights[f"{key}.weight"] = torch.randn(shape) / math.sqrt(shape[1] * shape[2] * shape[3])
    if bias:
        weights[f"{key}.bias"] = torch.randn(bias)


def norm_weights(weights: Weights, key: str, c: int, norm: str) -> None:
    """Add what the reference stores: all of batch norm, the statistics alone of instance norm."""
    if norm == "batch":
        weights[f"{key}.weight"], weights[f"{key}.bias"] = torch.randn(c), torch.randn(c)
    weights[f"{key}.running_mean"] = torch.randn(c)
    weights[f"{key}.running_var"] = torch.rand(c) + 1
    weights[f"{key}.num_batches_tracked"] = torch.tensor(9)


def reference_unet(c_in: int, c_out: int, ngf: int, levels: int, norm: str = "batch") -> Weights:
    """A state dict of its UnetGenerator with `levels` downsamplings, key by key."""
    weights: Weights = {}
    wide = [c_in, ngf, 2 * ngf, 4 * ngf, *[8 * ngf] * (levels - 3)]
    prefix, biases = "model.model", norm == "instance"
    conv_weights(weights, f"{prefix}.0", (ngf, c_in, 4, 4), ngf * biases)
    conv_weights(weights, f"{prefix}.3", (2 * ngf, c_out, 4, 4), c_out)
    for level in range(1, levels):
        prefix += ".1.model" if level == 1 else ".3.model"
        outer, inner = wide[level], wide[level + 1]
        conv_weights(weights, f"{prefix}.1", (inner, outer, 4, 4), inner * biases)
        if level == levels - 1:
            conv_weights(weights, f"{prefix}.3", (inner, outer, 4, 4), outer * biases)
            norm_weights(weights, f"{prefix}.4", outer, norm)
        else:
            norm_weights(weights, f"{prefix}.2", inner, norm)
            conv_weights(weights, f"{prefix}.5", (2 * inner, outer, 4, 4), outer * biases)
            norm_weights(weights, f"{prefix}.6", outer, norm)
    return weights


def reference_resnet(c_in: int, c_out: int, ngf: int, blocks: int) -> Weights:
    """A state dict of its ResnetGenerator, instance norm and no dropout, key by key."""
    weights: Weights = {}
    stages = [("1", c_in, ngf, 7), ("4", ngf, 2 * ngf, 3), ("7", 2 * ngf, 4 * ngf, 3)]
    for block in range(10, 10 + blocks):
        for inside in (1, 5):
            stages.append((f"{block}.conv_block.{inside}", 4 * ngf, 4 * ngf, 3))
    stages += [(f"{10 + blocks}", 4 * ngf, 2 * ngf, 3), (f"{13 + blocks}", 2 * ngf, ngf, 3)]
    for key, before, after, kernel in stages:
        transposed = key.isdigit() and int(key) >= 10
        shape = (before, after) if transposed else (after, before)
        conv_weights(weights, f"model.{key}", (*shape, kernel, kernel), after)
        root, _, last = f"model.{key}".rpartition(".")
        norm_weights(weights, f"{root}.{int(last) + 1}", after, "instance")
    conv_weights(weights, f"model.{17 + blocks}", (c_out, ngf, 7, 7), c_out)
    return weights


def reference_patch_d(c_in: int, ndf: int) -> Weights:
    """A state dict of its NLayerDiscriminator, 3 layers and instance norm, key by key."""
    weights: Weights = {}
    wide = [c_in, ndf, 2 * ndf, 4 * ndf, 8 * ndf, 1]
    for layer, index in enumerate((0, 2, 5, 8, 11)):
        before, after = wide[layer : layer + 2]
        conv_weights(weights, f"model.{index}", (after, before, 4, 4), after)
    return weights


def parts(weights: Weights, key: str) -> tuple[Tensor, Tensor | None]:
    return weights[f"{key}.weight"], weights.get(f"{key}.bias")


def normed(weights: Weights, key: str, x: Tensor) -> Tensor:
    if f"{key}.weight" not in weights:
        return F.instance_norm(x)
    mean, var = weights[f"{key}.running_mean"], weights[f"{key}.running_var"]
    return F.batch_norm(x, mean, var, *parts(weights, key))


def unet_by_hand(weights: Weights, x: Tensor) -> Tensor:
    """What the reference computes in eval mode, written with functions alone."""

    def level(x: Tensor, prefix: str) -> Tensor:
        y = F.conv2d(F.leaky_relu(x, 0.2), *parts(weights, f"{prefix}.1"), 2, 1)
        innermost = f"{prefix}.5.weight" not in weights
        if not innermost:
            y = level(normed(weights, f"{prefix}.2", y), f"{prefix}.3.model")
        up, norm = ("3", "4") if innermost else ("5", "6")
        y = F.conv_transpose2d(F.relu(y), *parts(weights, f"{prefix}.{up}"), 2, 1)
        return torch.cat([x, normed(weights, f"{prefix}.{norm}", y)], 1)

    y = F.conv2d(x, *parts(weights, "model.model.0"), 2, 1)
    y = F.relu(level(y, "model.model.1.model"))
    return torch.tanh(F.conv_transpose2d(y, *parts(weights, "model.model.3"), 2, 1))


def resnet_by_hand(weights: Weights, x: Tensor, blocks: int) -> Tensor:
    def reflected(x: Tensor, by: int) -> Tensor:
        return F.pad(x, (by, by, by, by), mode="reflect")

    y = F.conv2d(reflected(x, 3), *parts(weights, "model.1"))
    for key in ("model.4", "model.7"):
        y = F.conv2d(F.relu(F.instance_norm(y)), *parts(weights, key), 2, 1)
    y = F.relu(F.instance_norm(y))
    for block in range(10, 10 + blocks):
        z = F.conv2d(reflected(y, 1), *parts(weights, f"model.{block}.conv_block.1"))
        z = reflected(F.relu(F.instance_norm(z)), 1)
        z = F.conv2d(z, *parts(weights, f"model.{block}.conv_block.5"))
        y = y + F.instance_norm(z)
    for key in (f"model.{10 + blocks}", f"model.{13 + blocks}"):
        y = F.conv_transpose2d(y, *parts(weights, key), 2, 1, output_padding=1)
        y = F.relu(F.instance_norm(y))
    return torch.tanh(F.conv2d(reflected(y, 3), *parts(weights, f"model.{17 + blocks}")))


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_a_published_u_net_gives_what_the_reference_gives(norm: str) -> None:
    torch.manual_seed(0)
    weights, images = reference_unet(1, 3, 4, 6, norm), torch.randn(2, 1, 64, 128)
    net = UNet(1, 3, 64, 4, norm)
    load_weights(net, weights, "latest_net_G.pth")
    with torch.no_grad():
        generated, expected = net.eval()(images), unet_by_hand(weights, images)
    assert 0.1 < expected.std() < 0.9  # neither silent nor all at the ends of tanh
    torch.testing.assert_close(generated, expected)


@pytest.mark.parametrize(("size", "blocks"), [(64, 6), (256, 9)])
def test_a_published_resnet_gives_what_the_reference_gives(size: int, blocks: int) -> None:
    torch.manual_seed(0)
    weights, images = reference_resnet(3, 1, 4, blocks), torch.randn(2, 3, 64, 40)
    net = ResNetG(3, 1, size, 4)
    load_weights(net, weights, "latest_net_G_A.pth")
    with torch.no_grad():
        generated, expected = net.eval()(images), resnet_by_hand(weights, images, blocks)
    assert 0.1 < expected.std() < 0.9
    torch.testing.assert_close(generated, expected)


def test_published_discriminators_load_too() -> None:
    weights, net = reference_patch_d(3, 4), PatchD(3, 4)
    load_weights(net, weights, "latest_net_D.pth")
    x = images = torch.randn(1, 3, 64, 64)
    for index, stride in [(0, 2), (2, 2), (5, 2), (8, 1), (11, 1)]:
        x = F.instance_norm(x) if index > 2 else x
        x = F.leaky_relu(x, 0.2) if index else x
        x = F.conv2d(x, *parts(weights, f"model.{index}"), stride, 1)
    torch.testing.assert_close(net(images), x)


def test_names_of_other_ages_load_too() -> None:
    weights = reference_unet(3, 3, 2, 6)
    bare = {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
    wrapped = {f"module.{key}": value for key, value in bare.items()}
    net = UNet(3, 3, 64, 2)
    load_weights(net, wrapped, "old.pth")
    for key, value in bare.items():
        assert torch.equal(net.state_dict()[key], value), key


REFUSALS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], str]] = {
    "no dict": (lambda: UNet(3, 3, 64, 2), lambda: [1, 2], "not a bare state dict"),
    "a training state": (lambda: UNet(3, 3, 64, 2), lambda: {"step": 3}, "not a bare state dict"),
    "other width": (
        lambda: UNet(3, 3, 64, 2),
        lambda: reference_unet(3, 3, 4, 6),
        r"model\.model\.0\.weight is \[4, 3, 4, 4\], this network's \[2, 3, 4, 4\].*--ngf",
    ),
    "other channels": (
        lambda: ResNetG(1, 3, 64, 2),
        lambda: reference_resnet(3, 3, 2, 6),
        r"model\.1\.weight is \[2, 3, 7, 7\], this network's \[2, 1, 7, 7\].*--channels",
    ),
    "fewer levels": (
        lambda: UNet(3, 3, 128, 2),
        lambda: reference_unet(3, 3, 2, 6),
        r"has no model\.model\.1\.model(\.3\.model){4}\.2\.weight.*--img-size",
    ),
    "more blocks": (
        lambda: ResNetG(3, 3, 128, 2),
        lambda: reference_resnet(3, 3, 2, 9),
        r"has no model\.16\.weight.*--img-size",
    ),
    "other family": (
        lambda: ResNetG(3, 3, 64, 2),
        lambda: reference_unet(3, 3, 2, 6),
        r"has no model\.1\.weight.*--family",
    ),
    "one key more": (
        lambda: ResNetG(3, 3, 64, 2),
        lambda: {**reference_resnet(3, 3, 2, 6), "model.2.weight": torch.ones(2)},
        r"has model\.2\.weight too",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_weights_of_another_net_are_refused(case: str) -> None:
    make, weights, message = REFUSALS[case]
    net = make()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(Refused, match=message) as refusal:
        load_weights(net, weights(), "some/net_G.pth")
    assert str(refusal.value).startswith("some/net_G.pth: ")
    assert "\n" not in str(refusal.value)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
