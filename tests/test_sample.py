"""Noise by index, ranking, image grids."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from config import Config
from gan import ranking, sample
from gan.sample import Inputs

CPU = torch.device("cpu")


class Echo(nn.Module):
    """A "generator" whose pictures are its noise."""

    def forward(self, z: Tensor) -> Tensor:
        return z[:, :1, None, None].expand(-1, 1, 4, 4).tanh()


def brightness(images: Tensor, condition: Inputs) -> Tensor:
    """A judge that likes bright pictures."""
    return images.mean((1, 2, 3))


def test_a_face_is_the_same_alone_or_among_others() -> None:
    for nz in (1, 7, 100):
        many = sample.noise(3, 0, 50, nz)
        assert many.shape == (50, nz)
        assert torch.equal(sample.noise(3, 17, 4, nz), many[17:21])
    assert not torch.equal(sample.noise(4, 0, 5, 7), sample.noise(3, 0, 5, 7))


def test_noise_is_standard_normal() -> None:
    z = sample.noise(0, 10**6, 2000, 50)
    assert abs(z.mean().item()) < 4 / 100_000**0.5
    assert abs(z.std().item() - 1) < 4 / 200_000**0.5
    within = (z.abs() < 1).float().mean().item()
    assert within == pytest.approx(0.6827, abs=0.006)
    assert len(torch.unique(z[:, 0])) == 2000


def source(first: int, count: int) -> Inputs:
    return (sample.noise(0, first, count, 8),)


def test_ranking_is_the_full_sort_whatever_the_batch() -> None:
    (z,) = source(0, 100)
    scores = brightness(Echo()(z), ())
    expected = scores.sort(descending=True).indices[:10]
    for batch in (3, 10, 64, 1000):
        best = sample.rank(Echo(), brightness, sample.first_candidates(source, 100, batch, CPU), 10)
        assert torch.equal(best.indices, expected)
        assert torch.allclose(best.scores, scores[expected])
        assert torch.equal(best.images, sample.to_uint8(Echo()(z[expected])))


def test_only_the_candidates_named_are_drawn() -> None:
    best = sample.rank(Echo(), brightness, sample.chosen_candidates(source, [40, 2, 99], 2, CPU), 3)
    assert set(best.indices.tolist()) == {40, 2, 99}
    assert best.scores.tolist() == sorted(best.scores.tolist(), reverse=True)


def test_the_first_of_equals_wins() -> None:
    none = ranking.RANKERS["none"].make_judge(
        ranking.RankingInputs(nn.Identity(), None, torch.Tensor, "cpu")
    )
    best = sample.rank(Echo(), none, sample.first_candidates(source, 50, 7, CPU), 5)
    assert best.indices.tolist() == [0, 1, 2, 3, 4]


def test_pixels_are_rounded_not_cut() -> None:
    values = torch.tensor([-1.0, -0.999, 0.0, 0.999, 1.0, 1.5])
    assert sample.to_uint8(values).tolist() == [0, 0, 128, 255, 255, 255]


def test_batch_norm_of_an_average_is_estimated_on_its_own_noise() -> None:
    G = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    sample.reestimate_bn(G, sample.NoiseSource(0, 4), 64, CPU)
    z = sample.noise(0, 0, sample.BN_IMAGES, 4)
    with torch.no_grad():
        out = G[0](z)
    mean = G[1].running_mean
    assert torch.allclose(mean, out.mean(0), atol=1e-5)  # type: ignore[arg-type]
    assert G.training  # as it was


def test_an_image_grid_is_saved_row_by_row(tmp_path: Path) -> None:
    images = torch.zeros(6, 3, 10, 10, dtype=torch.uint8)
    images[4] = 200
    grid = sample.image_grid(images, columns=4)
    assert grid.shape == (3, 2 * 12 + 2, 4 * 12 + 2)
    assert grid[0, 12 + 7, 7] == 200  # the fifth picture opens the second row
    sample.save_picture(sample.as_picture(grid), tmp_path / "new" / "grid.png")
    assert Image.open(tmp_path / "new" / "grid.png").size == (50, 26)


def test_uniform_noise_fills_its_range() -> None:
    z = sample.noise(0, 0, 5000, 8, "uniform")
    assert float(z.min()) >= -1
    assert float(z.max()) <= 1
    assert float(z.mean()) == pytest.approx(0, abs=0.02)
    assert float(z.std()) == pytest.approx(1 / 3**0.5, abs=0.01)
    # the same uniforms as those behind the normal numbers: half of the range is half of the mass
    normal = sample.noise(0, 0, 5000, 8)
    assert torch.equal(z > 0, normal > 0)


def test_a_conditional_source_goes_through_the_classes_or_stays_in_one() -> None:
    z, condition = sample.NoiseSource(0, 4, classes=3)(2, 5)  # faces 2 to 6
    assert condition.tolist() == torch.eye(3)[[2, 0, 1, 2, 0]].tolist()
    assert torch.equal(z, sample.noise(0, 2, 5, 4))
    _, condition = sample.NoiseSource(0, 4, classes=3, label=1)(0, 4)
    assert condition.tolist() == [[0, 1, 0]] * 4
    (z,) = sample.NoiseSource(0, 4)(2, 5)
    assert torch.equal(z, sample.noise(0, 2, 5, 4))


def test_mean_and_deviation_are_of_the_noise_alone() -> None:
    z, condition = sample.NoiseSource(0, 4, classes=2, mean=0.7, std=0.3)(0, 3)
    assert torch.equal(z, sample.noise(0, 0, 3, 4) * 0.3 + 0.7)
    assert condition.tolist() == [[1, 0], [0, 1], [1, 0]]


def test_the_judge_is_given_the_condition() -> None:
    conditional = sample.NoiseSource(0, 4, classes=3)

    class Constant(nn.Module):
        def forward(self, z: Tensor, condition: Tensor) -> Tensor:
            return torch.zeros(len(z), 1, 2, 2)

    def judge(images: Tensor, condition: Inputs) -> Tensor:
        (one_hot,) = condition
        return one_hot @ torch.tensor([0.0, 2.0, 1.0])

    for candidates in (
        sample.first_candidates(conditional, 6, 4, CPU),
        sample.chosen_candidates(conditional, [5, 4, 3, 2, 1, 0], 4, CPU),
    ):
        best = sample.rank(Constant(), judge, candidates, 4)
        assert best.scores.tolist() == [2, 2, 1, 1]
        assert sorted(best.indices.tolist()[:2]) == [1, 4]
        assert sorted(best.indices.tolist()[2:]) == [2, 5]


def test_classes_come_as_often_as_in_the_data() -> None:
    labels = np.repeat([0, 1, 2], [90, 9, 1])
    config = Config(nz=4, conditional=True)
    by_share = sample.NoiseSource.of(config, 3, among=labels)
    _, condition = by_share(0, 200)
    assert condition.sum(0).tolist() == pytest.approx([180, 18, 2], abs=1)
    assert torch.equal(by_share(50, 30)[1], condition[50:80])
    _, condition = sample.NoiseSource.of(config, 3)(0, 6)
    assert condition.argmax(1).tolist() == [0, 1, 2, 0, 1, 2]
