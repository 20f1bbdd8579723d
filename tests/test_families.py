"""Every row of FAMILIES trains, resumes and draws."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps

import config as knobs
from config import Config
from gan import checkpoint, loop, pairs, sample
from gan.data import Images
from gan.feed import FEEDS
from gan.losses import Batch
from gan.state import State
from models import FAMILIES, ONLY_SOME, restore

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pairs_of(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same faces as every kind of data a family may want: grey ones as A, coloured as B."""
    root = tmp_path_factory.mktemp("pairs")
    for place, file in enumerate(sorted(faces.iterdir())[:80]):
        face = Image.open(file).convert("RGB")
        for part, picture in (("A", ImageOps.grayscale(face).convert("RGB")), ("B", face)):
            folder = root / "two" / f"{'test' if place < 12 else 'train'}{part}"
            folder.mkdir(parents=True, exist_ok=True)
            picture.save(folder / f"{place:03}.png")
    cache = root / "cache"
    two = str(root / "two")
    return {
        "pairs": pairs.open_sides("pairs", two, 28, 3, 3, cache, workers=1),
        "two folders": pairs.open_sides("two folders", two, 28, 3, 3, cache, workers=1),
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_it_trains_ten_steps_resumes_and_draws(
    name: str,
    tiny: Callable[..., Config],
    images: Images,
    pairs_of: dict[str, Any],
    tmp_path: Path,
) -> None:
    family = FAMILIES[name]
    assert set(family.defaults) <= set(knobs.FIELDS)
    assert set(family.uses) <= set(ONLY_SOME) <= set(knobs.FIELDS)
    given = {k: v for k, v in family.defaults.items() if k not in ("img_size", "channels")}
    small = {"ngf": 4, "ndf": 4, "nz": 8, "batch_size": 20 if family.data == "images" else 4}
    still = {"warm_up": 0, "lr_end": 1.0}  # or the rates would depend on the budget
    config = tiny(**{**given, **small, **still}, family=name, max_epoch=0)
    data = {"images": images, **pairs_of}[family.data]

    def train(folder: str, steps: int, saved: Any = None) -> Path:
        config.max_images = steps * config.batch_size
        folders = loop.Folders(*(tmp_path / folder / kind for kind in "cir"))
        return loop.fit(family, config, data, folders, CPU, saved=saved).state

    part = checkpoint.load(train("parts", 6))
    last = train("parts", 10, part)
    whole, found = checkpoint.load(train("whole", 10)), checkpoint.load(last)
    assert (part["step"], found["step"], whole["step"]) == (6, 10, 10)
    before = State(family, config, CPU).nets
    for player in ("G", "D"):
        new, started = found["nets"][player], getattr(before, player).state_dict()
        # not the biases: that of a critic's last layer is in its reals' scores and its fakes' alike
        kernels = [key for key, w in getattr(before, player).named_parameters() if w.dim() > 1]
        assert not any(torch.equal(new[key], started[key]) for key in kernels)
        for key, value in whole["nets"][player].items():
            assert torch.equal(new[key], value), key
    nets, stored = restore(last)
    assert stored == config
    z = FEEDS[family.data](config, data, CPU).inputs(0, 5)
    drawn, at_first = (sample.draw_uint8(net.G, z, 2, CPU) for net in (nets, before))
    assert drawn.shape == (5, 3, 28, 28)
    assert not torch.equal(drawn, at_first)
    assert all(not torch.equal(drawn[0], other) for other in drawn[1:])


@pytest.mark.parametrize("name", ["pix2pix", "cyclegan"])
@pytest.mark.parametrize("batch", [1, 4])
def test_8_steps_of_pictures_are_3_and_5(
    name: str, batch: int, tiny: Callable[..., Config], pairs_of: dict[str, Any], tmp_path: Path
) -> None:
    """The pool, dropout, crops and batch norm included."""
    family = FAMILIES[name]
    data = pairs_of[family.data]

    def run(folder: Path, *budgets: int) -> dict[str, Any]:
        saved = None
        for steps in budgets:
            small = {"ngf": 4, "ndf": 4, "batch_size": batch, "pool": 5, "augment": 0.3}
            config = tiny(**{**family.defaults, **small, "img_size": 28}, family=name, max_epoch=0)
            config.max_images, config.lr_end = steps * batch, 1.0
            folders = loop.Folders(folder / "c", folder / "i", folder / "r")
            done = loop.fit(family, config, data, folders, CPU, saved=saved)
            saved = checkpoint.load(done.state)
        assert saved is not None
        return saved["nets"]

    whole, parts = run(tmp_path / "whole", 8), run(tmp_path / "parts", 3, 8)
    for player in ("G", "D"):
        for key, value in whole[player].items():
            assert torch.equal(value, parts[player][key]), key
    if name == "cyclegan":
        assert int(whole["D"]["pool_there.filled"]) == 5


def test_a_cycle_between_grey_and_colour(tiny: Callable[..., Config]) -> None:
    """Where B cannot be taken for A there is no loss of identity."""
    family = FAMILIES["cyclegan"]
    small = {"ngf": 4, "ndf": 4, "img_size": 28, "batch_size": 2}
    config = tiny(**{**family.defaults, **small}, family="cyclegan", channels_a=1)
    nets = family.build(config)
    batch = Batch(torch.rand(2, 3, 28, 28), torch.rand(2, 1, 28, 28))
    loss, logs = family.g_loss(nets, batch, config)
    assert torch.isfinite(loss)
    assert "identity" not in logs
