"""`--init`: a run that starts from the nets of another, D's first layers frozen for a third."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import refused, tiny_flags
from states import new_state
from torch import Tensor

from config import Config
from gan import checkpoint, loop
from gan.state import first_layers

Inside = Callable[..., None]


def words(faces: Path, *more: str) -> list[str]:
    found = tiny_flags(f"--data-path={faces}", "--family=dcgan", *more)
    if any(word.startswith("--init") for word in more):  # which gives the widths
        found = [word for word in found if not word.startswith(("--ngf", "--ndf", "--nz"))]
    return ["train", *found]


def nets_of(path: Path) -> dict[str, dict[str, Tensor]]:
    found = checkpoint.load(path)
    assert isinstance(found, dict)
    return found["nets"]


def newest(name: str) -> Path:
    return checkpoint.states(Path("checkpoints") / name)[0]


@pytest.fixture
def origin(inside: Inside, faces: Path) -> Path:
    """The newest state of run `one`, with nets of another width than the default."""
    inside(*words(faces, "--name=one", "--ngf=6", "--max-images=60"))
    return newest("one")


def test_a_run_starts_from_the_nets_of_another(
    inside: Inside, faces: Path, origin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a run, its folder or the file of a state: G, D and the settings that shape them."""
    began: list[dict[str, dict[str, Tensor]]] = []
    fit = loop.fit

    def watch(state: loop.State, *args: object, **more: object) -> object:
        began.append({name: getattr(state.nets, name).state_dict() for name in ("G", "D")})
        began[-1] = {n: {k: v.clone() for k, v in d.items()} for n, d in began[-1].items()}
        assert state.step == 0
        return fit(state, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "fit", watch)
    for i, init in enumerate(("one", str(origin.parent), str(origin))):
        inside(*words(faces, f"--name=two{i}", f"--init={init}", "--max-images=20", "--seed=5"))
        for net, weights in nets_of(origin).items():
            for key, value in weights.items():
                assert torch.equal(began[-1][net][key], value), (init, net, key)


def test_the_first_layers_of_d_are_frozen_for_a_third(tiny: Callable[..., Config]) -> None:
    state = new_state(tiny(init="x", max_images=600, max_epoch=0))
    real = torch.rand(20, 3, 28, 28) * 2 - 1

    def step(fraction: float) -> list[bool]:
        """Whether each weight of D moves in a step after this share of the budget."""
        state.set_rates(fraction)
        before = [weight.clone() for weight in state.nets.D.parameters()]
        loop.train_step(state, loop.Batch(real, torch.randn(20, 8)))
        after = state.nets.D.parameters()
        return [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]

    kept = {id(weight) for layer in first_layers(state.nets.D) for weight in layer.parameters()}
    first = [id(weight) in kept for weight in state.nets.D.parameters()]
    assert first[0]
    assert not first[-1]
    step(0.0)  # the first step has a learning rate that is nearly 0
    assert step(0.3) == [not frozen for frozen in first]
    assert all(step(0.34))
    assert step(0.3) == [not frozen for frozen in first]


def test_no_layer_is_frozen_in_other_runs(tiny: Callable[..., Config]) -> None:
    state = new_state(tiny())
    state.set_rates(0.0)
    state.let_d_learn()
    assert all(weight.requires_grad for weight in state.nets.D.parameters())


def test_half_of_the_convolutions_come_first(tiny: Callable[..., Config]) -> None:
    D = new_state(tiny()).nets.D
    layers = [layer for layer in D.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert first_layers(D) == layers[: len(layers) // 2]
    D = new_state(tiny(family="mlp", channels=1)).nets.D
    layers = [layer for layer in D.modules() if isinstance(layer, torch.nn.Linear)]
    assert first_layers(D) == layers[: len(layers) // 2]


def test_a_resumed_run_keeps_its_origin(inside: Inside, faces: Path, origin: Path) -> None:
    inside(*words(faces, "--name=two", f"--init={origin}", "--max-images=20"))
    origin.unlink()  # it is needed at the start only
    inside("train", "--name=two", "--resume", "--max-images=60")
    state = checkpoint.load(newest("two"))
    assert isinstance(state, dict)
    assert (state["step"], state["config"]["init"]) == (3, str(origin))


def test_mistakes(inside: Inside, faces: Path, origin: Path) -> None:
    bare = next(iter(sorted(origin.parent.glob("netg_*.pth"))))
    for given, says in (
        ("nosuchrun", "--init=nosuchrun: neither a run in checkpoints/ nor a file of a state"),
        (
            str(bare),
            f"--init={bare}: not a training state (no config); bare weights go to --netg",
        ),
    ):
        refused(inside, *words(faces, "--name=two", f"--init={given}"), says=says)
    both = words(faces, "--name=two", "--init=one", f"--netg-path={bare}")
    refused(inside, *both, says="--init=one: not with --netg-path or --netd-path")
    resume = ("train", "--name=one", "--resume", "--init=one")
    refused(inside, *resume, says="--init: not with --resume; the run has its own")
    other = words(faces, "--name=two", "--init=one", "--img-size=32")
    refused(inside, *other, says="this network's")
    assert not Path("checkpoints/two").exists()


def test_an_overwritten_run_may_be_the_origin(inside: Inside, faces: Path, origin: Path) -> None:
    inside(*words(faces, "--name=one", "--overwrite", "--init=one", "--max-images=20"))
    state = checkpoint.load(newest("one"))
    assert isinstance(state, dict)
    assert state["step"] == 1
