"""Spectral norm in few passes over the weights, under the names that PyTorch's gives them.

The buffers and their initial numbers are those of `torch.nn.utils.parametrizations.spectral_norm`,
and so are the results but for rounding. PyTorch's spends a twentieth of a step of `modern` on the
CPU in small operations: this one has half of them, and makes the weights in bfloat16 at once.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize

FIRST_ITERATIONS = 15  # of the power method, on the initial weights
TINY = 1e-12  # least length of a vector that is normalised

_iterations = 1  # of the power method, each time that a weight is asked for


@contextlib.contextmanager
def iterations(count: int) -> Iterator[None]:
    """A context in which each weight is asked for once, and meant for `count` passes of its net."""
    global _iterations
    before, _iterations = _iterations, count
    try:
        yield
    finally:
        _iterations = before


def as_rows(weight: Tensor) -> Tensor:
    """[out, in, h, w] -> [out, in h w], without a copy: (h, w, in) where channels come last."""
    if weight.dim() == 4 and not weight.is_contiguous():
        weight = weight.permute(0, 2, 3, 1)
    return weight.flatten(1)


def as_weight(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of `as_rows`, for a weight with the layout of `like`."""
    if like.dim() == 4 and not like.is_contiguous():
        _, wide, height, width = like.shape
        return rows.view(-1, height, width, wide).permute(0, 3, 1, 2)
    return rows.view(-1, *like.shape[1:])


class _Divided(torch.autograd.Function):
    """weight / sigma in `dtype`, with sigma = u W v for unit vectors u and v that are constants.

    The gradient of sum(G W / sigma) is G / sigma - sum(G W) / sigma^2 u v^T (arXiv:1802.05957,
    eq. 12). `v` is a row in the order of `as_rows`.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, u: Tensor, v: Tensor, sigma: Tensor, dtype: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(weight, u, v, sigma)
        return (weight / sigma).to(dtype)

    @staticmethod
    @once_differentiable  # a penalty differentiates twice, but by the images
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, u, v, sigma = ctx.saved_tensors
        grad = torch.empty_like(weight).copy_(grads[0])
        rows = as_rows(grad)
        share = rows.flatten().dot(as_rows(weight).flatten()) / sigma.square()
        rows.div_(sigma).addcmul_((-share * u)[:, None], v)
        return grad, None, None, None, None


class SpectralNorm(nn.Module):
    """A weight [out, in, ...] over its largest singular value sigma.

    Miyato et al. 2018 (arXiv:1802.05957), algorithm 1: a step of the power method each time that
    the weight is asked for in training. Under autocast it is made in the lower precision.
    """

    _u: Tensor  # [out]
    _v: Tensor  # [in h w], in that order, whatever the layout of the weight

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows = weight.detach().flatten(1)
        u, v = (F.normalize(rows.new_empty(n).normal_(), dim=0, eps=TINY) for n in rows.shape)
        for _ in range(FIRST_ITERATIONS):
            u, v, _ = power_step(rows, v)
        self.register_buffer("_u", u)
        self.register_buffer("_v", v)

    def forward(self, weight: Tensor) -> Tensor:
        kind = weight.device.type
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        with torch.autocast(kind, enabled=False):
            if not self.training:
                return weight / self._u.dot(weight.flatten(1).mv(self._v))
            with torch.no_grad():
                rows, first = as_rows(weight), weight[:1]
                v = as_rows(torch.empty_like(first).copy_(self._v.view_as(first)))[0]
                for _ in range(_iterations):
                    u, v, sigma = power_step(rows, v)
                self._u.copy_(u)
                self._v.view_as(first).copy_(as_weight(v, first))
        return cast(Tensor, _Divided.apply(weight, u, v, sigma, low))


def power_step(rows: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """u and v, closer to the first singular vectors of `rows`, and sigma = u W v."""
    u = rows.mv(v)
    u /= u.norm().clamp_(min=TINY)
    v = rows.t().mv(u)
    sigma = v.norm()  # v is W^T u, so this is u W v / |v|
    return u, v / sigma.clamp(min=TINY), sigma


def spectral_norm(layer: nn.Module) -> nn.Module:
    """`layer`, a convolution or a linear layer, with its weight held by spectral norm."""
    norm = SpectralNorm(layer.get_parameter("weight"))
    parametrize.register_parametrization(layer, "weight", norm)
    return layer
