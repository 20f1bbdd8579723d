"""Scores a person can check by hand, and the test that holds every metric to account."""

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from gan import avatars, features, metrics
from gan.errors import Refused

Pixels = NDArray[np.uint8]
RANDOM_FEATURES = [0.6039, 1.1616, 0.8334, 1.3583]
CLOCK = 409  # "analog clock" among the thousand classes of ImageNet


def column(*values: float) -> NDArray[np.float32]:
    """Features of one dimension: [N, 1]."""
    return np.array(values, dtype=np.float32)[:, None]


def noise(images: Pixels, deviation: float) -> Pixels:
    drawn = np.random.RandomState(1).randn(*images.shape) * deviation
    return (images + drawn).round().clip(0, 255).astype(np.uint8)


def blur(images: Pixels, deviation: float) -> Pixels:
    places = torch.arange(-8.0, 9.0)
    window = torch.softmax(-places.square() / (2 * deviation**2), 0).expand(3, 1, 1, 17)
    x = F.pad(torch.from_numpy(images).float(), (8, 8, 8, 8), mode="reflect")
    x = F.conv2d(F.conv2d(x, window, groups=3), window.transpose(2, 3), groups=3)
    return x.round().to(torch.uint8).numpy()


def grid(images: Pixels, strength: int) -> Pixels:
    """Every third row and column brighter: the pattern of a stride-3 transposed convolution."""
    x = images.astype(np.int16)
    x[:, :, ::3] += strength
    x[:, :, :, ::3] += strength
    return x.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def faces() -> Pixels:
    """320 drawn faces, uint8 [320, 3, 48, 48]."""
    return avatars.draw(0, 320, 48)


def random_images(count: int, side: int = 16, channels: int = 3, seed: int = 0) -> Pixels:
    shape = (count, channels, side, side)
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


# ---- features ----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [224, 160])
def test_lite0_knows_what_it_sees(side: int) -> None:
    """Weights, input range and TensorFlow's padding are right: a drawn clock is an analog clock."""
    picture = Image.new("RGB", (224, 224), "white")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((12, 12, 212, 212), fill="#fafafa", outline="black", width=8)
    for hour in range(12):
        x, y = math.sin(hour * math.pi / 6), -math.cos(hour * math.pi / 6)
        draw.line((112 + 78 * x, 112 + 78 * y, 112 + 92 * x, 112 + 92 * y), "black", 6)
    draw.line((112, 112, 112, 40), fill="black", width=5)
    draw.line((112, 112, 160, 140), fill="black", width=7)
    pixels = np.asarray(picture).transpose(2, 0, 1)[None]
    with torch.inference_mode():
        seen = features.resized(next(features.batches(pixels, 1)), (side, side))
        chances = features.lite0_net(side)((seen - 127) / 128).softmax(1)[0]
    assert int(chances.argmax()) == CLOCK
    assert chances[CLOCK] > 0.5


