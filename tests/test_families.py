"""Every row of FAMILIES trains, resumes and generates."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image, ImageOps
from states import CPU, facts_of, new_state
from torch import Tensor, nn

from commands import compare_jobs
from config import FIELDS, Config, resolve
from gan import checkpoint, loop, pairs, sample
from gan.data import Images
from gan.errors import Refused
from gan.families import ONLY_SOME, ROWS
from gan.losses import Batch
from gan.state import SavedState
from gan.translation import CycleD, ThereAndBack
from models import FAMILIES, find_family, restore, settings_of


@pytest.fixture(scope="module")
def pictures(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pairs.PictureSet]:
    """The same faces for each task of pictures: grey ones as A, coloured ones as B."""
    root = tmp_path_factory.mktemp("pairs")
    for index, file in enumerate(sorted(faces.iterdir())[:80]):
        face = Image.open(file).convert("RGB")
        for part, picture in (("A", ImageOps.grayscale(face).convert("RGB")), ("B", face)):
            folder = root / "two" / f"{'test' if index < 12 else 'train'}{part}"
            folder.mkdir(parents=True, exist_ok=True)
            picture.save(folder / f"{index:03}.png")
    return {
        task: pairs.open_pictures(
            task == "paired", str(root / "two"), 28, 3, 3, cache=root / "cache", workers=1
        )
        for task in ("paired", "unpaired")
    }


def train(config: Config, data: Any, folder: Path, steps: int, saved: SavedState | None) -> Path:
    """The state that a run of `steps` steps ends with; it goes on from `saved`."""
    config.max_images = steps * config.batch_size
    folders = loop.Folders(*(folder / kind for kind in "cir"))
    state = new_state(config)
    if saved:
        loop.resume(state, saved, data, folders)
    return loop.fit(state, data, folders).state


@pytest.mark.parametrize("name", FAMILIES)
def test_it_trains_ten_steps_resumes_and_generates(
    name: str,
    tiny: Callable[..., Config],
    images: Images,
    pictures: dict[str, pairs.PictureSet],
    tmp_path: Path,
) -> None:
    family = FAMILIES[name]
    assert set(family.defaults) <= set(FIELDS)
    assert set(ROWS[name].uses) <= set(ONLY_SOME) <= set(FIELDS)
    given = {k: v for k, v in family.defaults.items() if k not in ("img_size", "channels")}
    small = {"ngf": 4, "ndf": 4, "nz": 8, "batch_size": 20 if family.task.name == "noise" else 4}
    still = {"warm_up": 0, "lr_end": 1.0}  # or the rates would depend on the budget
    config = tiny(**{**given, **small, **still}, family=name, max_epoch=0)
    data = {"noise": images, **pictures}[family.task.name]

    part = checkpoint.load(train(config, data, tmp_path / "parts", 6, None))
    last = train(config, data, tmp_path / "parts", 10, part)
    whole = checkpoint.load(train(config, data, tmp_path / "whole", 10, None))
    found = checkpoint.load(last)
    assert (part["step"], found["step"], whole["step"]) == (6, 10, 10)
    before = new_state(config).nets
    for player in ("G", "D"):
        new, started = found["nets"][player], getattr(before, player).state_dict()
        # not the biases: that of a critic's last layer is in its reals' scores and its fakes' alike
        kernels = [key for key, w in getattr(before, player).named_parameters() if w.dim() > 1]
        assert not any(torch.equal(new[key], started[key]) for key in kernels)
        for key, value in whole["nets"][player].items():
            assert torch.equal(new[key], value), key
    nets, stored, facts = restore(last)
    assert (stored, facts) == (config, facts_of(config))
    inputs = family.task.feed(config, facts_of(config), data, CPU).inputs(0, 5)
    fakes, at_first = (sample.draw_uint8(net.G, inputs, 2, CPU) for net in (nets, before))
    assert fakes.shape == (5, 3, 28, 28)
    assert not torch.equal(fakes, at_first)
    assert all(not torch.equal(fakes[0], other) for other in fakes[1:])


@pytest.mark.parametrize("name", ["pix2pix", "cyclegan"])
@pytest.mark.parametrize("batch", [1, 4])
def test_8_steps_of_pictures_are_3_and_5(
    name: str,
    batch: int,
    tiny: Callable[..., Config],
    pictures: dict[str, pairs.PictureSet],
    tmp_path: Path,
) -> None:
    """The pool, dropout, crops and batch norm included."""
    family = FAMILIES[name]
    data = pictures[family.task.name]

    def run(folder: Path, *budgets: int) -> dict[str, Any]:
        saved: SavedState | None = None
        for steps in budgets:
            small = {"ngf": 4, "ndf": 4, "batch_size": batch, "pool": 5, "augment": 0.3}
            config = tiny(**{**family.defaults, **small, "img_size": 28}, family=name, max_epoch=0)
            config.lr_end = 1.0  # or the rates would depend on the budget
            saved = checkpoint.load(train(config, data, folder, steps, saved))
        assert saved is not None
        return saved["nets"]

    whole, parts = run(tmp_path / "whole", 8), run(tmp_path / "parts", 3, 8)
    for player in ("G", "D"):
        for key, value in whole[player].items():
            assert torch.equal(value, parts[player][key]), key
    if name == "cyclegan":
        assert int(whole["D"]["pool_there.filled"]) == 5


def test_rpgan_pays_its_penalty_in_every_second_update_of_d(
    tiny: Callable[..., Config], images: Images
) -> None:
    config = tiny(family="rpgan", augment=0.0, d_every=2, penalty_every=2)
    state = new_state(config)
    feed = state.family.task.feed(config, facts_of(config), images, CPU)
    logs = [loop.train_step(state, feed.batch(state.step)) for _ in range(13)]
    assert [step for step in range(13) if "loss_d" in logs[step]] == list(range(0, 13, 2))
    assert [step for step in range(13) if "penalty" in logs[step]] == [0, 4, 8, 12]


def test_a_cycle_between_grey_and_colour(tiny: Callable[..., Config]) -> None:
    """Where one generator cannot take the pictures of the other there is no loss of identity."""
    family = FAMILIES["cyclegan"]
    small = {"ngf": 4, "ndf": 4, "img_size": 28, "batch_size": 2}
    config = tiny(**{**family.defaults, **small}, family="cyclegan", channels_a=1)
    nets = family.build(config, 0)
    batch = Batch(torch.rand(2, 3, 28, 28), torch.rand(2, 1, 28, 28))
    loss, logs = family.g_loss(nets, batch, config)
    loss.backward()
    assert all(w.grad is not None and w.grad.isfinite().all() for w in nets.G.parameters())
    assert "identity" not in logs
    both_grey = Batch(torch.rand(2, 1, 28, 28), torch.rand(2, 1, 28, 28))
    config.channels_b = 1
    assert "identity" in family.g_loss(family.build(config, 0), both_grey, config)[1]


def gradient(loss: Tensor, net: nn.Module) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])


def test_the_gradient_of_cyclegan_is_that_of_the_reference(tiny: Callable[..., Config]) -> None:
    """The losses of the reference implementation, written out, with its weights 10 and 0.5."""
    family = FAMILIES["cyclegan"]
    small = {"ngf": 4, "ndf": 4, "img_size": 28, "batch_size": 2, "pool": 0}
    config = tiny(**{**family.defaults, **small}, family="cyclegan", cycle=10.0)
    nets = new_state(config).nets
    a, b = torch.rand(2, 2, 3, 28, 28) * 2 - 1
    players, judges = cast(ThereAndBack, nets.G), cast(CycleD, nets.D)
    G, F, judge_b, judge_a = players.there, players.back, judges.there, judges.back
    mse, l1 = nn.MSELoss(), nn.L1Loss()

    def expect(scores: Tensor, label: float) -> Tensor:
        return mse(scores, torch.full_like(scores, label))

    fake_b, fake_a = G(a), F(b)
    reference = expect(judge_b(fake_b), 1) + expect(judge_a(fake_a), 1)
    reference = reference + 10 * l1(F(fake_b), a) + 10 * l1(G(fake_a), b)
    reference = reference + 10 * 0.5 * l1(G(b), b) + 10 * 0.5 * l1(F(a), a)
    ours, _ = family.g_loss(nets, Batch(b, a), config)
    assert torch.allclose(gradient(ours, nets.G), gradient(reference, nets.G), rtol=1e-4, atol=1e-7)
    reference = (expect(judge_b(b), 1) + expect(judge_b(fake_b.detach()), 0)) * 0.5
    reference = reference + (expect(judge_a(a), 1) + expect(judge_a(fake_a.detach()), 0)) * 0.5
    ours, _ = family.d_loss(nets, Batch(b, a), config)
    assert torch.allclose(gradient(ours, nets.D), gradient(reference, nets.D), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("family", "loss", "halved"),
    [
        ("cyclegan", "", True),
        ("cyclegan", "least-squares", True),
        ("cyclegan", "hinge", False),
        ("pix2pix", "", False),
        ("pix2pix", "least-squares", True),
        ("lsgan", "", False),
    ],
)
def test_a_state_without_the_setting_keeps_the_halves_that_it_had(
    family: str, loss: str, halved: bool
) -> None:
    saved: SavedState = {
        "config": {**vars(Config(family=family, loss=loss)), "of_an_earlier_version": 1}
    }
    for new in (False, True):
        saved["config"]["half_squares"] = new
        assert settings_of(saved)["half_squares"] is new
    del saved["config"]["half_squares"]
    assert settings_of(saved).get("half_squares", False) is halved
    assert compare_jobs.saved_settings(saved).get("half_squares", False) is halved
    assert "of_an_earlier_version" not in settings_of(saved)


@pytest.mark.parametrize("name", ["modern", "dcgan", "wgan-gp", "pix2pix", "cyclegan"])
def test_large_pictures_go_through_the_nets(name: str) -> None:
    family = find_family(name)
    small = {"img_size": 512, "ngf": 1, "ndf": 1, "nz": 2, "gpu": False, "batch_size": 2}
    small = {k: v for k, v in small.items() if k != "nz" or "nz" in ROWS[name].settings}
    config = resolve(family.defaults, small)  # type: ignore[arg-type]
    nets = family.build(config, 0)
    given = family.task.example(config, 0, False)
    with torch.no_grad():
        pictures = nets.G(*given)
    assert pictures.shape == (2, 3, 512, 512)


def test_a_family_has_its_largest_picture(inside: Callable[..., None]) -> None:
    for name in ("mlp", "mlp-tiny"):
        with pytest.raises(Refused, match=f"^--img-size=257: {name} has weights for each pixel"):
            inside("train", f"--family={name}", "--img-size=257")
