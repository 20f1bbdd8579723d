"""What `translate` makes of each flag, size limits, ranges of options, exit codes, comparisons."""

import dataclasses
import html
import json
import os
import re
import struct
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image
from states import new_state

import config as options
import main
from commands import (
    compare_curves,
    compare_jobs,
    compare_page,
    compare_plan,
    evaluate,
    export,
    flags,
    generate,
    runs,
    train,
    translate,
)
from config import Config, RunFacts, write_config
from gan import checkpoint, idx, readers
from gan.errors import Refused
from gan.families import CLASSIC
from models import FAMILIES

CPU = torch.device("cpu")
SMALL = {"img_size": 32, "ngf": 2, "ndf": 2, "batch_size": 1, "gpu": False}


# ---- names of the code under test ---------------------------------------------------------------


def save_run(folder: Path, family: str, **more: Any) -> Any:
    """A run of this family as `train` leaves it; returns its nets."""
    config = Config(**{**CLASSIC, **SMALL, "family": family, **more})
    torch.manual_seed(0)
    nets = FAMILIES[family].build(config, 0)
    for weight in nets.G.parameters():
        if weight.ndim > 1:  # wide: every picture comes out another one
            torch.nn.init.normal_(weight, std=0.2)
    players = {"G": nets.G.state_dict(), "D": nets.D.state_dict()}
    facts = {"class_names": [], "mixed_precision": False}
    state = {"config": dataclasses.asdict(config), "facts": facts, "nets": players, "ema": None}
    checkpoint.save(folder / "state_00000001.pth", state)
    write_config(config, RunFacts(), folder / "config.json")
    nets.G.eval()
    return nets


def ways(nets: Any) -> dict[str, Any]:
    """The two generators of a cycle."""
    return {"AtoB": nets.G.there, "BtoA": nets.G.back}


def by_hand(G: Any, picture: Image.Image, size: int | None = None) -> Any:
    """What G makes of a picture: [H, W, C]; with `size` at that size, and back."""
    own = picture.size
    if size:
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    x = torch.from_numpy(np.asarray(picture).copy()).float().view(picture.height, picture.width, -1)
    with torch.no_grad():
        y = G(x.permute(2, 0, 1)[None] / 127.5 - 1)[0].permute(1, 2, 0)
    drawn = y.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    if size:
        image = Image.fromarray(drawn[:, :, 0] if drawn.shape[2] == 1 else drawn)
        drawn = np.asarray(image.resize(own, Image.Resampling.BICUBIC)).reshape(*own[::-1], -1)
    return drawn


def fractal(width: int, height: int, mode: str = "RGB") -> Image.Image:
    image = Image.effect_mandelbrot((width, height), (-2, -1, 1, 1), 50)
    turned = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return Image.merge("RGB", (image, turned, image)).convert(mode)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def close(path: str | Path, expected: Any) -> bool:
    found = np.asarray(Image.open(path)).astype(int)
    expected = expected[:, :, 0] if expected.shape[2] == 1 else expected
    return found.shape == expected.shape and bool(np.abs(found - expected).max() <= 1)


# ---- translate ----------------------------------------------------------------------------------


def test_a_picture_is_translated_whole_or_at_the_size_trained_at(here: Path) -> None:
    nets = save_run(here / "checkpoints" / "p", "pix2pix")
    picture = fractal(50, 41)
    picture.save("x.png")
    for words, size in (([], None), (["--resize"], 32)):
        main.run(["translate", "--name=p", "--input=x.png", *words])
        assert close("translated/x.png", by_hand(nets.G, picture, size)), words
    assert not close("translated/x.png", by_hand(nets.G, picture))
    # at the very size: nothing is cut off or moved
    fractal(32, 32).save("y.png")
    main.run(["translate", "--name=p", "--input=y.png", "--output=out"])
    assert close("out/y.png", by_hand(nets.G, fractal(32, 32)))


