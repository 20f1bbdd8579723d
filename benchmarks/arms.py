"""The arms of the ablation: changes to the `modern` family, one each, that are not in the toolkit.

An arm is a row (flags, change of the family); what won is in the toolkit and has only flags here.
"""

import dataclasses
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from config import Config
from gan import augment, losses
from gan.losses import Batch, Logs
from models import FAMILIES, Family, ModernD, ModernG, Nets, modern_nets, pyramid


def relativistic(gamma: float = 10.0, lazy: int = 4) -> tuple[losses.Loss, losses.Loss]:
    """RpGAN with R1 + R2 (Huang et al. 2024, arXiv:2501.05441), the penalty on every 4th step.

    `gamma` there, so that over all steps it is half of that: 5 by the paper's equation 4.
    """
    real_scores: list[Tensor] = []

    def d_loss(nets: Any, batch: Batch, config: Any) -> tuple[Tensor, Logs]:
        both = batch.view(torch.cat([batch.real, batch.fake(nets).detach()]))
        due = bool(torch.rand(()) < 1 / lazy)  # a function of the step: resumable
        both.requires_grad_(due)
        scores = nets.D(both)
        real, fake = scores.chunk(2)
        real_scores[:] = [real.detach()]
        loss = F.softplus(fake - real).mean()
        logs = {"loss_d": loss.detach(), "pair_auc": losses.pair_auc(real.detach(), fake.detach())}
        if due:
            gradient = torch.autograd.grad(scores.sum(), both, create_graph=True)[0]
            loss = loss + gamma * gradient.square().sum((1, 2, 3)).mean() * 2
        return loss, logs

    def g_loss(nets: Any, batch: Batch, config: Any) -> tuple[Tensor, Logs]:
        fake = nets.D(batch.view(batch.fake(nets)))
        loss = F.softplus(real_scores[0] - fake).mean()
        return loss, {"loss_g": loss.detach()}

    return d_loss, g_loss


class Tail(nn.Module):
    """`ModernG` with another last stage on the same body: from [N, ngf, s/2, s/2] to [N, C, s, s].

    "shuffle": a convolution to 4 C channels, pixel shuffle. "base": the same beside C channels
    that are enlarged bilinearly, so that the shuffle only adds detail. "thin": ConvT to ngf / 4.
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
            self.out = nn.Conv2d(ngf, (5 if kind == "base" else 4) * C, 3, 1, 1)
            with torch.no_grad():  # the four of a pixel start equal (ICNR, arXiv:1707.02937)
                last = self.out.weight[-4 * C :]
                last.copy_(last[::4].repeat_interleave(4, 0))

    def forward(self, noise: Tensor) -> Tensor:
        x = self.out(self.body(noise))
        if self.kind in ("shuffle", "blur"):
            x = F.pixel_shuffle(x, 2)
            if self.kind == "blur":  # 1 2 1 either way: nothing is left of a grid of 2 pixels
                x = F.avg_pool2d(F.pad(x, (1, 0, 1, 0), mode="replicate"), 2, 1)
                x = F.avg_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), 2, 1)
        elif self.kind == "base":
            base, detail = x.split([x.shape[1] // 5, x.shape[1] * 4 // 5], 1)
            x = F.interpolate(base, scale_factor=2.0, mode="bilinear") + F.pixel_shuffle(detail, 2)
        return x.tanh()


class Gated(nn.Module):
    """`ModernG` whose stages weigh the channels of the stage two above them, by what they hold.

    Skip-layer excitation (Liu et al. 2021, arXiv:2101.04775, eq. 1): 4 x 4 means, convolution over
    all of them, leaky ReLU, convolution, sigmoid.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        main = ModernG(config.nz, config.ngf, config.img_size, config.channels).main
        ups = [i for i, layer in enumerate(main) if isinstance(layer, nn.ConvTranspose2d)]
        places = [0, *ups, len(main)]
        stages = [main[a:b] for a, b in pairwise(places)]
        self.stages = nn.ModuleList(stages)
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
        held: list[Tensor] = []
        x = noise
        for place, stage in enumerate(self.stages):
            x = stage(x)
            held.append(x)
            if 2 <= place < len(self.gates) + 2:
                x = x * self.gates[place - 2](held[place - 2])
        return x


def gated(config: Config) -> Nets:
    return Nets(Gated(config), modern_nets(config).D)


def dropped(config: Config) -> Nets:
    """D with a dropout of 0.3 before its last layer."""
    nets = modern_nets(config)
    nets.D.main.insert(len(nets.D.main) - 1, nn.Dropout(0.3))
    return nets


def plain(D: ModernD) -> ModernD:
    """Without spectral norm."""
    for layer in D.modules():
        if parametrize.is_parametrized(layer):
            parametrize.remove_parametrizations(layer, "weight")
    return D


def tail(kind: str) -> Callable[[Config], Nets]:
    def build(config: Config) -> Nets:
        D = ModernD(config.ndf, config.img_size, config.channels)
        return Nets(Tail(kind, config), D)

    return build


def without_norm(build: Callable[[Config], Nets]) -> Callable[[Config], Nets]:
    def built(config: Config) -> Nets:
        nets = build(config)
        return Nets(nets.G, plain(nets.D))

    return built


def colour(x: Tensor, chosen: Tensor) -> Tensor:
    """Brightness ± 0.5, saturation x 0 to 2, contrast x 0.5 to 1.5, of each picture."""
    offset = (torch.rand(3, len(x), device=x.device) - 0.5) * chosen
    brightness, saturation, contrast = (part[:, None, None, None] for part in offset)
    grey = x.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    # The three in one: a picture is its mean, what its luminance and what its colour add to that.
    light, hue = 1 + contrast, (1 + contrast) * (1 + 2 * saturation)
    return torch.addcmul((light - hue) * grey + ((1 - light) * mean + brightness), x, hue)


