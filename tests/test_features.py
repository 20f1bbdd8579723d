"""Features: the networks, their inputs, and the file that caches features."""

import math
import warnings
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from gan import avatars, features, metrics
from gan.errors import Refused

Pixels = NDArray[np.uint8]
RANDOM_FEATURES = [0.6039, 1.1616, 0.8334, 1.3583]
CLOCK = 409  # "analog clock" among the 1,000 classes of ImageNet


def random_images(count: int, side: int = 16, channels: int = 3, seed: int = 0) -> Pixels:
    shape = (count, channels, side, side)
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("side", [224, 160])
def test_lite0_recognises_a_clock(side: int) -> None:
    """Weights, input range and TensorFlow's padding are right."""
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
        shown = features.resized(next(features.batches(pixels, 1)), (side, side))
        chances = features.build_lite0(side)((shown - 127) / 128).softmax(1)[0]
    assert int(chances.argmax()) == CLOCK
    assert chances[CLOCK] > 0.5


def test_lite0_with_folded_batch_norm_is_the_same_function(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        folded = features.build_lite0(96)(x)
        monkeypatch.setattr(features, "_fold_batch_norm", lambda net: None)
        plain = features.build_lite0(96)(x)
    assert torch.allclose(folded, plain, atol=1e-2)


@pytest.mark.parametrize("side", [96, 128, 224])
def test_lite0_with_folded_padding_is_the_same_function(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow pads by more at the end than at the start where it halves the size."""
    x = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        folded = features.build_lite0(side)
        assert not [part for part in folded.modules() if isinstance(part, torch.nn.ZeroPad2d)]
        monkeypatch.setattr(features, "_fold_padding", lambda net: None)
        plain = features.build_lite0(side)
        assert [part for part in plain.modules() if isinstance(part, torch.nn.ZeroPad2d)]
        assert torch.allclose(folded(x), plain(x), atol=1e-4)


@pytest.mark.parametrize("name", ["lite0", "random"])
def test_features_of_an_image_do_not_depend_on_its_batch(name: str) -> None:
    faces = avatars.render(0, 20, 48)
    many = features.extract(faces, name)
    assert many.dtype == np.float32
    assert many.shape == (20, {"lite0": 1280, "random": 512}[name])
    assert np.allclose(features.extract(faces[3:5], name), many[3:5], atol=1e-3)
    assert np.allclose((many**2).mean(1), 1, atol=1e-4)


def test_random_features_are_the_same_everywhere() -> None:
    """Numbers recorded in another process."""
    x = np.arange(3 * 32 * 32, dtype=np.int64).reshape(1, 3, 32, 32) % 251
    found = features.extract(x.astype(np.uint8), "random")[0, [0, 100, 300, 511]]
    assert found == pytest.approx(RANDOM_FEATURES, abs=1e-3)


def test_one_channel_becomes_three() -> None:
    grey = random_images(3, channels=1)
    colour = np.repeat(grey, 3, axis=1)
    assert np.array_equal(features.extract(grey, "random"), features.extract(colour, "random"))


def test_half_size_is_the_mean_of_four_pixels_within_a_gradient() -> None:
    ramp = np.broadcast_to(np.arange(16, dtype=np.uint8) * 10, (1, 3, 16, 16))
    (half,) = features.batches(ramp, 1, scale=2)
    assert half.shape == (1, 3, 8, 8)
    assert half[0, 0, 0, 2:6].tolist() == pytest.approx([45, 65, 85, 105], abs=1e-4)


@pytest.mark.parametrize(
    ("side", "expected"), [(28, 96), (96, 96), (100, 128), (144, 160), (256, 224)]
)
def test_input_side_is_close_to_the_images(side: int, expected: int) -> None:
    assert features.input_side(side) == expected


def test_global_generators_are_not_used() -> None:
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
    def offline(*args: object, **kwargs: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr("torch_fidelity.FeatureExtractorInceptionV3", offline)
    with pytest.raises(Refused, match=r"inception.*no route.*lite0") as refusal:
        features.extract(random_images(3), "inception")
    assert "\n" not in str(refusal.value)


def test_inception_gets_unchanged_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It resizes by itself, which the numbers in papers depend on."""

    class Recorder(torch.nn.Module):
        def __init__(self, *args: object, **kwargs: object) -> None:
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

    def never(*args: object) -> None:
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


def test_a_memory_map_is_read_in_place(tmp_path: Path) -> None:
    images = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (9, 3, 32, 32))
    images[:] = random_images(9, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        part = features.Subset(np.load(tmp_path / "x.npy", mmap_mode="r"), np.array([8, 1, 4, 5]))
        found = features.extract(part, "random")
    assert np.allclose(found, features.extract(images, "random")[[8, 1, 4, 5]], atol=1e-4)


def test_a_damaged_cache_of_features_is_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    for content in (b"", b"PK", b"no archive"):
        path.write_bytes(content)
        assert features.Reference(path).kept == {}
