"""Statistics by hand, memorisation, and that each score gets worse when images do."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from prdc import compute_prdc

from gan import avatars, features, metrics, swd
from gan.errors import Refused

Pixels = NDArray[np.uint8]


def column(*values: float) -> NDArray[np.float32]:
    """Features of one dimension: [N, 1]."""
    return np.array(values, dtype=np.float32)[:, None]


def noise(images: Pixels, deviation: float) -> Pixels:
    added = np.random.RandomState(1).randn(*images.shape) * deviation
    return (images + added).round().clip(0, 255).astype(np.uint8)


def blur(images: Pixels, deviation: float) -> Pixels:
    offsets = torch.arange(-8.0, 9.0)
    window = torch.softmax(-offsets.square() / (2 * deviation**2), 0).expand(3, 1, 1, 17)
    x = F.pad(torch.from_numpy(images).float(), (8, 8, 8, 8), mode="reflect")
    x = F.conv2d(F.conv2d(x, window, groups=3), window.transpose(2, 3), groups=3)
    return x.round().to(torch.uint8).numpy()


def stripes(images: Pixels, strength: int) -> Pixels:
    """Brighten every third row and column: the pattern of a stride-3 transposed convolution."""
    x = images.astype(np.int16)
    x[:, :, ::3] += strength
    x[:, :, :, ::3] += strength
    return x.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def faces() -> Pixels:
    """320 rendered avatars, uint8 [320, 3, 48, 48]."""
    return avatars.render(0, 320, 48)


def random_images(count: int, side: int = 16, channels: int = 3, seed: int = 0) -> Pixels:
    shape = (count, channels, side, side)
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


# ---- statistics --------------------------------------------------------------------------------


def test_kid_by_hand() -> None:
    """k(0, 0) = 1, k(1, 1) = 2^3, k(0, 1) = 1: MMD^2 = 1 + 8 - 2."""
    assert metrics.kid(column(0, 0, 0), column(1, 1, 1)) == (7, 0)


def test_kid_is_unbiased() -> None:
    """The mean of 200 scores of equal distributions is 0 within three standard errors, and the
    estimated errors are close to the scores' standard deviation."""
    random = np.random.RandomState(0)
    found = [metrics.kid(random.randn(30, 4), random.randn(50, 4)) for _ in range(200)]
    values, errors = np.array(found).T
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(200)
    assert 0.7 < np.sqrt((errors**2).mean()) / values.std() < 1.5


def test_kid_agrees_with_torch_fidelity_on_one_subset_of_all() -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = (np.random.RandomState(seed).randn(40, 7) + seed for seed in (0, 1))
    theirs = kid_features_to_metric(
        torch.from_numpy(x), torch.from_numpy(y), kid_subset_size=40, kid_subsets=1, verbose=False
    )["kernel_inception_distance_mean"]
    assert metrics.kid(x, y)[0] == pytest.approx(theirs)


def test_kid_error_is_the_jackknife() -> None:
    x, y = np.random.RandomState(0).randn(6, 3), np.random.RandomState(1).randn(5, 3) + 1
    without_x = [metrics.kid(np.delete(x, i, 0), y)[0] for i in range(6)]
    without_y = [metrics.kid(x, np.delete(y, i, 0))[0] for i in range(5)]
    variance = 5 * np.var(without_x) + 4 * np.var(without_y)
    assert metrics.kid(x, y)[1] == pytest.approx(math.sqrt(variance))


def test_kid_refuses_two_images() -> None:
    three, two = column(0, 1, 2), column(0, 1)
    assert metrics.kid(three, three).error >= 0
    for fake, real in ((two, three), (three, two)):
        with pytest.raises(Refused, match="scores need 3"):
            metrics.kid(fake, real)


def test_fid_by_hand() -> None:
    """Means 1 and 5, variances 2 and 8: 4^2 + (sqrt 8 - sqrt 2)^2 = 16 + 2."""
    assert metrics.fid(column(0, 2), column(3, 7)) == pytest.approx(18)


@pytest.mark.parametrize(("m", "n"), [(40, 30), (5, 9)])
def test_fid_agrees_with_torch_fidelity(m: int, n: int) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    x, y = np.random.RandomState(0).randn(m, 7), 2 * np.random.RandomState(1).randn(n, 7) + 1
    one, two = (fid_features_to_statistics(torch.from_numpy(z)) for z in (x, y))
    theirs = fid_statistics_to_metric(one, two, False)["frechet_inception_distance"]
    assert metrics.fid(x, y) == pytest.approx(theirs, rel=1e-5)


