"""`ROWS`: every GAN is one row of words and numbers; `models.py` makes nets and losses of it.

No torch here: a mistake in a flag, and `--help` of a family, are answered from these rows at once.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from config import Config, Value
from gan.errors import Refused
from gan.schedule import Updates, alternate, critic_first


@dataclass(frozen=True)
class Given:
    """What can be said without torch of a row of TASKS: what a family's G is given."""

    settings: tuple[str, ...]  # of `Config`, that only families of this task have
    least_batch: int = 1
    own_data: bool = False  # whether there are images to train on without --data-path


OF_PICTURES = Given(("ngf", "ndf", "channels_a", "channels_b", "direction", "jitter"))
GIVEN = {
    "noise": Given(
        ("ngf", "ndf", "nz", "noise", "channels", "dedup", "conditional"),
        least_batch=2,  # D has to see several images
        own_data=True,
    ),
    "paired": OF_PICTURES,
    "unpaired": OF_PICTURES,
}


@dataclass(frozen=True)
class Row:
    """A family of GANs, by the names of its parts."""

    nets: str  # the function of `models.py` that builds G and D
    game: str  # a row of GAMES, which --loss replaces
    options: Mapping[str, object] = field(default_factory=dict)  # arguments of `nets`
    task: str = "noise"  # a row of TASKS
    penalties: tuple[str, ...] = ()  # rows of PENALTIES
    updates: Callable[[Config, int], Updates] = alternate  # (config, step) -> who is updated
    defaults: Mapping[str, Value] = field(default_factory=dict)
    uses: tuple[str, ...] = ()  # settings of its losses, which other families refuse
    lacks: tuple[str, ...] = ()  # settings of its task that it does not have
    largest: int = 1024  # pixels on a side of its pictures

    @property
    def settings(self) -> list[str]:
        """The settings of this family that not all families have."""
        own = (*GIVEN[self.task].settings, *self.uses)
        return [name for name in own if name not in self.lacks]


def find_row(name: str) -> Row:
    """The row of `ROWS` called `name`; raises Refused with the nearest one."""
    if name not in ROWS:
        near = difflib.get_close_matches(name, ROWS, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise Refused(f"--family={name}: no such family; {hint}there are {', '.join(ROWS)}")
    return ROWS[name]


def check_data(config: Config) -> None:
    """Raises Refused if the run's family has no data of its own, and none is given."""
    if not config.data_path and not GIVEN[find_row(config.family).task].own_data:
        raise Refused(f"--data-path: {config.family} has no data of its own; give a folder or zip")


def check_batch(config: Config) -> None:
    """Raises Refused for batches that are too small for the run's family."""
    least = GIVEN[find_row(config.family).task].least_batch
    if config.batch_size < least:
        raise Refused(
            f"--batch-size={config.batch_size}: D of {config.family} has to see several images; "
            f"{least} or more"
        )


CLASSIC: dict[str, Value] = {  # Radford et al. 2016; the defaults of Config are those of `modern`
    "nz": 100, "ngf": 64, "ndf": 64, "batch_size": 64, "augment": 0.0,
    "lr1": 2e-4, "lr2": 2e-4, "beta1": 0.5, "beta2": 0.999, "warm_up": 0, "lr_end": 1.0,
}  # fmt: skip
TRANSLATION: dict[str, Value] = {**CLASSIC, "img_size": 256, "batch_size": 1, "ema": False}
DIGITS: dict[str, Value] = {**CLASSIC, "img_size": 28, "channels": 1, "flip": False}

SLOWER: dict[str, Value] = {"lr1": 4e-4, "lr2": 4e-4}

# fmt: off
ROWS: dict[str, Row] = {
    "modern": Row("modern_nets", "hinge"),
    "unmodulated": Row("unmodulated_nets", "hinge", defaults=SLOWER),  # what `modern` was first
    # RpGAN with both penalties (Huang et al. 2024, arXiv:2501.05441); lazily, as StyleGAN2 has it
    "rpgan": Row(
        "unmodulated_nets", "relativistic", {"norm": "none"}, penalties=("r1", "r2"),
        uses=("penalty", "penalty_every"),
        defaults={**SLOWER, "penalty": 5.0, "penalty_every": 4},
    ),
    "dcgan": Row("dcgan_nets", "logistic", uses=("fake_label",), defaults=CLASSIC),
    # published runs of the same nets: digits at 64 px, 286 faces at 144 px
    "dcgan-64": Row(
        "dcgan_nets", "logistic", uses=("fake_label",),
        defaults={
            **DIGITS, "img_size": 64, "ngf": 128, "ndf": 128, "batch_size": 100, "d_every": 2,
        },
    ),
    "dcgan-144": Row(
        "dcgan_nets", "logistic", uses=("fake_label",),
        defaults={
            **CLASSIC, "img_size": 144, "nz": 40, "ngf": 32, "ndf": 32, "batch_size": 32,
            "lr2": 5e-5,
        },
    ),
    "mlp": Row(
        "mlp_nets", "logistic", {"hidden": (256, 512)},
        uses=("fake_label",), lacks=("ngf", "ndf"), largest=256,
        defaults={**DIGITS, "batch_size": 16, "lr1": 1e-4, "lr2": 1e-4, "beta1": 0.9},
    ),
    "mlp-tiny": Row(
        "mlp_nets", "logistic", {"hidden": (128,)},
        uses=("fake_label",), lacks=("ngf", "ndf"), largest=256,
        defaults={
            **DIGITS, "batch_size": 128, "lr1": 1e-3, "lr2": 1e-3, "beta1": 0.9, "noise": "uniform",
        },
    ),
    "lsgan": Row("dcgan_nets", "least-squares", defaults=CLASSIC),
    "hinge": Row("dcgan_nets", "hinge", {"norm": "spectral"}, defaults=CLASSIC),
    # a published run at 32 px; Arjovsky et al. 2017 clip to 0.01 and have rates of 5e-5
    "wgan": Row(
        "dcgan_nets", "critic", uses=("clip", "d_lead"), updates=critic_first,
        defaults={
            **CLASSIC, "img_size": 32, "noise": "uniform", "optimizer": "rmsprop", "g_every": 5,
            "d_lead": 625,  # 25 updates of G
        },
    ),
    "wgan-gp": Row(
        "dcgan_nets", "critic", {"norm": "none"}, penalties=("gradient",),
        uses=("penalty", "penalty_every"),
        defaults={
            **CLASSIC, "img_size": 48, "nz": 40, "g_every": 5,
            "lr1": 1e-4, "lr2": 1e-4, "beta1": 0.0, "beta2": 0.9,
        },
    ),
    "pix2pix": Row(
        "pix2pix_nets", "logistic", task="paired", uses=("l1", "half_squares", "spectral"),
        defaults=TRANSLATION,
    ),
    "cyclegan": Row(
        "cyclegan_nets", "least-squares", task="unpaired",
        uses=("cycle", "identity", "half_squares", "pool", "spectral"),
        defaults={**TRANSLATION, "lr_end": 0.0, "lr_fall": "linear"},
    ),
}
# fmt: on

# the settings that only some families have
ONLY_SOME = tuple(dict.fromkeys(name for row in ROWS.values() for name in row.settings))
