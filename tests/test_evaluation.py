"""Distances of pairs against scikit-image, and two folders compared with each other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import structural_similarity

from gan import evaluation
from gan.errors import Refused

Pixels = NDArray[np.uint8]
Inside = Callable[..., Any]
WORDS = ("--features=random", "--img-size=32", "--gpu=False", "--report=page.html")


def smooth_images(count: int, side: int, seed: int) -> Pixels:
    """Random images whose neighbouring pixels are alike: uint8 [count, 3, side, side]."""
    small = np.random.RandomState(seed).randint(0, 256, (count, 6, 6, 3)).astype(np.uint8)
    large = [
        Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC) for image in small
    ]
    return np.stack([np.asarray(image).transpose(2, 0, 1) for image in large])


@pytest.mark.parametrize("side", [28, 64])
def test_ssim_agrees_with_scikit_image(side: int) -> None:
    """Noise in the border only, and noise everywhere: the border must not count."""
    wanted = smooth_images(3, side, 0)
    noise = np.random.RandomState(1).randint(-40, 41, wanted.shape)
    noise[0, :, 5:-5, 5:-5] = 0
    fakes = (wanted + noise).clip(0, 255).astype(np.uint8)
    theirs = [
        structural_similarity(
            x / 255,
            y / 255,
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for x, y in zip(fakes, wanted, strict=True)
    ]
    found = evaluation.pair_distances(fakes, wanted)["SSIM"]
    assert found == pytest.approx(np.mean(theirs), abs=1e-4)
    assert 0.2 < found < 0.95


# ---- two folders --------------------------------------------------------------------------------


@pytest.fixture
def two_folders(tmp_path: Path) -> tuple[str, str]:
    """Folder a with 40 pictures, and b with 60 others, of the same contrast."""
    for name, count, seed in (("a", 40, 2), ("b", 60, 3)):
        (tmp_path / name).mkdir()
        for i, image in enumerate(smooth_images(count, 32, seed)):
            Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / name / f"{i:03}.png")
    return "a", "b"


def compared(inside: Inside, fakes: str, reals: str, *words: str) -> dict[str, Any]:
    inside("evaluate", f"--fake-path={fakes}", f"--data-path={reals}", *WORDS, *words)
    found: dict[str, Any] = json.loads(Path("page.json").read_text())
    return found


def test_all_of_both_folders_is_compared_and_said(
    two_folders: tuple[str, str], inside: Inside, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compared(inside, *two_folders)
    assert (found["n_fake"], found["n_real"]) == (40, 60)
    assert "memorisation" not in found
    assert not any("floor" in entry for entry in found["scores"].values())
    out = capsys.readouterr().out
    assert "evaluate: a, all 40 images, against all 60 of b\n" in out
    assert "floor" not in out
    assert "40 / 60" in out
    page = Path("page.html").read_text()
    assert "Used: all 40 images, against all 60 of b." in page
    assert page.count("data:image/png;base64,") == 1


def test_scores_of_swapped_folders_are_equal(two_folders: tuple[str, str], inside: Inside) -> None:
    a, b = two_folders
    there, back = compared(inside, a, b)["scores"], compared(inside, b, a)["scores"]
    symmetric = [name for name in there if name.startswith(("score", "KID", "FID"))]
    assert len(symmetric) == 4
    for name in symmetric:
        assert there[name] == pytest.approx(back[name], rel=1e-6, abs=1e-9), name
    for name in [name for name in there if name.startswith("SWD")]:
        # its unit is the deviation of the images of --data-path
        assert there[name]["value"] == pytest.approx(back[name]["value"], rel=0.1), name
    assert there["precision (random)"]["value"] == pytest.approx(
        back["recall (random)"]["value"], abs=0.1
    )


def test_a_held_out_share_of_the_second_folder_has_floors_and_memorisation(
    two_folders: tuple[str, str], inside: Inside, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = two_folders
    found = compared(inside, a, b, "--held-out=0.5")
    assert (found["n_fake"], found["n_train"], found["n_held_out"]) == (40, 30, 30)
    assert found["memorisation"]["ratio"] > 0.5
    assert all("floor" in entry for entry in found["scores"].values())
    assert (
        "evaluate: a, all 40 images, against the 30 held out of b; copies are looked for among its "
        "other 30\n"
    ) in capsys.readouterr().out


def test_too_few_pictures_on_a_side_are_refused(
    two_folders: tuple[str, str], inside: Inside
) -> None:
    a, b = two_folders
    for path in sorted(Path(a).iterdir())[7:]:
        path.unlink()
    with pytest.raises(Refused, match="8 images on each side; there are 7 and 60"):
        compared(inside, a, b)