def test_lite0_with_folded_batch_norm_is_the_same_function(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        folded = features.lite0_net(96)(x)
        monkeypatch.setattr(features, "_fold_batch_norm", lambda net: None)
        plain = features.lite0_net(96)(x)
    assert torch.allclose(folded, plain, atol=1e-2)


@pytest.mark.parametrize("name", ["lite0", "random"])
def test_features_do_not_depend_on_their_company(name: str, faces: Pixels) -> None:
    many = features.extract(faces[:20], name)
    assert many.dtype == np.float32
    assert many.shape == (20, {"lite0": 1280, "random": 512}[name])
    assert np.allclose(features.extract(faces[3:5], name), many[3:5], atol=1e-3)
    assert np.allclose((many**2).mean(1), 1, atol=1e-4)


def test_random_features_are_the_same_everywhere() -> None:
    """Four numbers written down on another day, in another process."""
    x = np.arange(3 * 32 * 32, dtype=np.int64).reshape(1, 3, 32, 32) % 251
    found = features.extract(x.astype(np.uint8), "random")[0, [0, 100, 300, 511]]
    assert found == pytest.approx(RANDOM_FEATURES, abs=1e-3)


def test_grey_is_repeated() -> None:
    grey = random_images(3, channels=1)
    colour = np.repeat(grey, 3, axis=1)
    assert np.array_equal(features.extract(grey, "random"), features.extract(colour, "random"))


def test_half_size_is_the_mean_of_four_pixels_within_a_gradient() -> None:
    ramp = np.broadcast_to(np.arange(16, dtype=np.uint8) * 10, (1, 3, 16, 16))
    (half,) = features.batches(ramp, 1, scale=2)
    assert half.shape == (1, 3, 8, 8)
    assert half[0, 0, 0, 2:6].tolist() == pytest.approx([45, 65, 85, 105], abs=1e-4)


@pytest.mark.parametrize(("side", "seen"), [(28, 96), (96, 96), (100, 128), (144, 160), (256, 224)])
def test_networks_see_about_the_pictures_own_size(side: int, seen: int) -> None:
    assert features.input_side(side) == seen


def test_no_global_generator_is_touched() -> None:
    features.extractor.cache_clear()
    images = random_images(8, 32)
    before = torch.get_rng_state()
    np.random.seed(0)
    features.extract(images, "lite0")
    features.extract(images, "random")
    metrics.swd(images, images)
    assert torch.equal(before, torch.get_rng_state())
    assert np.random.rand() == np.random.RandomState(0).rand()


def test_unknown_features_are_refused() -> None:
    with pytest.raises(Refused, match=r"--features=vgg: choose from lite0, inception, random"):
        features.extract(random_images(3), "vgg")


def test_inception_without_weights_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*words: object, **options: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr("torch_fidelity.FeatureExtractorInceptionV3", offline)
    with pytest.raises(Refused, match=r"inception.*no route.*lite0") as refusal:
        features.extract(random_images(3), "inception")
    assert "\n" not in str(refusal.value)


def test_inception_sees_untouched_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own resizing follows; the numbers of papers depend on it."""

    class Recorder(torch.nn.Module):
        def __init__(self, *words: object, **options: object) -> None:
            super().__init__()

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            return (x.flatten(1).float(),)

    monkeypatch.setattr("torch_fidelity.FeatureExtractorInceptionV3", Recorder)
    features.extractor.cache_clear()
    images = random_images(3)
    assert np.array_equal(features.extract(images, "inception"), images.reshape(3, -1))
    features.extractor.cache_clear()


def test_reference_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, images = tmp_path / "cache" / "reference.npz", random_images(8)
    found = features.Reference(path).features(images, "random")

    def never(*words: object) -> None:
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr(features, "extract", never)
        assert np.array_equal(features.Reference(path).features(images, "random"), found)
        for other, name, scale in ((images, "random", 2), (images[::-1], "random", 1)):
            with pytest.raises(AssertionError, match="again"):
                features.Reference(path).features(other, name, scale)
    path.write_bytes(path.read_bytes()[:100])
    assert np.array_equal(features.Reference(path).features(images, "random"), found)
    assert [file.name for file in path.parent.iterdir()] == ["reference.npz"]


# ---- statistics --------------------------------------------------------------------------------


def test_kid_by_hand() -> None:
    """k(0, 0) = 1, k(1, 1) = 2^3, k(0, 1) = 1: MMD^2 = 1 + 8 - 2."""
    assert metrics.kid(column(0, 0, 0), column(1, 1, 1)) == (7, 0)


def test_kid_is_unbiased() -> None:
    """Equal distributions: the mean of 200 small scores is 0 within three standard errors, and
    the error printed beside each is about their real spread."""
    random = np.random.RandomState(0)
    drawn = [metrics.kid(random.randn(30, 4), random.randn(50, 4)) for _ in range(200)]
    values, errors = np.array(drawn).T
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
    real, fake = np.random.RandomState(0).randn(40, 3), np.random.RandomState(1).randn(400, 3)
    few = np.mean([metrics.density_coverage(fake[i : i + 40], real)[1] for i in range(0, 400, 40)])
    assert metrics.density_coverage(fake, real)[1] == pytest.approx(few)


def test_coverage_of_equal_distributions_is_as_published() -> None:
    random = np.random.RandomState(0)
    drawn = [
        metrics.density_coverage(random.randn(100, 8), random.randn(100, 8)) for _ in range(20)
    ]
    density, coverage = np.mean(drawn, axis=0)
    assert density == pytest.approx(1, abs=0.1)
    assert coverage == pytest.approx(1 - 2**-5, abs=0.02)


def test_swd_by_hand() -> None:
    """One level; brighter by 10 is 10 / deviation along the diagonal of the 147 values of a patch,
    and a unit direction meets that diagonal at |cos| sqrt(147), on average sqrt(2 / pi)."""
    real = random_images(40).clip(0, 245)
    expected = 1e3 * math.sqrt(2 / math.pi) * 10 / real.std()
    (found,) = metrics.swd(real + np.uint8(10), real).values()
    assert found == pytest.approx(expected, rel=0.15)
    assert metrics.swd(real, real) == {"16": 0}


def test_laplacian_levels_add_up_to_the_picture() -> None:
    images = random_images(2, 64)
    levels = metrics.laplacian_pyramid(images)
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


def test_evaluate_names_every_score_and_its_floor(faces: Pixels) -> None:
    reference = features.Reference()
    found = metrics.evaluate(faces[:50], faces[50:200], faces[200:240], "random", reference)
    assert json.loads(json.dumps(found)) == found
    scores = found["scores"]
    scaled = [
        f"{key} (random){size}" for size in ("", ", half size") for key in ("KID", "coverage")
    ]
    single = [f"{key} (random)" for key in ("score", "FID", "precision", "recall", "density")]
    assert set(scores) == {*scaled, *single, "SWD", "SWD 48 px", "SWD 24 px"}
    assert all({"value", "floor"} <= set(row) for row in scores.values())
    kids = [scores[key]["value"] for key in scaled if key.startswith("KID")]
    assert scores["score (random)"]["value"] == pytest.approx(sum(kids) / 2)
    counts = [found[key] for key in ("n_fake", "n_train", "n_held_out", "n_floor")]
    assert counts == [50, 150, 40, 50]
    part = metrics.quality(faces[:50], faces[200:240], "random", reference)
    assert {key: row["value"] for key, row in part.items()} == {
        key: scores[key]["value"] for key in part
    }


def test_evaluate_refuses_too_few_images(faces: Pixels) -> None:
    with pytest.raises(Refused, match="8 images of each kind; there are 50 generated, 40"):
        metrics.evaluate(faces[:50], faces[:40], faces[:7])


def all_scores(fake: Pixels, real: Pixels, reference: features.Reference) -> dict[str, float]:
    drawn = [features.extract(fake, scale=scale) for scale in metrics.SCALES]
    known = [reference.features(real, scale=scale) for scale in metrics.SCALES]
    found = metrics._all_scores(drawn, known, "lite0")
    values = {key.replace(" (lite0)", ""): row["value"] for key, row in found.items()}
    levels = metrics.swd(fake, real)
    return values | {"SWD": sum(levels.values()) / len(levels)}


SHARES = ("coverage", "precision", "recall", "density")
N = 80  # images on either side of the test below


@pytest.fixture(scope="module")
def honest(faces: Pixels) -> tuple[Pixels, features.Reference, dict[str, float]]:
    """Faces scored against other faces: what a perfect generator gets."""
    reference = features.Reference()
    return faces[:N], reference, all_scores(faces[N : 2 * N], faces[:N], reference)


def two_backgrounds_of_five(faces: Pixels) -> Pixels:
    corners = faces[:, :, 0, 0].astype(np.int64) @ np.array([65536, 256, 1])
    return faces[np.isin(corners, np.unique(corners)[:2])]


@pytest.mark.parametrize(
    ("worsen", "levels"), [(blur, (0.7, 1.2, 2.5)), (noise, (6, 12, 25)), (grid, (6, 12, 24))]
)
def test_every_metric_worsens_step_by_step(
    worsen: Callable[[Pixels, Any], Pixels],
    levels: tuple[float, ...],
    faces: Pixels,
    honest: tuple[Pixels, features.Reference, dict[str, float]],
) -> None:
    real, reference, start = honest
    steps = [all_scores(worsen(faces[N : 2 * N], level), real, reference) for level in levels]
    for name, value in start.items():
        values = [value, *(step[name] for step in steps)]
        if name.startswith(SHARES):  # counts among 80 stand still where all or none are left
            assert values == sorted(values, reverse=True), (name, values)
            assert values[-1] < values[0], (name, values)
        else:
            assert all(np.diff(values) > 0), (name, values)


def test_dropped_modes(
    faces: Pixels, honest: tuple[Pixels, features.Reference, dict[str, float]]
) -> None:
    """Faces on two backgrounds of the five. Each is as good as ever, so precision and density,
    which judge pictures one by one, have nothing to say; all the others have."""
    real, reference, start = honest
    found = all_scores(two_backgrounds_of_five(faces[N:])[:N], real, reference)
    for name, value in found.items():
        if name.startswith(("coverage", "recall")):
            assert value < start[name], name
        elif name not in ("precision", "density"):
            assert value > start[name], name


def test_a_memory_map_is_read_in_place(tmp_path: Path) -> None:
    images = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (9, 3, 32, 32))
    images[:] = random_images(9, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        part = features.Subset(np.load(tmp_path / "x.npy", mmap_mode="r"), np.array([8, 1, 4, 5]))
        found = features.extract(part, "random")
    assert np.allclose(found, features.extract(images, "random")[[8, 1, 4, 5]], atol=1e-4)


def test_a_damaged_cache_of_features_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    for content in (b"", b"PK", b"no archive"):
        path.write_bytes(content)
        assert features.Reference(path).kept == {}


def test_swd_looks_at_pictures_of_every_kind_though_files_are_sorted() -> None:
    dark, bright = random_images(300) // 4, 255 - random_images(300, seed=1) // 4
    mixed = np.stack([dark, bright], 1).reshape(600, *dark.shape[1:])
    (sorted_one,) = metrics.swd(mixed, np.concatenate([dark, bright]), limit=100).values()
    (first_half,) = metrics.swd(mixed, dark, limit=100).values()
    assert sorted_one < 0.2 * first_half