def test_neighbourhoods_by_hand() -> None:
    """k = 1: the balls around 0, 1, 2, 10 have radius 1, 1, 1, 8; those around the fakes
    0.5, 0.75, 1.5, 100 have 0.25, 0.25, 0.75, 98.5."""
    fake, real = column(0.5, 0.75, 1.5, 100), column(0, 1, 2, 10)
    density, coverage = metrics.density_coverage(fake, real, k=1)
    assert (density, coverage) == (6 / 4, 3 / 4)
    assert metrics.precision_recall(fake, real, k=1) == (3 / 4, 3 / 4)


def test_coverage_does_not_grow_with_the_number_of_fakes() -> None:
    real, fake = np.random.RandomState(0).randn(40, 3), np.random.RandomState(1).randn(400, 3) + 1
    few = np.mean([metrics.density_coverage(fake[i : i + 40], real)[1] for i in range(0, 400, 40)])
    assert 0.5 < few < 0.8
    assert metrics.density_coverage(fake, real)[1] == pytest.approx(few, abs=0.05)


def test_coverage_of_equal_distributions_is_as_published() -> None:
    random = np.random.RandomState(0)
    found = [
        metrics.density_coverage(random.randn(100, 8), random.randn(100, 8)) for _ in range(20)
    ]
    density, coverage = np.mean(found, axis=0)
    assert density == pytest.approx(1, abs=0.1)
    assert coverage == pytest.approx(1 - 2**-5, abs=0.02)


CLASS_MEANS = np.random.RandomState(9).randn(4, 8) * 8


def in_class_order(count: int, seed: int) -> NDArray[np.float64]:
    """Features of `count` images of four classes, one class after the other: [count, 8]."""
    classes = np.arange(count) * 4 // count
    return CLASS_MEANS[classes] + np.random.RandomState(seed).randn(count, 8)


def by_prdc(fake: NDArray[np.float64], real: NDArray[np.float64]) -> list[float]:
    """Precision, recall, density and coverage by the package of Naeem et al. 2020."""
    found = compute_prdc(real_features=real, fake_features=fake, nearest_k=metrics.NEIGHBOURS)
    return [float(found[name]) for name in ("precision", "recall", "density", "coverage")]


def neighbour_scores(fake: features.Features, real: features.Features) -> list[float]:
    return [*metrics.precision_recall(fake, real), *metrics.density_coverage(fake, real)]


def test_neighbours_agree_with_prdc() -> None:
    fake, real = np.random.RandomState(0).randn(90, 3) + 0.7, np.random.RandomState(1).randn(90, 3)
    assert neighbour_scores(fake, real) == pytest.approx(by_prdc(fake, real), abs=1e-9)


@pytest.mark.parametrize("counts", [(800, 100), (100, 800), (400, 370), (256, 1000)])
def test_neighbours_of_images_in_class_order_agree_with_prdc(counts: tuple[int, int]) -> None:
    """Of sets of unequal number, prdc is given random parts of equal number."""
    fake, real = in_class_order(counts[0], 0), in_class_order(counts[1], 1)
    random, size = np.random.RandomState(5), min(counts)
    theirs = [
        by_prdc(
            fake[random.permutation(counts[0])[:size]], real[random.permutation(counts[1])[:size]]
        )
        for _ in range(8)
    ]
    assert neighbour_scores(fake, real) == pytest.approx(np.mean(theirs, 0), abs=0.05)


def test_the_parts_hold_every_image_and_no_image_twice() -> None:
    fake, real = column(*range(30)), column(*range(100, 172))
    parts = list(metrics._equal_parts(fake, real))
    assert [(a.shape, b.shape) for a, b in parts] == [((30, 1), (30, 1))] * 3
    assert all(len(np.unique(x)) == 30 for part in parts for x in part)
    assert set(np.concatenate([b for _, b in parts]).ravel()) == set(range(100, 172))


def test_the_parts_have_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "LARGEST_PART", 20)
    parts = list(metrics._equal_parts(column(*range(30)), column(*range(50))))
    assert [(len(a), len(b)) for a, b in parts] == [(20, 20)] * 3
    for side, count in ((0, 30), (1, 50)):
        assert set(np.concatenate([part[side] for part in parts]).ravel()) == set(range(count))
    fakes, reals = next(metrics._equal_parts(column(*range(50)), column(*range(50))))
    assert set(fakes.ravel()) != set(reals.ravel())  # a copy is not always beside its original


