"""A network that another one uses and that is never trained, such as a feature extractor in D."""

from collections.abc import Callable

from torch import Tensor, nn


class Frozen(nn.Module):
    """Calls `net`, whose weights no optimiser, `.train()` or checkpoint gets to see.

    The net is hidden from its owner's `parameters()`, `state_dict()`, `modules()` and
    `requires_grad_()`, and stays in evaluation mode; it moves with `.to()` and `.cuda()`. Gradients
    pass through it to its inputs. Whoever builds the owner again loads the frozen weights again.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        # not `self.net = net`, which would register it
        self.__dict__["net"] = net.eval().requires_grad_(False)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.__dict__["net"](*inputs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Frozen":
        """What `.to()`, `.cuda()` and `.float()` call."""
        self.__dict__["net"]._apply(fn, recurse)
        return super()._apply(fn, recurse)
