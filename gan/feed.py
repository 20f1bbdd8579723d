"""What training, scores and previews are fed: noise and images, or pictures to translate.

Everything here is a function of the run's seed and the step.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from config import Config, RunFacts
from gan import distributed, sample
from gan.data import AHEAD, Images, read_ahead
from gan.features import spaced
from gan.losses import Batch
from gan.pairs import PictureSet
from gan.sample import Inputs
from gan.transfer import Pictures, scaled, to_device
from gan.translation import ways

PREVIEW_FACES = 64  # in a preview: candidates 0 to 63 of `generate` under the same seed
PREVIEW_ROWS = 8  # test pictures in a preview of a translation
CLASS_FACES = 8  # faces of each class in a preview of a conditional run
NOISES: dict[str, Callable[[tuple[int, int], torch.device], Tensor]] = {
    "normal": lambda shape, device: torch.randn(shape, device=device),
    "uniform": lambda shape, device: torch.rand(shape, device=device) * 2 - 1,
}


class Feed(Protocol):
    """The data as the training loop sees them."""

    def inputs(self, first: int, count: int) -> Inputs:
        """Inputs of G for measuring it: the same at every step, with the data's class shares."""

    def scored_inputs(self, count: int) -> Inputs:
        """At most `count` inputs of G, whose outputs are scored."""

    def batch(self, step: int) -> Batch:
        """The data of step `step`."""

    def preview(self, G: nn.Module) -> Tensor:
        """Pictures for a person to look at: one grid, uint8 [3, H, W]."""

    def held_out(self) -> tuple[Tensor, ...] | None:
        """D's arguments for a batch of held-out images: (images, *classes); None without any."""


