"""What D gets to see: by hand-worked numbers, and the same for reals and fakes."""

import pytest
import torch
import torch.nn.functional as F

from gan import augment
from gan.augment import FUNCTIONS

ALL = torch.ones(64, dtype=torch.bool)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_pictures_that_are_not_chosen_stay_as_they_are(name: str) -> None:
    torch.manual_seed(0)  # one in 25 is moved by nothing
    x = torch.rand(64, 3, 16, 16) * 2 - 1
    chosen = torch.arange(64) % 2 == 0
    out = FUNCTIONS[name](x, chosen)
    assert torch.allclose(out[~chosen], x[~chosen], atol=1e-6)
    changed = (out - x).abs().amax((1, 2, 3)) > 1e-3
    assert changed[chosen].float().mean() > 0.9


def test_p_is_the_share_of_pictures_each_function_changes() -> None:
    torch.manual_seed(0)
    x = torch.rand(4000, 1, 8, 8)
    assert torch.equal(augment.augment(x, 0.0), x)
    same = (augment.augment(x, 0.3) - x).abs().amax((1, 2, 3)) < 1e-6
    # translation moves by one pixel at most, and not at all in 1 of 9 cases
    assert float(same.float().mean()) == pytest.approx((0.7 + 0.3 / 9) * 0.7, abs=0.03)


def test_translation_moves_whole_pictures_and_mirrors_at_the_border() -> None:
    torch.manual_seed(1)
    picture = torch.arange(64.0).view(1, 1, 8, 8)
    wide = F.pad(picture, (1, 1, 1, 1), mode="reflect")[0, 0]
    crops = {(i, j): wide[i : i + 8, j : j + 8] for i in range(3) for j in range(3)}
    moves = set()
    pictures = picture.expand(64, 1, 8, 8)
    for moved in augment.translation(pictures, ALL)[:, 0]:
        move = {place for place, crop in crops.items() if torch.equal(crop, moved)}
        assert move
        moves |= move
    assert moves == set(crops)  # up to an eighth of 8 pixels each way, and nothing else


def test_cutout_is_a_square_of_half_the_side() -> None:
    torch.manual_seed(0)
    holes = augment.cutout(torch.ones(64, 1, 16, 16), ALL)[:, 0] == 0
    assert int(holes.sum((1, 2)).max()) == 64  # 8 x 8, fewer where it reaches beyond the border
    whole = holes[holes.sum((1, 2)) == 64]
    assert set(whole.any(1).sum(1).tolist()) == set(whole.any(2).sum(1).tolist()) == {8}


def test_the_gradient_comes_through() -> None:
    x = torch.rand(8, 3, 16, 16, requires_grad=True)
    augment.augment(x, 0.9).square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert float(x.grad.abs().sum()) > 0
