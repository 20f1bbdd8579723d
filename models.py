"""Every network that generates from noise, and the families of `gan/families.py` made of them."""

import functools
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from config import FIELDS, Config, RunFacts, Settings, parse
from gan import checkpoint, validate
from gan.errors import Refused
from gan.families import ROWS, Row, find_row
from gan.family import Family
from gan.losses import Nets, clip_weights
from gan.modern import ModernD, ModernG, ModulatedG
from gan.shapes import project, pyramid, width
from gan.spectral import spectral_norm
from gan.state import SavedState
from gan.tasks import TASKS
from gan.translation import CycleD, PatchD, Pool, ResNetG, ThereAndBack, UNet, init_weights
from gan.weights import load_weights


class NetG(nn.Module):
    """DCGAN generator (Radford et al. 2016, arXiv:1511.06434): noise [N, nz] -> [N, C, s, s].

    A conditional one takes the one-hot class [N, classes] too (Mirza & Osindero 2014,
    arXiv:1411.1784), as all the generators here do.

    The picture is in [-1, 1]. Transposed convolutions k4 s1 p0 from one pixel, then k4 s2 p1
    (k5 s3 p1 for a stride of 3), each with batch norm and ReLU; the last one with tanh.
    Parameters are called `main.N.*` as in the classic 96-pixel script, whose third layer alone
    has a bias: weights go both ways.
    """

    def __init__(
        self,
        nz: int = 100,
        ngf: int = 64,
        img_size: int = 96,
        channels: int = 3,
        classes: int = 0,
    ) -> None:
        super().__init__()
        levels = pyramid(img_size)
        depth = len(levels) - 1
        wide = width(depth - 1, ngf)
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(nz + classes, wide, levels[-1][0], 1, 0, bias=False)
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

    def forward(self, noise: Tensor, *condition: Tensor) -> Tensor:
        return self.main(torch.cat((noise, *condition), 1)[:, :, None, None])


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

    def forward(self, images: Tensor, *condition: Tensor) -> Tensor:
        return project(self.main(images), *condition)  # [N]


class MlpG(nn.Module):
    """Generator of fully connected layers: noise [N, nz] -> [N, C, s, s] in [-1, 1].

    Widths as given, ReLU between, tanh at the end (Goodfellow et al. 2014 leave them open).
    """

    def __init__(
        self, nz: int, hidden: tuple[int, ...], img_size: int, channels: int, classes: int = 0
    ) -> None:
        super().__init__()
        shape = (channels, img_size, img_size)
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise((nz + classes, *hidden)):
            layers += [nn.Linear(c_in, c_out), nn.ReLU(inplace=True)]
        last = nn.Linear(hidden[-1], channels * img_size**2)
        self.main = nn.Sequential(*layers, last, nn.Unflatten(1, shape), nn.Tanh())

    def forward(self, noise: Tensor, *condition: Tensor) -> Tensor:
        return self.main(torch.cat((noise, *condition), 1))


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

    def forward(self, images: Tensor, *condition: Tensor) -> Tensor:
        return project(self.main(images), *condition)  # [N]


def dcgan_nets(config: Config, classes: int = 0, norm: str = "batch") -> Nets:
    """The classic pair; `norm` is D's: "batch", "spectral" or "none"."""
    size, channels = config.img_size, config.channels
    return Nets(
        NetG(config.nz, config.ngf, size, channels, classes),
        NetD(config.ndf, size, channels, classes, norm),
    )


def mlp_nets(config: Config, classes: int = 0, hidden: tuple[int, ...] = (256, 512)) -> Nets:
    """Fully connected nets; D's layers are as wide as G's, in reverse."""
    size, channels = config.img_size, config.channels
    return Nets(
        MlpG(config.nz, hidden, size, channels, classes),
        MlpD(hidden[::-1], size, channels, classes),
    )


def modern_nets(config: Config, classes: int = 0) -> Nets:
    """G and D of the `modern` family."""
    size, channels = config.img_size, config.channels
    return Nets(
        ModulatedG(config.nz, config.ngf, size, channels, classes),
        ModernD(config.ndf, size, channels, classes, deviation=True),
    )


def unmodulated_nets(config: Config, classes: int = 0, norm: str = "spectral") -> Nets:
    """The nets that `modern` had first; `norm` is D's: "spectral" or "none"."""
    size, channels = config.img_size, config.channels
    return Nets(
        ModernG(config.nz, config.ngf, size, channels, classes),
        ModernD(config.ndf, size, channels, classes, norm),
    )


