"""What `generate` and `export` draw, flag by flag, against the same faces drawn by hand."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from torch import Tensor

import main
from commands import generate as command
from commands import runs
from config import Config, RunFacts, write_config
from gan import checkpoint, data, features, metrics, ranking, sample, sheet
from gan.errors import Refused
from gan.families import CLASSIC
from gan.weights import load_weights
from models import FAMILIES

CPU = torch.device("cpu")
Pixels = NDArray[np.uint8]
RATIO_FIRST_INDEX, RATIO_SAMPLES = 2**48, 256
SMALL = {"img_size": 28, "nz": 6, "ngf": 4, "ndf": 4, "batch_size": 20, "gpu": False}


# ---- names of the code under test ---------------------------------------------------------------


def brightness(images: Any, name: str = "lite0", scale: int = 1, device: str = "cpu") -> Any:
    """Features in no time: 3 x 3 thumbnails, [N, 27]."""
    pixels = torch.from_numpy(np.array(images[:])).float()
    return torch.nn.functional.adaptive_avg_pool2d(pixels, 3).flatten(1).numpy() / 25


def nets_of(config: Config, state: dict[str, Any]) -> Any:
    nets = FAMILIES[config.family].build(config, len(state["facts"]["class_names"]))
    load_weights(nets.G, state["ema"] or state["nets"]["G"], "G")
    load_weights(nets.D, state["nets"]["D"], "D")
    nets.G.eval()
    nets.D.eval()
    return nets


def numbers(seed: int, first: int, count: int) -> Tensor:
    """Noise of faces `first` to `first + count - 1`: [count, nz]."""
    return sample.noise(seed, first, count, int(SMALL["nz"]))


@torch.no_grad()
def faces_of(nets: Any, z: Tensor, *condition: Tensor) -> Tensor:
    """Faces of noise z and perhaps of one-hot classes: [N, C, H, W] in -1..1."""
    return nets.G(z, *condition)


@torch.no_grad()
def d_scores(nets: Any, images: Tensor, *condition: Tensor) -> list[float]:
    return nets.D(images, *condition).tolist()


def pixels(images: Tensor) -> NDArray[np.int64]:
    return images.add(1).mul(127.5).round().clamp(0, 255).numpy().astype(int)


def save_run(
    folder: Path,
    config: Config,
    states: dict[str, int],
    classes: tuple[str, ...] = (),
    before_facts: bool = False,
) -> None:
    """A run with these state files, each of weights from a seed of its own, as `train` leaves it.

    Its generators have no two faces alike: wide weights. `before_facts` writes states as earlier
    versions did, with the classes and the options of commands among the settings.
    """
    facts = RunFacts(classes)
    for name, seed in states.items():
        torch.manual_seed(seed)
        both = [FAMILIES[config.family].build(config, len(classes)) for _ in range(2)]
        for nets in both:
            for weight in [*nets.G.parameters(), *nets.D.parameters()]:
                if weight.ndim > 1:
                    torch.nn.init.normal_(weight, std=0.2)
        state = {
            "config": dataclasses.asdict(config),
            "facts": {"class_names": list(classes), "mixed_precision": False},
            "nets": {"G": both[0].G.state_dict(), "D": both[0].D.state_dict()},
            "ema": both[1].G.state_dict(),
            "step": seed,
        }
        if before_facts:
            del state["facts"]
            former = {"classes": "/".join(classes), "gen_num": 9, "rank": "ratio"}
            state["config"] = {**vars(config), **former}
        checkpoint.save(folder / name, state)
    write_config(config, facts, folder / "config.json")


# ---- two runs, made once ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def room(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `plain` and two that draw left and right faces, the same ones.

    The states of `classes` are as they are now, those of `before` as before there were facts.
    """
    top = tmp_path_factory.mktemp("runs")
    made: dict[str, Any] = {**CLASSIC, **SMALL, "family": "dcgan", "held_out": 0.15}
    made |= {"data_path": str(faces), "num_workers": 1}
    states = {"best.pth": 3, "state_00000009.pth": 9}
    save_run(top / "checkpoints" / "plain", Config(**made), states)
    folder = top / "in"
    for place, file in enumerate(sorted(faces.iterdir())[:120]):
        path = folder / ("left" if place % 3 else "right") / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.read_bytes())
    made |= {"data_path": "in", "conditional": True}
    states = {"state_00000007.pth": 7}
    for name, before_facts in (("classes", False), ("before", True)):
        folder = top / "checkpoints" / name
        save_run(folder, Config(**made), states, ("left", "right"), before_facts)
    return top


