"""Stand-in nets and hand-made data for test_wiring_losses.py and test_wiring_feed.py.

The nets keep what they are called with: G is a fixed function of its input, D's score a mean of
pixels. So every expected number can be worked out by hand. Images are 8 x 8.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from states import facts_of, new_state
from torch import Tensor, nn

from config import Config
from gan import sample, tasks
from gan.data import Images
from gan.feed import Feed
from gan.losses import Batch, Loss, Nets, adversarial, cycle, fake_label, paired
from gan.pairs import PictureSet
from gan.split import Groups
from gan.translation import CycleD, ThereAndBack

CPU, SIDE, NZ = torch.device("cpu"), 8, 4
TASKS = ["noise", "paired", "unpaired"]
Pixels = NDArray[np.uint8]
Function = Callable[..., Tensor]

# --- internal names of the code under test are used only here ------------------------------------


def make_config(**given: Any) -> Config:
    """A config without any chance in it but for what is `given`."""
    still = {"augment": 0.0, "flip": False, "jitter": False, "identity": 0.0, "nz": NZ}
    return Config(**{**still, **given})


def make_batch(
    real: Tensor,
    given: Tensor,
    condition: tuple[Tensor, ...] = (),
    augment: float = 0.0,
    step: int = 0,
) -> Batch:
    return Batch(real, given, condition, augment, step)


def real_of(batch: Batch) -> Tensor:
    return batch.real


def given_of(batch: Batch) -> Tensor:
    """The pictures that G translates."""
    return batch.given


def condition_of(batch: Batch) -> tuple[Tensor, ...]:
    return batch.condition


def fed_to_g(batch: Batch) -> tuple[Tensor, ...]:
    """Noise and classes that G is called with for this batch."""
    G = Net(lambda *_: flat(0))
    batch.generate(Nets(G, G))
    return G.calls[0]


def losses_of(task: str, own: str, penalties: tuple[str, ...] = ()) -> tuple[Loss, Loss]:
    """D's and G's loss of a family whose own game is `own`."""
    if task == "noise":
        return adversarial(own, penalties, fake_label if own == "logistic" else None)
    return {"paired": paired, "unpaired": cycle}[task](own)


def one_way(G: Function, D: Function) -> Nets:
    return Nets(Net(G), Net(D))


def both_ways(there: Function, back: Function, Ds: list[Function], pools: list[Function]) -> Nets:
    """The nets of a cycle, with functions in place of the pools of earlier fakes."""
    D = CycleD(*map(Net, Ds), *map(Net, pools))  # type: ignore[arg-type]
    return Nets(ThereAndBack(Net(there), Net(back)), D)


def d_calls(nets: Any) -> list[list[tuple[Tensor, ...]]]:
    """The calls of every discriminator: of a cycle that of B first."""
    return [D.calls for D in ([nets.D] if isinstance(nets.D, Net) else [nets.D.there, nets.D.back])]


def pool_calls(nets: Any) -> list[list[tuple[Tensor, ...]]]:
    return [nets.D.pool_there.calls, nets.D.pool_back.calls]


def feed_of(task: str, config: Config, data: Images | PictureSet) -> Feed:
    names = data.class_names if isinstance(data, Images) and config.conditional else ()
    return tasks.TASKS[task].feed(config, facts_of(config, names), data, CPU)


def inputs_of(feed: Feed, first: int | None, count: int) -> tuple[Tensor, ...]:
    """Noise and classes that G is measured with; without a `first` those that are scored."""
    return feed.scored_inputs(count) if first is None else feed.inputs(first, count)


def pictures_of(feed: Feed, first: int | None, count: int) -> Tensor:
    """The same of a feed of pictures."""
    (pictures,) = inputs_of(feed, first, count)
    return pictures


def image_set(pixels: Pixels, labels: list[int] | None = None, held_out: int = 0) -> Images:
    """Images to train on, but for the last `held_out`."""
    train, held = np.split(np.arange(len(pixels)), [len(pixels) - held_out])
    return Images(
        array=pixels,
        train=train,
        held_out=held,
        groups=Groups.of(train),
        class_indices=None if labels is None else np.array(labels),
        class_names=tuple(map(str, sorted(set(labels or [])))),
        digest="",
        skipped={},
        folder=Path(),
    )


def picture_set(
    a: Pixels, b: Pixels, test_a: Pixels, test_b: Pixels, direction: str = "AtoB"
) -> PictureSet:
    """A and B, drawn from together: picture i of B comes with picture i of A."""
    pictures = PictureSet(
        given=a,
        wanted=b,
        test_given=test_a,
        test_wanted=test_b,
        test_names_given=(),
        test_names_wanted=(),
        paired=True,
        test_paired=True,
        streams=(0, 0),
        digest="",
        skipped={},
        folder=Path(),
    )
    return pictures if direction == "AtoB" else pictures.reversed()


def open_data(task: str, config: Config) -> PictureSet:
    """The pictures at `config.data_path`, as a run opens them."""
    pictures: PictureSet = tasks.TASKS[task].open_data(config, 1)
    return pictures


def noise_of_candidates(seed: int, count: int) -> Tensor:
    """Noise of candidates 0 to `count - 1` of `generate`: [count, NZ]."""
    return sample.noise(seed, 0, count, NZ)


def initial_weights(seed: int) -> Tensor:
    """All weights of a new run's nets."""
    nets = new_state(make_config(seed=seed, family="mlp-tiny", img_size=28, channels=1)).nets
    return torch.cat([p.detach().flatten() for net in (nets.G, nets.D) for p in net.parameters()])


