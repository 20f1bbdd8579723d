"""Layers that look at the whole batch where each process of a job holds a slice of it.

Batch norm of a slice alone would play another game: of 8 images instead of 16 it is noisier, and
the number of processes would change what is learned.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan import distributed


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with the statistics of the whole batch; `nn.SyncBatchNorm` is for GPUs only."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values = x if x.dtype == torch.float64 else x.float()
        # not torch.var_mean, which takes as long as the convolutions
        own = torch.stack([values.mean((0, 2, 3)), values.square().mean((0, 2, 3))])
        centre, square = distributed.mean(own.double())
        variance = (square - centre.square()).clamp(min=0)
        self._note(
            centre.detach(), variance.detach(), x.numel() // x.shape[1] * distributed.count()
        )
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        shift = -centre * scale + (self.bias if self.affine else 0)
        scale, shift = (part.to(values.dtype)[:, None, None] for part in (scale, shift))
        return torch.addcmul(shift, values, scale).to(x.dtype)

    def _note(self, centre: Tensor, variance: Tensor, number: int) -> None:
        """Move the running statistics, the variance without bias, as `nn.BatchNorm2d` does."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        for running, new in (
            (self.running_mean, centre),
            (self.running_var, variance * (number / max(number - 1, 1))),
        ):
            running.lerp_(new.to(running.dtype), self.momentum)


class SharedDropout(nn.Dropout):
    """Dropout whose masks are slices of those of the whole batch."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        ones = x.new_ones(1).expand(len(x) * distributed.count(), *x.shape[1:]).contiguous()
        return x * distributed.own(F.dropout(ones, self.p))


def share(net: nn.Module) -> None:
    """Let batch norm and dropout of `net` work on the batch of all processes. In place.

    Batch norm of a slice alone would play another game: of 8 images instead of 16 it is noisier,
    and the number of processes would change what is learned.
    """
    if distributed.count() == 1:
        return
    for layer in net.modules():
        if type(layer) is nn.BatchNorm2d:
            on_gpu = next(layer.buffers()).is_cuda
            layer.__class__ = nn.SyncBatchNorm if on_gpu else SharedBatchNorm2d  # type: ignore[assignment]
            layer.process_group = None  # type: ignore[assignment]  # all processes
        elif type(layer) is nn.Dropout:
            layer.__class__ = SharedDropout


def unshare(net: nn.Module) -> nn.Module:
    """The inverse of `share`, in place: for a copy that one process works with alone."""
    for layer in net.modules():
        if isinstance(layer, SharedBatchNorm2d | nn.SyncBatchNorm):
            layer.__class__ = nn.BatchNorm2d  # type: ignore[assignment]
        elif isinstance(layer, SharedDropout):
            layer.__class__ = nn.Dropout  # type: ignore[assignment]
    return net