class Drawn:
    """What one call of `generate` wrote."""

    def __init__(self, folder: Path) -> None:
        self.about = json.loads((folder / "result.json").read_text())
        self.faces = self.about["faces"]
        self.indices = [face["index"] for face in self.faces]
        self.files = [Path(face["file"]) for face in self.faces]
        self.images = np.stack([np.asarray(Image.open(x)) for x in self.files]).astype(int)
        self.images = self.images.transpose(0, 3, 1, 2)
        self.grid = np.asarray(Image.open(folder / "result.png"))

    def are(self, expected: Tensor) -> bool:
        """Whether the faces are these; batches of another size round differently."""
        return bool(np.abs(self.images - pixels(expected)).max() <= 1)


Generate = Callable[..., Drawn]


@pytest.fixture
def generate(room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generate:
    monkeypatch.chdir(room)
    monkeypatch.setattr(features, "extract", brightness)
    monkeypatch.setattr(metrics, "extract", brightness)

    def call(*words: str, run: str = "plain") -> Drawn:
        out = [f"--gen-dir={tmp_path / 'faces'}", f"--gen-img={tmp_path / 'result.png'}"]
        main.run(["generate", f"--name={run}", "--gpu=False", *out, *words])
        return Drawn(tmp_path)

    return call


def nets(room: Path, run: str = "plain", file: str = "best.pth") -> Any:
    state = checkpoint.load(room / "checkpoints" / run / file)
    return nets_of(Config(**state["config"]), state)


# ---- which faces --------------------------------------------------------------------------------


def test_the_faces_are_those_of_the_seed_in_order(generate: Generate, room: Path) -> None:
    plain = generate("--rank-by=none", "--gen-num=5")
    assert plain.indices == [0, 1, 2, 3, 4]
    assert plain.are(faces_of(nets(room), numbers(0, 0, 5)))
    assert np.abs(np.diff(plain.images, axis=0)).max((1, 2, 3)).min() > 20  # no two are alike
    other = generate("--rank-by=none", "--gen-num=5", "--seed=5")
    assert other.are(faces_of(nets(room), numbers(5, 0, 5)))
    assert [face["seed"] for face in other.faces] == [5] * 5


def test_mean_and_deviation_of_the_noise(generate: Generate, room: Path) -> None:
    z = numbers(0, 0, 3)
    for words, wanted in (
        (["--gen-std=0.3"], 0.3 * z),
        (["--gen-mean=0.7"], z + 0.7),
        (["--gen-std=0.3", "--gen-mean=0.7"], 0.3 * z + 0.7),
    ):
        found = generate("--rank-by=none", "--gen-num=3", *words)
        assert found.are(faces_of(nets(room), wanted)), words
        assert not found.are(faces_of(nets(room), z)), words
    assert (found.about["gen_std"], found.about["gen_mean"]) == (0.3, 0.7)


@pytest.mark.parametrize("run", ["classes", "before"])
def test_the_noise_of_a_class_is_scaled_and_the_class_is_not(
    run: str, generate: Generate, room: Path
) -> None:
    found = generate("--rank-by=none", "--gen-num=4", "--gen-std=0.3", "--gen-mean=0.7", run=run)
    wanted = torch.eye(2)[[0, 1, 0, 1]]
    z = 0.3 * numbers(0, 0, 4) + 0.7
    assert found.are(faces_of(nets(room, "classes", "state_00000007.pth"), z, wanted))


def test_the_best_state_or_the_newest(generate: Generate, room: Path) -> None:
    for word, file in (("--best=True", "best.pth"), ("--best=False", "state_00000009.pth")):
        found = generate(word, "--rank-by=none", "--gen-num=2")
        assert found.are(faces_of(nets(room, file=file), numbers(0, 0, 2)))
        assert found.about["checkpoint"] == f"checkpoints/plain/{file}"


def test_an_index_names_a_face(generate: Generate, room: Path) -> None:
    found = generate("--gen-index=40,7", "--rank-by=none")
    assert sorted(found.indices) == [7, 40]
    z = torch.cat([numbers(0, index, 1) for index in found.indices])
    assert found.are(faces_of(nets(room), z))


@pytest.mark.parametrize(("label", "number"), [("right", 1), ("0", 0)])
def test_a_label_is_a_class(
    label: str, number: int, generate: Generate, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    reals = ranking.Reals

    def recorded(real: Any, cache: Any) -> Any:
        asked.append(len(real))
        return reals(real, cache)

    monkeypatch.setattr(ranking, "Reals", recorded)
    found = generate(f"--label={label}", "--gen-index=0,1,2,3", run="classes")
    ours = nets(room, "classes", "state_00000007.pth")
    wanted = torch.eye(2)[[number] * 4]
    z = torch.cat([numbers(0, index, 1) for index in found.indices])
    assert found.are(faces_of(ours, z, wanted))
    assert found.about["label"] == label
    # ranked among real ones of that class alone: 40 of 120 are right, 92 of them trained on
    assert asked[0] < (50 if number else 75)


# ---- which are best -----------------------------------------------------------------------------


def ranked(scores: list[float], keep: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: -scores[i])[:keep]


def test_ranked_by_d(generate: Generate, room: Path) -> None:
    found = generate("--rank-by=score", "--gen-num=4", "--gen-search-num=30")
    expected = d_scores(nets(room), faces_of(nets(room), numbers(0, 0, 30)))
    assert found.indices == ranked(expected, 4)
    assert [face["score"] for face in found.faces] == pytest.approx(
        sorted(expected, reverse=True)[:4], rel=1e-3
    )


def test_ranked_by_d_with_the_class(generate: Generate, room: Path) -> None:
    ours = nets(room, "classes", "state_00000007.pth")
    wanted = torch.eye(2)[torch.arange(20) % 2]
    found = generate("--rank-by=score", "--gen-num=5", "--gen-search-num=20", run="classes")
    images = faces_of(ours, numbers(0, 0, 20), wanted)
    expected = d_scores(ours, images, wanted)
    assert found.indices == ranked(expected, 5)
    assert found.indices != ranked(d_scores(ours, images, wanted.flip(1)), 5)


def test_ranked_by_realism_among_training_images(generate: Generate, room: Path) -> None:
    images = data.open_images(
        json.loads((room / "checkpoints/plain/config.json").read_text())["data_path"],
        28, 3, cache=Path("data/cache"), held_out=0.15, workers=1,
    )  # fmt: skip
    real = torch.from_numpy(brightness(images.array[images.train])).double()
    fakes = sample.to_uint8(faces_of(nets(room), numbers(0, 0, 30)))
    expected = ranking.realism(torch.from_numpy(brightness(fakes.numpy())).double(), real)
    found = generate("--gen-num=6", "--gen-search-num=30", "--rank-by=realism")
    assert [face["realism"] for face in found.faces] == pytest.approx(
        sorted(expected.tolist(), reverse=True)[:6], rel=1e-2
    )
    assert found.about["ranked_by"] == "realism"


def test_ranked_by_consensus_within_kinds_unless_said_otherwise(
    generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge that likes late faces best, and two kinds: every third face and the others."""

    drawn = generate("--gen-num=30", "--gen-search-num=30", "--rank-by=none")
    known = torch.from_numpy(np.stack(drawn.images)).flatten(1).float()

    def number(images: Tensor) -> Tensor:
        return torch.cdist(images.flatten(1).float(), known).argmin(1)

    row = dataclasses.replace(
        ranking.RANKERS["consensus"],
        make_judge=lambda inputs: lambda images, _: number(sample.to_uint8(images)).float(),
        make_kinds=lambda inputs: lambda images: (number(sample.to_uint8(images)) % 3 > 0).long(),
    )
    monkeypatch.setitem(ranking.RANKERS, "consensus", row)
    found = generate("--gen-num=6", "--gen-search-num=30")
    assert found.about["ranked_by"] == "consensus"
    assert found.indices == [29, 28, 27, 26, 25, 24]  # 10 and 20 of 30: two and four
    found = generate("--gen-num=3", "--gen-search-num=28")
    assert found.indices == [27, 26, 25]
    found = generate("--gen-index=0,1,2,3,4,5,6,9")
    assert found.indices == [9, 6, 5, 4, 3, 2, 1, 0]


def test_without_the_images_of_the_run_d_ranks(
    generate: Generate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(config: Config) -> None:
        raise Refused("--data-path=x: no such folder or zip")

    monkeypatch.setattr(runs, "open_data", gone)
    words = ["--gen-num=4", "--gen-search-num=20"]
    found = generate(*words)
    out = capsys.readouterr().out
    assert "the run's images cannot be used (--data-path=x: no such folder or zip)" in out
    by_d = generate("--rank=score", *words)  # a word of before
    assert (found.indices, found.about["ranked_by"]) == (by_d.indices, "score")
    for asked in ("--rank-by=realism", "--diverse"):
        with pytest.raises(Refused, match="no such folder or zip"):
            generate(asked, *words)


def test_the_ratio_is_fitted_to_faces_that_are_not_ranked(
    generate: Generate, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[Tensor] = []
    row = ranking.RANKERS["ratio"]

    def recorded(inputs: ranking.RankingInputs) -> sample.Judge:
        assert inputs.real is not None
        assert len(inputs.real.images) == 170  # those trained on
        fitted.append(inputs.sample_fakes())
        return row.make_judge(inputs)

    monkeypatch.setitem(ranking.RANKERS, "ratio", dataclasses.replace(row, make_judge=recorded))
    found = generate("--rank-by=ratio", "--gen-num=4", "--gen-search-num=20", "--gen-std=0.5")
    assert len(fitted[0]) == RATIO_SAMPLES
    wanted = faces_of(nets(room), 0.5 * numbers(0, RATIO_FIRST_INDEX, RATIO_SAMPLES))
    assert np.abs(fitted[0].numpy().astype(int) - pixels(wanted)).max() <= 1
    scores = [face["ratio"] for face in found.faces]
    assert scores == sorted(scores, reverse=True)


def test_how_many_are_drawn_and_kept(generate: Generate, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    first_candidates = sample.first_candidates

    def recorded(source: Any, count: int, *rest: Any) -> Any:
        drawn.append(count)
        return first_candidates(source, count, *rest)

    monkeypatch.setattr(sample, "first_candidates", recorded)
    assert len(generate("--gen-num=3", "--gen-search-num=17").faces) == 3
    assert drawn == [17]


@pytest.mark.parametrize(("search", "pool"), [(100, 12), (20, 10), (4, 3)])
def test_diverse_faces_are_chosen_among_the_best(
    search: int, pool: int, generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int, int]] = []

    def select_diverse(ranked: sample.Ranked, count: int, train: Any) -> sample.Ranked:
        asked.append((len(ranked.images), count, len(train)))
        return sample.Ranked(*(part[-count:] for part in ranked))

    monkeypatch.setattr(ranking, "select_diverse", select_diverse)
    words = ["--rank-by=none", "--gen-num=3", f"--gen-search-num={search}"]
    assert generate(*words, "--diverse").indices == [pool - 3, pool - 2, pool - 1]
    assert asked == [(pool, 3, 170)]
    assert generate(*words).indices == [0, 1, 2]


def test_diverse_faces_are_new_and_stay_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six faces on a line; 1 and 4 are nearly training images, 5 just is not."""
    monkeypatch.setattr(
        ranking, "novelty", lambda images, train: np.array([1, -0.01, 0.5, 2, -3, 0.0])
    )
    monkeypatch.setattr(ranking, "lite0_features", lambda images: images.flatten(1)[:, :1].double())
    shades = torch.tensor([10, 90, 12, 50, 200, 80], dtype=torch.uint8)
    images = shades[:, None, None, None].expand(-1, 3, 4, 4)
    best = sample.Ranked(images, torch.linspace(1, 0, 6), torch.arange(6))
    assert ranking.select_diverse(best, 3, images.numpy()).indices.tolist() == [0, 3, 5]
    # too few are new: the newest of the others too
    assert ranking.select_diverse(best, 5, images.numpy()).indices.tolist() == [0, 1, 2, 3, 5]


def test_evaluate_scores_new_faces_against_held_out_images(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(room)
    passed: list[Any] = []

    def enough(*given: Any) -> None:
        passed.extend(given)
        raise Refused("enough")

    monkeypatch.setattr(metrics, "evaluate", enough)
    monkeypatch.setattr(features, "extractor", lambda *_: None)
    with pytest.raises(Refused, match="enough"):
        main.run(["evaluate", "--name=plain", "--gen-num=9", "--seed=5", "--features=random"])
    fakes, train, held_out, name = passed[:4]
    assert np.abs(fakes.astype(int) - pixels(faces_of(nets(room), numbers(5, 0, 9)))).max() <= 1
    assert (len(train), len(held_out), name) == (170, 30, "random")
    seen = {image.tobytes() for image in train[:]}
    assert not seen & {image.tobytes() for image in held_out[:]}


# ---- how they are written -----------------------------------------------------------------------


def test_the_grid_the_files_and_the_list_have_one_order(generate: Generate, tmp_path: Path) -> None:
    found = generate("--rank-by=score", "--gen-num=10", "--gen-search-num=12")
    side, gap, columns = 28, 2, 8
    assert found.grid.shape == (2 * (side + gap) + gap, columns * (side + gap) + gap, 3)
    blank = np.ones(found.grid.shape[:2], bool)
    for place, image in enumerate(found.images):
        row, column = divmod(place, columns)
        top, left = gap + row * (side + gap), gap + column * (side + gap)
        tile = found.grid[top : top + side, left : left + side]
        assert np.array_equal(tile.transpose(2, 0, 1), image), place
        blank[top : top + side, left : left + side] = False
    assert (found.grid[blank] == 255).all()  # gaps, and where there is no face
    assert [face["place"] for face in found.faces] == list(range(10))
    scores = [face["score"] for face in found.faces]
    assert scores == sorted(scores, reverse=True)
    assert [file.name for file in found.files] == [
        f"{place:04}_{index}.png" for place, index in enumerate(found.indices)
    ]
    contact = tmp_path / "faces" / "contact.png"
    assert sorted([*found.files, contact]) == sorted((tmp_path / "faces").iterdir())


def test_a_grid_without_a_score_and_without_files(room: Path, tmp_path: Path) -> None:
    best = sample.Ranked(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.ones(2), torch.arange(2))
    options = command.GenerateOptions(gen_img=str(tmp_path / "deep" / "x.png"), label="b")
    nothing: Any = None
    run = runs.LoadedRun(nothing, Config(seed=4), RunFacts(), "somewhere")
    command.write_faces(best, options, run, "none")
    about = json.loads((tmp_path / "deep" / "x.json").read_text())
    assert about == {
        "checkpoint": "somewhere", "ranked_by": "none", "gen_mean": 0.0, "gen_std": 1.0,
        "label": "b", "trunc": 0.0, "directions": {},
        "faces": [{"place": i, "seed": 4, "index": i} for i in range(2)],
    }  # fmt: skip
    assert sheet.grid_size(17, 8, (28, 28), 2) == (8 * 30 + 2, 3 * 30 + 2)
    assert sheet.grid_size(3, 8, (28, 28), 2) == (3 * 30 + 2, 30 + 2)


# ---- export -------------------------------------------------------------------------------------


def test_the_averaged_generator_is_exported_with_its_config(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(room)
    for word, state in (("--best=True", "best.pth"), ("--best=False", "state_00000009.pth")):
        path = tmp_path / f"{state}.safetensors"
        main.run(["export", "--name=plain", f"--file={path}", word])
        saved = checkpoint.load(Path("checkpoints/plain") / state)
        with safe_open(path, "pt") as file:
            assert set(file.keys()) == set(saved["ema"])
            for key in file.keys():  # noqa: SIM118 (it is no dict)
                assert torch.equal(file.get_tensor(key), saved["ema"][key]), key
            config = json.loads(file.metadata()["config"])
        # which device drew is no fact of the weights
        # and what is made to be shared names the data, not the folder it is in
        named = {"name": "plain", "classes": "", "gpu": "auto", "data_path": "faces0"}
        assert config == {**saved["config"], **named}
