"""Image-to-image networks: U-Net and ResNet generators, the PatchGAN discriminator, the pool.

Modules are named as in the reference implementation (junyanz/pytorch-CycleGAN-and-pix2pix), so
that published weights load key for key. Pictures are [N, C, H, W] in [-1, 1].
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gan import distributed
from gan.spectral import spectral_norm


class Norm(NamedTuple):
    """A normalisation, and whether the convolutions of a net that has it carry a bias."""

    layer: Callable[[int], nn.Module]
    bias: bool


# Batch norm shifts by itself. Instance norm here has neither scale nor shift and takes away any
# bias before it, yet published weights hold those biases.
NORMS = {"batch": Norm(nn.BatchNorm2d, False), "instance": Norm(nn.InstanceNorm2d, True)}


def run_mirrored(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Apply the layers; each transposed convolution gives back the sides its mirror image took.

    A convolution of stride 2 has to round an odd side, so its counterpart is told the sides to end
    with (its output padding: it computes one row or column more or less). Nothing is padded or
    cropped, and where sides halve evenly the result is the reference's.
    """
    sides = []  # of the maps that were halved, to be doubled back in reverse
    for layer in layers:
        if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
            sides.append(list(x.shape[2:]))
        x = layer(x, sides.pop()) if isinstance(layer, nn.ConvTranspose2d) else layer(x)
    return x


class Level(nn.Module):
    """One level of the U-Net: x [N, c, H, W] -> x beside up(inner(down(x))) [N, 2c, H, W].

    Down is a convolution k4 s2 p1 from c to `wide` channels, up its transpose; the innermost level
    has no `inner` and no norm on its way down, where the map can be a single pixel. The outermost
    level is `Outermost`.
    """

    def __init__(
        self, c: int, wide: int, norm: str, inner: nn.Module | None, dropout: bool = False
    ) -> None:
        super().__init__()
        layer, bias = NORMS[norm]
        down = nn.Conv2d(c, wide, 4, 2, 1, bias=bias)
        layers: list[nn.Module] = [nn.LeakyReLU(0.2), down]
        if inner:
            layers += [layer(wide), inner]
        up = nn.ConvTranspose2d(2 * wide if inner else wide, c, 4, 2, 1, bias=bias)
        layers += [nn.ReLU(inplace=True), up, layer(c)]
        if dropout:
            layers.append(nn.Dropout(0.5))
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        # In the reference a leaky ReLU in place changes the skipped x too; the ReLU that comes
        # next makes both the same.
        return torch.cat([x, run_mirrored(self.model, x)], 1)


