"""What nets of any size share: their sides and widths, and how D's last layer scores classes."""

from collections.abc import Mapping

from torch import Tensor

# Sizes whose classic script ends in layers of stride 3; every other size is halved throughout.
STRIDES = {96: (3, 2, 2, 2), 144: (3, 3, 2, 2)}


def pyramid(
    img_size: int, strides: Mapping[int, tuple[int, ...]] = STRIDES
) -> list[tuple[int, int]]:
    """(side, stride to the next) from the picture down, ending with (smallest side, 0).

    96 -> 32 -> 16 -> 8 -> 4 and 144 -> 48 -> 16 -> 8 -> 4 as in the classic scripts;
    64 -> 32 -> 16 -> 8 -> 4; 28 -> 14 -> 7; 100 -> 50 -> 25 -> 12 -> 6 (an odd side rounds down).
    """
    sides, side = [], img_size
    given = list(strides.get(img_size, ()))
    while given or side >= 8:
        stride = given.pop(0) if given else 2
        sides.append((side, stride))
        side //= stride
    return [*sides, (side, 0)]


def width(level: int, base: int) -> int:
    """Channels `level` layers away from the picture: base, 2 base, 4 base, then 8 base."""
    return base * min(2**level, 8)


def project(scores: Tensor, *condition: Tensor) -> Tensor:
    """[N, 1 + classes] -> [N]: the score as a picture, plus that as a picture of its class.

    `condition` is nothing, or one-hot classes [N, classes]. With the last layer linear in features
    h this is psi(h) + y V h, a projection (Miyato & Koyama 2018, arXiv:1802.05637, eq. 3).
    """
    scores = scores.flatten(1)
    return scores[:, 0] + sum((scores[:, 1:] * one_hot).sum(1) for one_hot in condition)
