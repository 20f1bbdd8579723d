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

Augmentation = Callable[[Tensor, Tensor], Tensor]  # (images, selected [N], bool) -> images


def translate(images: Tensor, selected: Tensor) -> Tensor:
    """Shift the selected images by up to an eighth of their side, per axis and at random.

    `images` [N, C, H, W], any range; `selected` [N], bool. Pixels that move in from outside are
    the image mirrored at its border.
    """
    for dim in (2, 3):
        side = images.shape[dim]
        reach = side // 8  # pixels
        shift = torch.randint(-reach, reach + 1, (len(images),), device=images.device) * selected
        source = (torch.arange(side, device=images.device) + shift[:, None]).abs()  # [N, side]
        source = torch.minimum(source, 2 * (side - 1) - source)
        index = source[:, None, :, None] if dim == 2 else source[:, None, None, :]
        images = images.gather(dim, index.expand_as(images))
    return images


def cut_out(images: Tensor, selected: Tensor) -> Tensor:
    """Set a square of half the side to 0, which is grey, in the selected images.

    `images` [N, C, H, W] in -1..1; `selected` [N], bool. The centre of the square is uniform over
    the image, so part of the square may lie outside.
    """
    inside = []
    for side in images.shape[2:]:
        centre = torch.randint(0, side + 1, (len(images), 1), device=images.device)
        pixels = torch.arange(side, device=images.device)
        inside.append((pixels - centre + 0.5).abs() < side / 4)
    inside[0] = inside[0] & selected[:, None]
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images.masked_fill(square, 0.0)


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
        images = change(images, torch.rand(len(images), device=images.device) < p)
    return images
