"""How unusual the patches of an image are: features of each place, against real ones there.

Features that are averaged over a face hardly tell that an eye is smeared. The patch of that eye is
far from every patch that real images have there (PatchCore, Roth et al. 2022, arXiv:2106.08265).
"""

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from gan.features import Images, batches, build_lite0, input_side, lite0_input

BLOCKS = 5  # of EfficientNet-Lite0's 16: 40 channels at an eighth of the input's side
ENLARGED = 2  # inputs are up to so many times as large as images: a patch is 4 pixels of them
REACH = 1  # places around its own among which a patch is looked for
WORST_SHARE = 0.02  # of the places of an image that count
# of what is usual at a place, in means over all places: a corner of one colour has next to nothing
SMALLEST_USUAL = 0.3
BATCH = 16  # images at a time


class FirstBlocks(Protocol):
    """The part of the untyped `efficientnet_lite_pytorch` that is used here."""

    _conv_stem: nn.Module
    _bn0: nn.Module
    _swish: nn.Module
    _blocks: nn.ModuleList


def nearest_patches(patches: Tensor, bank: Tensor, reach: int = REACH) -> Tensor:
    """Distance of each patch to the nearest of a bank that is at most `reach` places away.

    Patches [H, W, n, d] and [H, W, m, d] -> [n, H, W].
    """
    height, width, count, depth = patches.shape
    found = patches.new_full((height, width, count), torch.inf)
    for y in range(height):
        for x in range(width):
            rows = slice(max(0, y - reach), y + reach + 1)
            columns = slice(max(0, x - reach), x + reach + 1)
            around = patches[rows, columns].reshape(-1, depth)
            distance = torch.cdist(around, bank[y, x]).amin(1)
            window = found[rows, columns]
            window.copy_(torch.minimum(window, distance.view(window.shape)))
    return found.permute(2, 0, 1)


def unusualness(distance: Tensor, usual: Tensor) -> Tensor:
    """Mean of the largest WORST_SHARE of distances [n, H, W] over the usual ones [H, W]: [n]."""
    least = max(SMALLEST_USUAL * float(usual.mean()), torch.finfo(usual.dtype).tiny)
    relative = (distance / usual.clamp(min=least)).flatten(1)
    worst = max(1, round(WORST_SHARE * relative.shape[1]))
    return relative.topk(worst).values.mean(1)


class PatchBank:
    """Patches of real images: uint8 [m, C, H, W], square ones."""

    def __init__(self, real: Images, device: str) -> None:
        self.side = input_side(ENLARGED * max(real.shape[-2:]))
        self.device = device
        self.net = cast(FirstBlocks, build_lite0(self.side).to(device))
        self.bank = self.patches(real)

    @torch.inference_mode()
    def patches(self, images: Images) -> Tensor:
        """uint8 [n, C, H, W] -> float32 [side / 8, side / 8, n, 40] on the device."""
        found = []
        for x in batches(images, BATCH, device=self.device):
            x = self.net._conv_stem(lite0_input(x, self.side))
            x = self.net._swish(self.net._bn0(x))
            for block in self.net._blocks[:BLOCKS]:
                x = block(x)
            found.append(x.permute(2, 3, 0, 1).contiguous())
        return torch.cat(found, 2)

    @torch.inference_mode()
    def distances(self, images: Tensor) -> Tensor:
        """uint8 [n, C, H, W] -> float32 [n, side / 8, side / 8] on the CPU."""
        return nearest_patches(self.patches(images.cpu().numpy()), self.bank).cpu()
