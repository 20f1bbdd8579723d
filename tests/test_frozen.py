"""A part of D that is never trained: what sees it, what moves it, what passes through it."""

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from states import CPU, facts_of, new_state
from torch import Tensor, nn

from config import Config
from gan.data import Images
from gan.frozen import Frozen
from gan.loop import train_step
from gan.losses import Nets
from models import FAMILIES, NetG


def extractor() -> nn.Module:
    """A small net of features with batch norm, in training mode: [N, 3, 28, 28] -> [N, 784]."""
    conv = nn.Conv2d(3, 4, 3, 2, 1)
    return nn.Sequential(conv, nn.BatchNorm2d(4), nn.LeakyReLU(0.2), nn.Flatten())


class FeatureD(nn.Module):
    """Scores of images, [N, 3, 28, 28] -> [N], one trained layer on top of frozen features."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.features = Frozen(net)
        self.last = nn.Linear(784, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.features(images))[:, 0]


def copied(net: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


def differing(net: nn.Module, values: dict[str, Tensor]) -> list[str]:
    own = net.state_dict()
    assert own.keys() == values.keys()
    return [key for key in own if not torch.equal(own[key], values[key])]


@pytest.mark.parametrize("name", ["hinge", "rpgan"])
def test_ten_steps_leave_it_bit_for_bit_as_it_was(
    name: str, tiny: Callable[..., Config], images: Images
) -> None:
    """Its batch norm too; rpgan's penalties differentiate through it twice."""
    config, net = tiny(augment=0.0), extractor()
    nets = Nets(NetG(8, 4, 28), FeatureD(net))
    family = dataclasses.replace(FAMILIES[name], build=lambda config, classes: nets)
    before = copied(net)
    state = new_state(config, family=family)
    start_d, start_g = copied(nets.D), copied(nets.G)
    feed = family.task.feed(config, facts_of(config), images, CPU)
    for step in range(10):
        train_step(state, feed.batch(step))
    assert state.step == 10
    assert differing(net, before) == []
    assert all(weight.grad is None for weight in net.parameters())
    assert differing(nets.D, start_d)[0] == "last.weight"
    kernels = [key for key, weight in nets.G.named_parameters() if weight.ndim == 4]
    assert set(kernels) <= set(differing(nets.G, start_g))


def test_its_owner_does_not_hold_it() -> None:
    D = FeatureD(extractor())
    trained = ["last.weight", "last.bias"]
    assert list(D.state_dict()) == trained
    assert [name for name, _ in D.named_parameters()] == trained
    assert list(D.buffers()) == []
    assert not any(isinstance(part, nn.BatchNorm2d) for part in D.modules())


def test_it_stays_in_evaluation_mode_and_without_gradients() -> None:
    net = extractor()
    D = FeatureD(net)
    D.train().requires_grad_(True)
    assert not any(part.training for part in net.modules())
    assert not any(weight.requires_grad for weight in net.parameters())


def test_it_moves_with_its_owner() -> None:
    net = extractor()
    D = FeatureD(net).to(torch.float64)
    assert {value.dtype for value in copied(net).values()} == {torch.float64, torch.int64}
    assert D(torch.rand(2, 3, 28, 28, dtype=torch.float64)).dtype == torch.float64
    D.float()
    assert {value.dtype for value in copied(net).values()} == {torch.float32, torch.int64}


def test_gradients_pass_to_the_images() -> None:
    """And they are those of the same layers unfrozen."""
    net = extractor()
    D = FeatureD(net).double()
    images = torch.rand(2, 3, 28, 28, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(D(images).sum(), images)
    layers = nn.Sequential(net, D.last)
    (expected,) = torch.autograd.grad(layers(images).sum(), images)
    assert gradient.abs().max() > 0
    assert torch.equal(gradient, expected)


def test_a_copy_has_its_own() -> None:
    net, x = extractor(), torch.rand(2, 3, 28, 28)
    D = FeatureD(net)
    twin = copy.deepcopy(D)
    assert torch.equal(twin(x), D(x))
    twin.double()
    assert twin(x.double()).dtype == torch.float64
    assert D(x).dtype == torch.float32
