"""What a generator is given: noise, paired or unpaired pictures; all that depends on it is here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from config import Config, RunFacts
from gan import data, evaluation, mirror, pairs
from gan.data import Images
from gan.evaluation import Evaluation, Score
from gan.families import Row, check_data
from gan.feed import Feed, NoiseFeed, PictureFeed
from gan.losses import Loss, Nets, adversarial, cycle, fake_label, paired
from gan.pairs import PictureSet
from gan.sample import Inputs, NoiseSource

Data = Images | PictureSet
OneData = TypeVar("OneData", Images, PictureSet)


@dataclass(frozen=True)
class Task(Generic[OneData]):
    """A row of TASKS: everything that depends on what a family's G is given."""

    name: str
    command: str  # that draws with such a G
    losses: Callable[[Row], tuple[Loss, Loss]]  # of D and of G
    open_data: Callable[[Config, int], OneData]  # (config, fewest images)
    feed: Callable[[Config, RunFacts, OneData, torch.device], Feed]
    may_mirror: Callable[[OneData], bool]  # decides --flip=auto
    scorer: Callable[[Config, OneData, torch.device], Score | None]  # scores during training
    evaluate: Callable[[Nets, Config, RunFacts, OneData, torch.device, int, str], Evaluation]
    evaluate_options: tuple[str, ...]  # options of `evaluate` that it takes
    example: Callable[[Config, int, bool], Inputs]  # (config, classes, back): two inputs of G
    inputs: tuple[str, ...]  # names of the inputs of G
    # channels-last makes convolutions train 8 to 14 % faster, but instance norm slower
    memory_format: torch.memory_format


def open_images(config: Config, at_least: int) -> Images:
    return data.open_images(
        config.data_path,
        config.img_size,
        config.channels,
        batch_size=at_least,
        workers=config.num_workers,
        held_out=config.held_out,
        dedup=config.dedup,
        value_range=config.value_range,
    )


def _open_pictures(paired: bool) -> Callable[[Config, int], PictureSet]:
    def open_pictures(config: Config, at_least: int) -> PictureSet:
        check_data(config)
        return pairs.open_pictures(
            paired,
            config.data_path,
            config.img_size,
            config.channels_a,
            config.channels_b,
            direction=config.direction,
            jitter=config.jitter,
            batch_size=at_least,
            workers=config.num_workers,
            held_out=config.held_out,
            value_range=config.value_range,
        )

    return open_pictures


def example_pictures(config: Config, classes: int, back: bool) -> Inputs:
    size, channels = config.img_size, config.channels_wanted if back else config.channels_given
    return (torch.rand(2, channels, size, size) * 2 - 1,)


def adversarial_losses(row: Row) -> tuple[Loss, Loss]:
    extra = fake_label if "fake_label" in row.uses else None
    return adversarial(row.game, row.penalties, extra)


def _of_pictures(name: str, losses: Callable[[str], tuple[Loss, Loss]]) -> Task[PictureSet]:
    return Task(
        name,
        command="translate",
        losses=lambda row: losses(row.game),
        open_data=_open_pictures(name == "paired"),
        feed=PictureFeed,
        may_mirror=lambda data: True,  # part of the jitter of the reference implementation
        scorer=evaluation.picture_scorer,
        evaluate=evaluation.evaluate_pictures,
        evaluate_options=("report",),
        example=example_pictures,
        inputs=("pictures",),
        memory_format=torch.preserve_format,
    )


# Any: only the row itself knows which data it opens.
TASKS: dict[str, Task[Any]] = {
    "noise": Task(
        "noise",
        command="generate",
        losses=adversarial_losses,
        open_data=open_images,
        feed=NoiseFeed,
        may_mirror=mirror.may_mirror,
        scorer=evaluation.noise_scorer,
        evaluate=evaluation.evaluate_noise,
        evaluate_options=("report", "features", "gen_num"),
        example=lambda config, classes, back: NoiseSource.of(config, classes)(0, 2),
        inputs=("noise", "class"),
        memory_format=torch.channels_last,
    ),
    "paired": _of_pictures("paired", paired),
    "unpaired": _of_pictures("unpaired", cycle),
}
