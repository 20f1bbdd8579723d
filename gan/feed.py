"""What each step is played with: noise against images, or pictures against pictures.

Everything here is a function of the run's seed and the step.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gan import sample
from gan.data import Images
from gan.features import spaced
from gan.losses import Batch
from gan.pairs import Sides

PREVIEWS = 64  # faces in a preview: candidates 0 to 63 of `generate` under the same seed
ROWS = 8  # pairs in a preview
NOISE: dict[str, Callable[[tuple[int, int], torch.device], Tensor]] = {
    "normal": lambda shape, device: torch.randn(shape, device=device),
    "uniform": lambda shape, device: torch.rand(shape, device=device) * 2 - 1,
}


class Feed(Protocol):
    """Data as the loop sees it."""

    def inputs(self, first: int, count: int) -> Tensor:
        """What G is fed to be measured: the same at every step, and as the data are."""

    def to_score(self, count: int) -> Tensor:
        """`count` inputs, or as many as there are, whose pictures are scored."""

    def batch(self, step: int) -> Batch:
        """What step `step` is played with."""

    def preview(self, G: nn.Module) -> Tensor:
        """Pictures for a person to look at: one grid, uint8 [3, H, W]."""

    def unseen(self) -> tuple[Tensor, ...] | None:
        """Held-out images (and classes) as D is called with them, if D can be asked so."""


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """A 64-bit seed for all chance in one step: a resumed run draws what it would have drawn.

    The finaliser of SplitMix64 (Steele et al. 2014), so that neighbours are unrelated.
    """
    mask = 2**64 - 1
    x = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + rank * 0x8CB92BA72F3D8DD7) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def to_real(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """uint8 -> [-1, 1] on the device."""
    return torch.tensor(pixels).to(device).float().div_(127.5).sub_(1)


class FromNoise:
    """Noise in, faces out, of one class or of many."""

    def __init__(self, config: Any, data: Images, device: torch.device) -> None:
        self.config, self.data, self.device = config, data, device
        self.shown = sample.Source.of(config)
        self.inputs = sample.Source.of(config, among=data.train_labels)

    def to_score(self, count: int) -> Tensor:
        return self.inputs(0, count)

    def batch(self, step: int) -> Batch:
        """Reals in [-1, 1], half of them mirrored, and noise for as many fakes."""
        config = self.config
        places = self.data.places_at(step, config.batch_size, config.seed)
        real = to_real(self.data.array[places], self.device)
        torch.manual_seed(step_seed(config.seed, step))
        if config.flip:
            mirrored = torch.rand(len(real), 1, 1, 1, device=self.device) < 0.5
            real = torch.where(mirrored, real.flip(3), real)
        noise = NOISE[config.noise]((len(real), config.nz), self.device)
        condition = self._classes(places)
        return Batch(real, torch.cat([noise, *condition], 1), condition, config.augment)

    def _classes(self, places: NDArray[np.int64]) -> tuple[Tensor, ...]:
        if not self.config.labels:
            return ()
        assert self.data.labels is not None
        labels = torch.from_numpy(self.data.labels[places])
        return (sample.one_hot(labels, len(self.config.labels)).to(self.device),)

    def preview(self, G: nn.Module) -> Tensor:
        """Candidates 0 to 63 of `generate`; of a conditional run a row of eight for each class."""
        config, count = self.config, len(self.config.labels)
        z = self.shown(0, 8 * count if count else PREVIEWS)
        if count:
            z = z.view(8, count, -1).transpose(0, 1).flatten(0, 1)
        return sample.grid(sample.draw_uint8(G, z, config.batch_size, self.device))

    def unseen(self) -> tuple[Tensor, ...] | None:
        held_out = self.data.held_out
        if not len(held_out):
            return None
        places = held_out[spaced(len(held_out), self.config.batch_size)]
        return (to_real(self.data.array[places], self.device), *self._classes(places))


class FromPictures:
    """Pictures of A in, pictures of B out; B to A with `--direction=BtoA`."""

    def __init__(self, config: Any, data: Sides, device: torch.device) -> None:
        self.config, self.data, self.device = config, data, device
        tests = (data.test_a, data.test_b)
        if not min(map(len, tests)):  # nothing is held out: some that are trained on
            tests = data.batch_at(0, min(ROWS, len(data)), config.seed, jitter=False, flip=False)
        self.tests = config.turned(tests)

    def inputs(self, first: int, count: int) -> Tensor:
        """Test pictures `first` to `first + count - 1`, as far as there are any: [n, C, H, W]."""
        return to_real(self.tests[0][first : first + count], torch.device("cpu"))

    def to_score(self, count: int) -> Tensor:
        given = self.tests[0]
        return to_real(given[spaced(len(given), count)], torch.device("cpu"))

    def batch(self, step: int) -> Batch:
        """The pictures of a step; both sides of a pair are cut and mirrored alike."""
        config = self.config
        sides = self.data.batch_at(step, config.batch_size, config.seed, config.jitter, config.flip)
        given, wanted = config.turned(sides)
        torch.manual_seed(step_seed(config.seed, step))
        real, source = to_real(wanted, self.device), to_real(given, self.device)
        return Batch(real, source, augment=config.augment)

    def preview(self, G: nn.Module) -> Tensor:
        return self.rows(G, ROWS)

    def rows(self, G: nn.Module, count: int) -> Tensor:
        """`count` test pictures from first to last, uint8 [3, H, W].

        In rows: given, drawn, wanted; of a cycle given, drawn, drawn back.
        """
        places = spaced(min(map(len, self.tests)), count)
        given = to_real(self.tests[0][places], torch.device("cpu"))
        drawn = sample.draw_uint8(G, given, self.config.batch_size, self.device)
        third = torch.from_numpy(self.tests[1][places].copy())
        back = getattr(G, "back", None)
        if back is not None:
            again = drawn.float() / 127.5 - 1
            third = sample.draw_uint8(back, again, self.config.batch_size, self.device)
        columns = [x.expand(-1, 3, -1, -1) for x in (sample.to_uint8(given), drawn, third)]
        return sample.grid(torch.stack(columns, 1).flatten(0, 1), 3)

    def unseen(self) -> tuple[Tensor, ...] | None:
        return None


FEEDS: dict[str, Callable[..., Feed]] = {
    "images": FromNoise,
    "pairs": FromPictures,
    "two folders": FromPictures,
}
