"""Differentiable augmentation: random changes to every image, real or fake, before D sees it.

With few training images D memorises them. Changing reals and fakes alike at random delays that
(Zhao et al. 2020, arXiv:2006.10738). The gradient of G passes through the changes, and the changes
do not leak into G's images as long as a share of the images stays unchanged (Karras et al. 2020,
arXiv:2006.06676). The colour change of Zhao et al. is left out: it shifts the colours of G's
images and does not improve the score on faces (docs/recipe.md).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gan import distributed

Augmentation = Callable[[Tensor, Tensor], Tensor]  # (images, selected [N], bool) -> images


def translate(images: Tensor, selected: Tensor) -> Tensor:
    """Shift the selected images by up to an eighth of their side, per axis and at random.

    `images` [N, C, H, W], any range; `selected` [N], bool. Pixels that move in from outside are
    the image mirrored at its border.
    """
    sources = []  # of each row, and of each column: [N, side]
    for side in images.shape[2:]:
        reach = side // 8  # pixels
        shift = distributed.randint(-reach, reach + 1, len(images), device=images.device) * selected
        source = (torch.arange(side, device=images.device) + shift[:, None]).abs()
        source = torch.minimum(source, 2 * (side - 1) - source)
        sources.append(source)
    # one gather of pixels, forth and back, costs a third of one of rows and one of columns
    index = (sources[0][:, :, None] * images.shape[3] + sources[1][:, None, :]).flatten(1)
    index = index[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, index).view_as(images)


def cut_out(images: Tensor, selected: Tensor) -> Tensor:
    """Set a square of half the side to 0, which is grey, in the selected images.

    `images` [N, C, H, W] in -1..1; `selected` [N], bool. The centre of the square is uniform over
    the image, so part of the square may lie outside.
    """
    inside = []
    for side in images.shape[2:]:
        centre = distributed.randint(0, side + 1, len(images), 1, device=images.device)
        pixels = torch.arange(side, device=images.device)
        inside.append((pixels - centre + 0.5).abs() < side / 4)
    inside[0] = inside[0] & selected[:, None]
    rows, columns = (part.to(images.dtype) for part in inside)
    # a product with 0 and 1 has the fewest passes over the images, forth and back
    return images * (1 - rows[:, None, :, None] * columns[:, None, None, :])


AUGMENTATIONS: dict[str, Augmentation] = {
    "translation": translate,
    "cutout": cut_out,
}


def augment(images: Tensor, p: Tensor | float) -> Tensor:
    """Apply each of `AUGMENTATIONS` to each image with probability `p`, independently.

    `images` [N, C, H, W] in -1..1, `p` in 0..1; the result has the shape of `images`. Random
    numbers come from torch's global generator.
    """
    for change in AUGMENTATIONS.values():
        images = change(images, distributed.rand(len(images), device=images.device) < p)
    return images
