"""Pictures on their way to the device: no step of training waits for a copy to a GPU.

A copy from ordinary memory makes the host wait for all that the GPU has been told to do; one from
pinned memory does not (PyTorch's notes on CUDA semantics, "use pinned memory buffers").
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROOM_SHARE = 0.5  # of a GPU's free memory that a data set may take; the nets need the rest
CHUNK_BYTES = 2**28  # of a set that is copied to a GPU at once


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """`values`, from the CPU, on the device, without a wait for what that is doing."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def free_bytes(device: torch.device) -> int:
    """Free memory of a GPU that has memory of its own; 0 for any other device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


class Pictures:
    """Pictures of a set, uint8 [M, C, H, W], from which batches are taken on the device.

    On a GPU with room for all of them they lie there, and a batch is one gather of theirs. Else,
    and on a CPU, a batch is gathered where the set is and then copied.
    """

    def __init__(self, array: NDArray[np.uint8], device: torch.device, room: int = -1) -> None:
        """`room`: bytes that they may take of the device; -1: half of what is free there."""
        self.array, self.device = array, device
        room = int(ROOM_SHARE * free_bytes(device)) if room < 0 else room
        self.resident: Tensor | None = None
        if 0 < array.nbytes <= room:
            self.resident = torch.empty(array.shape, dtype=torch.uint8, device=device)
            rows = max(1, CHUNK_BYTES // array[0].nbytes)
            for first in range(0, len(array), rows):
                part = torch.from_numpy(array[first : first + rows].copy())
                self.resident[first : first + rows] = part.to(device)

    def take(self, indices: NDArray[np.int64]) -> Tensor:
        """The pictures of these indices: uint8 [n, C, H, W] on the device."""
        if self.resident is None:
            return to_device(torch.from_numpy(self.array[indices]), self.device)
        return self.resident.index_select(0, to_device(torch.from_numpy(indices), self.device))


def scaled(pixels: Tensor) -> Tensor:
    """uint8 -> float in [-1, 1]."""
    return pixels.float().div_(127.5).sub_(1)