def pix2pix_nets(config: Config, classes: int = 0) -> Nets:
    """U-Net and PatchGAN, N(0, 0.02) weights. D sees the given picture and the other together.

    Instance norm at batch 1, batch norm above (Isola et al. 2017, section 6.1.1).
    """
    norm = "instance" if config.batch_size == 1 else "batch"
    given, wanted = config.channels_given, config.channels_wanted
    G = UNet(given, wanted, config.img_size, config.ngf, norm)
    D = PatchD(given + wanted, config.ndf, norm=norm, spectral=config.spectral)
    return Nets(init_weights(G), init_weights(D))


def cyclegan_nets(config: Config, classes: int = 0) -> Nets:
    """Two ResNet generators, there and back, and two PatchGANs with their pools of fakes."""
    given, wanted = config.channels_given, config.channels_wanted
    size = config.img_size
    G = ThereAndBack(
        ResNetG(given, wanted, size, config.ngf), ResNetG(wanted, given, size, config.ngf)
    )
    D = CycleD(
        PatchD(wanted, config.ndf, spectral=config.spectral),
        PatchD(given, config.ndf, spectral=config.spectral),
        Pool((wanted, size, size), config.pool),
        Pool((given, size, size), config.pool),
    )
    return Nets(init_weights(G), init_weights(D))


def find_family(name: str) -> Family:
    """The row of `FAMILIES` called `name`; raises Refused with the nearest one."""
    if name not in FAMILIES:
        find_row(name)
    return FAMILIES[name]


# (family, loss) of the runs whose game had halves before there was a setting that says so
HALVED = {("cyclegan", ""), ("cyclegan", "least-squares"), ("pix2pix", "least-squares")}


FORMER_NAMES = {"unmodulated": "modern"}  # what earlier versions called a family


def family_then(name: str, weights: object) -> str:
    """The family that was called `name` when G's bare weights were saved."""
    if name != "modern" or not isinstance(weights, Mapping):
        return name
    return name if any(".style." in key for key in weights) else "unmodulated"


def settings_of(state: SavedState) -> Settings:
    """The settings in a saved state, checked; those of earlier versions mean what they meant then.

    Raises Refused for a value that is none.
    """
    saved = state["config"]
    known = {name: str(value) for name, value in saved.items() if name in FIELDS}
    settings: Settings = {k: parse(FIELDS[k], text) for k, text in known.items()}
    if (settings.get("family"), settings.get("loss", "")) in HALVED:
        settings.setdefault("half_squares", True)
    if "family" in settings:
        settings["family"] = family_then(str(settings["family"]), state.get("nets", {}).get("G"))
    return settings


def read_state(path: Path, *, to_resume: bool = False) -> tuple[SavedState, Config, RunFacts]:
    """The state at `path`, its config and facts; raises Refused unless it is whole."""
    state = checkpoint.load(path)
    if problem := validate.state_problem(state, to_resume=to_resume):
        hint = "" if to_resume else "; bare weights go to --netg-path"
        raise Refused(f"{path}: not a training state ({problem}){hint}")
    try:
        config = Config(**settings_of(state))  # type: ignore[arg-type]
        find_family(config.family)
    except Refused as error:
        raise Refused(f"{path}: {error}") from None
    return state, config, RunFacts.of_state(state)


def read_state_to_resume(path: Path) -> SavedState:
    """The state at `path`; raises Refused unless a run can go on with it."""
    state, config, facts = read_state(path, to_resume=True)
    nets = find_family(config.family).make(config, len(facts.class_names))
    if problem := validate.players_problem(state, nets, config):
        raise Refused(f"{path}: does not fit its own settings ({problem})")
    return state


def restore(path: Path) -> tuple[Nets, Config, RunFacts]:
    """The nets of the state at `path`, G with its averaged weights; the run's config and facts.

    Raises Refused for a file that is no training state.
    """
    state, config, facts = read_state(path)
    nets = find_family(config.family).make(config, len(facts.class_names))
    load_weights(nets.D, state["nets"]["D"], path)
    load_weights(nets.G, state["ema"] or state["nets"]["G"], path)
    return nets, config, facts


AFTER_D = {"clip": clip_weights}  # by the setting of a family that brings it


def make_family(row: Row) -> Family:
    """The row with its nets, losses and task."""
    task = TASKS[row.task]
    d_loss, g_loss = task.losses(row)
    return Family(
        functools.partial(globals()[row.nets], **row.options),
        d_loss,
        g_loss,
        task=task,
        after_d=next((AFTER_D[name] for name in row.uses if name in AFTER_D), None),
        updates=row.updates,
        defaults=row.defaults,
    )


FAMILIES = {name: make_family(row) for name, row in ROWS.items()}
