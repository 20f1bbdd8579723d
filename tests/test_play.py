"""`interpolate`, `directions` and what `generate` draws by seed, from end to end on a tiny run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from numpy.typing import NDArray
from PIL import Image

import main
from commands import runs
from gan import latent, sample

Inside = Callable[..., None]
CPU = torch.device("cpu")
SIDE, GAP = 28, 2
CLASSES = ("left", "right")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a conditional run, `x`, whose nets are hardly trained."""
    folder = tmp_path_factory.mktemp("room")
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (folder / "data" / name).mkdir(parents=True)
        for index in range(30):
            pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "data" / name / f"{index}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main.run(["train", *TINY, "--family=dcgan", "--name=x", "--data-path=data",
                  "--conditional", "--max-images=60", "--seed=5"])  # fmt: skip
    return folder


@pytest.fixture
def draw(room: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.chdir(room)

    def call(*words: str) -> None:
        main.run([words[0], "--name=x", *words[1:]])

    return call


def faces(z: torch.Tensor, shares: torch.Tensor) -> NDArray[np.uint8]:
    """uint8 [n, H, W, 3], as the run in this folder draws them."""
    G = runs.load_run({"name": "x"}).nets.G
    drawn = sample.draw_uint8(G, (z, shares.expand(len(z), -1)), 16, CPU)
    found: NDArray[np.uint8] = drawn.permute(0, 2, 3, 1).numpy()
    return found


def tiles(path: Path, columns: int, gap: int = GAP) -> NDArray[np.uint8]:
    """The pictures of a grid, row by row: uint8 [n, H, W, C]."""
    grid = np.asarray(Image.open(path))
    rows = (len(grid) - gap) // (SIDE + gap)
    cut = [
        grid[gap + r * (SIDE + gap) :, gap + c * (SIDE + gap) :][:SIDE, :SIDE]
        for r in range(rows)
        for c in range(columns)
    ]
    return np.stack(cut)


LEFT = torch.tensor([[1.0, 0.0]])
EVEN = torch.tensor([[0.5, 0.5]])


def first_of(*seeds: int) -> torch.Tensor:
    return torch.cat([sample.noise(seed, 0, 1, 8) for seed in seeds])


def test_one_face_a_seed(draw: Inside, room: Path) -> None:
    draw("generate", "--seeds=7-9,3", "--columns=2", "--gap=5", "--label=left", "--gen-dir=out",
         "--gen-format=webp")  # fmt: skip
    wanted = faces(first_of(7, 8, 9, 3), LEFT)
    assert np.array_equal(tiles(room / "result.png", 2, 5), wanted)
    listed = json.loads((room / "result.json").read_text())
    assert [(face["seed"], face["index"]) for face in listed["faces"]] == [
        (7, 0), (8, 0), (9, 0), (3, 0),
    ]  # fmt: skip
    names = sorted(path.name for path in (room / "out").iterdir())
    assert names == ["0000_seed7.webp", "0001_seed8.webp", "0002_seed9.webp", "0003_seed3.webp",
                     "contact.webp"]  # fmt: skip


def test_noise_cut_off_moved_and_mixed(draw: Inside, room: Path) -> None:
    words = ("--trunc=0.7", "--direction-2=-1.5", "--direction-1=2", "--label=left+right")
    draw("generate", "--gen-index=4,11", "--rank-by=none", "--columns=2", *words)
    run = runs.load_run({"name": "x"})
    measured = latent.measured_faces(run.config, 2)
    found = latent.directions(run.nets.G, measured, 2, "weights", CPU).vectors
    z = torch.cat([sample.noise(5, i, 1, 8, "normal", 0.7) for i in (4, 11)])
    wanted = faces(z + 2 * found[0] - 1.5 * found[1], EVEN)
    off = np.abs(tiles(room / "result.png", 2).astype(int) - wanted).max()
    assert off <= 1
    assert json.loads((room / "result.json").read_text())["directions"] == {"1": 2.0, "2": -1.5}


def test_a_direction_keeps_its_number_whatever_is_drawn(draw: Inside, room: Path) -> None:
    found = []
    for seed, label in ((0, "left"), (1, "right"), (2, "left"), (3, "right")):
        draw("directions", "--count=6", f"--seed={seed}", f"--label={label}", "--steps=3")
        found.append(json.loads((room / "directions.json").read_text())["vectors"])
    assert found[1:] == found[:-1]


def test_enlarged_with_a_transparent_gap(draw: Inside, room: Path) -> None:
    draw("generate", "--seeds=1,2", "--upscale=2", "--gap-colour=transparent", "--gap=3")
    grid = Image.open(room / "result.png")
    assert grid.size == (2 * (56 + 3) + 3, 56 + 6)
    alpha = np.asarray(grid)[..., 3]
    assert alpha[0].max() == 0
    assert alpha[3:-3, 3:59].min() == 255


@pytest.mark.usefixtures("cheap_lite0")
def test_the_nearest_face_beside_the_picture(draw: Inside, room: Path) -> None:
    picture = Image.fromarray(faces(first_of(70), LEFT)[0])
    picture.resize((56, 56)).save(room / "someone.jpg", quality=95)
    draw("generate", "--like=someone.jpg", "--label=left", "--gen-search-num=40")
    about = json.loads((room / "result.json").read_text())
    given, found = tiles(room / "result.png", 2)
    assert np.abs(given.astype(int) - np.asarray(picture)).mean() < 12
    assert np.abs(faces(torch.tensor([about["z"]]), LEFT)[0].astype(int) - found).max() <= 1
    assert 0 <= about["distance"] < 1


def test_a_walk_as_a_sheet_and_as_a_film(
    draw: Inside, room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw("interpolate", "--seeds=3,14", "--frames=6", "--labels=left,right", "--columns=7",
         "--output=w.gif", "--formats=png,webp", "--fps=10")  # fmt: skip
    out = capsys.readouterr().out
    assert "/state_00000003.pth -> w.webp" in out
    z = latent.walk(first_of(3, 14), 6, loop=False)
    right = torch.linspace(0, 1, 7)
    wanted = faces(z, torch.stack([1 - right, right], 1))
    assert np.abs(tiles(room / "w.png", 7).astype(int) - wanted).max() <= 1
    film: Any = Image.open(room / "w.webp")
    assert film.n_frames == 7
    assert not (room / "w.gif").exists()


def test_a_wandering_film(draw: Inside, room: Path) -> None:
    draw(
        "interpolate", "--wander=1.5s", "--fps=8", "--output=w.gif", "--label=right", "--upscale=2"
    )
    film: Any = Image.open(room / "w.gif")
    assert (film.n_frames, film.size) == (12, (56, 56))


def test_the_sheet_of_directions(draw: Inside, room: Path) -> None:
    draw("directions", "--count=2", "--gen-index=3", "--steps=5", "--label=left")
    about = json.loads((room / "directions.json").read_text())
    assert len(about["vectors"]) == len(about["change"]) == 2
    pixels = np.asarray(Image.open(room / "directions.png"))
    z = sample.noise(5, 3, 1, 8) + torch.tensor([[-3.0], [0.0], [3.0]]) * torch.tensor(
        about["vectors"][1]
    )
    wanted = faces(z, LEFT)
    top = GAP + SIDE + 14 + GAP  # the second row, below the captions of the first
    for place, column in enumerate((0, 2, 4)):
        tile = pixels[top : top + SIDE, GAP + column * (SIDE + GAP) :][:, :SIDE]
        assert np.abs(tile.astype(int) - wanted[place]).max() <= 1
