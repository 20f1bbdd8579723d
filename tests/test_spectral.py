"""Spectral norm: PyTorch's numbers, whatever the layout; and D that scores two groups at once."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from gan import losses, spectral
from gan.modern import BatchDeviation, ModernD

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def of(layer: nn.Module) -> dict[str, Tensor]:
    return dict(layer.named_parameters())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_that_of_pytorch(layout: torch.memory_format) -> None:
    """Values, gradients, gradients of a gradient (a penalty), and the vectors after two passes."""
    found = []
    for make in (spectral.spectral_norm, parametrizations.spectral_norm):
        torch.manual_seed(1)
        layer = make(nn.Conv2d(3, 5, 3)).double().to(memory_format=layout)  # type: ignore[call-overload]
        torch.manual_seed(2)
        x = torch.randn(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
        loss = layer(x).tanh().sum() + layer(2 * x).square().mean()
        slope = torch.autograd.grad(loss, x, create_graph=True)[0]
        (loss + slope.square().sum()).backward()
        made = {f"slope of {name}": value.grad for name, value in of(layer).items()}
        made |= {"slope": slope, "sigma": torch.linalg.matrix_norm(layer.weight.flatten(1), 2)}
        found.append(layer.state_dict() | made)
    ours, theirs = found
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert torch.allclose(ours[name], value, rtol=1e-9, atol=1e-12), name


def test_the_weight_is_made_in_the_precision_of_autocast() -> None:
    layer = spectral.spectral_norm(nn.Linear(3, 2))
    with torch.autocast("cpu", torch.bfloat16):
        weight = layer.weight
    assert weight.dtype == torch.bfloat16
    weight.float().sum().backward()
    [original] = [value for name, value in of(layer).items() if name.endswith("original")]
    assert original.grad is not None
    assert original.grad.dtype == torch.float32


def test_in_evaluation_the_vectors_stay() -> None:
    layer = spectral.spectral_norm(nn.Linear(3, 2)).eval()
    before = copy.deepcopy(layer.state_dict())
    layer(torch.randn(1, 3))
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("classes", [0, 2])
def test_reals_and_fakes_are_scored_together_as_they_are_apart(classes: int) -> None:
    """Scores, gradients and buffers: D has seen two batches."""
    torch.manual_seed(0)
    D = ModernD(4, 28, 1, classes, deviation=True)
    with spectral.iterations(2000):  # until the vectors are those of the weights
        D(torch.randn(1, 1, 28, 28))
    twin = copy.deepcopy(D)
    real, fake = torch.randn(3, 1, 28, 28), 2 * torch.randn(3, 1, 28, 28)
    condition = (torch.eye(2)[[0, 1, 1]],) * (classes > 0)
    together = losses.score_both(D, real, fake, condition)
    apart = twin(real, *condition), twin(fake, *condition)
    for ours, theirs in zip(together, apart, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-3)
    losses.hinge_d(*together).backward()
    losses.hinge_d(*apart).backward()
    for ours, theirs in zip(D.parameters(), twin.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert float((ours.grad - theirs.grad).norm()) <= 0.02 * float(theirs.grad.norm()) + 1e-6
    for ours, theirs in zip(D.buffers(), twin.buffers(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-3)


def test_each_group_is_shown_its_own_deviation() -> None:
    """0 and 4 deviate by 2, 1 and 1 by 0; the layout of the features is kept."""
    x = torch.tensor([0.0, 4, 1, 1]).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    x = x.contiguous(memory_format=torch.channels_last)
    made = BatchDeviation()(x, groups=2)
    assert made[:, 3, 0, 0].tolist() == pytest.approx([2, 2, 0, 0], abs=1e-3)
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_a_net_that_looks_at_the_batch_is_called_twice() -> None:
    D = nn.Sequential(nn.BatchNorm1d(1), nn.Flatten(0))
    real, fake = torch.tensor([[1.0], [3.0]]), torch.tensor([[10.0], [30.0]])
    for scores in losses.score_both(D, real, fake, ()):
        assert scores.tolist() == pytest.approx([-1, 1], abs=1e-4)