def seen_in_colours(build: Callable[[Config], Nets]) -> Callable[[Config], Nets]:
    """D is shown pictures recoloured too; for this process, which trains one arm."""

    def built(config: Config) -> Nets:
        augment.FUNCTIONS["colour"] = colour
        return build(config)

    return built


def seen_without(*names: str) -> Callable[[Config], Nets]:
    """D is shown pictures without some of the changes; for this process, which trains one arm."""

    def build(config: Config) -> Nets:
        for name in names:
            augment.FUNCTIONS.pop(name, None)
        return modern_nets(config)

    return build


TRAINED_ON = {"a": 3686, "b": 2160, "c": 258}  # images of each set


def controlled(config: Config) -> Nets:
    """D with the probability of a change, which starts by the passes over the data to come."""
    which = "a" if not config.data_path else "c" if "first-" in config.data_path else "b"
    passes = config.max_images / TRAINED_ON[which]
    steps = ((10, 0.0), (50, 0.15), (200, 0.35), (600, 0.55))
    start = next((p for limit, p in steps if passes < limit), 0.7)
    nets = modern_nets(config)
    nets.D.register_buffer("shown", torch.tensor(start))
    nets.D.register_buffer("auc", torch.tensor(0.8))
    return nets


def followed(target: float = 0.8) -> tuple[losses.Loss, losses.Loss]:
    """Hinge, with as much augmentation as D needs not to tell more than `target` of the pairs.

    The controller of Karras et al. 2020 (arXiv:2006.06676) on the AUC of pairs, over the whole
    range within a tenth of the run.
    """
    own_d, g_loss = losses.adversarial(losses.hinge)

    def d_loss(nets: Any, batch: Batch, config: Any) -> tuple[Tensor, Logs]:
        batch.augment = float(nets.D.shown)
        loss, logs = own_d(nets, batch, config)
        nets.D.auc.lerp_(logs["pair_auc"], 0.05)
        stride = config.batch_size / (0.1 * config.max_images)
        nets.D.shown.add_(stride * (nets.D.auc - target).sign()).clamp_(0, 0.8)
        return loss, {**logs, "augment": nets.D.shown.clone()}

    return d_loss, g_loss


def changed(**changes: Any) -> Family:
    return dataclasses.replace(FAMILIES["modern"], **changes)


def first(build: Callable[[Config], Nets] = modern_nets, **changes: Any) -> Family:
    """As the first arms had it: D is shown pictures recoloured too."""
    return changed(build=seen_in_colours(build), **changes)


def watched(d_loss: losses.Loss, g_loss: losses.Loss) -> Family:
    return changed(build=controlled, d_loss=d_loss, g_loss=g_loss)


def game(pair: tuple[losses.Loss, losses.Loss], build: Callable[[Config], Nets]) -> Family:
    return first(without_norm(build), d_loss=pair[0], g_loss=pair[1])


modern = FAMILIES["modern"]
HALF = "--augment=0.5"  # what all arms but the last ones had
OLD = f"--batch-size=32 --amp=False {HALF}"  # what the first arms had
ARMS: dict[str, tuple[str, Family]] = {
    "classic": ("", FAMILIES["dcgan"]),
    "modern": ("", modern),
    # how large a batch, how fast, how exact
    "batch32": (OLD, first()),
    "batch16": (f"--batch-size=16 --amp=False {HALF}", first()),
    "batch8": (f"--batch-size=8 --amp=False {HALF}", first()),
    "batch8-amp": (f"--batch-size=8 --amp=True {HALF}", first()),
    "batch16-amp": (f"--batch-size=16 --amp=True {HALF}", first()),
    # the last stage of G
    "tail-base": (OLD, first(tail("base"))),
    "tail-blur": (OLD, first(tail("blur"))),
    "tail-thin": (OLD, first(tail("thin"))),
    # the loss, and what D sees
    "rp": (OLD, game(relativistic(), modern_nets)),
    "tail-base-rp": (OLD, game(relativistic(), tail("base"))),
    "tail-base-aug0": ("--batch-size=32 --amp=False --augment=0", first(tail("base"))),
    "tail-base-aug8": ("--batch-size=32 --amp=False --augment=0.8", first(tail("base"))),
    "batch32-aug8": ("--batch-size=32 --amp=False --augment=0.8", first()),
    # what D gets to see
    "no-colour": (f"--batch-size=8 --amp=False {HALF}", modern),
    "no-cutout": ("", changed(build=seen_without("cutout"))),
    "aug0": ("--augment=0", modern),
    "aug2": ("--augment=0.2", modern),
    "aug5": (HALF, modern),
    "controlled": (
        "--augment=0.1",
        watched(*followed()),
    ),
    # one knob each
    "no-ema": ("--ema=False", modern),
    "constant-rates": ("--lr-end=1", modern),
    "half-rates": ("--lr1=2e-4 --lr2=2e-4", modern),
    "double-rates": ("--lr1=8e-4 --lr2=8e-4", modern),
    "nz100": ("--nz=100", modern),
    "wide-g": ("--ngf=48", modern),
    "wide-d": ("--ndf=48", modern),
    "gates": ("", changed(build=gated)),
    "dropout": ("", changed(build=dropped)),
    # for few images
    "narrow-d": ("--ndf=16", modern),
}
