"""The arms of the ablation: changes to the `modern` family, one each, that are not in the toolkit.

An arm is a row (flags, change of the family); what won is in the toolkit and has only flags here.
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from config import Config
from gan import losses
from gan.losses import Batch, Logs
from models import FAMILIES, Family, ModernD, ModernG, Nets, modern_nets, pyramid


def joint(game: losses.Game) -> tuple[losses.Loss, losses.Loss]:
    """As `adversarial`, but D sees reals and fakes in one pass: it has no batch norm."""

    def d_loss(nets: Any, batch: Batch, config: Any) -> tuple[Tensor, Logs]:
        both = torch.cat([batch.real, batch.fake(nets).detach()])
        real, fake = nets.D(batch.view(both)).chunk(2)
        loss = game.d(real, fake)
        auc = losses.pair_auc(real.detach(), fake.detach())
        return loss, {"loss_d": loss.detach(), "pair_auc": auc}

    return d_loss, losses.adversarial(game)[1]


def relativistic(gamma: float = 10.0, lazy: int = 4) -> tuple[losses.Loss, losses.Loss]:
    """RpGAN with R1 + R2 (Huang et al. 2024, arXiv:2501.05441), the penalty on every 4th step."""
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

    def __init__(self, kind: str, config: Config, gates: bool = False) -> None:
        super().__init__()
        ngf, C = config.ngf, config.channels
        levels = pyramid(config.img_size, {})
        self.body = ModernG(config.nz, ngf, config.img_size, C).main[:-5]
        if gates:
            self.body = Gated(self.body)
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
    """A skip-layer excitation (Liu et al. 2021, arXiv:2101.04775): base gates the last stages."""

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.stages = body
        self.gates = nn.ModuleDict()
        sources: list[tuple[int, int]] = []  # after which layer, channels
        for place, layer in enumerate(body):
            if isinstance(layer, nn.LeakyReLU):
                sources.append((place, int(body[place - 1].num_features)))
        self.pairs = {}
        for (start, c_in), (end, c_out) in zip(sources, sources[2:], strict=False):
            self.pairs[end] = start
            self.gates[str(end)] = nn.Sequential(
                nn.AdaptiveAvgPool2d(4),
                nn.Conv2d(c_in, c_out, 4),
                nn.SiLU(),
                nn.Conv2d(c_out, c_out, 1),
                nn.Sigmoid(),
            )

    def forward(self, x: Tensor) -> Tensor:
        kept: dict[int, Tensor] = {}
        for place, layer in enumerate(self.stages):
            x = layer(x)
            if place in self.pairs:
                x = x * self.gates[str(place)](kept[self.pairs[place]])
            kept[place] = x
        return x


def plain(D: ModernD) -> ModernD:
    """Without spectral norm."""
    for layer in D.modules():
        if parametrize.is_parametrized(layer):
            parametrize.remove_parametrizations(layer, "weight")
    return D


def tail(kind: str, gates: bool = False) -> Callable[[Config], Nets]:
    def build(config: Config) -> Nets:
        D = ModernD(config.ndf, config.img_size, config.channels)
        return Nets(Tail(kind, config, gates), D)

    return build


def without_norm(build: Callable[[Config], Nets]) -> Callable[[Config], Nets]:
    def built(config: Config) -> Nets:
        nets = build(config)
        return Nets(nets.G, plain(nets.D))

    return built


def changed(**changes: Any) -> Family:
    return dataclasses.replace(FAMILIES["modern"], **changes)


def game(pair: tuple[losses.Loss, losses.Loss], **changes: Any) -> Family:
    return changed(d_loss=pair[0], g_loss=pair[1], **changes)


modern = FAMILIES["modern"]
ARMS: dict[str, tuple[str, Family]] = {
    "classic": ("--ema=True", FAMILIES["dcgan"]),
    "modern-1": ("", modern),
    "tail-shuffle": ("", changed(build=tail("shuffle"))),
    "tail-base": ("", changed(build=tail("base"))),
    "blur": ("", changed(build=tail("blur"))),
    "tail-thin": ("", changed(build=tail("thin"))),
    "base-rp": ("", game(relativistic(), build=without_norm(tail("base")))),
    "base-aug0": ("--augment=0", changed(build=tail("base"))),
    "base-aug8": ("--augment=0.8", changed(build=tail("base"))),
    "aug0": ("--augment=0", modern),
    "aug8": ("--augment=0.8", modern),
    "batch16": ("--batch-size=16", modern),
    "batch8": ("--batch-size=8", modern),
    "batch8-lr2": ("--batch-size=8 --lr1=2e-4 --lr2=2e-4", modern),
    "batch16-lr2": ("--batch-size=16 --lr1=2e-4 --lr2=2e-4", modern),
    "batch16-aug0": ("--batch-size=16 --augment=0", modern),
    "batch16-ngf48": ("--batch-size=16 --ngf=48", modern),
    "lr2": ("--lr1=2e-4 --lr2=2e-4", modern),
    "lr8": ("--lr1=8e-4 --lr2=8e-4", modern),
    "ngf48": ("--ngf=48", modern),
    "ndf48": ("--ndf=48", modern),
    "nz128": ("--nz=128", modern),
    "rp": ("", game(relativistic(), build=without_norm(modern_nets))),
    "rp-sn": ("", game(relativistic(1.0), build=modern_nets)),
}