# --- stand-ins and images ------------------------------------------------------------------------


class Net(nn.Module):
    """A net that is a function, and keeps what it was called with."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.calls: list[tuple[Tensor, ...]] = []

    def forward(self, *given: Tensor) -> Tensor:
        self.calls.append(tuple(x.detach() for x in given))
        return self.function(*given)


def flat(value: float, count: int = 2) -> Tensor:
    """Images of one value."""
    return torch.full((count, 1, SIDE, SIDE), float(value))


def one_hot(*classes: int) -> Tensor:
    return torch.eye(max(classes) + 1)[list(classes)]


def mean_score(x: Tensor, *classes: Tensor) -> Tensor:
    """The mean pixel of the last channel, and 10 more for each class above the first: [N]."""
    return x[:, -1].flatten(1).mean(1) + sum(10 * y.argmax(1) for y in classes)


def patch_score(x: Tensor) -> Tensor:
    """The mean pixel of the last channel, as of a D with one patch: [N, 1, 1, 1]."""
    return mean_score(x)[:, None, None, None]


def nets_and_batch(
    task: str, real: float, fake: float, count: int = 2, **more: Any
) -> tuple[Nets, Batch]:
    """Nets and a batch of flat images; in a cycle those of A are as those of B."""
    batch = make_batch(flat(real, count), flat(real, count), **more)
    if task != "unpaired":
        D = mean_score if task == "noise" else patch_score
        return one_way(lambda *_: flat(fake, count), D), batch

    def to_fake(images: Tensor) -> Tensor:
        return flat(fake, count)

    return both_ways(to_fake, to_fake, [patch_score] * 2, [lambda x: x] * 2), batch


def holes(x: Tensor) -> Tensor:
    """Which images have a hole, as augmentation with probability 1 cuts in every one: [N]."""
    return (x[:, -1] == 0).flatten(1).any(1)


def numbered(count: int, first: int = 0, side: int = SIDE) -> Pixels:
    """Image i is of value `first + i`, with a left column of 255."""
    pixels = np.arange(first, first + count, dtype=np.uint8)[:, None, None, None]
    pixels = pixels.repeat(side, 2).repeat(side, 3)
    pixels[..., 0] = 255
    return pixels


def numbers(images: Tensor) -> list[int]:
    """Which of `numbered` these images in -1..1 are, mirrored or not."""
    return ((images[:, 0, 0, SIDE // 2] + 1) * 127.5).round().int().tolist()


def mirrored(images: Tensor) -> list[bool]:
    return (images[:, 0, 0, -1] == 1).tolist()


def cell(grid: Tensor, row: int, column: int) -> list[int]:
    """Left-most and right-most pixel of an image of a grid: of 8 pixels, 2 beside it."""
    top, left = 2 + row * (SIDE + 2), 2 + column * (SIDE + 2)
    return [int(grid[0, top, left]), int(grid[0, top, left + SIDE - 1])]


def pairs_of(count: int = 20, tests: int = 5, direction: str = "AtoB") -> PictureSet:
    """A from 0, B from 100; those to score with from 50 and from 150."""
    a, b, test_a, test_b = (numbered(n, first) for n, first in
                            ((count, 0), (count, 100), (tests, 50), (tests, 150)))  # fmt: skip
    return picture_set(a, b, test_a, test_b, direction)
