"""Drawing, ranking, image grids. Noise is a function of (seed, index), whatever the batch size."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torchvision.utils import make_grid

from config import Config
from gan import distributed, kinds, progress
from gan.filesystem import atomic_write
from gan.sheet import COLUMNS, GAP_PIXELS

Inputs = tuple[Tensor, ...]  # what G is called with: noise or pictures, and perhaps classes
InputSource = Callable[[int, int], Inputs]  # (first, count) -> inputs of these indices
BN_IMAGES = 512  # from which the averaged G's batch norm statistics are estimated
QUALITY = 95  # of JPEG and WebP, 0 to 100
GOLDEN = (5**0.5 - 1) / 2


def noise(
    seed: int, first: int, count: int, nz: int, kind: str = "normal", limit: float = 0.0
) -> Tensor:
    """Noise of faces `first` to `first + count - 1`, normal(0, 1) or uniform(-1, 1): [count, nz].

    Philox is counter-based (Salmon et al. 2011), so face 1,000,000 costs as much as face 0, and a
    face is the same alone or among others. The inverse normal CDF turns uniform numbers into
    normal ones, exactly one into one.

    A `limit` above 0 cuts the distribution off at plus and minus that: the numbers are those that
    drawing anew whatever lies beyond would give (Brock et al. 2019, arXiv:1809.11096, section 3.1),
    but none is drawn anew, so that a face changes smoothly with the limit.
    """
    blocks = -(-nz // 4)  # Philox gives four numbers per counter value
    stream = np.random.Philox(key=[seed, 0], counter=[first * blocks, 0, 0, 0])
    numbers = np.random.Generator(stream).random((count, 4 * blocks))[:, :nz]
    uniform = torch.from_numpy(numbers + 2.0**-54)
    if kind != "normal":
        return ((2 * uniform - 1) * (min(limit, 1.0) if limit else 1.0)).float()
    if limit:
        low = torch.special.ndtr(torch.tensor(-limit, dtype=torch.float64))
        uniform = low + uniform * (1 - 2 * low)
    return torch.special.ndtri(uniform).float()


@dataclass(frozen=True)
class NoiseSource:
    """The noise of each face and, for a conditional G, its one-hot class."""

    seed: int
    nz: int
    kind: str = "normal"
    classes: int = 0
    label: int | None = None  # the class of every face; None: classes in turn, or by `counts`
    counts: tuple[int, ...] = ()  # images of each class: the class shares of faces
    mean: float = 0.0  # of the noise
    std: float = 1.0
    limit: float = 0.0  # the noise is cut off at plus and minus that; 0: it is not
    shares: tuple[float, ...] = ()  # of each class in every face; (): as `label` or `counts` say
    shift: tuple[float, ...] = ()  # [nz], added to the noise of every face

    @classmethod
    def of(
        cls,
        config: Config,
        classes: int = 0,
        label: int | None = None,
        among: NDArray[np.int64] | None = None,
    ) -> "NoiseSource":
        """The source of a run; the faces have the class shares of `among`, class indices [N]."""
        counts = () if among is None else tuple(np.bincount(among, minlength=classes).tolist())
        return cls(config.seed, config.nz, config.noise, classes, label, counts)

    def __call__(self, first: int, count: int) -> Inputs:
        """Faces `first` to `first + count - 1`: [count, nz] and, with classes, [count, classes]."""
        z = noise(self.seed, first, count, self.nz, self.kind, self.limit) * self.std + self.mean
        if self.shift:
            z = z + torch.tensor(self.shift)
        if not self.classes:
            return (z,)
        if self.shares:
            return z, torch.tensor(self.shares).expand(count, -1)
        index = torch.arange(first, first + count)
        label = self._classes(index) if self.label is None else torch.full_like(index, self.label)
        return z, one_hot(label, self.classes)

    def _classes(self, index: Tensor) -> Tensor:
        """The class of each face [n]: in turn, or by multiples of the golden ratio, whose
        fractions fill 0..1 evenly however many are taken."""
        if not self.counts:
            return index % self.classes
        bounds = torch.tensor(self.counts, dtype=torch.float64).cumsum(0)
        place = index.double() * GOLDEN % 1 * bounds[-1]
        return torch.searchsorted(bounds, place, right=True).clamp(max=self.classes - 1)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """int64 [N] -> float [N, classes]."""
    return F.one_hot(labels, classes).float()


def to(inputs: Inputs, device: torch.device) -> Inputs:
    return tuple(part.to(device) for part in inputs)


class _Unpacked(nn.Module):
    """G, called with one tuple of inputs, as `update_bn` calls it."""

    def __init__(self, G: nn.Module) -> None:
        super().__init__()
        self.G = G

    def forward(self, inputs: Inputs) -> Tensor:
        return self.G(*inputs)


def reestimate_bn(G: nn.Module, source: InputSource, batch_size: int, device: torch.device) -> None:
    """Re-estimate the batch norm statistics of an averaged G for its own weights, in place."""
    batches = (source(first, batch_size) for first in range(0, BN_IMAGES, batch_size))
    update_bn([[to(inputs, device)] for inputs in batches if len(inputs[0])], _Unpacked(G))


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] -> uint8, on the CPU."""
    return images.add(1).mul(127.5).round().clamp(0, 255).to("cpu", torch.uint8)


