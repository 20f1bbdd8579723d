"""The score: the energy distance, the whitening, their sum with KID, and what it sees."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from gan import avatars, features, metrics, mmd, whitened
from gan.errors import Refused

Pixels = NDArray[np.uint8]


def column(*values: float) -> NDArray[np.float64]:
    """Features of one dimension: [N, 1]."""
    return np.array(values)[:, None]


# ---- energy distance ----------------------------------------------------------------------------


def test_energy_distance_by_hand() -> None:
    """Across: 1, 2, 3 and 0, 1, 2 and 3, 2, 1, mean 5/3. Within: 1, 2, 1 and 1, 2, 1, means 4/3."""
    fake, real = column(0, 1, 3), column(1, 2, 3)
    across, fakes, reals = 12 / 9, (1 + 3 + 2) / 3, (1 + 2 + 1) / 3
    assert mmd.energy_distance(fake, real).value == pytest.approx(2 * across - fakes - reals)
    # the same along a diagonal of 4 dimensions: twice as far, over sqrt(4)
    four = mmd.energy_distance(np.repeat(fake, 4, axis=1), np.repeat(real, 4, axis=1))
    assert four == pytest.approx(mmd.energy_distance(fake, real))


def test_energy_distance_agrees_with_scipy_in_one_dimension() -> None:
    """Scipy's is the square root, and counts each image with itself (V-statistic)."""
    random = np.random.RandomState(0)
    x, y = random.randn(40), 1.5 * random.randn(25) + 0.3
    own = sum(np.abs(z[:, None] - z).mean() / (len(z) - 1) for z in (x, y))  # left out by ours
    theirs = stats.energy_distance(x, y) ** 2
    found = mmd.energy_distance(column(*x), column(*y)).value
    assert found == pytest.approx(theirs - own)
    assert found > 0.05


def test_energy_distance_is_unbiased_and_knows_its_error() -> None:
    random = np.random.RandomState(0)
    found = [mmd.energy_distance(random.randn(30, 4), random.randn(50, 4)) for _ in range(200)]
    values, errors = np.array(found).T
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(200)
    assert 0.7 < np.sqrt((errors**2).mean()) / values.std() < 1.5


def test_the_error_of_the_energy_distance_is_the_jackknife() -> None:
    x, y = np.random.RandomState(0).randn(6, 3), np.random.RandomState(1).randn(5, 3) + 1
    without_x = [mmd.energy_distance(np.delete(x, i, 0), y).value for i in range(6)]
    without_y = [mmd.energy_distance(x, np.delete(y, i, 0)).value for i in range(5)]
    variance = 5 * np.var(without_x) + 4 * np.var(without_y)
    assert mmd.energy_distance(x, y).error == pytest.approx(math.sqrt(variance))


def test_distances_in_blocks_are_those_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.random.RandomState(0).randn(20, 3), np.random.RandomState(1).randn(9, 3) + 1
    whole = [distance(x, y) for distance in (mmd.kid, mmd.energy_distance)]
    monkeypatch.setattr(mmd, "BLOCK", 7)
    parts = [distance(x, y) for distance in (mmd.kid, mmd.energy_distance)]
    assert np.allclose(whole, parts)


def test_energy_distance_refuses_two_images() -> None:
    with pytest.raises(Refused, match="scores need 3 fakes and 3 reals or more; there are 2 and 3"):
        mmd.energy_distance(column(0, 1), column(0, 1, 2))


# ---- whitening ----------------------------------------------------------------------------------


