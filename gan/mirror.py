"""Whether a set of images may be mirrored: whether it looks like its mirror image."""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gan import features
from gan.console import say
from gan.data import Images
from gan.features import Key

MAX_IMAGES = 1000
MIN_IMAGES = 20  # fewer are too few to tell
# A set faces one way if its asymmetry is above both. What random signs give is three standard
# deviations off in one set of a thousand; of many images the slightest bias is significant, which
# is no reason not to mirror. Measured (docs/recipe.md): sets that face one way have 0.055 to 0.104,
# the others at most 0.0013.
MIN_DEVIATIONS = 3.0
MIN_SHARE = 0.01
NETWORK = "random"  # sees it as well as lite0, in a fraction of the time


class Asymmetry(NamedTuple):
    """How far images face one way."""

    share: float  # 0 for a symmetric set (the estimate can be below), 1 if all differ alike
    deviations: float  # the same in standard deviations of what a symmetric set gives


class _Mirrored(features.Subset):
    """The same images, left and right exchanged."""

    def __getitem__(self, key: Key, /) -> NDArray[np.uint8]:
        return super().__getitem__(key)[..., ::-1]


def measure_asymmetry(data: Images, network: str = NETWORK) -> Asymmetry:
    """How much the training images differ from their mirror images in one and the same way.

    d_i are the features of image i minus those of its mirror image. In a symmetric set the sign of
    each d_i is random. "share" is the mean of d_i·d_j over all pairs, over the mean of |d_i|^2. The
    sum of s_i s_j d_i·d_j over pairs, with random signs s, has mean 0 and a variance of twice the
    sum of (d_i·d_j)^2. The two sides of an image are compared, not two halves of the set, so that
    the variety of the images does not hide a difference: 30 images are enough.
    """
    chosen = data.train[features.spaced(len(data.train), MAX_IMAGES)]
    plain = features.extract(features.Subset(data.array, chosen), network)
    mirrored = features.extract(_Mirrored(data.array, chosen), network)
    difference = torch.from_numpy(plain.astype(np.float64) - mirrored)  # [n, d]
    products = difference @ difference.T
    own = products.diagonal().clone()
    products.fill_diagonal_(0.0)
    total, count = float(products.sum()), len(own)
    spread = math.sqrt(2 * float(products.square().sum()))
    share = total / (count * (count - 1)) / max(float(own.mean()), 1e-12)
    return Asymmetry(share, total / max(spread, 1e-12))


def may_mirror(data: Images) -> bool:
    """Whether images may be mirrored at random; prints a line if the answer is no, or a guess."""
    if len(data.train) < MIN_IMAGES:
        say(
            f"data: mirrored at random, which {len(data.train)} images are too few to decide; "
            "--flip=False leaves them as they are"
        )
        return True
    share, deviations = measure_asymmetry(data)
    if share <= MIN_SHARE or deviations <= MIN_DEVIATIONS:
        return True
    say(
        f"data: not mirrored, because the images face one way ({100 * share:.0f} % of what sets "
        "them apart from their mirror images is common to all); --flip=True mirrors them anyway"
    )
    return False