@pytest.mark.parametrize("trained", ["AtoB", "BtoA"])
def test_direction_and_channels_of_a_cycle(trained: str, here: Path) -> None:
    """A is grey and B has colours, whichever way round the run was trained."""
    nets = save_run(here / "checkpoints" / "c", "cyclegan", channels_a=1, direction=trained)
    picture = fractal(40, 36)
    picture.save("x.png")
    for asked in ("AtoB", "BtoA", ""):
        words = [f"--direction={asked}"] if asked else []
        main.run(["translate", "--name=c", "--input=x.png", f"--output={asked or 'own'}", *words])
        G = ways(nets)["AtoB" if (asked or trained) == trained else "BtoA"]
        given = "L" if (asked or trained) == "AtoB" else "RGB"
        assert close(f"{asked or 'own'}/x.png", by_hand(G, picture.convert(given)))


def test_names_of_translations_and_the_page_side_by_side(here: Path) -> None:
    nets = save_run(here / "checkpoints" / "p", "pix2pix")
    (here / "in" / "deep").mkdir(parents=True)
    for place, name in enumerate(("a.bmp", "a.png", "deep/<b>.tiff")):
        fractal(30 + place, 33).save(here / "in" / name)
    main.run(["translate", "--name=p", "--input=in", "--output=out", "--side-by-side=web/x.html"])
    text = (here / "web" / "x.html").read_text()
    urls = [html.unescape(url) for url in re.findall('src="([^"]+)"', text)]
    sources = [here / "web" / unquote(url) for url in urls]
    names = ["a.png", "a.png.png", "deep/<b>.png"]
    given = ["given/a.png", "given/a.png.png", "given/deep/<b>.png"]
    expected = [here / "out" / name for pair in zip(given, names, strict=True) for name in pair]
    assert [path.resolve() for path in sources] == expected
    assert re.findall("<figcaption>(.*?)</figcaption>", text) == [
        "a.bmp",
        "a.png",
        "deep/&lt;b&gt;.tiff",
    ]
    for place, name in enumerate(names):
        picture = fractal(30 + place, 33)
        assert close(here / "out" / name, by_hand(nets.G, picture)), name
        assert close(here / "out" / given[place], np.asarray(picture)), name
    main.run(["translate", "--name=p", "--input=in", "--output=bare"])
    assert not (here / "bare" / "given").exists()


@pytest.mark.parametrize(
    ("size", "says"),
    [((2000, 2000), ""), ((2001, 2000), "larger than 4,000,000 pixels"), ((5, 9), ""),
     ((9, 4), "less than 5 pixels")],
)  # fmt: skip
def test_sizes_that_are_translated(
    size: tuple[int, int], says: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_run(here / "checkpoints" / "p", "pix2pix")
    sizes: list[int | None] = []

    def drawn(G: Any, picture: Any, size: int | None, device: Any) -> Image.Image:
        sizes.append(size)
        return picture.crop((0, 0, 1, 1))

    monkeypatch.setattr(translate, "translate_picture", drawn)
    Image.new("RGB", size).save("x.png")
    words = ["translate", "--name=p", "--input=x.png"]
    if says:
        with pytest.raises(Refused, match=f"1 skipped: x.png: {says}.*; give --resize"):
            main.run(words)
        assert sizes == []
    else:
        main.run(words)
        assert sizes == [None]
    main.run([*words, "--resize"])
    assert sizes[-1] == 32


# ---- size limits of files -----------------------------------------------------------------------


def test_a_file_of_more_than_512_mib_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.png"
    Image.new("RGB", (30, 30)).save(path)
    limit = 512 * 2**20
    os.truncate(path, limit)  # zeros after the picture; on the disk they take no room
    assert readers.open_file(tmp_path, "x.png", 0).size == (30, 30)
    os.truncate(path, limit + 1)
    with pytest.raises(ValueError, match="larger than 512 MiB"):
        readers.open_file(tmp_path, "x.png", 0)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        os.truncate(path, 1000)
        archive.write(path, "x.png")
    open_member = readers.open_zip(str(tmp_path / "x.zip"), "--data-path").open
    for most, fits in ((1000, True), (999, False)):
        monkeypatch.setattr(readers, "MAX_FILE_BYTES", most)
        if fits:
            assert open_member("x.png", 0).size == (30, 30)
        else:
            with pytest.raises(ValueError, match="larger than"):
                open_member("x.png", 0)


def test_an_idx_file_that_says_it_is_huge_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(*shape: int) -> Path:
        path = tmp_path / "x-".join(map(str, shape))
        path.write_bytes(bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape))
        return path

    with pytest.raises(Refused, match="says it holds 4 GiB"):
        idx.read(written(2**20 + 1, 64, 64), 3)
    monkeypatch.setattr(idx, "MAX_BYTES", 1000)
    with pytest.raises(Refused, match="damaged"):
        idx.read(written(10, 10, 10), 3)
    with pytest.raises(Refused, match="says it holds"):
        idx.read(written(1001), 1)


