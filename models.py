"""Every network, and at the end the table of families; `restore` rebuilds a trained pair."""

import difflib
import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

import config as knobs
from config import Config
from gan import checkpoint
from gan.errors import Refused
from gan.losses import (
    Loss,
    adversarial,
    clip_weights,
    critic,
    cycle,
    gradient_penalty,
    hinge,
    least_squares,
    nonsaturating,
    paired,
)
from gan.translation import (
    PatchD,
    Pool,
    ResNetG,
    ThereAndBack,
    UNet,
    init_weights,
    load_reference,
)

# Sizes whose classic script ends in layers of stride 3; every other size is halved throughout.
STRIDES = {96: (3, 2, 2, 2), 144: (3, 3, 2, 2)}


def pyramid(
    img_size: int, strides: Mapping[int, tuple[int, ...]] = STRIDES
) -> list[tuple[int, int]]:
    """(side, stride to the next) from the picture down, ending with (smallest side, 0).

    96 -> 32 -> 16 -> 8 -> 4 and 144 -> 48 -> 16 -> 8 -> 4 as in the classic scripts;
    64 -> 32 -> 16 -> 8 -> 4; 28 -> 14 -> 7; 100 -> 50 -> 25 -> 12 -> 6 (an odd side rounds down).
    """
    sides, side = [], img_size
    given = list(strides.get(img_size, ()))
    while given or side >= 8:
        stride = given.pop(0) if given else 2
        sides.append((side, stride))
        side //= stride
    return [*sides, (side, 0)]


def width(level: int, base: int) -> int:
    """Channels `level` layers away from the picture: base, 2 base, 4 base, then 8 base."""
    return base * min(2**level, 8)


class NetG(nn.Module):
    """DCGAN generator (Radford et al. 2016, arXiv:1511.06434): noise [N, nz] -> [N, C, s, s].

    The picture is in [-1, 1]. Transposed convolutions k4 s1 p0 from one pixel, then k4 s2 p1
    (k5 s3 p1 for a stride of 3), each with batch norm and ReLU; the last one with tanh.
    Parameters are called `main.N.*` as in the classic 96-pixel script, whose third layer alone
    has a bias: weights go both ways.
    """

    def __init__(self, nz: int = 100, ngf: int = 64, img_size: int = 96, channels: int = 3) -> None:
        super().__init__()
        levels = pyramid(img_size)
        depth = len(levels) - 1
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(nz, width(depth - 1, ngf), levels[-1][0], 1, 0, bias=False)
        ]
        for level in reversed(range(depth)):
            side, stride = levels[level]
            c_in = width(level, ngf)
            c_out = width(level - 1, ngf) if level else channels
            layers += [
                nn.BatchNorm2d(c_in),
                nn.ReLU(inplace=True),
                nn.ConvTranspose2d(
                    c_in,
                    c_out,
                    stride + 2,
                    stride,
                    1,
                    output_padding=side % stride,
                    bias=len(layers) == 4,  # this one is layer 6, the third convolution
                ),
            ]
        self.main = nn.Sequential(*layers, nn.Tanh())
        self.may_lack = "main.6.bias"

    def forward(self, noise: Tensor) -> Tensor:
        return self.main(noise[:, :, None, None])


def judged(scores: Tensor, *wanted: Tensor) -> Tensor:
    """[N, 1 + classes] -> [N]: the score in itself, plus that as a picture of the class wanted.

    `wanted` is nothing, or one-hot classes [N, classes]. With the last layer linear in features h
    this is psi(h) + y V h, a projection (Miyato & Koyama 2018, arXiv:1802.05637, eq. 3).
    """
    scores = scores.flatten(1)
    return scores[:, 0] + sum((scores[:, 1:] * one_hot).sum(1) for one_hot in wanted)


