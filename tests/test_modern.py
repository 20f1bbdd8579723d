"""The nets of `modern`: the modulation of G, and the deviation of the batch in D, by hand."""

import pytest
import torch
from torch import nn

from gan.modern import BatchDeviation, ModernD, ModulatedG, ModulatedResidual, Modulation, modulated


def test_modulation_by_hand() -> None:
    """Two styles, two channels of one pixel: 3 * (1 + 1) + 10, 4 * (1 - 1) + 20, ..."""
    x = torch.tensor([[3.0, 4], [5, 6]])[:, :, None, None]
    by = torch.tensor([[1.0, -1, 10, 20], [0, 0.5, 0, -1]])
    assert modulated(x, by).flatten(1).tolist() == [[16, 20], [5, 8]]


def test_a_modulation_normalises_first() -> None:
    """1 and 3 are -1 and 1; the style s makes the scale 1 + 2 s and the shift 3 s + 4."""
    layer = Modulation(1, 1)
    layer.style.weight.data = torch.tensor([[2.0], [3.0]])
    layer.style.bias.data = torch.tensor([0.0, 4.0])
    x = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    made = layer(x, torch.tensor([[1.0], [10.0]])).flatten()
    # -1 * 3 + 7 and 1 * 21 + 34
    assert made.tolist() == pytest.approx([4, 55], abs=1e-3)


@pytest.mark.parametrize("classes", [0, 3])
def test_every_stage_depends_on_noise_and_class(classes: int) -> None:
    """With what comes from the stage before held fixed, as the base is the same for all."""
    G = ModulatedG(5, 2, 32, 1, classes).eval()
    for layer in G.modules():
        if isinstance(layer, Modulation):
            nn.init.normal_(layer.style.weight)
    first = G.main[0]
    assert isinstance(first, nn.Linear)
    nn.init.zeros_(first.weight)  # the noise is not in the base
    stages = [layer for layer in G.main if isinstance(layer, Modulation | ModulatedResidual)]
    assert len(stages) == 1 + 3 + 1  # 4 pixels, 8, 16, 32, and the residual layer at 16
    noise, one_hot = torch.randn(1, 5), torch.eye(3)[:1]
    given = (noise, one_hot) if classes else (noise,)
    others = [(torch.randn(1, 5), *given[1:])]
    if classes:
        others.append((noise, torch.eye(3)[1:2]))
    for other in others:
        styles = G.mapping(torch.cat(given, 1)), G.mapping(torch.cat(other, 1))
        for stage in stages:
            width = stage.conv.in_channels if isinstance(stage, ModulatedResidual) else 0
            x = torch.randn(1, width or stage.norm.num_features, 4, 4)
            assert not torch.allclose(stage(x, styles[0]), stage(x, styles[1]))
        assert not torch.allclose(G(*given), G(*other))


def test_batch_deviation_by_hand() -> None:
    """Features 0 and 4 deviate by 2, 5 and 5 by 0: 1 on average, in every pixel of every image."""
    layer = BatchDeviation()
    x = torch.tensor([[0.0, 5.0], [4.0, 5.0]]).view(2, 1, 1, 2)
    made = layer(x)
    assert made.shape == (2, 2, 1, 2)
    assert torch.equal(made[:, :1], x)
    assert made[:, 1].flatten().tolist() == pytest.approx([1.0] * 4, abs=1e-3)
    layer(3 * x)  # deviates by 3; the mean starts at 1 and takes in a hundredth
    assert layer.usual.item() == pytest.approx(0.99 * 1 + 0.01 * 3, abs=1e-4)


def test_in_evaluation_mode_a_score_is_of_one_image() -> None:
    D = ModernD(4, 28, 1, deviation=True)
    images = torch.randn(4, 1, 28, 28)
    for _ in range(3):
        D(images)
    beside = D(images)
    assert not torch.allclose(beside[:2], D(images[:2]), atol=1e-5), "it sees the batch"
    D.eval()
    alone = torch.cat([D(image[None]) for image in images])
    assert torch.allclose(D(images), alone, atol=1e-5)


def test_g_learns_from_the_deviation() -> None:
    """The channel has a gradient: fakes that are alike can be told to spread."""
    x = torch.randn(4, 2, 3, 3, requires_grad=True)
    BatchDeviation()(x)[:, 2].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().min() > 0


def test_the_deviation_of_equal_images_is_nothing_and_has_a_gradient() -> None:
    x = torch.ones(3, 1, 2, 2, requires_grad=True)
    made = BatchDeviation()(x)
    made.sum().backward()
    assert made[:, 1].max() < 1e-3
    assert x.grad is not None
    assert x.grad.isfinite().all()
