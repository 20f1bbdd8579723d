"""Differentiable augmentation: what D gets to see of a picture, real or drawn.

Zhao et al. 2020 (arXiv:2006.10738): with few pictures D learns them by heart; changed at random,
reals and fakes alike, they last longer, and G, whose gradient passes through, draws none of it as
long as a share of the pictures stays as it is (Karras et al. 2020, arXiv:2006.06676).
"""

from collections.abc import Callable

import torch
from torch import Tensor


def colour(x: Tensor, chosen: Tensor) -> Tensor:
    """Brightness ± 0.5, saturation x 0 to 2, contrast x 0.5 to 1.5, of each picture."""
    offset = (torch.rand(3, len(x), device=x.device) - 0.5) * chosen
    brightness, saturation, contrast = (part[:, None, None, None] for part in offset)
    grey = x.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    # The three in one: a picture is its mean, what its luminance and what its colour add to that.
    light, hue = 1 + contrast, (1 + contrast) * (1 + 2 * saturation)
    return torch.addcmul((light - hue) * grey + ((1 - light) * mean + brightness), x, hue)


def translation(x: Tensor, chosen: Tensor) -> Tensor:
    """Shift by up to an eighth of the side either way; the border mirrors the picture."""
    for dim in (2, 3):
        side = x.shape[dim]
        reach = side // 8
        shift = torch.randint(-reach, reach + 1, (len(x),), device=x.device) * chosen
        place = (torch.arange(side, device=x.device) + shift[:, None]).abs()  # [N, side]
        place = torch.minimum(place, 2 * (side - 1) - place)
        index = place[:, None, :, None] if dim == 2 else place[:, None, None, :]
        x = x.gather(dim, index.expand_as(x))
    return x


def cutout(x: Tensor, chosen: Tensor) -> Tensor:
    """Grey out a square of half the side, anywhere, in part beyond the border too."""
    inside = []
    for side in x.shape[2:]:
        centre = torch.randint(0, side + 1, (len(x), 1), device=x.device)
        inside.append((torch.arange(side, device=x.device) - centre + 0.5).abs() < side / 4)
    inside[0] = inside[0] & chosen[:, None]
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return x.masked_fill(square, 0.0)


FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "colour": colour,
    "translation": translation,
    "cutout": cutout,
}


def augment(x: Tensor, p: Tensor | float) -> Tensor:
    """Each function on each picture of x [N, C, H, W] with probability p, independently."""
    for change in FUNCTIONS.values():
        x = change(x, torch.rand(len(x), device=x.device) < p)
    return x