def test_a_ball_of_radius_0_holds_equal_points() -> None:
    """Reals of two values, six of each: radii 0 with k = 5. Half of the fakes equal the first, as
    nearly as float32 does; the others lie beside both. So 6 of 12 fakes are in 6 balls each, of the
    fakes' balls (radius 0 of the first six, else about 1) none holds the second value."""
    base = np.random.RandomState(0).randn(2, 1280).astype(np.float32)
    real = np.repeat(base, 6, axis=0)
    near = base[0] * (1 + 1e-7 * np.random.RandomState(1).randn(6, 1280)).astype(np.float32)
    fake = np.concatenate([near, base[:1] + 40 + np.random.RandomState(2).randn(6, 1280) * 0.01])
    found = neighbour_scores(fake, real)
    assert found == pytest.approx([0.5, 0.5, 6 * 6 / (5 * 12), 0.5])


def test_constant_features_are_covered_by_equal_ones_only() -> None:
    one = np.random.RandomState(0).randn(1, 1280).repeat(40, 0)
    assert neighbour_scores(one, one) == pytest.approx([1, 1, 40 / 5, 1])
    assert neighbour_scores(one + 1e-2, one) == [0, 0, 0, 0]


def test_swd_of_few_images_is_a_mean_over_all_of_the_larger_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten reals of 128 and 40 fakes in parts of ten: every fake is in one part, which is compared
    with all reals, and the draws (512 / 10) go on with other patches and directions."""
    seen: list[tuple[float, int]] = []

    def distance(fake: torch.Tensor, real: torch.Tensor, patches: int, draw: int) -> float:
        assert len(fake) == len(real) == 10
        assert fake[:, 0, 0, 0].unique().numel() == 10
        seen.append((float(fake.mean()), draw))
        return float(fake.mean())

    fake = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1).repeat(16, 2).repeat(16, 3)
    monkeypatch.setattr(swd, "_sliced_distance", distance)
    found = swd.swd(fake, random_images(10, channels=1))
    assert [draw for _, draw in seen] == list(range(51))
    assert [mean for mean, _ in seen[:4]] == pytest.approx([18, 19, 20, 21])
    assert found["16"] == pytest.approx(1e3 * np.mean([mean for mean, _ in seen]))


def test_swd_of_few_images_hardly_depends_on_the_fakes_drawn(faces: Pixels) -> None:
    """The same ten reals, four other sets of 70 fakes: one draw each varies by a fifth and more."""
    small = np.concatenate([faces[:10], faces[40:]])
    sets = [small[10 + 70 * i : 80 + 70 * i] for i in range(4)]
    many, one = (
        np.array([swd.swd(fakes, small[:10], limit=limit, patches=16)["24"] for fakes in sets])
        for limit in (512, 10)
    )
    assert many.std() / many.mean() < 0.5 * one.std() / one.mean()


def test_swd_of_many_images_is_one_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[int] = []

    def distance(fake: torch.Tensor, real: torch.Tensor, patches: int, draw: int) -> float:
        draws.append(draw)
        return 0.0

    monkeypatch.setattr(swd, "_sliced_distance", distance)
    swd.swd(random_images(70), random_images(80), limit=100)
    assert draws == [0]


def test_swd_is_the_same_with_sets_of_equal_contrast_swapped() -> None:
    one = random_images(50, seed=1) // 2
    two = one[::-1, :, ::-1].copy() + np.uint8(30)
    there, back = swd.swd(one, two)["16"], swd.swd(two, one)["16"]
    assert there > 100
    assert there == pytest.approx(back, rel=1e-4)


def test_swd_by_hand() -> None:
    """At one level, 10 more in every pixel moves each of the 147 values of a patch by
    10 / deviation. Projected on random unit directions that is sqrt(2 / pi) times as much on
    average."""
    real = random_images(40).clip(0, 245)
    expected = 1e3 * math.sqrt(2 / math.pi) * 10 / real.std()
    (found,) = swd.swd(real + np.uint8(10), real).values()
    assert found == pytest.approx(expected, rel=0.15)
    assert swd.swd(real, real) == {"16": 0}


def test_laplacian_levels_add_up_to_the_image() -> None:
    images = random_images(2, 64)
    levels = swd.laplacian_pyramid(images)
    assert [level.shape[-1] for level in levels] == [64, 32, 16]
    x = levels[-1]
    for level in reversed(levels[:-1]):
        x = level + features.resized(x, (level.shape[-2], level.shape[-1]))
    assert torch.allclose(x, torch.from_numpy(images).float(), atol=1e-3)


# ---- memorisation ------------------------------------------------------------------------------


def test_nearest_finds_the_copy_mirrored_darker_and_noisy(faces: Pixels) -> None:
    query = np.stack([faces[7], faces[300, :, :, ::-1], (faces[9] * 0.8).astype(np.uint8)])
    distance, index, mirrored = metrics.nearest(noise(query, 5), faces)
    assert index.tolist() == [7, 300, 9]
    assert mirrored.tolist() == [False, True, False]
    assert distance.max() < 0.1


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x[..., ::-1].copy(),
        lambda x: noise(x, 10),
        lambda x: blur(x, 1),
        lambda x: (x * 0.8).astype(np.uint8),
        lambda x: (x * 0.5 + 120).astype(np.uint8),
    ],
)
def test_copies_are_caught(change: Callable[[Pixels], Pixels], faces: Pixels) -> None:
    train, held_out, fresh = faces[:200], faces[200:260], faces[260:]
    found = metrics.memorisation(change(train[:60]), train, held_out)
    assert found["ratio"] < 0.3
    assert found["copied"] > 0.9
    honest = metrics.memorisation(change(fresh), train, held_out)
    assert honest["ratio"] > 0.85
    assert honest["copied"] < 0.1


def test_a_fifth_of_copies_shows_as_a_fifth(faces: Pixels) -> None:
    fake = np.concatenate([faces[260:308], faces[20:32]])
    found = metrics.memorisation(fake, faces[:200], faces[200:260], pairs=12)
    assert found["copied"] == pytest.approx(0.2, abs=0.05)
    assert {(pair["fake"], pair["train"]) for pair in found["pairs"]} == {
        (48 + i, 20 + i) for i in range(12)
    }


# ---- scores ------------------------------------------------------------------------------------


def test_evaluate_has_all_scores_with_floors(faces: Pixels) -> None:
    reference = features.Reference()
    found = metrics.evaluate(faces[:50], faces[50:200], faces[200:240], "random", reference)
    assert json.loads(json.dumps(found)) == found
    scores = found["scores"]
    scaled = [f"{key} (random){size}" for size in ("", " half size") for key in ("KID", "coverage")]
    single = [f"{key} (random)" for key in ("score", "FID", "precision", "recall", "density")]
    energies = [f"energy (layers){size}" for size in ("", " half size")]
    assert set(scores) == {*scaled, *single, *energies, "SWD", "SWD 48 px", "SWD 24 px"}
    assert all({"value", "floor"} <= set(row) for row in scores.values())
    kids = [scores[key]["value"] for key in scaled if key.startswith("KID")]
    assert scores["score (random)"]["value"] == pytest.approx(sum(kids) / 2)
    counts = [found[key] for key in ("n_fake", "n_train", "n_held_out", "n_floor")]
    assert counts == [50, 150, 40, 50]
    whiten = metrics.whitenings(faces[50:200], reference)
    part = metrics.quality(faces[:50], faces[200:240], whiten, "random", reference)
    assert list(part) == ["score (random)", *scaled[::2], *scaled[1::2], *energies]
    assert {key: row["value"] for key, row in part.items()} == {
        key: scores[key]["value"] for key in part
    }


def test_the_floor_is_the_score_of_evenly_spaced_training_images(faces: Pixels) -> None:
    found = metrics.evaluate(faces[:50], faces[50:200], faces[200:240], "random")
    sample = faces[50:200][features.spaced(150, 50)]
    again = metrics.evaluate(sample, faces[50:200], faces[200:240], "random")
    for name, entry in found["scores"].items():
        assert entry["floor"] == again["scores"][name]["value"], name


def test_the_second_opinion_has_the_quick_scores_only(
    faces: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(features.FEATURES, "other", features.FEATURES["random"])
    found = metrics.evaluate(faces[:10], faces[10:20], faces[20:30], "other")
    names = [name for name in found["scores"] if "(random)" in name]
    whiten = metrics.whitenings(faces[10:20])
    quick = metrics.quality(faces[:10], faces[20:30], whiten, "random")
    assert names == [name for name in quick if "(random)" in name]
    assert "score (other)" in found["scores"]
    assert "score" not in found["scores"]
    assert "FID (other)" in found["scores"]


def test_a_row_of_a_table_is_a_score_with_a_floor(
    faces: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mean_feature(fake: features.Features, real: features.Features) -> metrics.Scores:
        return {"mean": {"value": float(fake.mean())}}

    def mean_pixel(fake: features.Images, real: features.Images) -> metrics.Scores:
        return {"brightness": {"value": float(fake[:].mean())}}

    row = metrics.FeatureScore(mean_feature, scales=(1, 2))
    monkeypatch.setattr(metrics, "FEATURE_SCORES", (*metrics.FEATURE_SCORES, row))
    monkeypatch.setattr(metrics, "IMAGE_SCORES", (mean_pixel,))
    fake, train = faces[:10], faces[10:20]
    scores = metrics.evaluate(fake, train, faces[20:30], "random")["scores"]
    assert scores["mean (random) half size"]["value"] == pytest.approx(
        float(features.extract(fake, "random", 2).mean())
    )
    assert scores["mean (random)"]["floor"] == pytest.approx(
        float(features.extract(train, "random").mean())
    )
    assert scores["brightness"] == {"value": fake.mean(), "floor": train.mean()}
    assert "SWD" not in scores


def test_evaluate_refuses_too_few_images(faces: Pixels) -> None:
    with pytest.raises(Refused, match="8 images of each kind; there are 50 generated, 40"):
        metrics.evaluate(faces[:50], faces[:40], faces[:7])
    metrics.check(8, 8, 8)
    for counts in ((7, 8, 8), (8, 7, 8), (8, 8, 7)):
        with pytest.raises(Refused, match="evaluate needs 8 images"):
            metrics.check(*counts)


def all_scores(fake: Pixels, real: Pixels, reference: features.Reference) -> dict[str, float]:
    generated = {scale: features.extract(fake, scale=scale) for scale in metrics.SCALES}
    known = {scale: reference.features(real, scale=scale) for scale in metrics.SCALES}
    found = metrics.score_features(generated, known, "lite0", metrics.FEATURE_SCORES)
    values = {key.replace(" (lite0)", ""): row["value"] for key, row in found.items()}
    levels = swd.swd(fake, real)
    return values | {"SWD": sum(levels.values()) / len(levels)}


SHARES = ("coverage", "precision", "recall", "density")
N = 80  # images on either side of the test below


@pytest.fixture(scope="module")
def honest(faces: Pixels) -> tuple[Pixels, features.Reference, dict[str, float]]:
    """Real images, and the scores of other real images: those of a perfect generator."""
    reference = features.Reference()
    return faces[:N], reference, all_scores(faces[N : 2 * N], faces[:N], reference)


def two_backgrounds_of_five(faces: Pixels) -> Pixels:
    corners = faces[:, :, 0, 0].astype(np.int64) @ np.array([65536, 256, 1])
    return faces[np.isin(corners, np.unique(corners)[:2])]


@pytest.mark.parametrize(
    ("worsen", "levels"), [(blur, (0.7, 1.2, 2.5)), (noise, (6, 12, 25)), (stripes, (6, 12, 24))]
)
def test_every_score_worsens_with_the_corruption(
    worsen: Callable[[Pixels, Any], Pixels],
    levels: tuple[float, ...],
    faces: Pixels,
    honest: tuple[Pixels, features.Reference, dict[str, float]],
) -> None:
    real, reference, start = honest
    steps = [all_scores(worsen(faces[N : 2 * N], level), real, reference) for level in levels]
    for name, value in start.items():
        values = [value, *(step[name] for step in steps)]
        if name.startswith(SHARES):  # counts of 80 can be equal at 0 or at 80
            assert values == sorted(values, reverse=True), (name, values)
            assert values[-1] < values[0], (name, values)
        else:
            assert all(np.diff(values) > 0), (name, values)


def test_dropped_modes(
    faces: Pixels, honest: tuple[Pixels, features.Reference, dict[str, float]]
) -> None:
    """Faces on two of the five backgrounds. Each is as good as before, so precision and density,
    which judge each image alone, need not change; all other scores get worse."""
    real, reference, start = honest
    found = all_scores(two_backgrounds_of_five(faces[N:])[:N], real, reference)
    for name, value in found.items():
        if name.startswith(("coverage", "recall")):
            assert value < start[name], name
        elif name not in ("precision", "density"):
            assert value > start[name], name


def test_swd_of_sorted_images_uses_images_of_every_kind() -> None:
    dark, bright = random_images(300) // 4, 255 - random_images(300, seed=1) // 4
    mixed = np.stack([dark, bright], 1).reshape(600, *dark.shape[1:])
    (sorted_one,) = swd.swd(mixed, np.concatenate([dark, bright]), limit=100).values()
    (first_half,) = swd.swd(mixed, dark, limit=100).values()
    assert sorted_one < 0.2 * first_half
