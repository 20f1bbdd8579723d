"""The arms of the ablation: changes to `unmodulated` or `modern`, one each, not in the toolkit.

An arm is a row (flags, family); an arm that won is in the toolkit and has only flags here. Runs are
unconditional, so the builders here leave the number of classes out of account.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import common  # noqa: F401 (the toolkit's path)
import torch
import torch.nn.functional as F
from even import make_even
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from config import Config
from gan import augment
from gan.family import Family
from gan.losses import Batch, Logs, Nets
from gan.modern import ModernD, ModernG, ModulatedG
from gan.shapes import pyramid
from models import FAMILIES, unmodulated_nets

Build = Callable[[Config, int], Nets]
UNMODULATED, RPGAN = FAMILIES["unmodulated"], FAMILIES["rpgan"]
MODERN = FAMILIES["modern"]


# --- networks ------------------------------------------------------------------------------------


class TailG(nn.Module):
    """`ModernG` with another last stage on the same body: from [N, ngf, s/2, s/2] to [N, C, s, s].

    "shuffle": a convolution to 4 C channels, pixel shuffle. "blur": the same, then blurred.
    "base": the same beside C channels that are enlarged bilinearly, so that the shuffle only adds
    detail. "thin": a transposed convolution to ngf / 4 channels, then a plain one.
    """

    def __init__(self, kind: str, config: Config) -> None:
        super().__init__()
        ngf, C = config.ngf, config.channels
        levels = pyramid(config.img_size, {})
        self.body = ModernG(config.nz, ngf, config.img_size, C).main[:-5]
        self.kind = kind
        assert levels[0][0] % 2 == 0
        if kind == "thin":
            self.out: nn.Module = nn.Sequential(
                nn.ConvTranspose2d(ngf, ngf // 4, 4, 2, 1, bias=False),
                nn.BatchNorm2d(ngf // 4),
                nn.LeakyReLU(0.2, inplace=True),
                nn.Conv2d(ngf // 4, C, 3, 1, 1),
            )
        else:
            conv = nn.Conv2d(ngf, (5 if kind == "base" else 4) * C, 3, 1, 1)
            with torch.no_grad():  # the four of a pixel start equal (ICNR, arXiv:1707.02937)
                last = conv.weight[-4 * C :]
                last.copy_(last[::4].repeat_interleave(4, 0))
            self.out = conv

    def forward(self, noise: Tensor) -> Tensor:
        x = self.out(self.body(noise))
        if self.kind in ("shuffle", "blur"):
            x = F.pixel_shuffle(x, 2)
            if self.kind == "blur":  # 1 2 1 either way: nothing is left of a pattern of 2 pixels
                x = F.avg_pool2d(F.pad(x, (1, 0, 1, 0), mode="replicate"), 2, 1)
                x = F.avg_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), 2, 1)
        elif self.kind == "base":
            base, detail = x.split([x.shape[1] // 5, x.shape[1] * 4 // 5], 1)
            x = F.interpolate(base, scale_factor=2.0, mode="bilinear") + F.pixel_shuffle(detail, 2)
        return x.tanh()


class GatedG(nn.Module):
    """`ModernG` whose stages weigh the channels of the stage two after them, by what they hold.

    Skip-layer excitation (Liu et al. 2021, arXiv:2101.04775, eq. 1): 4 x 4 means, convolution over
    all of them, leaky ReLU, convolution, sigmoid.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        main = ModernG(config.nz, config.ngf, config.img_size, config.channels).main
        ups = [i for i, layer in enumerate(main) if isinstance(layer, nn.ConvTranspose2d)]
        self.stages = nn.ModuleList(main[a:b] for a, b in pairwise([0, *ups, len(main)]))
        widths = [layer.in_channels for layer in main if isinstance(layer, nn.ConvTranspose2d)]
        self.gates = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(4),
                nn.Conv2d(low, low // 2, 4),
                nn.LeakyReLU(0.1),
                nn.Conv2d(low // 2, high, 1),
                nn.Sigmoid(),
            )
            for low, high in zip(widths[:-2], widths[2:], strict=True)
        )

    def forward(self, noise: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        x = noise
        for i, stage in enumerate(self.stages):
            x = stage(x)
            outputs.append(x)
            if 2 <= i < len(self.gates) + 2:
                x = x * self.gates[i - 2](outputs[i - 2])
        return x


def tail(kind: str, norm: str = "spectral") -> Build:
    """`TailG`; `norm` is D's: "spectral" or "none"."""

    def build(config: Config, classes: int) -> Nets:
        D = ModernD(config.ndf, config.img_size, config.channels, norm=norm)
        return Nets(TailG(kind, config), D)

    return build


def gated_nets(config: Config, classes: int) -> Nets:
    return Nets(GatedG(config), unmodulated_nets(config).D)


def dropout_nets(config: Config, classes: int) -> Nets:
    """D with a dropout of 0.3 before its last layer."""
    nets = unmodulated_nets(config)
    layers = nets.D.main
    assert isinstance(layers, nn.Sequential)
    layers.insert(len(layers) - 1, nn.Dropout(0.3))
    return nets


class FullSizeD(nn.Module):
    """`ModernD` with a branch of 16 channels at full size, which is added to its first layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        main = ModernD(config.ndf, config.img_size, config.channels).main
        assert isinstance(main, nn.Sequential)
        self.stem, self.rest = main[:2], main[2:]
        self.branch = nn.Sequential(
            spectral_norm(nn.Conv2d(config.channels, 16, 3, 1, 1)),
            nn.LeakyReLU(0.2, inplace=True),
            spectral_norm(nn.Conv2d(16, config.ndf, 4, 2, 1)),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.rest(self.stem(images) + self.branch(images)).flatten()


def full_size_nets(config: Config, classes: int) -> Nets:
    return Nets(unmodulated_nets(config).G, FullSizeD(config))


def without_modulation(config: Config, classes: int) -> Nets:
    D = ModernD(config.ndf, config.img_size, config.channels, deviation=True)
    return Nets(ModernG(config.nz, config.ngf, config.img_size, config.channels), D)


def even_nets(config: Config, classes: int) -> Nets:
    nets = MODERN.build(config, 0)
    make_even(nets.G)
    return nets


def without_deviation(config: Config, classes: int) -> Nets:
    G = ModulatedG(config.nz, config.ngf, config.img_size, config.channels)
    return Nets(G, ModernD(config.ndf, config.img_size, config.channels))


# --- what D is shown -----------------------------------------------------------------------------


def recolour(images: Tensor, selected: Tensor) -> Tensor:
    """Change brightness by ± 0.5, saturation x 0 to 2, contrast x 0.5 to 1.5, of each image.

    `images` [N, C, H, W] in -1..1; `selected` [N], bool. The third change of Zhao et al. 2020
    (arXiv:2006.10738).
    """
    offset = (torch.rand(3, len(images), device=images.device) - 0.5) * selected
    brightness, saturation, contrast = (part[:, None, None, None] for part in offset)
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    # The three in one: an image is its mean, what its luminance and what its colour add to that.
    light, hue = 1 + contrast, (1 + contrast) * (1 + 2 * saturation)
    return torch.addcmul((light - hue) * grey + ((1 - light) * mean + brightness), images, hue)


def recoloured(family: Family, build: Build | None = None) -> Family:
    """D is shown images recoloured too, as the first arms had it.

    It changes AUGMENTATIONS of this process, which trains one arm, when the nets are built.
    """
    own = build or family.build

    def build_and_recolour(config: Config, classes: int) -> Nets:
        augment.AUGMENTATIONS["colour"] = recolour
        return own(config, classes)

    return replace(family, build=build_and_recolour)


def without_cutout(config: Config, classes: int) -> Nets:
    """D is shown images without holes; this too is for the whole process."""
    augment.AUGMENTATIONS.pop("cutout", None)
    return unmodulated_nets(config)


# --- as much augmentation as D needs -------------------------------------------------------------

TRAIN_IMAGES = {"a": 3686, "b": 2160, "c": 258}  # of each set
FIRST_PROBABILITIES = ((10, 0.0), (50, 0.15), (200, 0.35), (600, 0.55))  # below so many epochs
LAST_PROBABILITY = 0.7  # above
TARGET_AUC = 0.8
AUC_WEIGHT = 0.05  # of a new value in its running mean
CONTROL_SHARE = 0.1  # of the run, in which the probability can cross its whole range
HIGHEST_PROBABILITY = 0.8


class ControlledD(ModernD):
    """`ModernD` that holds the probability of each augmentation, and the mean AUC of its scores."""

    probability: Tensor
    auc: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config.ndf, config.img_size, config.channels)
        data_set = "a" if not config.data_path else "c" if "first-" in config.data_path else "b"
        epochs = config.max_images / TRAIN_IMAGES[data_set]
        found = (p for limit, p in FIRST_PROBABILITIES if epochs < limit)
        self.register_buffer("probability", torch.tensor(next(found, LAST_PROBABILITY)))
        self.register_buffer("auc", torch.tensor(TARGET_AUC))


def controlled_nets(config: Config, classes: int) -> Nets:
    G = ModernG(config.nz, config.ngf, config.img_size, config.channels)
    return Nets(G, ControlledD(config))


def controlled_d_loss(nets: Nets, batch: Batch, config: Config) -> tuple[Tensor, Logs]:
    """Hinge, with as much augmentation as keeps D's AUC of pairs at TARGET_AUC.

    The controller of Karras et al. 2020 (arXiv:2006.06676) on this AUC.
    """
    D = nets.D
    assert isinstance(D, ControlledD)
    batch.augment = float(D.probability)
    loss, logs = UNMODULATED.d_loss(nets, batch, config)
    D.auc.lerp_(logs["pair_auc"], AUC_WEIGHT)
    step = config.batch_size / (CONTROL_SHARE * config.max_images)
    D.probability.add_(step * (D.auc - TARGET_AUC).sign()).clamp_(0, HIGHEST_PROBABILITY)
    return loss, {**logs, "augment": D.probability.clone()}


# --- the table -----------------------------------------------------------------------------------

HALF = "--augment=0.5"  # what all arms but the last ones had
FIRST = f"--batch-size=32 --amp=False {HALF}"  # what the first arms had
ARMS: dict[str, tuple[str, Family]] = {
    "classic": ("", FAMILIES["dcgan"]),
    "modern": ("", FAMILIES["modern"]),
    "unmodulated": ("", UNMODULATED),
    # how large a batch, how fast, how exact
    "batch32": (FIRST, recoloured(UNMODULATED)),
    "batch16": (f"--batch-size=16 --amp=False {HALF}", recoloured(UNMODULATED)),
    "batch8": (f"--batch-size=8 --amp=False {HALF}", recoloured(UNMODULATED)),
    "batch8-amp": (f"--batch-size=8 --amp=True {HALF}", recoloured(UNMODULATED)),
    "batch16-amp": (f"--batch-size=16 --amp=True {HALF}", recoloured(UNMODULATED)),
    # the last stage of G
    "tail-base": (FIRST, recoloured(UNMODULATED, tail("base"))),
    "tail-blur": (FIRST, recoloured(UNMODULATED, tail("blur"))),
    "tail-thin": (FIRST, recoloured(UNMODULATED, tail("thin"))),
    # the loss
    "rp": (FIRST, recoloured(RPGAN)),
    "tail-base-rp": (FIRST, recoloured(RPGAN, tail("base", norm="none"))),
    # what D is shown
    "tail-base-aug0": (
        "--batch-size=32 --amp=False --augment=0",
        recoloured(UNMODULATED, tail("base")),
    ),
    "tail-base-aug8": (
        "--batch-size=32 --amp=False --augment=0.8",
        recoloured(UNMODULATED, tail("base")),
    ),
    "batch32-aug8": ("--batch-size=32 --amp=False --augment=0.8", recoloured(UNMODULATED)),
    "no-colour": (f"--batch-size=8 --amp=False {HALF}", UNMODULATED),
    "no-cutout": ("", replace(UNMODULATED, build=without_cutout)),
    "aug0": ("--augment=0", UNMODULATED),
    "aug2": ("--augment=0.2", UNMODULATED),
    "aug5": (HALF, UNMODULATED),
    "controlled": (
        "--augment=0.1",
        replace(UNMODULATED, build=controlled_nets, d_loss=controlled_d_loss),
    ),
    # one setting each; `unmodulated` itself mirrored set (a) too before --flip=auto
    "mirrored": ("--flip=True", UNMODULATED),
    "no-ema": ("--ema=False", UNMODULATED),
    "constant-rates": ("--lr-end=1", UNMODULATED),
    "half-rates": ("--lr1=2e-4 --lr2=2e-4", UNMODULATED),
    "double-rates": ("--lr1=8e-4 --lr2=8e-4", UNMODULATED),
    "nz100": ("--nz=100", UNMODULATED),
    "wide-g": ("--ngf=48", UNMODULATED),
    "wide-d": ("--ndf=48", UNMODULATED),
    "gates": ("", replace(UNMODULATED, build=gated_nets)),
    "dropout": ("", replace(UNMODULATED, build=dropout_nets)),
    "full-size": ("", replace(UNMODULATED, build=full_size_nets)),
    # `modern` without one of the three things that it has and `unmodulated` has not
    "no-modulation": ("", replace(MODERN, build=without_modulation)),
    "no-deviation": ("", replace(MODERN, build=without_deviation)),
    "slow-rates": ("--lr1=4e-4 --lr2=4e-4", MODERN),
    # `modern` with one change
    "even": ("", replace(MODERN, build=even_nets)),
    # for few images
    "transfer": ("--init=modern-a-0-71700", MODERN),  # the name of another arm's run
    "narrow-d": ("--ndf=16", UNMODULATED),
}