def test_whitened_features_are_uncorrelated_and_of_unit_variance() -> None:
    """Of deviations 8 and 1 only, along directions that are no axes, and about a mean."""
    random = np.random.RandomState(0)
    turn = np.linalg.qr(random.randn(5, 5))[0]
    x = random.randn(400, 5) * [8, 1, 0, 0, 0] @ turn + 3
    whiten = whitened.fit_whitening(x)
    found = whiten(x)
    assert found.shape == (400, 5)
    assert np.allclose(found.mean(0), 0, atol=1e-9)
    assert np.allclose(np.cov(found[:, :2].T), np.eye(2), atol=1e-9)
    assert np.allclose(found[:, 2:], 0, atol=1e-9)  # rounding is not blown up to a variance of 1
    # along the direction of deviation 8, one unit of the features is an eighth
    step = whiten(x + turn[0]) - found
    assert np.allclose(np.abs(step[:, 0]), 1 / x[:, :].dot(turn[0]).std(ddof=1), rtol=0.05)


def test_the_components_that_vary_most_are_kept() -> None:
    """Of 8 images two: those along which they differ by 9 and by 5."""
    x = np.random.RandomState(0).randn(8, 4) * [1, 9, 0.1, 5]
    found = whitened.fit_whitening(x)(np.eye(4) * 100) - whitened.fit_whitening(x)(np.zeros((1, 4)))
    assert np.argsort(np.linalg.norm(found, axis=1)).tolist() == [2, 0, 1, 3]


@pytest.mark.parametrize(("count", "kept"), [(1, 1), (3, 1), (8, 2), (40, 10), (300, 64)])
def test_few_images_have_few_components(count: int, kept: int) -> None:
    x = np.random.RandomState(0).randn(count, 100)
    found = whitened.fit_whitening(x)(np.random.RandomState(1).randn(5, 100))
    assert found.shape == (5, kept)
    assert np.abs(found).max() < 1e4


def test_constant_images_whiten_to_finite_numbers() -> None:
    grey, brighter = (np.full((9, 3, 32, 32), shade, np.uint8) for shade in (100, 101))
    whiten = metrics.whitenings(grey)
    assert np.abs(whiten[1](features.extract(grey, "layers"))).max() < 1e-3
    assert 1 < np.abs(whiten[1](features.extract(brighter, "layers"))).max() < 1000


def test_a_whitening_is_by_evenly_spaced_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 8 in class order, 4 are looked at: two of each class."""
    monkeypatch.setattr(whitened, "FITTED_IMAGES", 4)
    images = np.repeat(np.array([50, 200], np.uint8), 4)[:, None, None, None]
    images = np.broadcast_to(images, (8, 3, 32, 32))
    [whiten] = whitened.fit_whitenings(images, (1,), features.Reference(), "cpu").values()
    dark, bright = features.extract(images, "layers")[[0, 7]]
    assert np.allclose(whiten.mean, (dark + bright) / 2, atol=1e-4)


# ---- the layers ---------------------------------------------------------------------------------


def test_layers_are_means_and_deviations_of_the_layers_of_random_features() -> None:
    """At 96 px, where both see the image as it is, the last 256 + 256 are those of "random"."""
    faces = avatars.render(0, 6, 96)
    found, known = (features.extract(faces, name) for name in ("layers", "random"))
    assert found.shape == (6, 2 * (32 + 64 + 128 + 256))
    cosine = (found[:, -512:] * known).sum(1) / np.linalg.norm(found[:, -512:], axis=1)
    assert np.allclose(cosine / np.linalg.norm(known, axis=1), 1, atol=1e-3)


def test_a_layer_has_a_mean_and_a_deviation_by_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer of one channel, 2 by 2: 1, 3, 3, 5 has mean 3 and variance 8 / (4 - 1)."""
    layer = torch.tensor([[[[1.0, 3.0], [3.0, 5.0]]]])
    monkeypatch.setattr(features, "_untrained_layers", lambda device: lambda x: [layer])
    found = features.FEATURES["layers"](32, "cpu")(torch.zeros(1, 3, 32, 32))
    assert found[0].tolist() == pytest.approx([3, math.sqrt(8 / 3)])


