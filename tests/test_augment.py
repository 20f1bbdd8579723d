"""Augmentation: which images change, how, and that gradients pass through."""

import pytest
import torch
import torch.nn.functional as F

from gan import augment
from gan.augment import AUGMENTATIONS

ALL = torch.ones(64, dtype=torch.bool)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_only_selected_images_change(name: str) -> None:
    torch.manual_seed(0)  # one translation in 25 is by 0 pixels
    images = torch.rand(64, 3, 16, 16) * 2 - 1
    selected = torch.arange(64) % 2 == 0
    out = AUGMENTATIONS[name](images, selected)
    assert torch.allclose(out[~selected], images[~selected], atol=1e-6)
    changed = (out - images).abs().amax((1, 2, 3)) > 1e-3
    assert changed[selected].float().mean() > 0.9


def test_p_is_the_share_of_images_that_each_augmentation_changes() -> None:
    torch.manual_seed(0)
    images = torch.rand(4000, 1, 8, 8)
    assert torch.equal(augment.augment(images, 0.0), images)
    same = (augment.augment(images, 0.3) - images).abs().amax((1, 2, 3)) < 1e-6
    # 8 pixels are shifted by -1, 0 or 1 per axis: 1 shift in 9 changes nothing
    assert float(same.float().mean()) == pytest.approx((0.7 + 0.3 / 9) * 0.7, abs=0.03)


def test_augmentations_are_drawn_from_the_global_generator_in_a_fixed_order() -> None:
    """A resumed run repeats the changes of a step from its seed."""
    images = torch.rand(16, 1, 8, 8)
    torch.manual_seed(5)
    out = augment.augment(images, 0.5)
    torch.manual_seed(5)
    moved = augment.translate(images, torch.rand(16) < 0.5)
    assert torch.equal(out, augment.cut_out(moved, torch.rand(16) < 0.5))


def test_translate_moves_whole_images_and_mirrors_them_at_the_border() -> None:
    torch.manual_seed(1)
    image = torch.arange(64.0).view(1, 1, 8, 8)
    wide = F.pad(image, (1, 1, 1, 1), mode="reflect")[0, 0]
    crops = {(i, j): wide[i : i + 8, j : j + 8] for i in range(3) for j in range(3)}
    found = set()
    for moved in augment.translate(image.expand(64, 1, 8, 8), ALL)[:, 0]:
        shifts = {shift for shift, crop in crops.items() if torch.equal(crop, moved)}
        assert shifts
        found |= shifts
    assert found == set(crops)  # all shifts by up to an eighth of 8 pixels, and no others


def test_cut_out_is_a_square_of_half_the_side() -> None:
    torch.manual_seed(0)
    holes = augment.cut_out(torch.ones(64, 1, 16, 16), ALL)[:, 0] == 0
    assert int(holes.sum((1, 2)).max()) == 64  # 8 x 8; fewer where part of it is outside
    whole = holes[holes.sum((1, 2)) == 64]
    assert set(whole.any(1).sum(1).tolist()) == set(whole.any(2).sum(1).tolist()) == {8}


def test_gradients_pass_through() -> None:
    images = torch.rand(8, 3, 16, 16, requires_grad=True)
    augment.augment(images, 0.9).square().sum().backward()
    assert images.grad is not None
    assert torch.isfinite(images.grad).all()
    assert float(images.grad.abs().sum()) > 0
