"""The nets of the `modern` families: G and D that learn in minutes, at any size from 28 pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from gan import distributed, spectral
from gan.shapes import project, pyramid, width

STYLES = 128  # numbers in a style
STYLE_DEVIATION = 0.02  # of the initial weights from style to modulation
DEVIATION_WEIGHT = 0.01  # of a new value in the running mean


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def modulated(x: Tensor, by: Tensor) -> Tensor:
    """x (1 + scale) + shift: x is [N, C, H, W], `by` [N, 2 C], the scales and then the shifts."""
    scale, shift = by[:, :, None, None].chunk(2, 1)
    return torch.addcmul(shift, x, 1 + scale)


fx.wrap("modulated")  # one node of a traced graph, which gan/web_program.py knows


class Modulation(nn.Module):
    """Batch norm whose scale and shift are functions of the style [N, `styles`].

    Self-modulation (Chen et al. 2019, arXiv:1810.01365, eq. 2 and 3): every stage of G is told
    which face it draws, not the first alone.
    """

    def __init__(self, styles: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.style = nn.Linear(styles, 2 * channels)
        nn.init.normal_(self.style.weight, 0, STYLE_DEVIATION)
        nn.init.zeros_(self.style.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return modulated(self.norm(x), self.style(style))


class ModulatedResidual(nn.Module):
    """x + act(modulation(conv(x), style)), with the layers of a `Residual` of a `ModernG`."""

    def __init__(self, styles: int, plain: Residual) -> None:
        super().__init__()
        self.conv, norm, self.act = plain.body
        assert isinstance(norm, nn.BatchNorm2d)
        self.modulation = Modulation(styles, norm.num_features)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return x + self.act(self.modulation(self.conv(x), style))


class BatchDeviation(nn.Module):
    """Appends a channel that holds how much the batch varies (Karras et al. 2018, section 3).

    [N, C, H, W] -> [N, C + 1, H, W]. The standard deviation of each feature over the batch, the
    mean of all. It lets D see that fakes are too alike. In evaluation mode it is a running mean, so
    that the score of an image does not depend on those beside it.
    """

    usual: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("usual", torch.ones(()))

    def forward(self, x: Tensor, groups: int = 1) -> Tensor:
        """With `groups` equal parts of a batch, reals and fakes, each part is shown its own."""
        if self.training:
            parts = x.float().unflatten(0, (groups, -1))
            centre = distributed.mean(parts.mean(1, keepdim=True))
            squares = (parts - centre).square().mean(1)  # `var` takes five times as long
            deviation = (distributed.mean(squares) + 1e-8).sqrt().flatten(1).mean(1)  # [groups]
            for each in deviation.detach().to(self.usual.dtype):
                self.usual.lerp_(each, DEVIATION_WEIGHT)
        else:
            deviation = self.usual.expand(groups)
        each = deviation.to(x.dtype).repeat_interleave(len(x) // groups)
        channel = each[:, None, None, None].expand(-1, 1, *x.shape[2:])
        # else the whole would not be channels last, as x is
        return torch.cat([x, channel.contiguous(memory_format=torch.channels_last)], 1)


class ModernG(nn.Module):
    """Generator of the `unmodulated` and `rpgan` families: noise [N, nz] -> [N, C, s, s].

    Pictures are in [-1, 1]. A dense base of 4 to 7 pixels, doubled by k4 s2 convolutions, whose
    kernels overlap evenly (Odena et al. 2016), with batch norm and leaky ReLU; at half size one
    residual convolution, at full size a thin last stage, so that the dearest layers are narrow.
    """

    def __init__(
        self,
        nz: int = 64,
        ngf: int = 32,
        img_size: int = 96,
        channels: int = 3,
        classes: int = 0,
    ) -> None:
        super().__init__()
        levels = pyramid(img_size, {})
        depth = len(levels) - 1
        # from the picture down
        widths = [max(1, ngf // 2), *(width(level, ngf) for level in range(depth))]
        base = levels[-1][0]
        layers: list[nn.Module] = [
            nn.Linear(nz + classes, widths[-1] * base * base, bias=False),
            nn.Unflatten(1, (widths[-1], base, base)),
            nn.BatchNorm2d(widths[-1]),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        for level in reversed(range(depth)):
            wide, thin = widths[level + 1], widths[level]
            if not level:
                conv = nn.Conv2d(wide, wide, 3, 1, 1, bias=False)
                layers.append(Residual(conv, nn.BatchNorm2d(wide), nn.LeakyReLU(0.2)))
            odd = levels[level][0] % 2
            layers += [
                nn.ConvTranspose2d(wide, thin, 4, 2, 1, output_padding=odd, bias=False),
                nn.BatchNorm2d(thin),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.main = nn.Sequential(*layers, nn.Conv2d(widths[0], channels, 3, 1, 1), nn.Tanh())

    def forward(self, noise: Tensor, *condition: Tensor) -> Tensor:
        return self.main(torch.cat((noise, *condition), 1))


class ModulatedG(nn.Module):
    """Generator of the `modern` family: noise [N, nz] -> [N, C, s, s] in [-1, 1].

    `ModernG` with a `Modulation` in place of each batch norm. The style is a function of the noise
    that is learned, `mapping` (Karras et al. 2019, arXiv:1812.04948, section 2).
    """

    def __init__(
        self,
        nz: int = 64,
        ngf: int = 32,
        img_size: int = 96,
        channels: int = 3,
        classes: int = 0,
    ) -> None:
        super().__init__()
        plain = ModernG(nz, ngf, img_size, channels, classes).main
        self.main = nn.ModuleList(plain)
        for i, layer in enumerate(plain):
            if isinstance(layer, nn.BatchNorm2d):
                self.main[i] = Modulation(STYLES, layer.num_features)
            elif isinstance(layer, Residual):
                self.main[i] = ModulatedResidual(STYLES, layer)
        self.mapping = nn.Sequential(
            nn.Linear(nz + classes, STYLES),
            nn.LeakyReLU(0.2),
            nn.Linear(STYLES, STYLES),
            nn.LeakyReLU(0.2),
        )

    def forward(self, noise: Tensor, *condition: Tensor) -> Tensor:
        x = torch.cat((noise, *condition), 1)
        style = self.mapping(x)
        for layer in self.main:
            modulated = isinstance(layer, Modulation | ModulatedResidual)
            x = layer(x, style) if modulated else layer(x)
        return x


class ModernD(nn.Module):
    """Discriminator of the `modern` family: pictures [N, C, s, s] -> scores [N].

    Spectral norm on every convolution (Miyato et al. 2018, arXiv:1802.05957) or, for losses that
    have penalties instead, no norm ("none"); never batch norm, which does harm beside either.
    2 x 2 pixels enter as channels, so that no layer works at full size. With `deviation` the last
    convolution is shown how much the batch varies; apart from that it scores every image by itself,
    so that reals and fakes can be scored together, as two `groups` of one batch.
    """

    takes_groups = True

    def __init__(
        self,
        ndf: int = 32,
        img_size: int = 96,
        channels: int = 3,
        classes: int = 0,
        norm: str = "spectral",
        deviation: bool = False,
    ) -> None:
        super().__init__()
        self.odd = img_size % 2
        normed = spectral.spectral_norm if norm == "spectral" else nn.Identity()

        def stage(c_in: int, c_out: int, kernel: int, stride: int) -> list[nn.Module]:
            conv = nn.Conv2d(c_in, c_out, kernel, stride, 1)
            return [normed(conv), nn.LeakyReLU(0.2, inplace=True)]

        side, wide = (img_size + 1) // 2, ndf
        layers = [nn.PixelUnshuffle(2), *stage(4 * channels, wide, 3, 1)]
        while side >= 8:
            c_out = min(wide * 3 // 2 if wide == ndf else 2 * wide, 6 * ndf)
            layers += stage(wide, c_out, 4, 2)
            side, wide = side // 2, c_out
        if deviation:
            layers.append(BatchDeviation())
        layers += stage(wide + deviation, wide, 3, 1)
        last = nn.Linear(wide * side * side, 1 + classes)
        self.main = nn.Sequential(*layers, nn.Flatten(), last)

    def forward(self, images: Tensor, *condition: Tensor, groups: int = 1) -> Tensor:
        if self.odd:
            images = F.pad(images, (0, 1, 0, 1), mode="replicate")
        x = images
        with spectral.iterations(groups):
            for layer in self.main:
                x = layer(x, groups) if isinstance(layer, BatchDeviation) else layer(x)
        return project(x, *condition)  # [N]