# ---- options ------------------------------------------------------------------------------------


COMMANDS = (train, generate, evaluate, translate, export, compare_plan)
FIELDS = {name: field for command in COMMANDS for name, field in command.FLAGS.fields.items()}


@pytest.mark.parametrize(
    ("name", "good", "bad", "says"),
    [
        ("img_size", "28", "27", "at least 28"), ("img_size", "1024", "1025", "at most 1024"),
        ("img_size", "90", "96x128", "one number; images are squares"),
        ("held_out", "0", "-0.01", "at least 0"), ("held_out", "0.5", "0.51", "at most 0.5"),
        ("seed", "9223372036854775807", "9223372036854775808", "at most"),
        ("channels", "3", "2", "one of 1, 3"), ("channels_a", "1", "2", "one of 1, 3"),
        ("nz", "1", "0", "at least 1"), ("nz", "65536", "65537", "at most 65536"),
        ("ngf", "4096", "4097", "at most 4096"), ("ndf", "1", "0", "at least 1"),
        ("batch_size", "65536", "65537", "at most 65536"),
        ("lr1", "1", "1.01", "at most 1"), ("lr2", "1e-9", "0", "more than 0"),
        ("beta1", "0", "-0.1", "at least 0"), ("beta2", "0.999999", "1", "at most 0.999999"),
        ("augment", "0.95", "0.96", "at most 0.95"), ("fake_label", "1", "1.1", "at most 1"),
        ("lr_end", "1", "1.1", "at most 1"), ("clip", "0.01", "0", "more than 0"),
        ("save_minutes", "0.1", "0", "more than 0"), ("gen_std", "0.1", "0", "more than 0"),
        ("seeds", "100", "101", "at most 100"), ("max_minutes", "0", "-1", "at least 0"),
        ("gen_num", "1", "0", "at least 1"), ("pool", "1000000", "1000001", "at most"),
        ("direction", "BtoA", "btoa", "wants AtoB or BtoA"), ("noise", "uniform", "x", "wants"),
        ("loss", "", "wgan", "wants logistic or"), ("lr_fall", "linear", "x", "wants cosine"),
        ("optimizer", "rmsprop", "sgd", "wants adam"), ("rank_by", "ratio", "best", "wants"),
        ("features", "random", "vgg", "wants lite0"), ("gpu", "auto", "cuda", "or auto"),
    ],
)  # fmt: skip
def test_the_ends_of_every_range(name: str, good: str, bad: str, says: str) -> None:
    field = FIELDS[name]
    options.parse(field, good)
    with pytest.raises(Refused, match=f"^{options.flag(name)}={bad}: .*{says}"):
        options.parse(field, bad)


def test_a_budget_replaces_that_of_the_layers_below() -> None:
    def budget(*layers: dict[str, Any]) -> tuple[int, int, float]:
        config = options.resolve(*layers)
        return config.max_epoch, config.max_images, config.max_minutes

    file = {"max_epoch": 7, "max_images": 500, "max_minutes": 2.0}
    assert budget(file, {"lr1": 1e-3}) == (7, 500, 2)
    assert budget(file, {"max_images": 30}) == (0, 30, 0)
    assert budget(file, {"max_minutes": 1.0}) == (0, 0, 1)
    assert budget(file, {"max_epoch": 3}) == (3, 0, 0)
    assert budget(file, {"max_epoch": 0}) == (0, 500, 2)  # no limit: not a budget of its own
    assert budget({"max_images": 30}, {"max_epoch": 0}) == (0, 30, 0)