class Outermost(nn.Module):
    """The outermost level: c_in channels in, c_out out, no norm, no skip, tanh at the end."""

    def __init__(self, c_in: int, c_out: int, wide: int, norm: str, inner: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(c_in, wide, 4, 2, 1, bias=NORMS[norm].bias),
            inner,
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(2 * wide, c_out, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return run_mirrored(self.model, x)


class UNet(nn.Module):
    """The pix2pix generator: pictures [N, channels_in, H, W] -> [N, channels_out, H, W], tanh.

    Isola et al. 2017 (arXiv:1611.07004), sections 3.2.1 and 6.1.1. `size` sets the depth: it is
    halved, rounding down, until one pixel is left (8 levels at 256, 7 at 128 and 144, 6 at 64, 96
    and 100, 4 at 28). Channels: ngf, 2 ngf, 4 ngf, then 8 ngf. Dropout is in the decoder levels
    that have 8 ngf channels outside too, the innermost excepted: 3 at 256, 2 at 128, 1 at 64, none
    below, as in the reference.

    Any H and W work, whatever the `size`. An odd side is halved rounding down; on the way up the
    transposed convolution makes the last row or column itself (its output padding), so the skip
    fits without padding or cropping. A side below 2^levels is padded to it, right and below, by
    repeating its edge, and the result is cropped.

    The paper draws pictures in training mode, at batch 1: dropout is its only noise, and batch
    norm sees the picture itself (section 3.3). `.eval()` gives one fixed answer instead.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        size: int,
        ngf: int = 64,
        norm: str = "batch",
        dropout: bool = True,
    ) -> None:
        super().__init__()
        depth = size.bit_length() - 1
        assert depth >= 2, "a U-Net needs an outermost and an innermost level"
        self.least = 2**depth
        wide = [ngf * min(2**level, 8) for level in range(depth)]  # from the picture down
        inner: nn.Module | None = None
        for level in range(depth - 1, 0, -1):
            drops = dropout and 4 <= level < depth - 1
            inner = Level(wide[level - 1], wide[level], norm, inner, drops)
        assert inner is not None
        self.model = Outermost(channels_in, channels_out, ngf, norm, inner)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if min(height, width) >= self.least:
            return self.model(images)
        missing = (0, max(self.least - width, 0), 0, max(self.least - height, 0))
        padded = F.pad(images, missing, mode="replicate")
        return self.model(padded)[:, :, :height, :width]


class ResNetBlock(nn.Module):
    """x + body(x), [N, channels, H, W]: two 3x3 convolutions with reflection padding and norm.

    No ReLU after the sum (Zhu et al. 2017, arXiv:1703.10593, section 7.2).
    """

    def __init__(self, channels: int, norm: str, dropout: bool) -> None:
        super().__init__()
        layer, bias = NORMS[norm]
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=bias),
            layer(channels),
            nn.ReLU(inplace=True),
            *([nn.Dropout(0.5)] if dropout else []),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=bias),
            layer(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class ResNetG(nn.Module):
    """The CycleGAN generator: pictures [N, channels_in, H, W] -> [N, channels_out, H, W], tanh.

    Zhu et al. 2017 (arXiv:1703.10593), section 7.2, after Johnson et al. 2016: c7s1-ngf, two
    convolutions that halve, residual blocks on 4 ngf channels, 6 for a `size` below 256 and 9
    from there, two that double, c7s1-channels_out; reflection padding where the stride is 1.

    Any H and W from 5 on work: sides that are no multiple of 4 round up on the way down, and each
    transposed convolution ends with the sides its counterpart started from.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        size: int,
        ngf: int = 64,
        norm: str = "instance",
        dropout: bool = False,
    ) -> None:
        super().__init__()
        layer, bias = NORMS[norm]

        def stage(conv: nn.Module, c_out: int) -> list[nn.Module]:
            return [conv, layer(c_out), nn.ReLU(inplace=True)]

        layers: list[nn.Module] = [nn.ReflectionPad2d(3)]
        layers += stage(nn.Conv2d(channels_in, ngf, 7, bias=bias), ngf)
        for wide in (ngf, 2 * ngf):
            layers += stage(nn.Conv2d(wide, 2 * wide, 3, 2, 1, bias=bias), 2 * wide)
        layers += [ResNetBlock(4 * ngf, norm, dropout) for _ in range(9 if size >= 256 else 6)]
        for wide in (2 * ngf, ngf):
            layers += stage(nn.ConvTranspose2d(2 * wide, wide, 3, 2, 1, bias=bias), wide)
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, channels_out, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return run_mirrored(self.model, images)


class ThereAndBack(nn.Module):
    """Two generators: called, it goes from A to B; `.back` goes from B to A."""

    def __init__(self, there: nn.Module, back: nn.Module) -> None:
        super().__init__()
        self.there, self.back = there, back

    def forward(self, images: Tensor) -> Tensor:
        return self.there(images)


def ways(G: nn.Module) -> tuple[nn.Module, nn.Module | None]:
    """The generator from given to wanted pictures, and the one back if there is one."""
    return (G.there, G.back) if isinstance(G, ThereAndBack) else (G, None)


class PatchD(nn.Module):
    """PatchGAN: pictures [N, channels_in, H, W] -> raw scores [N, 1, h, w], one per patch.

    Isola et al. 2017 (arXiv:1611.07004), sections 3.2.2 and 6.1.2. With 3 layers a score sees 70 x
    70 pixels, and 256 pixels give 30 x 30 scores; H and W need at least 3 * 2^n_layers pixels
    (24), and small pictures fewer layers (2: 34 x 34 pixels a score, 1: 16 x 16). Channels: ndf, 2
    ndf, 4 ndf, then 8 ndf; the first and the last convolution have no norm.

    For pix2pix the input is the condition and the picture, joined along the channels, and the norm
    is batch norm. With `spectral` every convolution has spectral norm (Miyato et al. 2018,
    arXiv:1802.05957) and a bias, and there is no other norm.
    """

    def __init__(
        self,
        channels_in: int,
        ndf: int = 64,
        n_layers: int = 3,
        norm: str = "instance",
        spectral: bool = False,
    ) -> None:
        super().__init__()
        layer, bias = NORMS[norm]

        def conv(c_in: int, c_out: int, stride: int, bias: bool = True) -> nn.Module:
            made = nn.Conv2d(c_in, c_out, 4, stride, 1, bias=bias or spectral)
            return spectral_norm(made) if spectral else made

        wide = [ndf * min(2**level, 8) for level in range(n_layers + 1)]
        layers = [conv(channels_in, ndf, 2), nn.LeakyReLU(0.2, inplace=True)]
        for level in range(1, n_layers + 1):
            stride = 2 if level < n_layers else 1
            layers.append(conv(wide[level - 1], wide[level], stride, bias))
            if not spectral:
                layers.append(layer(wide[level]))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        self.model = nn.Sequential(*layers, conv(wide[-1], 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


class Pool(nn.Module):
    """Earlier fakes for D to see again: fakes [N, *shape] -> as many, without a graph.

    Shrivastava et al. 2016 (arXiv:1612.07828), section 2.3, as CycleGAN has it (arXiv:1703.10593,
    section 4). Until `size` images are stored, each is stored and returned as it is. From then on
    each is returned with probability 1/2; else a stored one is, whose place it takes. Images are
    taken one after the other, so one of a batch may come back for a later one. Size 0: no pool.

    All it holds are buffers, so it is in every state dict, and it draws from torch's global CPU
    generator, whatever device it is on: seeded per step, a run goes on bit for bit.
    """

    images: Tensor  # [size, *shape]
    filled: Tensor  # how many of them are stored, an integer

    def __init__(self, shape: tuple[int, int, int], size: int = 50) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(size, *shape))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def forward(self, fakes: Tensor) -> Tensor:
        # all processes keep the same pool, of the fakes of all of them
        fakes = distributed.gather(fakes.detach())
        shown = fakes.clone()
        size, filled = len(self.images), int(self.filled)
        if not size:
            return distributed.own(shown)
        for index, fake in enumerate(fakes):
            if filled < size:
                self.images[filled] = fake
                filled += 1
            elif torch.rand((), device="cpu") < 0.5:
                slot = int(torch.randint(size, (), device="cpu"))
                shown[index] = self.images[slot]
                self.images[slot] = fake
        self.filled.fill_(filled)
        return distributed.own(shown)


class CycleD(nn.Module):
    """CycleGAN's two discriminators and the pools of earlier fakes that they are shown from."""

    def __init__(
        self, there: nn.Module, back: nn.Module, pool_there: Pool, pool_back: Pool
    ) -> None:
        super().__init__()
        self.there, self.back = there, back
        self.pool_there, self.pool_back = pool_there, pool_back


@torch.no_grad()
def init_weights(net: nn.Module) -> nn.Module:
    """Convolutions N(0, 0.02), batch norm weights N(1, 0.02), every bias 0, in place.

    arXiv:1611.07004, section 6.2, and arXiv:1703.10593, section 7.1; batch norm as in DCGAN
    (arXiv:1511.06434) and the reference. To be called on a net in training mode.
    """
    for module in net.modules():
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            continue
        mean = 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0
        for name, parameter in module.named_parameters():
            if name == "bias":
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, mean, 0.02)
        if parametrize.is_parametrized(module):
            # Spectral norm has to find the largest singular value of the new weight: each look at
            # it is one power iteration, and with one alone the first steps would be far off.
            for _ in range(15):
                _ = module.weight
    return net