def step_seed(seed: int, step: int) -> int:
    """A 64-bit seed for everything random in one step, so that a resumed run repeats it.

    The finaliser of SplitMix64 (Steele et al. 2014), which makes the seeds of neighbouring
    steps unrelated.
    """
    mask = 2**64 - 1
    x = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def to_float(pixels: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """uint8 -> float in [-1, 1], on the device."""
    return scaled(to_device(torch.tensor(pixels), torch.device(device)))


def contact_sheet(feed: Feed, count: int = PREVIEW_FACES) -> Tensor:
    """The first `count` pictures as D will see them: cropped, mirrored, augmented.

    One grid, uint8 [3, H, W]; of translations each picture is beside the given one.
    """
    seen: list[Tensor] = []
    while sum(map(len, seen)) < count:
        batch = feed.batch(len(seen))
        if batch.given.dim() == 2:  # noise
            seen.append(batch.augmented(batch.real))
            continue
        channels = [batch.given.shape[1], batch.real.shape[1]]
        sides = batch.with_given(batch.real).split(channels, 1)
        seen.append(torch.cat([side.expand(-1, 3, -1, -1) for side in sides], 3))
    return sample.image_grid(sample.to_uint8(torch.cat(seen)[:count]))


class NoiseFeed:
    """Noise in, images out; unconditional or conditional."""

    def __init__(self, config: Config, facts: RunFacts, data: Images, device: torch.device) -> None:
        self.config, self.flip, self.data, self.device = config, facts.flip, data, device
        self.classes = classes = len(facts.class_names)
        self.pictures = Pictures(data.array, device)
        self.previewed = sample.NoiseSource.of(config, classes)
        self.inputs = sample.NoiseSource.of(config, classes, among=data.train_class_indices)

    def scored_inputs(self, count: int) -> Inputs:
        return self.inputs(0, count)

    def batch(self, step: int) -> Batch:
        """Reals in [-1, 1], with `flip` half of them mirrored, and noise for as many fakes."""
        config = self.config
        indices = self.data.indices_at(step, config.batch_size, config.seed)
        later = self.data.indices_at(step + AHEAD, config.batch_size, config.seed)
        indices, later = distributed.own(indices), distributed.own(later)
        read_ahead(self.data.array, later)
        real = scaled(self.pictures.take(indices))
        torch.manual_seed(step_seed(config.seed, step))
        if self.flip:
            mirrored = distributed.rand(len(real), 1, 1, 1, device=self.device) < 0.5
            real = torch.where(mirrored, real.flip(3), real)
        noise = NOISES[config.noise]((config.batch_size, config.nz), self.device)
        noise = distributed.own(noise)
        return Batch(real, noise, self._classes_of(indices), config.augment, step)

    def _classes_of(self, indices: NDArray[np.int64]) -> tuple[Tensor, ...]:
        if not self.classes:
            return ()
        assert self.data.class_indices is not None
        labels = torch.from_numpy(self.data.class_indices[indices])
        return (to_device(sample.one_hot(labels, self.classes), self.device),)

    def preview(self, G: nn.Module) -> Tensor:
        """Candidates 0 to 63 of `generate`; in a conditional run, a row of eight for each class."""
        inputs = self.previewed(0, CLASS_FACES * self.classes or PREVIEW_FACES)
        if self.classes:  # from classes in turn to class by class
            order = torch.arange(CLASS_FACES * self.classes).view(CLASS_FACES, -1).T.flatten()
            inputs = tuple(part[order] for part in inputs)
        faces = sample.draw_uint8(G, inputs, self.config.batch_size, self.device)
        return sample.image_grid(faces)

    def held_out(self) -> tuple[Tensor, ...] | None:
        held_out = self.data.held_out
        if not len(held_out):
            return None
        indices = held_out[spaced(len(held_out), self.config.batch_size)]
        indices = distributed.own(indices)
        return (to_float(self.data.array[indices], self.device), *self._classes_of(indices))


class PictureFeed:
    """Given pictures in, wanted pictures out."""

    def __init__(
        self, config: Config, facts: RunFacts, data: PictureSet, device: torch.device
    ) -> None:
        self.config, self.flip, self.data, self.device = config, facts.flip, data, device
        tests = (data.test_given, data.test_wanted)
        if not min(map(len, tests)):  # nothing is held out: show training pictures
            count = min(PREVIEW_ROWS, len(data))
            tests = data.batch_at(0, count, config.seed, jitter=False, flip=False)
        self.test_given, self.test_wanted = tests

    def inputs(self, first: int, count: int) -> Inputs:
        """Test pictures `first` to `first + count - 1`, as many as there are: [n, C, H, W]."""
        return (to_float(self.test_given[first : first + count]),)

    def scored_inputs(self, count: int) -> Inputs:
        return (to_float(self.test_given[spaced(len(self.test_given), count)]),)

    def batch(self, step: int) -> Batch:
        """The pictures of a step; the two of a pair are cropped and mirrored alike."""
        config = self.config
        given, wanted = self.data.batch_at(
            step, config.batch_size, config.seed, config.jitter, self.flip
        )
        given, wanted = distributed.own(given), distributed.own(wanted)
        torch.manual_seed(step_seed(config.seed, step))
        real, source = to_float(wanted, self.device), to_float(given, self.device)
        return Batch(real, source, augment=config.augment, step=step)

    def preview(self, G: nn.Module) -> Tensor:
        return self.rows(G, PREVIEW_ROWS)

    def rows(self, G: nn.Module, count: int) -> Tensor:
        """A grid of `count` evenly spaced test pictures, uint8 [3, H, W].

        A row is given, drawn, wanted; for a cycle it is given, drawn, drawn back.
        """
        indices = spaced(min(len(self.test_given), len(self.test_wanted)), count)
        given = to_float(self.test_given[indices])
        size = self.config.batch_size
        drawn = sample.draw_uint8(G, (given,), size, self.device)
        third = torch.from_numpy(self.test_wanted[indices].copy())
        _, back = ways(G)
        if back is not None:
            third = sample.draw_uint8(back, (drawn.float() / 127.5 - 1,), size, self.device)
        columns = [x.expand(-1, 3, -1, -1) for x in (sample.to_uint8(given), drawn, third)]
        return sample.image_grid(torch.stack(columns, 1).flatten(0, 1), 3)

    def held_out(self) -> tuple[Tensor, ...] | None:
        """None: the health checks do not score held-out pictures of a translation."""
        return None