@torch.no_grad()
def draw(G: nn.Module, inputs: Inputs, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """The pictures of these inputs, a batch at a time: [n, C, H, W] in [-1, 1]."""
    G.eval()
    for part in zip(*(x.split(batch_size) for x in inputs), strict=True):
        yield G(*to(part, device))


def draw_uint8(G: nn.Module, inputs: Inputs, batch_size: int, device: torch.device) -> Tensor:
    """The pictures of these inputs as uint8 [N, C, H, W] on the CPU."""
    parts = draw(G, inputs, batch_size, device)
    parts = progress.track_batches(parts, "drawing", len(inputs[0]), "pictures")
    return torch.cat([to_uint8(part) for part in parts])


def draw_together(G: nn.Module, inputs: Inputs, batch_size: int, device: torch.device) -> Tensor:
    """`draw_uint8`, of which each process of a job draws a part."""
    if not 1 < distributed.count() <= len(inputs[0]):
        return draw_uint8(G, inputs, batch_size, device)
    mine = tuple(distributed.own(part) for part in inputs)
    part = draw_uint8(G, mine, batch_size, device)
    return distributed.gather(part.to(device)).cpu()


class Ranked(NamedTuple):
    """Faces, best first."""

    images: Tensor  # uint8 [n, C, H, W]
    scores: Tensor  # [n], the judge's
    indices: Tensor  # [n], the index of each among the candidates


Judge = Callable[[Tensor, Inputs], Tensor]  # (images [n, C, H, W], classes) -> scores [n]
Candidates = Iterable[tuple[Tensor, Inputs]]  # batches of (indices [n], inputs)


KindOf = Callable[[Tensor], Tensor]  # images [n, C, H, W] -> the kind of each, int64 [n]
_Part = tuple[Tensor, ...]  # scores, kinds, indices of candidates, then what G draws them from


def of_one_kind(images: Tensor) -> Tensor:
    """Kind 0 for all."""
    return torch.zeros(len(images), dtype=torch.int64)


def _best(parts: list[_Part], most: Mapping[int, int]) -> _Part:
    """The best candidates of each kind, `most` of it: best first, and of equal ones the first."""
    joined = [torch.cat(part) for part in zip(*parts, strict=True)]
    order = joined[0].sort(descending=True, stable=True).indices
    own = joined[1][order]
    limits = torch.tensor([most[kind] for kind in own.tolist()])
    order = order[kinds.places(own) < limits]
    return tuple(part[order.to(part.device)] for part in joined)


@torch.no_grad()
def rank(
    G: nn.Module,
    judge: Judge,
    candidates: Candidates,
    keep: int,
    kind_of: KindOf = of_one_kind,
    together: bool = False,
) -> Ranked:
    """The `keep` candidates that `judge` scores highest, best first; the first drawn wins a tie.

    They are ranked within their kind: each kind keeps the share that it has among all candidates.
    `candidates` are on G's device. Only inputs and scores of the best `keep` of each kind are
    held, about twice, and G draws the `keep` again in the end: a million candidates need no more
    memory than a few thousand. With `together` each process of a job has other candidates, and all
    return the best of all.
    """
    G.eval()
    parts: list[_Part] = []
    counts: Counter[int] = Counter()
    held = batch_size = 0
    for indices, inputs in candidates:
        images = G(*inputs)
        scores, own = judge(images, inputs[1:]).cpu(), kind_of(images).cpu()
        counts.update(own.tolist())
        parts.append((scores, own, indices, *inputs))
        batch_size = max(batch_size, len(indices))
        if sum(len(part[0]) for part in parts) > 2 * max(held, keep):
            parts = [_best(parts, dict.fromkeys(counts, keep))]
            held = len(parts[0][0])
    assert parts, "no candidates"
    if together:
        parts, counts = _exchange(parts, counts)
    scores, _, indices, *inputs_of_best = _best(parts, kinds.quotas(counts, keep))
    pictures = [
        to_uint8(G(*part))
        for part in zip(*(x.split(batch_size) for x in inputs_of_best), strict=True)
    ]
    return Ranked(torch.cat(pictures), scores, indices)


def _exchange(parts: list[_Part], counts: Counter[int]) -> tuple[list[_Part], Counter[int]]:
    """The candidates and the counts of kinds of all processes of a job."""
    device = parts[0][-1].device
    found = distributed.exchange(([[x.cpu() for x in part] for part in parts], counts))
    joined = [(*part[:3], *to(tuple(part[3:]), device)) for own, _ in found for part in own]
    return joined, sum((count for _, count in found), Counter[int]())


def first_candidates(
    source: InputSource, count: int, batch_size: int, device: torch.device
) -> Candidates:
    """Candidates 0 to `count - 1`; in a job, those of them that this process draws."""
    own = distributed.own_part(count)
    starts = range(own.start, own.stop, batch_size)
    parts = (range(i, min(i + batch_size, own.stop)) for i in starts)
    number = own.stop - own.start
    for part in progress.track_batches(parts, "drawing and ranking", number, "candidates"):
        yield torch.arange(part.start, part.stop), to(source(part.start, len(part)), device)


def chosen_candidates(
    source: InputSource, indices: list[int], batch_size: int, device: torch.device
) -> Candidates:
    """The candidates of these indices."""
    for part in torch.tensor(indices).split(batch_size):
        single = [source(int(i), 1) for i in part]
        yield part, to(tuple(torch.cat(x) for x in zip(*single, strict=True)), device)


def seeded_candidates(
    source: "NoiseSource", seeds: list[int], batch_size: int, device: torch.device
) -> Candidates:
    """The first face of each of these seeds; their "indices" are the seeds."""

    def of_seed(seed: int, count: int) -> Inputs:
        return replace(source, seed=seed)(0, count)

    return chosen_candidates(of_seed, seeds, batch_size, device)


def as_picture(image: Tensor) -> Image.Image:
    """uint8 [C, H, W] -> a Pillow image."""
    array: NDArray[np.uint8] = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def image_grid(images: Tensor, columns: int = COLUMNS) -> Tensor:
    """uint8 [N, C, H, W] -> one uint8 [3, H', W'], row by row."""
    return make_grid(images, nrow=columns, padding=GAP_PIXELS, pad_value=255)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write `picture` in the format of the suffix of `path`, atomically."""
    kind = Image.registered_extensions().get(path.suffix.lower(), "PNG")
    how = {"quality": QUALITY} if kind in ("JPEG", "WEBP") else {}
    atomic_write(path, lambda part: picture.save(part, kind, **how))