def test_tiny_images_have_layers_too() -> None:
    tiny = np.random.RandomState(0).randint(0, 256, (3, 1, 8, 8)).astype(np.uint8)
    assert np.isfinite(features.extract(tiny, "layers", scale=2)).all()


# ---- the sum ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sets(cheap_lite0: None) -> dict[str, Pixels]:
    """Avatars of 48 px: to train on, held out, and as new ones of four kinds."""
    faces = avatars.render(0, 480, 48)
    fresh = faces[360:]
    red, _, blue = fresh.mean((2, 3)).T
    grey = fresh.mean(1, keepdims=True).repeat(3, 1)
    y, x = np.mgrid[:48, :48]
    chequered = grey + 24 * ((x + y) % 2 * 2 - 1)
    return {
        "train": faces[:240],
        "held out": faces[240:360],
        "fresh": fresh,
        "few colours": fresh[red - blue > np.quantile(red - blue, 0.6)],
        "chequered, colourless": chequered.clip(0, 255).astype(np.uint8),
    }


def rate(sets: dict[str, Pixels], name: str) -> dict[str, float]:
    whiten = metrics.whitenings(sets["train"])
    found = metrics.quality(sets[name], sets["held out"], whiten)
    return {score: row["value"] for score, row in found.items()}


def test_the_score_is_the_sum_that_the_documents_name(sets: dict[str, Pixels]) -> None:
    found = metrics.quality(
        sets["fresh"][:40], sets["held out"][:40], metrics.whitenings(sets["train"])
    )
    assert next(iter(found)) == "score"
    energies = [found[f"energy (layers){size}"] for size in ("", " half size")]
    for part in ("value", "error"):
        kid = found["score (lite0)"][part]
        assert found["score"][part] == pytest.approx(kid + 20 * sum(e[part] for e in energies) / 2)
    root = Path(__file__).parent.parent
    pages = {"README.md": "20 ×", "README.zh-CN.md": "20 ×", "docs/scores.md": "20 ×"}
    for page, words in pages.items():
        assert words in (root / page).read_text(encoding="utf-8"), page


def test_the_score_sees_missing_colours_and_chequered_grey(sets: dict[str, Pixels]) -> None:
    fresh = rate(sets, "fresh")
    assert abs(fresh["score"]) < 0.1
    for name in ("few colours", "chequered, colourless"):
        assert rate(sets, name)["score"] > 0.5, name


def test_the_score_is_told_by_the_untrained_network_alone(
    sets: dict[str, Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where lite0 sees the same in all pictures, missing colours and a chequerboard still cost."""
    monkeypatch.setattr(metrics, "kid", lambda fake, real: mmd.Estimate(0.0, 0.0))
    fresh = rate(sets, "fresh")
    assert fresh["score (lite0)"] == 0
    assert abs(fresh["score"]) < 0.1
    for name in ("few colours", "chequered, colourless"):
        found = rate(sets, name)
        assert found["score (lite0)"] == 0
        assert found["score"] > 0.2, name


def test_mid_run_and_evaluate_agree(sets: dict[str, Pixels]) -> None:
    fake, train, held_out = (sets[name] for name in ("fresh", "train", "held out"))
    whole = metrics.evaluate(fake[:50], train, held_out[:30])["scores"]
    quick = metrics.quality(fake[:50], held_out[:30], metrics.whitenings(train))
    assert next(iter(whole)) == next(iter(quick)) == "score"
    for name, row in quick.items():
        assert whole[name]["value"] == pytest.approx(row["value"], rel=1e-9), name
    assert abs(whole["score"]["floor"]) < 0.1  # of training images


def test_two_folders_have_a_score(sets: dict[str, Pixels]) -> None:
    found = metrics.compare(sets["fresh"][:20], sets["held out"][:20])["scores"]
    assert "score" in found
    other = metrics.compare(sets["fresh"][:20], sets["held out"][:20], "random")["scores"]
    assert "score" not in other
    assert "energy (layers)" in other
