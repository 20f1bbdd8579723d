"""An arm of the ablation: G enlarges by kernels that draw no chequerboard, and has no frame."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _Bordered(torch.autograd.Function):
    """x with its outermost pixels repeated once on each side: [N, C, H, W] -> [N, C, H + 2, W + 2].

    PyTorch's replication padding takes five times as long on a CPU where channels come last.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        y = x.new_empty(count, height + 2, width + 2, channels).permute(0, 3, 1, 2)
        y[:, :, 1:-1, 1:-1] = x
        y[:, :, 0, 1:-1], y[:, :, -1, 1:-1] = x[:, :, 0], x[:, :, -1]
        y[..., 0], y[..., -1] = y[..., 1], y[..., -2]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].clone()
        grad[..., 1] += grad[..., 0]
        grad[..., -2] += grad[..., -1]
        grad[:, :, 1] += grad[:, :, 0]
        grad[:, :, -2] += grad[:, :, -1]
        return grad[:, :, 1:-1, 1:-1].contiguous(memory_format=torch.channels_last)


class _Cropped(torch.autograd.Function):
    """x from its third row and column on, and `height` x `width` of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, height: int, width: int) -> Tensor:
        ctx.around = (2, x.shape[3] - 2 - width, 2, x.shape[2] - 2 - height)
        inside = x[:, :, 2 : 2 + height, 2 : 2 + width]
        return inside.contiguous(memory_format=torch.channels_last)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return F.pad(grads[0], ctx.around), None, None


class EvenUp(nn.Module):
    """Twice the size (and one pixel more if `odd`): [N, `c_in`, H, W] -> [N, `c_out`, 2 H, 2 W].

    A 3 x 3 convolution of the picture that repeating its pixels makes (Odena et al. 2016,
    doi:10.23915/distill.00003), written as a transposed convolution with the 4 x 4 kernels that are
    the same, at less than half of the price. Every pixel gets the same sum of weights, so it draws
    no chequerboard, as 4 x 4 free numbers do until they have learned not to. Beyond the border
    the picture is what it is on it: zeros there would make the outermost pixels others, in every
    stage, and a dotted frame around the last.
    """

    spread: Tensor  # [9, 16]

    def __init__(self, c_in: int, c_out: int, odd: int = 0) -> None:
        super().__init__()
        self.odd = odd
        self.kernel = nn.Parameter(torch.empty(c_in, c_out, 3, 3))
        nn.init.kaiming_uniform_(self.kernel, 5**0.5)  # as convolutions of PyTorch begin
        # of each of 9 weights, which of the 16 it is added to
        line = torch.eye(3, 4) + torch.eye(4)[1:]
        self.register_buffer("spread", torch.kron(line, line), persistent=False)

    def kernels(self) -> Tensor:
        """Those of the transposed convolution: [c_in, c_out, 4, 4]."""
        return (self.kernel.flatten(2) @ self.spread).unflatten(2, (4, 4))

    def forward(self, x: Tensor) -> Tensor:
        # with a padding of 3, which would crop too, a CPU takes twice as long
        wide = F.conv_transpose2d(_Bordered.apply(x), self.kernels(), None, 2, 1)
        height, width = (2 * side + self.odd for side in x.shape[2:])
        return cast(Tensor, _Cropped.apply(wide, height, width))


class BorderedConv(nn.Conv2d):
    """A 3 x 3 convolution for which the picture goes on beyond the border as it is on it."""

    def __init__(self, c_in: int, c_out: int, bias: bool) -> None:
        super().__init__(c_in, c_out, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(_Bordered.apply(x), self.weight, self.bias)


def make_even(net: nn.Module) -> None:
    """Put an `EvenUp` in place of each transposed convolution, and a `BorderedConv` of others."""
    for parent in list(net.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, nn.ConvTranspose2d):
                odd = layer.output_padding[0]
                setattr(parent, name, EvenUp(layer.in_channels, layer.out_channels, odd))
            elif isinstance(layer, nn.Conv2d):
                wide, thin, bias = layer.in_channels, layer.out_channels, layer.bias is not None
                setattr(parent, name, BorderedConv(wide, thin, bias))
