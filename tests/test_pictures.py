"""Pictures to pictures, from end to end and by hand."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pictures
import pytest
import runs
import torch
from PIL import Image, ImageOps

from config import Config
from gan import checkpoint, loop, pairs, sample
from gan.errors import Refused
from gan.feed import FromPictures
from gan.translation import ResNetG
from models import FAMILIES, restore

Inside = Callable[..., None]
CPU = torch.device("cpu")


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
    found = pictures.against_pairs(fakes, wanted)
    assert found["L1"] == pytest.approx(0.1)
    assert found["PSNR"] == pytest.approx((100 + 20 * np.log10(5)) / 2, abs=0.01)
    assert pictures.against_pairs(wanted, wanted)["SSIM"] == pytest.approx(1)
    assert found["SSIM"] < 0.6


@pytest.mark.parametrize("size", [(29, 33), (64, 64), (17, 90)])
def test_a_picture_keeps_its_size(size: tuple[int, int]) -> None:
    for name in ("pix2pix", "cyclegan"):
        config = Config(family=name, img_size=32, ngf=2, ndf=2, batch_size=1)
        G = FAMILIES[name].build(config).G.eval()
        picture = Image.new("RGB", size, (9, 99, 200))
        assert pictures.drawn_from(G, picture, None, CPU).size == size
        assert pictures.drawn_from(G, picture, 32, CPU).size == size


def test_only_a_cycle_goes_back() -> None:
    config = Config(family="pix2pix", img_size=32, ngf=2, ndf=2)
    nets = FAMILIES["pix2pix"].build(config)
    assert runs.one_way(nets, config, "AtoB") == (nets.G, False)
    with pytest.raises(Refused, match="--direction=BtoA"):
        runs.one_way(nets, config, "BtoA")
    nets = FAMILIES["cyclegan"].build(config)
    assert runs.one_way(nets, config, "") == (nets.G.there, False)
    assert runs.one_way(nets, config, "BtoA") == (nets.G.back, True)


def test_direction_turns_the_data_and_the_channels(two: Path, tmp_path: Path) -> None:
    data = pairs.open_sides("pairs", str(two), 32, 1, 3, tmp_path, workers=1)
    shapes = {}
    for direction in ("AtoB", "BtoA"):
        config = Config(
            family="pix2pix", img_size=32, direction=direction, channels_a=1, batch_size=4, ngf=2
        )
        batch = FromPictures(config, data, CPU).batch(0)
        nets = FAMILIES["pix2pix"].build(config)
        assert batch.fake(nets).shape == batch.real.shape
        shapes[direction] = (batch.noise.shape[1], batch.real.shape[1])
    assert shapes == {"AtoB": (1, 3), "BtoA": (3, 1)}


def test_a_preview_without_test_pictures(two: Path, tmp_path: Path) -> None:
    only = tmp_path / "only"
    for side in "AB":
        shutil.copytree(two / f"train{side}", only / side)
    data = pairs.open_sides(
        "pairs", str(only), 32, 3, 3, tmp_path / "cache", workers=1, held_out=0.0
    )
    assert not len(data.test_a)
    config = Config(family="pix2pix", img_size=32, ngf=2, ndf=2, batch_size=4)
    preview = FromPictures(config, data, CPU).preview(FAMILIES["pix2pix"].build(config).G)
    assert preview.shape == (3, 8 * 34 + 2, 3 * 34 + 2)


def test_pix2pix_halves_l1_in_a_few_steps(two: Path, tmp_path: Path) -> None:
    data = pairs.open_sides("pairs", str(two), 64, 3, 3, tmp_path / "cache", workers=1)
    config = Config(
        family="pix2pix", img_size=64, ngf=8, ndf=8, batch_size=4, max_epoch=0, ema=False,
        max_images=40, jitter=False, rescue=False,
    )  # fmt: skip
    far = []
    saved = None
    for images in (40, 600):
        config.max_images = images
        folders = loop.Folders(*(tmp_path / str(images) / part for part in "cir"))
        done = loop.fit(FAMILIES["pix2pix"], config, data, folders, CPU, saved=saved)
        saved = torch.load(done.state, weights_only=True)
        G = FAMILIES["pix2pix"].build(config).G
        G.load_state_dict(saved["nets"]["G"])
        z = FromPictures(config, data, CPU).inputs(0, 10)
        drawn = sample.draw_uint8(G, z, 4, CPU).numpy()
        far.append(pictures.against_pairs(drawn, data.test_b)["L1"])
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
        expected = pictures.drawn_from(way.eval(), picture, None, CPU)
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

    monkeypatch.setattr(pictures, "drawn_from", hungry)
    with pytest.raises(Refused, match=r"2 skipped: .*x\.png: not enough memory.*--resize"):
        inside(*words, "--input=again/given", "--output=out")


def test_bare_weights_beside_the_config_of_another_family(inside: Inside, tmp_path: Path) -> None:
    Config(family="dcgan").save(tmp_path / "config.json")
    config = Config(family="pix2pix", img_size=32, ngf=2, ndf=2)
    torch.save(FAMILIES["pix2pix"].build(config).G.state_dict(), tmp_path / "g.pth")
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
        config = Config(family=family, img_size=32, ngf=2, ndf=2)
        nets = FAMILIES[family].build(config)
        players = {"G": nets.G.state_dict(), "D": nets.D.state_dict()}
        path = tmp_path / "checkpoints" / name / "state_00000001.pth"
        checkpoint.save(path, {"config": vars(config), "nets": players, "ema": None})
        config.save(path.with_name("config.json"))
        os.utime(path, (age, age))
    for translator, run in ((None, "g"), (False, "g"), (True, "p")):
        assert Path(runs.trained({}, False, translator)[2]).parent.name == run
    shutil.rmtree("checkpoints/g")
    assert Path(runs.trained({}, False, False)[2]).parent.name == "f"
    shutil.rmtree("checkpoints/f")  # the other kind, if there is no more: the command says why not
    assert Path(runs.trained({}, False, False)[2]).parent.name == "p"


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
    expected = pictures.drawn_from(G, picture, None, CPU)
    drawn = Image.open(tmp_path / "translated" / "x.png")
    assert np.abs(np.asarray(drawn, int) - np.asarray(expected, int)).max() <= 1
    with pytest.raises(Refused, match=r"G_B\.pth: .*--ngf"):
        inside("translate", *words[:2], *words[3:], "--ngf=6", "--input=x.png")
