"""Differentiable augmentation: what D gets to see of a picture, real or drawn.

Zhao et al. 2020 (arXiv:2006.10738): with few pictures D learns them by heart; changed at random,
reals and fakes alike, they last longer, and G, whose gradient passes through, draws none of it as
long as a share of the pictures stays as it is (Karras et al. 2020, arXiv:2006.06676). Their third
change, of colour, shifts G's palette and buys nothing on faces (docs/recipe.md): it is not here.
"""

from collections.abc import Callable

import torch
from torch import Tensor


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
    "translation": translation,
    "cutout": cutout,
}


def augment(x: Tensor, p: Tensor | float) -> Tensor:
    """Each function on each picture of x [N, C, H, W] with probability p, independently."""
    for change in FUNCTIONS.values():
        x = change(x, torch.rand(len(x), device=x.device) < p)
    return x
