"""The face of a generator that is nearest to a given picture."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan import features, progress, sample
from gan.sample import Inputs, InputSource

STARTS = 3  # of the candidates, those that are moved on
STEPS = 120  # of Adam, from each of them
RATE = 0.05  # of Adam, falling to 0 by a cosine
PIXEL_WEIGHT = 4.0  # of the mean absolute difference of pixels, 0..1, beside the features' distance


@dataclass(frozen=True)
class Found:
    """The nearest face."""

    inputs: Inputs  # its noise [1, nz] and class
    image: Tensor  # uint8 [C, H, W]
    distance: float  # 1 - cosine of lite0 features, 0..2
    pixels: float  # mean absolute difference of a byte
    start: float  # the distance of the nearest candidate, before it was moved


class _Measure:
    """Distances of pictures from the wanted one, [C, H, W] in -1..1."""

    def __init__(self, wanted: Tensor, device: torch.device) -> None:
        self.wanted = wanted[None].to(device)
        side = wanted.shape[-1]
        self.extract = features.extractor("lite0", side, str(device))
        with torch.no_grad():
            self.features = self._see(self.wanted)

    def _see(self, images: Tensor) -> Tensor:
        return self.extract((images.expand(-1, 3, -1, -1) + 1) * 127.5).float()

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """1 - cosine of features and mean absolute difference of pixels, 0..1: [n] and [n]."""
        cosine = F.cosine_similarity(self._see(images), self.features)
        return 1 - cosine, (images - self.wanted).abs().mean((1, 2, 3)) / 2


def _move(G: nn.Module, measure: _Measure, inputs: Inputs) -> Tensor:
    """The noise after STEPS of Adam, kept at the length that it had: [n, nz]."""
    z = inputs[0].clone().requires_grad_()
    length = z.detach().norm(dim=1, keepdim=True)
    optimizer = torch.optim.Adam([z], lr=RATE)
    for step in progress.track(range(STEPS), "nearest face", STEPS, "steps"):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 + math.cos(math.pi * step / STEPS))
        distance, pixels = measure(G(z, *inputs[1:]))
        optimizer.zero_grad(set_to_none=True)
        (distance + PIXEL_WEIGHT * pixels).sum().backward()
        optimizer.step()
        with torch.no_grad():  # normal noise of nz numbers has nearly one length
            z.mul_(length / z.norm(dim=1, keepdim=True).clamp(min=1e-12))
    return z.detach()


def nearest_face(
    G: nn.Module,
    wanted: Tensor,
    source: InputSource,
    candidates: int,
    batch_size: int,
    device: torch.device,
) -> Found:
    """The face nearest to `wanted`, [C, H, W] in -1..1 and of G's size.

    The nearest of the first `candidates` are moved by gradient descent in the noise, towards the
    same lite0 features and pixels (Creswell & Bharath 2016, arXiv:1611.05644). G stays as it is. A
    face that the training images do not have is not found, only what G draws nearest to it.
    """
    G.eval().requires_grad_(False)
    measure = _Measure(wanted, device)
    parts = []
    with torch.no_grad():
        for _, inputs in sample.first_candidates(source, candidates, batch_size, device):
            distance, pixels = measure(G(*inputs))
            parts.append(distance + PIXEL_WEIGHT * pixels)
    best = torch.cat(parts).argsort()[:STARTS].tolist()
    ((_, starts),) = sample.chosen_candidates(source, best, len(best), device)
    with torch.no_grad():
        start = float(measure(G(*starts))[0][0])
    moved = (_move(G, measure, starts), *starts[1:])
    with torch.no_grad():
        images = G(*moved)
        distance, pixels = measure(images)
    place = int((distance + PIXEL_WEIGHT * pixels).argmin())
    return Found(
        tuple(part[place : place + 1].cpu() for part in moved),
        sample.to_uint8(images)[place],
        float(distance[place]),
        255 * float(pixels[place]),
        start,
    )
