"""What G is called with when it draws: noise and classes by index, whatever the batch."""

import copy

import pytest
import torch
from torch import Tensor, nn

from gan import sample
from gan.sample import Inputs, NoiseSource

CPU = torch.device("cpu")
INDICES = [40, 2, 99, 3, 57]
SOURCES = {
    "noise": NoiseSource(3, 4),
    "uniform": NoiseSource(3, 4, "uniform"),
    "classes in turn": NoiseSource(3, 4, classes=3),
    "one class": NoiseSource(3, 4, classes=3, label=1),
    "classes of the data": NoiseSource(3, 4, classes=3, counts=(5, 3, 2)),
    "moved noise": NoiseSource(3, 4, classes=3, mean=2.0, std=0.5),
}


def joined(batches: list[tuple[Tensor, Inputs]]) -> tuple[Tensor, Inputs]:
    """The indices and the inputs of all batches."""
    inputs = tuple(torch.cat(parts) for parts in zip(*(x for _, x in batches), strict=True))
    return torch.cat([indices for indices, _ in batches]), inputs


@pytest.mark.parametrize("batch_size", [1, 2, 100])
@pytest.mark.parametrize("name", SOURCES)
def test_chosen_candidates_are_those_of_the_same_indices_among_the_first(
    name: str, batch_size: int
) -> None:
    source = SOURCES[name]
    chosen = list(sample.chosen_candidates(source, INDICES, batch_size, CPU))
    assert [len(x) for x, _ in chosen[:-1]] == [batch_size] * (len(chosen) - 1)
    indices, inputs = joined(chosen)
    among, all_inputs = joined(list(sample.first_candidates(source, 100, 7, CPU)))
    assert among.tolist() == list(range(100))
    assert indices.tolist() == INDICES
    assert len(inputs) == len(all_inputs) == (2 if source.classes else 1)
    for part, whole in zip(inputs, all_inputs, strict=True):
        assert torch.equal(part, whole[INDICES])


def test_first_candidates_come_in_batches_and_no_more_than_asked_for() -> None:
    batches = list(sample.first_candidates(SOURCES["noise"], 10, 4, CPU))
    assert [indices.tolist() for indices, _ in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [len(z) for _, (z,) in batches] == [4, 4, 2]


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_noise_is_scaled_and_then_moved(kind: str) -> None:
    (plain,) = NoiseSource(3, 4, kind)(5, 6)
    (moved,) = NoiseSource(3, 4, kind, mean=3.0, std=0.25)(5, 6)
    assert torch.allclose(moved, plain / 4 + 3)


def test_mean_and_std_leave_the_classes_alone() -> None:
    assert torch.equal(SOURCES["moved noise"](0, 9)[1], SOURCES["classes in turn"](0, 9)[1])


def test_a_judge_is_given_the_classes_and_not_the_noise() -> None:
    seen: list[Inputs] = []

    def judge(images: Tensor, condition: Inputs) -> Tensor:
        seen.append(condition)
        return images.flatten(1).mean(1)

    candidates = sample.first_candidates(SOURCES["classes in turn"], 5, 3, CPU)
    best = sample.rank(Conditional(), judge, candidates, 5)
    classes = torch.cat([one_hot for (one_hot,) in seen])
    assert classes.argmax(1).tolist() == [0, 1, 2, 0, 1]
    assert sorted(best.indices.tolist()) == [0, 1, 2, 3, 4]


class Conditional(nn.Module):
    """noise [N, 4], one-hot classes [N, 3] -> images [N, 2, 1, 1] after batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)

    def forward(self, noise: Tensor, classes: Tensor) -> Tensor:
        image = torch.stack([noise[:, 0], classes.argmax(1).float()], 1)
        return self.norm(image[:, :, None, None])


def test_batch_norm_is_estimated_from_noise_and_classes() -> None:
    G = Conditional()
    sample.reestimate_bn(G, SOURCES["classes of the data"], 64, CPU)
    noise, classes = SOURCES["classes of the data"](0, sample.BN_IMAGES)
    expected = torch.stack([noise[:, 0].mean(), classes.argmax(1).float().mean()])
    assert isinstance(G.norm.running_mean, Tensor)
    assert torch.allclose(G.norm.running_mean, expected, atol=1e-5)


def test_the_estimate_of_batch_norm_forgets_what_was_there() -> None:
    G, source = Conditional(), SOURCES["classes in turn"]
    other = copy.deepcopy(G)
    assert isinstance(other.norm.running_mean, Tensor)
    other.norm.running_mean.fill_(100)
    for net in (G, other):
        sample.reestimate_bn(net, source, 64, CPU)
    for one, two in zip(G.norm.buffers(), other.norm.buffers(), strict=True):
        assert torch.equal(one, two)


def test_batch_norm_is_estimated_where_a_source_runs_out() -> None:
    """Test pictures may be fewer than the images of an estimate."""
    pictures = torch.arange(10.0).view(10, 1, 1, 1)
    G = nn.BatchNorm2d(1)
    seen: list[int] = []
    G.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    sample.reestimate_bn(G, lambda first, count: (pictures[first : first + count],), 5, CPU)
    assert isinstance(G.running_mean, Tensor)
    assert G.running_mean.item() == pytest.approx(4.5)
    assert seen == [5, 5]


def test_pictures_are_drawn_in_batches_with_their_own_classes() -> None:
    inputs = SOURCES["classes in turn"](0, 10)
    G = Conditional()
    whole = sample.draw_uint8(G, inputs, 10, CPU)
    assert whole.shape == (10, 2, 1, 1)
    assert torch.equal(sample.draw_uint8(G, inputs, 4, CPU), whole)
    assert not G.training
