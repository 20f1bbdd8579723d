"""Draw, rank, grids. Noise is a function of (seed, index), whatever the batch it is drawn in."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torchvision.utils import make_grid

from gan.checkpoint import write_beside

Inputs = Callable[[int, int], Tensor]  # (first, count) -> what G is fed
COLUMNS, GAP = 8, 2  # of a grid: pictures in a row, pixels between them
BN_IMAGES = 512  # what batch norm's statistics are estimated on before the average is drawn from


def noise(seed: int, first: int, count: int, nz: int, kind: str = "normal") -> Tensor:
    """Noise of faces `first` to `first + count - 1`, normal(0, 1) or uniform(-1, 1): [count, nz].

    Philox is a counter (Salmon et al. 2011), so face 1,000,000 costs what face 0 costs, and a
    face is the same alone or among others. Uniforms go through the inverse normal distribution,
    which takes exactly one for one.
    """
    blocks = -(-nz // 4)  # Philox gives four numbers for each value of its counter
    stream = np.random.Philox(key=[seed, 0], counter=[first * blocks, 0, 0, 0])
    numbers = np.random.Generator(stream).random((count, 4 * blocks))[:, :nz]
    uniform = torch.from_numpy(numbers + 2.0**-54)
    return (torch.special.ndtri(uniform) if kind == "normal" else 2 * uniform - 1).float()


@dataclass(frozen=True)
class Source:
    """What a G is fed: its noise and, if it is conditional, the class of each face, one-hot."""

    seed: int
    nz: int
    kind: str = "normal"
    classes: int = 0
    label: int | None = None  # of all; None: face i is of class i % classes
    counts: tuple[int, ...] = ()  # images of each class: classes as often as the data have them

    @classmethod
    def of(
        cls, config: Any, label: int | None = None, among: NDArray[np.int64] | None = None
    ) -> "Source":
        """By a run's knobs; `among` are labels [N] to draw classes in proportion to."""
        classes = len(config.labels)
        counts = () if among is None else tuple(np.bincount(among, minlength=classes).tolist())
        return cls(config.seed, config.nz, config.noise, classes, label, counts)

    def __call__(self, first: int, count: int) -> Tensor:
        """Faces `first` to `first + count - 1`: [count, nz + classes]."""
        z = noise(self.seed, first, count, self.nz, self.kind)
        if not self.classes:
            return z
        index = torch.arange(first, first + count)
        label = self._classes(index) if self.label is None else torch.full_like(index, self.label)
        return torch.cat([z, one_hot(label, self.classes)], 1)

    def _classes(self, index: Tensor) -> Tensor:
        """The class of each face [n]: in turn, or by multiples of the golden ratio, whose
        fractions fill 0..1 evenly however many are taken."""
        if not self.counts:
            return index % self.classes
        bounds = torch.tensor(self.counts, dtype=torch.float64).cumsum(0)
        place = index.double() * ((5**0.5 - 1) / 2) % 1 * bounds[-1]
        return torch.searchsorted(bounds, place, right=True).clamp(max=self.classes - 1)

    def condition(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """What D wants beside the pictures of these vectors: their classes, if there are any."""
        return (vectors[:, self.nz :],) if self.classes else ()


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """int64 [N] -> float [N, classes]."""
    return F.one_hot(labels, classes).float()


def reestimate_bn(G: nn.Module, inputs: Inputs, batch_size: int, device: torch.device) -> None:
    """Give an averaged G the batch norm statistics of its own weights, in place."""
    batches = (inputs(first, batch_size) for first in range(0, BN_IMAGES, batch_size))
    update_bn([z.to(device) for z in batches if len(z)], G)


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] -> uint8, on the CPU."""
    return images.add(1).mul(127.5).round().clamp(0, 255).to("cpu", torch.uint8)


@torch.no_grad()
def draw(G: nn.Module, z: Tensor, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Pictures of the noise `z` [N, nz], a batch at a time: [n, C, H, W] in [-1, 1]."""
    G.eval()
    for part in z.split(batch_size):
        yield G(part.to(device))


def draw_uint8(G: nn.Module, z: Tensor, batch_size: int, device: torch.device) -> Tensor:
    """Pictures of the noise `z` [N, nz] as uint8 [N, C, H, W] on the CPU."""
    return torch.cat([to_uint8(part) for part in draw(G, z, batch_size, device)])


class Ranked(NamedTuple):
    """Faces, best first."""

    images: Tensor  # uint8 [n, C, H, W]
    scores: Tensor  # [n], the judge's
    numbers: Tensor  # [n], which candidate each is


Judge = Callable[[Tensor, Tensor], Tensor]  # pictures [n, C, H, W], their vectors -> scores [n]


@torch.no_grad()
def rank(G: nn.Module, judge: Judge, batches: Iterable[tuple[Tensor, Tensor]], keep: int) -> Ranked:
    """The `keep` candidates that `judge` scores highest, best first; of equals the one drawn first.

    `batches` yields (numbers [n], vectors [n, nz]) on G's device. Only the best so far are held, so
    a million candidates need no more memory than one batch and `keep` pictures.
    """
    G.eval()
    best: Ranked | None = None
    for numbers, z in batches:
        images = G(z)
        new = Ranked(to_uint8(images), judge(images, z).cpu(), numbers)
        if best is not None:
            new = Ranked(*(torch.cat(pair) for pair in zip(best, new, strict=True)))
        order = new.scores.sort(descending=True, stable=True).indices[:keep]
        best = Ranked(*(part[order] for part in new))
    assert best is not None, "no candidates"
    return best


def candidates(
    vectors: Callable[[int, int], Tensor], count: int, batch_size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """(numbers, noise) of candidates 0 to `count - 1`; `vectors(first, n)` gives the noise."""
    for first in range(0, count, batch_size):
        n = min(batch_size, count - first)
        yield torch.arange(first, first + n), vectors(first, n).to(device)


def only(
    vectors: Callable[[int, int], Tensor], numbers: list[int], batch_size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """(numbers, noise) of the candidates called `numbers`."""
    for part in torch.tensor(numbers).split(batch_size):
        yield part, torch.cat([vectors(int(i), 1) for i in part]).to(device)


def as_picture(image: Tensor) -> Image.Image:
    """uint8 [C, H, W] -> a Pillow image."""
    array: NDArray[np.uint8] = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def grid(images: Tensor, columns: int = COLUMNS) -> Tensor:
    """uint8 [N, C, H, W] -> one uint8 [3, H', W'], row by row."""
    return make_grid(images, nrow=columns, padding=GAP, pad_value=255)


def grid_height(count: int, size: int) -> int:
    """Pixels: of the grid of `count` pictures of `size`."""
    return -(-count // COLUMNS) * (size + GAP) + GAP


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write `picture` in the format of the suffix of `path`, atomically."""
    kind = Image.registered_extensions().get(path.suffix.lower(), "PNG")
    write_beside(path, lambda part: picture.save(part, kind))
