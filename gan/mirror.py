"""Whether a set of images may be mirrored: whether it looks like its mirror image."""

import numpy as np
from numpy.typing import NDArray

from gan import features, metrics
from gan.data import Images
from gan.features import Key

MAX_IMAGES = 1000  # compared with as many mirrored ones
MIN_IMAGES = 100  # with fewer the standard error hides all but the plainest differences
ERRORS = 3.0  # standard errors of KID from 0 up to which a difference may be chance
# The untrained network tells as much as lite0 in a fraction of the time: 4,096 avatars, which all
# face one way, have a KID of 0.0172 ± 0.0014 at 96 px, 2,400 anime faces 0.0035 ± 0.0041 (lite0:
# 0.046 ± 0.006 and -0.0004 ± 0.0012). Of 286 avatars 2 of 8 choices are told, of 500 all.
NETWORK = "random"


class _Mirrored(features.Subset):
    """The same images, left and right exchanged."""

    def __getitem__(self, key: Key, /) -> NDArray[np.uint8]:
        return super().__getitem__(key)[..., ::-1]


def mirror_distance(data: Images) -> metrics.Estimate:
    """KID between one half of the training images and the other half mirrored, up to 1,000 each.

    0 if the set is symmetric. The halves are other images, so that a set is not compared with
    itself. Raises Refused for fewer than six images.
    """
    chosen = data.train[features.spaced(len(data.train), 2 * MAX_IMAGES)]
    plain = features.extract(features.Subset(data.array, chosen[::2]), NETWORK)
    mirrored = features.extract(_Mirrored(data.array, chosen[1::2]), NETWORK)
    return metrics.kid(mirrored, plain)


def may_mirror(data: Images) -> bool:
    """Whether images may be mirrored at random; says so where the answer is no or a guess."""
    if len(data.train) < MIN_IMAGES:
        print(
            f"data: mirrored at random, which {len(data.train)} images are too few to decide; "
            "--flip=False leaves them as they are"
        )
        return True
    value, error = mirror_distance(data)
    if value <= ERRORS * error:
        return True
    print(
        f"data: not mirrored, because the images differ from their mirror images (KID {value:.4f} "
        f"± {error:.4f}); --flip=True mirrors them all the same"
    )
    return False