FIXED = {
    "family", "seed", "img_size", "channels", "held_out", "dedup", "flip", "conditional",
    "channels_a", "channels_b", "direction", "jitter", "half_squares", "pool", "spectral", "nz",
    "noise", "ngf", "ndf", "batch_size", "optimizer", "loss", "ema", "value_range",
}  # fmt: skip


def test_what_a_run_cannot_change() -> None:
    saved = vars(Config())
    for name, value in saved.items():
        if name == "gpu":  # what the machine has
            assert options.changes(saved, {name: "other"}) == {}
        elif name in FIXED:
            with pytest.raises(Refused, match=f"^{options.flag(name)}=other: the run has "):
                options.changes(saved, {name: "other"})
            assert options.changes(saved, {name: value}) == {}
        else:
            assert options.changes(saved, {name: "other"}) == {name: [value, "other"]}
    assert options.changes({}, {"nz": 3}) == {}  # a state of before there was such a setting


def test_switches_and_other_names_of_flags(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[dict[str, Any]] = []

    def recorded(*given: Any) -> Any:
        request = read(*given)
        own = {name: getattr(request.options, name, None) for name in request.given}
        found.append({**own, **request.settings})
        raise Refused("enough")

    read = flags.read
    monkeypatch.setattr(flags, "read", recorded)
    for words, values in (
        ("train --no-flip --noema", {"flip": False, "ema": False}),
        ("train --overwrite --no-gpu", {"overwrite": True, "gpu": False}),
        ("train --image-size=64 --lr1 1e-3", {"img_size": 64, "lr1": 1e-3}),
        ("train --image_size=64 --name=001", {"img_size": 64, "name": "001"}),
        ("train --resume", {"resume": True}),
        ("train --noise=uniform", {"noise": "uniform"}),  # no option is called ise
        ("generate --rank=none", {"rank_by": "none"}),
        ("generate --rank-by=none", {"rank_by": "none"}),
    ):
        with pytest.raises(Refused, match="enough"):
            main.run(words.split())
        assert found[-1] == values
    with pytest.raises(Refused, match=r"^--no-lr1: --lr1 is not a switch; give it a value"):
        main.run(["train", "--no-lr1"])
    with pytest.raises(Refused, match=r"^--no-lr1: --lr1 is not a switch; give it a value"):
        main.run(["train", "--no-lr1=0.1"])
    with pytest.raises(Refused, match=r"^--rank-by: given twice"):
        main.run(["generate", "--rank=none", "--rank-by=score"])
    main.run(["train", "-h"])
    assert "--img-size" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("raised", "code", "says"),
    [
        (Refused("--x: no"), 2, "main.py: --x: no\n"),
        (OSError(28, "No room"), 2, "main.py: [Errno 28] No room\n"),
        (KeyboardInterrupt(), 130, "stopped at once, with nothing more saved\n"),
        (SystemExit(143), 143, ""),
        (None, 0, ""),
    ],
)
def test_exit_codes_and_streams(
    raised: BaseException | None, code: int, says: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def run(words: list[str]) -> None:
        assert words == ["train", "--x=1"]
        print("to stdout")
        if raised:
            raise raised

    monkeypatch.setattr(main, "run", run)
    monkeypatch.setattr(sys, "argv", ["main.py", "train", "--x=1"])
    for module, name in ((sys, "stdout"), (sys, "stderr"), (warnings, "formatwarning")):
        monkeypatch.setattr(module, name, getattr(module, name))  # as they were, afterwards
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    found = 0
    try:
        main.main()
    except SystemExit as left:
        found = left.code  # type: ignore[assignment]
    assert found == code
    assert tuple(capsys.readouterr()) == ("to stdout\n", says)


# ---- comparisons --------------------------------------------------------------------------------


def test_a_comparison_goes_on_with_its_own_runs_alone(tmp_path: Path) -> None:
    config = Config(lr1=1e-4, max_images=100, max_epoch=0)
    facts = {"class_names": [], "mixed_precision": False}
    state = {"config": vars(config), "facts": facts, "data": "these"}

    def conflict(saved: Any, **other: Any) -> str:
        other_config = dataclasses.replace(config, **other)
        return compare_jobs.conflict(tmp_path, saved, other_config, "these")

    assert conflict(state) == ""
    assert conflict({**state, "data": "those"}) == "other images"
    assert conflict({"config": vars(config), "facts": facts}) == "other images"
    assert conflict(state, lr1=2e-4) == "--lr1 0.0001, not 0.0002"
    assert conflict(state, seed=1) == "--seed 0, not 1"
    beside = {"name": "x", "gpu": False, "num_workers": 3, "save_every": 2, "save_minutes": 1.0}
    assert conflict(state, **beside) == ""
    # the precision that was asked for may be auto; the facts say what it came to
    assert conflict(state, amp=False) == ""
    exact = {**state, "facts": {**facts, "mixed_precision": True}}
    assert conflict(exact, amp=False) == "--amp True, not False"
    assert conflict(exact) == ""
    # before there were facts it was among the settings, and so were options of commands
    former = {"config": {**vars(config), "amp": True, "overwrite": True}, "data": "these"}
    assert conflict(former) == ""
    assert conflict(former, amp=False) == "--amp True, not False"
    # no state is left: the config beside them says whose folder it is
    assert conflict(None) == "no config.json"
    (tmp_path / "config.json").write_text(
        json.dumps({"lr1": 1e-4, "max_images": 100, "max_epoch": 0})
    )
    assert conflict(None) == ""
    assert conflict(None, lr1=2e-4) == "--lr1 0.0001, not 0.0002"


def log_of(
    name: str, setting: str, scores: list[float], state: str = compare_curves.FINISHED
) -> compare_curves.RunLog:
    """The log of a run with these scores, one every 100 images and 6 seconds."""
    run = compare_curves.Run(name, setting, int(name[-1]), Path("log"), Path("imgs"), state)
    points = [(100 * i, 6.0 * i, score) for i, score in enumerate(scores, 1)]
    count = len(scores)
    return compare_curves.RunLog(run, {"score": points}, images=100 * count, seconds=6.0 * count)


def test_mean_and_deviation_over_the_seeds_of_a_setting() -> None:
    several = [
        log_of("a0", "a", [9, 1]), log_of("b0", "b", [5, 6]), log_of("a1", "a", [2, 3]),
        log_of("a2", "a", [0.5], "failed"),
    ]  # fmt: skip
    a, b = compare_page.summarise(several)
    assert (a["setting"], a["finished"], a["of"]) == ("a", 2, 3)
    assert (a["final"], a["spread"]) == (2, pytest.approx(2**0.5))
    assert a["best"] == {"score": 0.5, "images": 100, "seconds": 6.0, "seed": 2}
    assert (a["images"], a["seconds"]) == (200, 12)
    assert (b["final"], b["spread"], b["best"]["score"]) == (6, None, 5)
    assert compare_page.preview_points(several) == [50, 100, 150, 200]


def test_two_states_of_a_name(here: Path) -> None:
    """The file that is named, else the newest of the run that is named."""
    config = Config(**{**CLASSIC, **SMALL, "family": "pix2pix"})
    file = here / "checkpoints" / "p" / "state_00000001.pth"
    checkpoint.save(file, {**new_state(config).state_dict(), "data": "d"})
    path, state = runs.find_state(True, "p")
    assert path == Path("checkpoints/p/state_00000001.pth")
    with pytest.raises(Refused, match="no valid state in checkpoints"):
        runs.find_state(True, "")
    assert runs.find_state(str(path), "q")[1]["config"] == state["config"]
