"""Walks, directions, cut-off noise, and the nearest face."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from config import resolve
from gan import fold, inversion, latent, sample
from gan.errors import Refused
from gan.modern import ModernG, ModulatedG
from models import FAMILIES

CPU = torch.device("cpu")


def test_slerp_by_hand() -> None:
    x, y = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    found = latent.slerp(x, y, torch.tensor([0.0, 1 / 3, 0.5, 1.0]))
    wanted = [[2, 0], [math.sqrt(3), 1], [math.sqrt(2), math.sqrt(2)], [0, 2]]
    assert torch.allclose(found, torch.tensor(wanted, dtype=torch.float32), atol=1e-6)
    same = latent.slerp(x, x, torch.tensor([0.0, 0.3, 1.0]))
    assert torch.allclose(same, x.expand(3, 2))
    opposite = latent.slerp(x, -x, torch.tensor([0.25]))
    assert torch.allclose(opposite, torch.tensor([[1.0, 0.0]])), "no shortest way: straight"


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_a_walk_goes_through_its_points_and_a_loop_has_no_jump(kind: str) -> None:
    points = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    walk = latent.walk(points, 4, loop=False, kind=kind)
    assert len(walk) == 9
    assert torch.allclose(walk[[0, 4, 8]], points, atol=1e-6)
    loop = latent.walk(points, 4, loop=True, kind=kind)
    assert len(loop) == 12
    assert torch.allclose(loop[[0, 4, 8]], points, atol=1e-6)
    steps = (loop.roll(-1, 0) - loop).norm(dim=1)
    last = steps[8:]  # from the last point back to the first
    assert last.max() < 1.5 * last.min(), "the step from the last frame to the first is like others"
    length = walk.norm(dim=1)
    if kind == "normal":  # stays as far out as its ends
        assert length.min() > 0.95 * points.norm(dim=1).min()


def test_classes_are_mixed_along_a_walk() -> None:
    mixed = latent.mixing(torch.eye(3)[[0, 2]], 4, loop=False)
    assert torch.allclose(mixed[1], torch.tensor([0.75, 0.0, 0.25]))
    assert torch.allclose(mixed.sum(1), torch.ones(5))


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_wandering_is_noise_at_every_moment_and_closes(kind: str) -> None:
    z = latent.wander(3, 4000, 40, 20.0, kind)
    assert z.shape == (40, 4000)
    std = 1.0 if kind == "normal" else 1 / math.sqrt(3)
    assert torch.allclose(z.std(1), torch.full((40,), std), atol=0.04)
    steps = (z.roll(-1, 0) - z).norm(dim=1)
    assert steps.max() < 1.15 * steps.min(), "smooth, from the last frame to the first too"
    assert torch.equal(z, latent.wander(3, 4000, 40, 20.0, kind))
    assert not torch.equal(z, latent.wander(4, 4000, 40, 20.0, kind))


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_cut_off_noise_has_the_distribution_of_drawing_anew(kind: str) -> None:
    whole = sample.noise(0, 0, 500, 40, kind).flatten()
    limit = 0.8
    cut = sample.noise(0, 0, 500, 40, kind, limit).flatten()
    assert cut.abs().max() <= limit
    kept = whole[whole.abs() <= limit]
    for q in (0.1, 0.25, 0.5, 0.9):
        assert abs(cut.quantile(q) - kept.quantile(q)) < 0.02, q
    order = whole[:300].argsort()
    assert torch.equal(order, cut[:300].argsort()), "every number moves, none changes places"
    far = sample.noise(0, 0, 500, 40, kind, 30.0).flatten()
    assert torch.allclose(far, whole, atol=1e-5)


class Stretched(nn.Module):
    """A linear G of 2 x 2 pixels, whose picture is stretched by known amounts of known numbers."""

    def __init__(self, amounts: Tensor) -> None:
        super().__init__()
        layer = nn.Linear(len(amounts), 4, bias=False)
        layer.weight.data = torch.zeros(4, len(amounts))
        layer.weight.data[range(len(amounts)), range(len(amounts))] = amounts
        self.main = nn.Sequential(layer, nn.Unflatten(1, (1, 2, 2)))

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z) / 100


def test_directions_of_a_linear_generator_are_known() -> None:
    G = Stretched(torch.tensor([1.0, 4.0, 2.0]))
    source = sample.NoiseSource(0, 3)
    found = latent.directions(G, source, 3, "weights", CPU)
    assert torch.allclose(found.vectors, torch.eye(3)[[1, 2, 0]], atol=1e-6)
    # a byte is 127.5 (x + 1); one pixel of four moves by 6 stretched standard deviations
    assert found.change.tolist() == pytest.approx([127.5 * 6 * a / 400 for a in (4, 2, 1)], abs=0.3)
    row = latent.row_of(G, source(5, 1), found.vectors[0], torch.tensor([-3.0, 0.0, 3.0]), CPU)
    assert torch.equal(row[1], sample.draw_uint8(G, source(5, 1), 1, CPU)[0])


@pytest.mark.parametrize("name", ["modern", "dcgan", "mlp"])
@pytest.mark.parametrize("method", latent.METHODS)
def test_directions_are_unit_vectors_in_order(
    name: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent, "PCA_FACES", 128)
    small: dict[str, Any] = {"family": name, "img_size": 28, "nz": 6, "ngf": 4}
    config = resolve(FAMILIES[name].defaults, small)
    torch.manual_seed(0)
    G = FAMILIES[name].build(config, 2).G
    source = sample.NoiseSource.of(config, 2)
    found = latent.directions(G, source, 4, method, CPU)
    assert found.vectors.shape == (4, 6)
    assert torch.allclose(found.vectors.norm(dim=1), torch.ones(4), atol=1e-5)
    assert (found.change.diff() <= 0).all()
    largest = found.vectors.gather(1, found.vectors.abs().argmax(1, keepdim=True))
    assert (largest > 0).all(), "signs do not depend on the linear algebra library"


def test_features_of_a_generator_without_inner_layers() -> None:
    source = sample.NoiseSource(0, 3)
    with pytest.raises(Refused, match="--by=weights"):
        latent.directions(Stretched(torch.ones(3)), source, 1, "features", CPU)
    net = nn.Sequential(nn.Unflatten(1, (3, 1, 1)), nn.Conv2d(3, 1, 1))
    with pytest.raises(Refused, match="--by=features"):
        latent.directions(net, source, 1, "weights", CPU)


@pytest.mark.usefixtures("cheap_lite0")
def test_the_nearest_face_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inversion, "STEPS", 150)
    torch.manual_seed(0)
    G = nn.Sequential(nn.Linear(5, 3 * 64), nn.Unflatten(1, (3, 8, 8)), nn.Tanh())
    before = [p.clone() for p in G.parameters()]
    source = sample.NoiseSource(0, 5)
    (z,) = source(1000, 1)  # no candidate, but as likely
    wanted = G(z)[0].detach()
    found = inversion.nearest_face(G, wanted, source, 64, 32, CPU)
    assert found.pixels < 4
    assert found.distance < 0.5 * found.start
    (moved,) = found.inputs
    assert torch.equal(sample.draw_uint8(G, (moved,), 1, CPU)[0], found.image)
    assert all(torch.equal(a, b) for a, b in zip(before, G.parameters(), strict=True))


def test_both_layers_that_are_given_the_noise() -> None:
    """The base of a modulated G stretches the third number most, its mapping the second."""
    torch.manual_seed(0)
    G = ModulatedG(4, 2, 28, 1)
    with torch.no_grad():
        for layer, stretched in ((G.main[0], 2), (G.mapping[0], 1)):
            layer.weight.zero_()
            layer.weight[0, stretched] = float(stretched + 1)
    found = latent.by_weights(G, sample.NoiseSource(0, 4))
    assert found.abs().argmax(1)[:2].tolist() == [2, 1], "the norm of the base, new, changes little"


def test_features_half_way_are_those_of_the_picture_not_of_the_style() -> None:
    """So a modulated G has its directions where it had them without."""
    graphs = [
        fold.folded(make(4, 2, 28, 1), (torch.zeros(2, 4),)) for make in (ModernG, ModulatedG)
    ]
    plain, modulated = (latent._Until(graph) for graph in graphs)
    for until in (plain, modulated):
        until.run(torch.randn(2, 4))
    assert plain.found.shape == modulated.found.shape
    assert plain.found.dim() == 4