class NetD(nn.Module):
    """DCGAN discriminator, the mirror of `NetG`: pictures [N, C, s, s] -> logits [N].

    The score shown to people is their sigmoid. No norm on the first layer; a bias on the last one
    alone, as in the classic script. Without batch norm ("none", or "spectral": arXiv:1802.05957,
    on every layer) each has one.
    """

    def __init__(
        self,
        ndf: int = 64,
        img_size: int = 96,
        channels: int = 3,
        classes: int = 0,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        levels = pyramid(img_size)
        normed = spectral_norm if norm == "spectral" else nn.Identity()
        layers: list[nn.Module] = []
        for level, (_, stride) in enumerate(levels[:-1]):
            c_in = width(level - 1, ndf) if level else channels
            c_out = width(level, ndf)
            bias = norm != "batch"
            layers.append(normed(nn.Conv2d(c_in, c_out, stride + 2, stride, 1, bias=bias)))
            if level and norm == "batch":
                layers.append(nn.BatchNorm2d(c_out))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        last = nn.Conv2d(width(len(levels) - 2, ndf), 1 + classes, levels[-1][0], 1, 0)
        self.main = nn.Sequential(*layers, normed(last))
        self.may_lack = f"main.{len(layers)}.bias"

    def forward(self, images: Tensor, *wanted: Tensor) -> Tensor:
        return judged(self.main(images), *wanted)  # [N]


class MlpG(nn.Module):
    """Generator of fully connected layers: noise [N, nz] -> [N, C, s, s] in [-1, 1].

    Widths as given, ReLU between, tanh at the end (Goodfellow et al. 2014 leave them open).
    """

    def __init__(self, nz: int, hidden: tuple[int, ...], img_size: int, channels: int) -> None:
        super().__init__()
        shape = (channels, img_size, img_size)
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise((nz, *hidden)):
            layers += [nn.Linear(c_in, c_out), nn.ReLU(inplace=True)]
        last = nn.Linear(hidden[-1], channels * img_size**2)
        self.main = nn.Sequential(*layers, last, nn.Unflatten(1, shape), nn.Tanh())

    def forward(self, noise: Tensor) -> Tensor:
        return self.main(noise)


class MlpD(nn.Module):
    """Discriminator of fully connected layers, leaky ReLU between: [N, C, s, s] -> logits [N]."""

    def __init__(
        self, hidden: tuple[int, ...], img_size: int, channels: int, classes: int = 0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for c_in, c_out in pairwise((channels * img_size**2, *hidden)):
            layers += [nn.Linear(c_in, c_out), nn.LeakyReLU(0.2, inplace=True)]
        self.main = nn.Sequential(*layers, nn.Linear(hidden[-1], 1 + classes))

    def forward(self, images: Tensor, *wanted: Tensor) -> Tensor:
        return judged(self.main(images), *wanted)  # [N]


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ModernG(nn.Module):
    """Generator of the `modern` family: noise [N, nz] -> [N, C, s, s] in [-1, 1].

    A dense base of 4 to 7 pixels, doubled by k4 s2 convolutions, whose kernels overlap evenly
    (Odena et al. 2016), with batch norm and leaky ReLU; at half size one residual convolution, at
    full size a thin last stage, so that the dearest layers are narrow.
    """

    def __init__(self, nz: int = 64, ngf: int = 32, img_size: int = 96, channels: int = 3) -> None:
        super().__init__()
        levels = pyramid(img_size, {})
        depth = len(levels) - 1
        # from the picture down
        widths = [max(1, ngf // 2), *(width(level, ngf) for level in range(depth))]
        base = levels[-1][0]
        layers: list[nn.Module] = [
            nn.Linear(nz, widths[-1] * base * base, bias=False),
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

    def forward(self, noise: Tensor) -> Tensor:
        return self.main(noise)


class ModernD(nn.Module):
    """Discriminator of the `modern` family: pictures [N, C, s, s] -> scores [N].

    Spectral norm on every convolution (Miyato et al. 2018, arXiv:1802.05957) and no batch norm,
    which with it does harm; 2 x 2 pixels enter as channels, so that no layer works at full size.
    """

    def __init__(
        self, ndf: int = 32, img_size: int = 96, channels: int = 3, classes: int = 0
    ) -> None:
        super().__init__()
        self.odd = img_size % 2
        side, wide = (img_size + 1) // 2, ndf
        layers = [nn.PixelUnshuffle(2), *self._stage(4 * channels, wide, 3, 1)]
        while side >= 8:
            c_out = min(wide * 3 // 2 if wide == ndf else 2 * wide, 6 * ndf)
            layers += self._stage(wide, c_out, 4, 2)
            side, wide = side // 2, c_out
        layers += self._stage(wide, wide, 3, 1)
        last = nn.Linear(wide * side * side, 1 + classes)
        self.main = nn.Sequential(*layers, nn.Flatten(), last)

    @staticmethod
    def _stage(c_in: int, c_out: int, kernel: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv2d(c_in, c_out, kernel, stride, 1)
        return [spectral_norm(conv), nn.LeakyReLU(0.2, inplace=True)]

    def forward(self, images: Tensor, *wanted: Tensor) -> Tensor:
        if self.odd:
            images = F.pad(images, (0, 1, 0, 1), mode="replicate")
        return judged(self.main(images), *wanted)  # [N]


@dataclass
class Nets:
    """The two players."""

    G: nn.Module
    D: nn.Module


# what there is to set beside what every family has, by what G is fed with
PICTURES = ("ngf", "ndf", "channels_a", "channels_b", "direction", "jitter")
OF_DATA = {
    "images": ("ngf", "ndf", "nz", "noise", "channels", "dedup", "conditional"),
    "pairs": PICTURES,
    "two folders": PICTURES,
}


@dataclass(frozen=True)
class Family:
    """A kind of GAN: its networks, its two losses, and the knobs its source sets otherwise."""

    build: Callable[[Config], Nets]
    d_loss: Loss
    g_loss: Loss
    data: str = "images"
    after_d: Callable[[Nets, Config], None] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    uses: tuple[str, ...] = ()  # knobs of its losses, which other families refuse
    lacks: tuple[str, ...] = ()  # knobs that families of this kind of data have, but this one not

    @property
    def knobs(self) -> list[str]:
        """The knobs it uses of those that only some families do."""
        return [knob for knob in (*OF_DATA[self.data], *self.uses) if knob not in self.lacks]


def dcgan_nets(config: Config, norm: str = "batch") -> Nets:
    size, channels, classes = config.img_size, config.channels, len(config.labels)
    return Nets(
        NetG(config.inputs, config.ngf, size, channels),
        NetD(config.ndf, size, channels, classes, norm),
    )


def mlp_nets(config: Config, hidden: tuple[int, ...]) -> Nets:
    size, channels, classes = config.img_size, config.channels, len(config.labels)
    return Nets(
        MlpG(config.inputs, hidden, size, channels),
        MlpD(hidden[::-1], size, channels, classes),
    )


def pix2pix_nets(config: Config) -> Nets:
    """Instance norm at batch 1, batch norm above (Isola et al. 2017, section 6.1.1)."""
    norm = "instance" if config.batch_size == 1 else "batch"
    given, wanted = config.sides
    G = UNet(given, wanted, config.img_size, config.ngf, norm)
    D = PatchD(given + wanted, config.ndf, norm=norm, spectral=config.spectral)
    return Nets(initialised(G), initialised(D))


def cyclegan_nets(config: Config) -> Nets:
    given, wanted = config.sides
    size = config.img_size
    G = ThereAndBack(
        ResNetG(given, wanted, size, config.ngf), ResNetG(wanted, given, size, config.ngf)
    )
    D = nn.ModuleDict(
        {
            "there": PatchD(wanted, config.ndf, spectral=config.spectral),
            "back": PatchD(given, config.ndf, spectral=config.spectral),
            "pool_there": Pool((wanted, size, size), config.pool),
            "pool_back": Pool((given, size, size), config.pool),
        }
    )
    return Nets(initialised(G), initialised(D))


def initialised(net: nn.Module) -> nn.Module:
    init_weights(net)
    return net


def modern_nets(config: Config) -> Nets:
    size, channels, classes = config.img_size, config.channels, len(config.labels)
    return Nets(
        ModernG(config.inputs, config.ngf, size, channels),
        ModernD(config.ndf, size, channels, classes),
    )


def load_weights(net: nn.Module, weights: Any, path: Path | str) -> None:
    """Load a bare state dict; raises Refused, naming what differs, unless it fits exactly.

    The two biases of the classic nets may be missing, as in its later variants: they are zero.
    Pix2pix and CycleGAN generators also take the files of their reference implementation; one of
    a cycle's two is then enough to draw with.
    """
    if not isinstance(weights, Mapping) or not all(torch.is_tensor(v) for v in weights.values()):
        raise Refused(f"{path}: not a bare state dict of tensors")
    if isinstance(net, UNet | ResNetG):
        return load_reference(net, weights, path)
    if isinstance(net, ThereAndBack) and not any(str(key).startswith("there.") for key in weights):
        return load_reference(net.there, weights, path)
    own = net.state_dict()
    filled = OrderedDict(weights)
    optional = str(getattr(net, "may_lack", ""))
    if optional in own:
        filled.setdefault(optional, torch.zeros_like(own[optional]))
    for key, ours in own.items():
        if key.endswith("num_batches_tracked") and key not in filled:
            filled[key] = ours  # files older than PyTorch 0.4.1 do not have it
        elif key not in filled:
            raise Refused(f"{path}: has no {key}, this is another network; give its --family")
        elif filled[key].shape != ours.shape:
            raise Refused(
                f"{path}: {key} is {list(filled[key].shape)}, this network's {list(ours.shape)}; "
                "give the --family, --img-size, --ngf and the like of their run"
            )
    extra = [key for key in filled if key not in own]
    if extra:
        raise Refused(f"{path}: has {extra[0]} too, this is another network; give its --family")
    net.load_state_dict(filled)


def family_of(name: str) -> Family:
    """The row of `FAMILIES` called `name`; raises Refused with the nearest one."""
    if name not in FAMILIES:
        near = difflib.get_close_matches(name, FAMILIES, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise Refused(f"--family={name}: no such family; {hint}there are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def restore(path: Path) -> tuple[Nets, Config]:
    """The nets of the state at `path`, G with its averaged weights, and the run's config."""
    state = checkpoint.load(path)
    if not isinstance(state, Mapping) or not {"config", "nets", "ema"} <= state.keys():
        raise Refused(f"{path}: not a training state; bare weights go to --netg-path")
    config = Config(**{k: v for k, v in state["config"].items() if k in knobs.FIELDS})
    nets = family_of(config.family).build(config)
    load_weights(nets.D, state["nets"]["D"], path)
    load_weights(nets.G, state["ema"] or state["nets"]["G"], path)
    return nets, config


LOGISTIC = adversarial(nonsaturating)
CLASSIC = {  # Radford et al. 2016; what a knob is by itself, `modern` takes it at
    "nz": 100, "ngf": 64, "ndf": 64, "batch_size": 64, "augment": 0.0,
    "lr1": 2e-4, "lr2": 2e-4, "beta1": 0.5, "beta2": 0.999, "warm_up": 0, "lr_end": 1.0,
}  # fmt: skip
TRANSLATES = {**CLASSIC, "img_size": 256, "batch_size": 1, "ema": False}
DIGITS = {**CLASSIC, "img_size": 28, "channels": 1, "flip": False}

# fmt: off
FAMILIES: dict[str, Family] = {
    "modern": Family(modern_nets, *adversarial(hinge)),
    "dcgan": Family(dcgan_nets, *LOGISTIC, uses=("fake_label",), defaults=CLASSIC),
    # published runs of the same nets: digits at 64 px, 286 faces at 144 px
    "dcgan-64": Family(
        dcgan_nets, *LOGISTIC, uses=("fake_label",),
        defaults={
            **DIGITS, "img_size": 64, "ngf": 128, "ndf": 128, "batch_size": 100, "d_every": 2,
        },
    ),
    "dcgan-144": Family(
        dcgan_nets, *LOGISTIC, uses=("fake_label",),
        defaults={
            **CLASSIC, "img_size": 144, "nz": 40, "ngf": 32, "ndf": 32, "batch_size": 32,
            "lr2": 5e-5,
        },
    ),
    "mlp": Family(
        functools.partial(mlp_nets, hidden=(256, 512)), *LOGISTIC,
        uses=("fake_label",), lacks=("ngf", "ndf"),
        defaults={**DIGITS, "batch_size": 16, "lr1": 1e-4, "lr2": 1e-4, "beta1": 0.9},
    ),
    "mlp-tiny": Family(
        functools.partial(mlp_nets, hidden=(128,)), *LOGISTIC,
        uses=("fake_label",), lacks=("ngf", "ndf"),
        defaults={
            **DIGITS, "batch_size": 128, "lr1": 1e-3, "lr2": 1e-3, "beta1": 0.9, "noise": "uniform",
        },
    ),
    "lsgan": Family(dcgan_nets, *adversarial(least_squares), defaults=CLASSIC),
    "hinge": Family(
        functools.partial(dcgan_nets, norm="spectral"), *adversarial(hinge), defaults=CLASSIC,
    ),
    # a published run at 32 px; Arjovsky et al. 2017 clip to 0.01 and have rates of 5e-5
    "wgan": Family(
        dcgan_nets, *adversarial(critic), after_d=clip_weights, uses=("clip",),
        defaults={
            **CLASSIC, "img_size": 32, "noise": "uniform", "optimizer": "rmsprop", "g_every": 5,
            "d_lead": 625,  # 25 updates of G
        },
    ),
    "wgan-gp": Family(
        functools.partial(dcgan_nets, norm="none"), *adversarial(critic, gradient_penalty),
        uses=("penalty",),
        defaults={
            **CLASSIC, "img_size": 48, "nz": 40, "g_every": 5,
            "lr1": 1e-4, "lr2": 1e-4, "beta1": 0.0, "beta2": 0.9,
        },
    ),
    "pix2pix": Family(
        pix2pix_nets, *paired(nonsaturating), data="pairs", uses=("l1", "spectral"),
        defaults=TRANSLATES,
    ),
    "cyclegan": Family(
        cyclegan_nets, *cycle(least_squares), data="two folders",
        uses=("cycle", "identity", "pool", "spectral"),
        defaults={**TRANSLATES, "lr_end": 0.0, "lr_fall": "linear"},
    ),
}
# fmt: on

# the knobs that only some families use
ONLY_SOME = tuple(dict.fromkeys(knob for row in FAMILIES.values() for knob in row.knobs))
