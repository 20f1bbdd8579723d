"""Pictures to pictures, from end to end and by hand."""

import copy
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from states import facts_of, new_state

from commands import runs, translate
from config import Config, RunFacts, write_config
from gan import checkpoint, evaluation, loop, pairs, sample
from gan.errors import Refused
from gan.feed import PictureFeed, step_seed
from gan.losses import Nets
from gan.translation import ResNetG
from models import FAMILIES, restore

Inside = Callable[..., None]
CPU = torch.device("cpu")


def build(config: Config) -> Nets:
    return FAMILIES[config.family].build(config, 0)


def save_state(name: str, config: Config, mtime: int = 0) -> None:
    """A run of this name in the working directory, as `train` leaves it."""
    nets = build(config)
    players = {"G": nets.G.state_dict(), "D": nets.D.state_dict()}
    facts = {"class_names": [], "mixed_precision": False}
    path = Path("checkpoints") / name / "state_00000001.pth"
    state = {"config": vars(config), "facts": facts, "nets": players, "ema": None}
    checkpoint.save(path, state)
    write_config(config, RunFacts(), path.with_name("config.json"))
    os.utime(path, (mtime, mtime))


@pytest.fixture(scope="module")
def two(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """trainA ... testB: faces, and the same with other colours."""
    root = tmp_path_factory.mktemp("two")
    for place, file in enumerate(sorted(faces.iterdir())[:90]):
        face = Image.open(file).convert("RGB")
        for side, picture in (("A", face), ("B", ImageOps.invert(face))):
            folder = root / f"{'test' if place < 10 else 'train'}{side}"
            folder.mkdir(exist_ok=True)
            picture.save(folder / f"{place:03}.png")
    return root


def test_scores_of_pairs_by_hand() -> None:
    wanted = np.zeros((2, 3, 32, 32), np.uint8)
    fakes = wanted.copy()
    fakes[1] = 51  # a fifth of the range
    found = evaluation.pair_distances(fakes, wanted)
    assert found["L1"] == pytest.approx(0.1)
    assert found["PSNR"] == pytest.approx((100 + 20 * np.log10(5)) / 2, abs=0.01)
    assert evaluation.pair_distances(wanted, wanted)["SSIM"] == pytest.approx(1)
    assert found["SSIM"] < 0.6


@pytest.mark.parametrize("size", [(29, 33), (64, 64), (17, 90)])
def test_a_picture_keeps_its_size(size: tuple[int, int]) -> None:
    for name in ("pix2pix", "cyclegan"):
        config = Config(family=name, img_size=32, ngf=2, ndf=2, batch_size=1)
        G = build(config).G.eval()
        picture = Image.new("RGB", size, (9, 99, 200))
        assert translate.translate_picture(G, picture, None, CPU).size == size
        assert translate.translate_picture(G, picture, 32, CPU).size == size


def test_only_a_cycle_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = {"img_size": 32, "ngf": 2, "ndf": 2}
    for name in ("pix2pix", "cyclegan"):
        save_state(name, Config(family=name, **small))  # type: ignore[arg-type]
    for given in ({}, {"direction": "AtoB"}):
        G, run, back = runs.load_generator({"name": "pix2pix", **given})
        assert (G, back) == (run.nets.G, False)
    with pytest.raises(Refused, match="--direction=BtoA: this run was trained AtoB only"):
        runs.load_generator({"name": "pix2pix", "direction": "BtoA"})
    G, run, back = runs.load_generator({"name": "cyclegan"})
    assert (G, back) == (run.nets.G.there, False)
    G, run, back = runs.load_generator({"name": "cyclegan", "direction": "BtoA"})
    assert (G, back) == (run.nets.G.back, True)


def test_direction_turns_the_data_and_the_channels(two: Path, tmp_path: Path) -> None:
    shapes = {}
    for direction in ("AtoB", "BtoA"):
        data = pairs.open_pictures(
            True, str(two), 32, 1, 3, direction=direction, cache=tmp_path, workers=1
        )
        config = Config(
            family="pix2pix", img_size=32, direction=direction, channels_a=1, batch_size=4, ngf=2
        )
        batch = PictureFeed(config, facts_of(config), data, CPU).batch(0)
        assert batch.generate(build(config)).shape == batch.real.shape
        shapes[direction] = (batch.given.shape[1], batch.real.shape[1])
    assert shapes == {"AtoB": (1, 3), "BtoA": (3, 1)}


def test_a_preview_without_test_pictures(two: Path, tmp_path: Path) -> None:
    only = tmp_path / "only"
    for side in "AB":
        shutil.copytree(two / f"train{side}", only / side)
    data = pairs.open_pictures(True, str(only), 32, 3, 3, cache=tmp_path / "cache", workers=1)
    assert not len(data.test_given)
    config = Config(family="pix2pix", img_size=32, ngf=2, ndf=2, batch_size=4)
    preview = PictureFeed(config, facts_of(config), data, CPU).preview(build(config).G)
    assert preview.shape == (3, 8 * 34 + 2, 3 * 34 + 2)


def test_pix2pix_halves_l1_in_a_few_steps(two: Path, tmp_path: Path) -> None:
    data = pairs.open_pictures(True, str(two), 64, 3, 3, cache=tmp_path / "cache", workers=1)
    config = Config(
        family="pix2pix", img_size=64, ngf=8, ndf=8, batch_size=4, max_epoch=0, ema=False,
        max_images=40, jitter=False, rescue=False,
    )  # fmt: skip
    far = []
    saved = None
    for images in (40, 600):
        config.max_images = images
        folders = loop.Folders(*(tmp_path / str(images) / part for part in "cir"))
        state = new_state(config)
        if saved is not None:
            loop.resume(state, saved, data, folders)
        done = loop.fit(state, data, folders)
        saved = torch.load(done.state, weights_only=True)
        G = build(config).G
        G.load_state_dict(saved["nets"]["G"])
        given = PictureFeed(config, facts_of(config), data, CPU).inputs(0, 10)
        drawn = sample.draw_uint8(G, given, 4, CPU).numpy()
        far.append(evaluation.pair_distances(drawn, data.test_wanted)["L1"])
    assert far[1] < far[0] / 2, far


def test_from_end_to_end(
    inside: Inside, two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--img-size=32", "--ngf=2", "--ndf=2", "--gpu=False", f"--data-path={two}"]
    inside("train", "--family=cyclegan", *small, "--max-images=30", "--name=c")
    assert "SSIM" in capsys.readouterr().out  # the names of the test pictures match: pairs
    (preview,) = (tmp_path / "imgs" / "c").glob("*.png")
    assert Image.open(preview).size == (3 * 34 + 2, 8 * 34 + 2)
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    Image.new("L", (50, 41)).save(folder / "deep" / "grey.jpg")
    Image.new("RGBA", (30, 30)).save(folder / "a.png")
    (folder / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (4, 30)).save(folder / "thin.png")
    words = ["translate", "--name=c", "--input=in", "--output=out", "--side-by-side=page.html"]
    for direction in ("AtoB", "BtoA"):
        with pytest.raises(Refused, match=r"broken\.png.*thin\.png: less than 5 pixels"):
            inside(*words, f"--direction={direction}")
        assert Image.open(tmp_path / "out" / "deep" / "grey.png").size == (50, 41)
        assert Image.open(tmp_path / "out" / "a.png").size == (30, 30)
        assert "out/given/deep/grey.png" in (tmp_path / "page.html").read_text()
    for command, says in (
        (["translate", "--name=c"], "--input"),
        (["translate", "--name=c", "--input=none"], "--input=none"),
        (["translate", "--name=c", "--input=in", "--output=in"], "--output=in: it would mix"),
        (["translate", "--name=c", "--input=in/a.png", "--output=in"], "--output=in: it would mix"),
        (["translate", "--name=c", "--input=in", "--channels-a=1"], "--channels-a=1: .* has 3"),
        (["generate", "--name=c"], "translate"),
        (["train", "--family=pix2pix", "--gpu=False", "--name=d"], "--data-path"),
    ):
        with pytest.raises(Refused, match=says):
            inside(*command)
    inside("evaluate", "--name=c", "--report=out/scores.html")
    assert "unchanged" in capsys.readouterr().out
    page = (tmp_path / "out" / "scores.html").read_text()
    assert "unchanged" in page
    assert "Given, drawn, drawn back" in page
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert found["scores"]["unchanged"].keys() == found["scores"]["drawn"].keys()
    for word in ("--features=random", "--gen-num=9"):
        with pytest.raises(Refused, match=f"^{word.split('=')[0]}: cyclegan is scored on"):
            inside("evaluate", "--name=c", word)
    # bare weights of one's own have both ways, and the config beside them says which is which
    (bare,) = (tmp_path / "checkpoints" / "c").glob("netg_*.pth")
    (state,) = checkpoint.states(bare.parent)
    G = restore(state)[0].G
    picture = Image.effect_mandelbrot((30, 30), (-2, -1, 1, 1), 50).convert("RGB")
    picture.save(tmp_path / "x.png")
    for direction, way in (("AtoB", G), ("BtoA", G.back)):
        words = [f"--netg-path={bare}", "--input=x.png", f"--direction={direction}"]
        inside("translate", *words, "--output=bare")
        expected = translate.translate_picture(way.eval(), picture, None, CPU)
        drawn = Image.open(tmp_path / "bare" / "x.png")
        assert np.abs(np.asarray(drawn, int) - np.asarray(expected, int)).max() <= 1, direction


def test_originals_neither_replace_the_input_nor_each_other(
    inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    G = ResNetG(3, 3, 64, ngf=4)
    torch.save(G.state_dict(), tmp_path / "latest_net_G_A.pth")
    words = ["--family=cyclegan", "--img-size=64", "--ngf=4", "--netg-path=latest_net_G_A.pth"]
    words = ["translate", *words, "--side-by-side=page.html"]
    for name, colour in (("x.png", 10), ("given/x.png", 200)):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 30), (colour,) * 3).save(tmp_path / "in" / name)
    inside(*words, "--input=in", "--output=out")
    files = [p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*.png")]
    assert len(files) == 4, files  # two translations, two originals
    seen = re.findall('src="([^"]+)"', (tmp_path / "page.html").read_text())
    assert len(set(seen)) == 4
    originals = sorted(Image.open(tmp_path / path).getpixel((0, 0))[0] for path in seen[::2])
    assert originals == [10, 200]
    # what was kept as an original is translated once more, to where it came from
    shutil.move(tmp_path / "in", tmp_path / "again" / "given")
    before = (tmp_path / "again/given/x.png").read_bytes()
    with pytest.raises(Refused, match=r"--output=again: .* is in --input; give another folder"):
        inside(*words, "--input=again/given", "--output=again")
    assert (tmp_path / "again/given/x.png").read_bytes() == before

    def hungry(*given: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")

    monkeypatch.setattr(translate, "translate_picture", hungry)
    with pytest.raises(Refused, match=r"2 skipped: .*x\.png: out of memory; give --resize"):
        inside(*words, "--input=again/given", "--output=out")


def test_bare_weights_beside_the_config_of_another_family(inside: Inside, tmp_path: Path) -> None:
    write_config(Config(family="dcgan"), RunFacts(), tmp_path / "config.json")
    config = Config(family="pix2pix", img_size=32, ngf=2, ndf=2)
    torch.save(build(config).G.state_dict(), tmp_path / "g.pth")
    Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
    words = ["--family=pix2pix", "--img-size=32", "--ngf=2", "--batch-size=2", "--netg-path=g.pth"]
    inside("translate", *words, "--direction=BtoA", "--input=x.png")
    assert (tmp_path / "translated" / "x.png").exists()
    torch.save(7, tmp_path / "g.pth")
    for family in ("pix2pix", "cyclegan"):
        with pytest.raises(Refused, match=r"g\.pth: not a bare state dict of tensors"):
            inside("translate", f"--family={family}", *words[1:3], words[-1], "--input=x.png")


def test_without_a_name_each_command_takes_the_newest_run_of_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for age, (name, family) in enumerate([("f", "dcgan"), ("p", "pix2pix"), ("g", "dcgan")]):
        save_state(name, Config(family=family, img_size=32, ngf=2, ndf=2), age)

    def loaded(command: str) -> str:
        return Path(runs.load_run({}, command=command).source).parent.name

    for command, run in (("", "g"), ("generate", "g"), ("translate", "p")):
        assert loaded(command) == run
    shutil.rmtree("checkpoints/g")
    assert loaded("generate") == "f"
    shutil.rmtree("checkpoints/f")  # the other kind, if there is no more: the command says why not
    assert loaded("generate") == "p"


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_published_weights_draw(direction: str, inside: Inside, tmp_path: Path) -> None:
    """One generator of a cycle, in a file as the reference implementation writes it."""
    torch.manual_seed(1)
    G = ResNetG(3, 3, 64, ngf=4).eval()
    torch.save(G.state_dict(), tmp_path / "latest_net_G_B.pth")
    picture = Image.effect_mandelbrot((40, 44), (-2, -1, 1, 1), 50).convert("RGB")
    picture.save(tmp_path / "x.png")
    words = ["--family=cyclegan", "--img-size=64", "--ngf=4", "--netg-path=latest_net_G_B.pth"]
    inside("translate", *words, "--input=x.png", f"--direction={direction}")
    expected = translate.translate_picture(G, picture, None, CPU)
    drawn = Image.open(tmp_path / "translated" / "x.png")
    assert np.abs(np.asarray(drawn, int) - np.asarray(expected, int)).max() <= 1
    with pytest.raises(Refused, match=r"G_B\.pth: .*--ngf"):
        inside("translate", *words[:2], *words[3:], "--ngf=6", "--input=x.png")


def test_dropout_draws_as_the_reference_does_in_its_test(inside: Inside, tmp_path: Path) -> None:
    """In training mode, with a seed for each picture: a repeat is the same, to the bit."""
    small = {"img_size": 64, "ngf": 4, "ndf": 2, "batch_size": 2, "seed": 3}
    config = Config(family="pix2pix", **small)  # type: ignore[arg-type]
    torch.manual_seed(0)
    G = build(config).G
    for weight in G.parameters():
        weight.data.mul_(10)  # so that a dropped channel is seen
    torch.save(G.state_dict(), tmp_path / "a.pth")
    other = copy.deepcopy(G)
    for norm in other.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            assert norm.running_mean is not None
            torch.nn.init.constant_(norm.running_mean, 1000.0)
    torch.save(other.state_dict(), tmp_path / "b.pth")
    (tmp_path / "in").mkdir()
    picture = Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 50).convert("RGB")
    for name in ("0.png", "1.png"):
        picture.save(tmp_path / "in" / name)

    def draw(folder: str, weights: str, *more: str) -> list[bytes]:
        words = ["--family=pix2pix", "--img-size=64", "--ngf=4", "--batch-size=2", "--gpu=False"]
        inside(
            "translate", *words, f"--netg-path={weights}", "--input=in", f"--output={folder}", *more
        )
        return [Image.open(tmp_path / folder / name).tobytes() for name in ("0.png", "1.png")]

    first = draw("first", "a.pth", "--dropout", "--seed=3")
    assert first[0] != first[1]  # each picture has noise of its own
    assert draw("again", "a.pth", "--dropout", "--seed=3") == first
    assert draw("statistics", "b.pth", "--dropout", "--seed=3") == first  # the picture's own count
    for one, another in zip(first, draw("seed", "a.pth", "--dropout", "--seed=4"), strict=True):
        assert one != another
    G.train()
    for index, drawn in enumerate(first):
        torch.manual_seed(step_seed(3, index))
        assert translate.translate_picture(G, picture, None, CPU).tobytes() == drawn
    still = draw("still", "a.pth")
    assert still[0] == still[1] == draw("other", "a.pth", "--seed=4")[0]
    assert still != draw("statistics", "b.pth")


def test_without_dropout_in_the_net_the_switch_is_refused(
    inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
    for family, size in (("cyclegan", 64), ("pix2pix", 32)):
        save_state(family, Config(family=family, img_size=size, ngf=2, ndf=2, batch_size=2))
        with pytest.raises(Refused, match=f"^--dropout: .*{family} of {size} px, has none; leave"):
            inside("translate", f"--name={family}", "--input=x.png", "--dropout")
        assert not (tmp_path / "translated").exists()
