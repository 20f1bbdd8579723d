"""Every row of FAMILIES trains, resumes and draws."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import config as knobs
from config import Config
from gan import checkpoint, loop, sample
from gan.data import Images
from models import FAMILIES, restore

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", FAMILIES)
def test_it_trains_ten_steps_resumes_and_draws(
    name: str, tiny: Callable[..., Config], images: Images, tmp_path: Path
) -> None:
    family = FAMILIES[name]
    assert set(family.defaults) <= set(knobs.FIELDS)
    knobs_of_source = {
        k: v for k, v in family.defaults.items() if k not in ("img_size", "channels")
    }
    small = {"ngf": 4, "ndf": 4, "nz": 8, "batch_size": 20}
    config = tiny(**{**knobs_of_source, **small}, family=name, max_epoch=0, max_images=120)
    folders = loop.Folders(tmp_path / "c", tmp_path / "i", tmp_path / "r")
    before = family.build(config).G.state_dict()
    done = loop.fit(family, config, images, folders, CPU)
    config.max_images = 200
    done = loop.fit(family, config, images, folders, CPU, saved=checkpoint.load(done.state))
    nets, stored = restore(done.state)
    assert stored == config
    after = nets.G.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    drawn = sample.draw_uint8(nets.G, sample.Source.of(config)(0, 5), 2, CPU)
    assert drawn.shape == (5, 3, 28, 28)
    assert drawn.float().std() > 0
