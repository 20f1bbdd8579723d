"""The command line as people use it, within this process."""

import contextlib
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, refused, tiny_flags
from PIL import Image

import main
from commands import runs
from commands.generate import check_size
from config import Config
from gan import checkpoint, loop, sample
from gan.errors import Refused

Inside = Callable[..., None]
Captured = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("cheap_lite0")


def faces_of(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(file.read_text())["faces"]
    return found


# one run, and what is done with it


@pytest.fixture(scope="module")
def trained(
    cheap_lite0: None, faces: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A folder in which two epochs were trained, and what that printed."""
    folder = tmp_path_factory.mktemp("trained")
    words = tiny_flags(f"--data-path={faces}", "--max-epoch=2", "--save-every=1", "--held-out=0.15")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.chdir(folder)
        main.run(["train", *words, "--lr2=1e-4"])
    return folder, out.getvalue()


@pytest.fixture
def run(trained: tuple[Path, str], inside: Inside, tmp_path: Path) -> Path:
    """A copy of that folder, in which `inside` works."""
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_a_training_says_and_writes_what_it_did(trained: tuple[Path, str]) -> None:
    folder, out = trained
    assert "170 to train on, 30 held out" in out
    assert "coverage (lite0)" in out
    assert (folder / "imgs" / "2.png").exists()
    assert (folder / "checkpoints" / "best.pth").exists()
    assert json.loads((folder / "checkpoints" / "config.json").read_text())["lr2"] == 1e-4


def test_faces_are_ranked_and_drawn_again(run: Path, inside: Inside, capsys: Captured) -> None:
    search = "--gen-search-num=50"
    inside("generate", "--gen-num=9", search, "--gen-dir=out", "--gen-img=a/top.png")
    out = capsys.readouterr().out
    assert "9 faces from checkpoints/best.pth" in out
    assert out.endswith("one file a face, and contact.png: out\n")
    assert json.loads((run / "a" / "top.json").read_text())["ranked_by"] == "consensus"
    best = faces_of(run / "a" / "top.json")
    scores = [face["consensus"] for face in best]
    assert len(scores) == 9
    assert scores == sorted(scores, reverse=True)
    assert Image.open(run / "a" / "top.png").size == (8 * 30 + 2, 2 * 30 + 2)
    inside("generate", "--rank-by=score", "--gen-num=5", search, "--gen-img=d.png")
    scores = [face["score"] for face in faces_of(run / "d.json")]
    assert scores == sorted(scores, reverse=True)
    # any face again, from its seed and index alone
    face = best[4]
    again = ["--gen-dir=again", "--gen-img=again/all.png"]
    capsys.readouterr()
    inside("generate", f"--gen-index={face['index']}", f"--seed={face['seed']}", *again)
    out = capsys.readouterr().out
    assert re.search("again, .*2 files", out)  # the image grid and its JSON are there too
    first, second = (
        np.asarray(Image.open(run / path), dtype=int)
        for path in (face["file"], f"again/0000_{face['index']}.png")
    )
    assert np.abs(first - second).max() <= 1  # another batch size rounds differently


def test_a_face_has_one_ratio_whatever_else_is_drawn(run: Path, inside: Inside) -> None:
    scores = {}
    for count in (3, 9):
        words = ["--rank-by=ratio", f"--gen-num={count}", "--gen-search-num=9", "--gen-img=r.png"]
        inside("generate", *words)
        scores[count] = {face["index"]: face["ratio"] for face in faces_of(run / "r.json")}
    assert scores[9].items() >= scores[3].items()
    assert list(scores[9].values()) == sorted(scores[9].values(), reverse=True)


def test_bare_weights_draw_with_the_d_and_the_config_beside_them(run: Path, inside: Inside) -> None:
    bare = "--netg-path=checkpoints/netg_2.pth"
    inside("generate", bare, "--gen-num=3", "--gen-img=b.png")
    assert len(faces_of(run / "b.json")) == 3
    refused(inside, "generate", bare, "--ngf=8", says="main.0.weight")
    refused(inside, "generate", "--ngf=8", says="--ngf=8")


def test_a_run_is_neither_overwritten_nor_tested_by_accident(
    run: Path, inside: Inside, faces: Path
) -> None:
    words = ["train", *TINY, f"--data-path={faces}"]
    refused(inside, *words, says="--overwrite")
    # weights that do not fit are refused before --overwrite deletes anything
    before = sorted(run.rglob("*.p??"))
    given = "--netg-path=checkpoints/netg_2.pth"
    other = tiny_flags(f"--data-path={faces}", "--overwrite", "--ngf=8", given)
    refused(inside, "train", *other, says="main.0.weight")
    assert sorted(run.rglob("*.p??")) == before
    # images that a run was trained on are no test of it
    says = "--held-out=0.3: the run was trained with 0.15"
    refused(inside, "evaluate", "--held-out=0.3", says=says)


def test_a_new_run_from_given_weights(run: Path, inside: Inside, faces: Path) -> None:
    weights = ["--netg-path=checkpoints/netg_2.pth", "--netd-path=checkpoints/netd_2.pth"]
    words = ["train", *TINY, f"--data-path={faces}", "--max-images=20", "--name=second"]
    inside(*words, *weights, "--lr1=1e-9")
    old, new = (
        torch.load(run / "checkpoints" / path, weights_only=True)["main.0.weight"]
        for path in ("netg_2.pth", "second/netg_1.pth")
    )
    assert torch.allclose(old, new, atol=1e-6)
    # nor does one run go on in the folder of another
    state = "--resume=checkpoints/state_00000016.pth"
    refused(inside, "train", state, "--name=second", says="holds another run")


# what is refused


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("trian", "did you mean train?"),
        ("train --lr3=1", "--lr"),
        ("train fast", "fast: a stray word"),
        ("sample --n=4", "sample: no such command; did you mean generate?"),
        ("train --lambda-identity=1", "--identity: modern has no use for it; cyclegan does"),
        ("train -", "a stray word"),
        ("train --img-size=12", "--img-size=12: at least 28"),
        ("train --data-path=nowhere", "--data-path=nowhere: no such"),
        ("train --data-path=", "--data-path=: empty"),
        ("generate --gen-img=.", "--gen-img=.: a folder"),
        ("train --resume", "no valid state"),
        ("train --resume=none.pth", "none.pth: no such file"),
        ("train --resume --overwrite", "--overwrite: not with --resume"),
        ("train --family=dcgam", "did you mean dcgan?"),
        ("train --config=none.json", "--config=none.json"),
        ("train --data-path=FACES --batch-size=201", "only 172 usable"),
        ("train --data-path=FACES --batch-size=1", "--batch-size=1: "),
        ("train --data-path=FACES --netg-path=no.pth", "no.pth: no such file"),
        ("generate", "no checkpoint"),
        ("generate", "train first"),
        ("generate --name=x", "no checkpoint of run x"),
        ("generate --gen-num=600", "--gen-num=600: more than the 512 candidates"),
        ("generate --gen-img=faces.xyz", "--gen-img=faces.xyz"),
        ("generate --gen-index=1,b", "--gen-index=1,b"),
        ("generate --gen-index=99999999999999999999", "--gen-index=99999999999999999999"),
        ("generate --netd-path=x.pth", "--netg-path"),
        ("generate --gen-index=1 --gen-num=2", "--gen-num: "),
        ("train --family=wgan --beta1=0.5", "--beta1: rmsprop has no use for it"),
        ("train --family=cyclegan --channels-a=1 --identity=0.5", "--identity: "),
        ("evaluate", "no checkpoint"),
        ("evaluate --report=page.pdf", "--report=page.pdf"),
        ("evaluate --fake-path=FACES --name=x", "--name: "),
        ("evaluate --fake-path=FACES --seed=1", "--seed: "),
        ("evaluate --features=vgg", "--features=vgg: wants lite0 or inception or random"),
        ("evaluate --fake-path=nowhere --data-path=FACES", "--fake-path=nowhere: no such folder"),
        pytest.param(
            "train --data-path=FACES --gpu=True",
            "--gpu=True",
            marks=pytest.mark.skipif(
                torch.cuda.is_available() or torch.backends.mps.is_available(), reason="has a GPU"
            ),
        ),
    ],
)
def test_mistakes_are_refused_before_anything_starts(
    words: str, says: str, inside: Inside, faces: Path, tmp_path: Path
) -> None:
    refused(inside, *words.replace("FACES", str(faces)).split(), says=says)
    assert {p.name for p in tmp_path.iterdir()} <= {"data"}  # at most the cache of the pictures


def test_two_folders_are_compared(
    inside: Inside, faces: Path, tmp_path: Path, capsys: Captured
) -> None:
    """The "fakes" are the training images and the held-out ones: good, and copies."""
    words = ["--features=random", "--img-size=32", "--report=out/page.html", "--held-out=0.1"]
    inside("evaluate", f"--data-path={faces}", f"--fake-path={faces}", *words)
    assert "KID (random) half size" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "page.json").read_text())
    assert (found["n_fake"], found["n_train"], found["n_held_out"]) == (200, 172, 28)
    assert found["memorisation"]["ratio"] < 0.1
    assert found["memorisation"]["copied"] > 0.8
    page = (tmp_path / "out" / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "memorisation ratio" in page


def test_help(inside: Inside, capsys: Captured) -> None:
    for words, says in (
        ((), "train"),
        (("--help",), "generate"),
        (("train", "--help"), "--nz int 64 "),
        (("train", "--family=wgan", "--help"), "--g-every int 5 "),
        (("generate", "-h"), "--gen-search-num"),
        (("compare", "--help"), "--seeds"),
    ):
        inside(*words)
        done = capsys.readouterr()
        assert says in " ".join(done.out.split())
        assert not done.err
    inside("train", "--family=pix2pix", "--help")
    table = capsys.readouterr().out
    assert "--direction " in table
    assert "--nz " not in table


def test_a_truncated_state_is_named_and_the_one_before_it_used(
    inside: Inside, faces: Path, tmp_path: Path, capsys: Captured
) -> None:
    inside("train", *TINY, f"--data-path={faces}", "--max-epoch=2", "--save-every=1")
    newest = tmp_path / "checkpoints" / "state_00000020.pth"
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=r"state_00000020\.pth: damaged"):
        inside("train", "--resume")
    assert "resume: checkpoints/state_00000010.pth" in capsys.readouterr().out
    assert torch.load(newest)["step"] == 20


def test_a_state_of_other_networks_is_refused(inside: Inside, faces: Path, tmp_path: Path) -> None:
    inside("train", *TINY, f"--data-path={faces}", "--max-epoch=1")
    (path,) = (tmp_path / "checkpoints").glob("state_*.pth")
    state = torch.load(path, weights_only=True)
    state["nets"]["G"]["main.0.weight"] = torch.zeros(3, 3)  # as another version would have it
    torch.save(state, path)
    before = path.read_bytes()
    with pytest.raises(Refused, match=r"^--resume: no valid state in checkpoints"):
        inside("train", "--resume", "--max-epoch=2")
    assert path.read_bytes() == before


def test_a_run_that_does_not_fit_in_memory_deletes_no_earlier_one(
    inside: Inside, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*TINY, f"--data-path={faces}", "--max-images=40"]
    inside("train", *words)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.p??")}

    def greedy(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(loop, "train_step", greedy)
        with pytest.raises(Refused, match=r"^--batch-size=\d+: out of memory"):
            inside("train", *words, "--overwrite")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.p??")} == before
    inside("train", *words[:-1], "--max-images=60", "--overwrite")
    assert before.keys() - set(tmp_path.rglob("*.p??"))  # its state is gone
    rehearsed = checkpoint.load(*checkpoint.states(tmp_path / "checkpoints"))
    inside("train", *words[:-1], "--max-images=60", "--name=fresh")
    fresh = checkpoint.load(*checkpoint.states(tmp_path / "checkpoints" / "fresh"))
    for name, weights in fresh["nets"]["G"].items():  # the rehearsal changes nothing
        assert torch.equal(weights, rehearsed["nets"]["G"][name]), name


def test_a_conditional_run_from_end_to_end(
    inside: Inside, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, file in enumerate(sorted(faces.iterdir())[:90]):
        folder = tmp_path / "in" / ("left", "middle", "right")[place % 3]
        if place >= 84:
            folder = tmp_path / "in" / "six"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
    with pytest.raises(Refused, match="no classes"):
        inside("train", *TINY, f"--data-path={faces}", "--conditional")
    assert not list(tmp_path.glob("checkpoints/*"))
    words = tiny_flags("--data-path=in", "--conditional", "--held-out=0.3")
    inside("train", *words, "--max-images=200")
    (preview,) = (tmp_path / "imgs").glob("*.png")
    assert Image.open(preview).size == (8 * 30 + 2, 4 * 30 + 2)  # a row of eight for each class
    for label in ("middle", "1"):
        inside("generate", f"--label={label}", "--gen-num=4", "--rank=none", f"--gen-dir={label}")
        assert json.loads((tmp_path / "result.json").read_text())["label"] == label
    for file in (tmp_path / "1").iterdir():
        assert file.read_bytes() == (tmp_path / "middle" / file.name).read_bytes()
    with pytest.raises(Refused, match="there are left, middle, right, six"):
        inside("generate", "--label=top")
    with pytest.raises(Refused, match=r"^--rank-by=consensus.*only [1-6]; give"):
        inside("generate", "--label=six", "--rank-by=ratio")
    capsys.readouterr()
    inside("generate", "--label=six", "--gen-num=4")
    assert re.search(r"ranked by D's score.*only [1-6]", capsys.readouterr().out)
    with pytest.raises(Refused, match="--conditional"):
        inside("train", "--resume", "--conditional=False")
    inside("train", "--resume", "--max-images=300")
    classes = ["left", "middle", "right", "six"]
    for step in (10, 15):
        state = torch.load(checkpoint.state_of(tmp_path / "checkpoints", step))
        assert state["facts"]["class_names"] == classes, step
    inside("evaluate", "--gen-num=30")
    # bare weights do not say their classes; the config.json beside them does
    bare = ["--netg-path=checkpoints/netg_5.pth", "--rank-by=none", "--gen-num=2"]
    inside("generate", *bare, "--label=six")
    refused(inside, "generate", *bare, "--label=top", says="there are left, middle, right, six")
    shutil.rmtree(tmp_path / "in" / "six")
    says = "the run has the classes left/middle/right/six"
    refused(inside, "train", "--resume", "--max-images=400", says=says)


def test_a_resumed_run_keeps_the_facts_that_it_started_with(
    inside: Inside, faces: Path, tmp_path: Path, capsys: Captured
) -> None:
    """As on a machine of another kind: the precision of a run is not chosen a second time."""
    inside("train", *TINY, f"--data-path={faces}", "--max-images=20")
    folder = tmp_path / "checkpoints"
    state = torch.load(checkpoint.state_of(folder, 1))
    mixed = state["facts"]["mixed_precision"] = not state["facts"]["mixed_precision"]
    torch.save(state, checkpoint.state_of(folder, 1))
    inside("train", "--resume", "--max-images=40")
    assert "--amp=auto changes it" in capsys.readouterr().out
    assert torch.load(checkpoint.state_of(folder, 2))["facts"] == state["facts"]
    inside("train", "--resume", "--max-images=60", f"--amp={not mixed}")
    state["facts"]["mixed_precision"] = not mixed
    assert torch.load(checkpoint.state_of(folder, 3))["facts"] == state["facts"]


def test_a_setting_a_family_has_no_use_for_is_refused(inside: Inside) -> None:
    with pytest.raises(Refused, match="wgan-gp do"):
        inside("train", "--penalty=3")
    with pytest.raises(Refused, match="dcgan"):
        inside("train", "--family=hinge", "--fake-label=1")
    for family, word in (
        ("mlp", "--ngf=8"),
        ("pix2pix", "--nz=8"),
        ("cyclegan", "--channels=1"),
        ("dcgan", "--direction=BtoA"),
        ("modern", "--jitter=False"),
    ):
        with pytest.raises(Refused, match=f"{word.split('=')[0]}: {family} has no use for it"):
            inside("train", f"--family={family}", word)


def test_evaluate_says_what_is_wrong_with_the_images(
    inside: Inside,
    faces: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "in"
    shutil.copytree(faces, folder)
    small = ["--img-size=28", "--ngf=4", "--ndf=4", "--gpu=False"]
    inside("train", f"--data-path={folder}", *small, "--max-images=32", "--held-out=0.2")
    inside("evaluate", "--features=random", "--gen-num=40")
    assert "not those that" not in capsys.readouterr().err
    (folder / "000.png").unlink()
    inside("evaluate", "--features=random", "--gen-num=40")
    assert "not those that" in capsys.readouterr().err
    few = tmp_path / "few"
    few.mkdir()
    for file in list(faces.iterdir())[:10]:
        shutil.copy(file, few)
    monkeypatch.setattr(sample, "draw_uint8", None)  # it is told before anything is drawn
    with pytest.raises(Refused, match="8 images of each kind; there are 40 generated, 5 training"):
        inside("evaluate", f"--data-path={few}", "--gen-num=40")


def test_the_settings_of_a_run_are_not_its_name(
    inside: Inside, faces: Path, tmp_path: Path
) -> None:
    """`--config=.../mine/config.json --overwrite` would else delete the run `mine`."""
    words = ["train", f"--data-path={faces}", "--max-images=40"]
    inside(*words, *TINY, "--name=mine")
    before = {path: path.read_bytes() for path in tmp_path.glob("*/mine/*")}
    inside("train", "--config=checkpoints/mine/config.json", "--overwrite")
    assert {path: path.read_bytes() for path in tmp_path.glob("*/mine/*")} == before
    assert checkpoint.states(tmp_path / "checkpoints")


def test_an_image_grid_too_high_for_its_format_is_refused() -> None:
    check_size(Path("x.webp"), (8, 16_000))
    check_size(Path("x.png"), (8, 70_000))
    for name in ("x.webp", "x.jpg", "x.gif"):
        with pytest.raises(Refused, match=rf"--gen-img={name}: .* cannot be .*70,000 pixels high"):
            check_size(Path(name), (8, 70_000))


def test_the_family_of_help_is_one_word_or_two(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--family=dcgan"], ["--family", "dcgan"]):
        main.run(["train", *words, "--help"])
        assert "--lr1 float 0.0002 " in " ".join(capsys.readouterr().out.split())


def test_a_run_keeps_out_of_its_own_data_and_of_files(
    inside: Inside, faces: Path, tmp_path: Path
) -> None:
    shutil.copytree(faces, tmp_path / "imgs" / "birds")
    before = sorted(p.name for p in (tmp_path / "imgs" / "birds").iterdir())
    for path in ("imgs/birds", "."):
        with pytest.raises(Refused, match=f"^--data-path={path}: the run would write into it"):
            inside("train", *TINY, f"--data-path={path}", "--name=birds", "--overwrite")
    (tmp_path / "imgs" / "a").write_text("no folder")
    with pytest.raises(Refused, match=r"^--name=a: imgs/a is a file"):
        inside("train", *TINY, f"--data-path={faces}", "--name=a")
    assert sorted(p.name for p in (tmp_path / "imgs" / "birds").iterdir()) == before


def test_two_trainings_of_one_name_are_refused(inside: Inside, faces: Path) -> None:
    words = ["train", *TINY, f"--data-path={faces}", "--max-images=40", "--no-flip"]
    with (
        runs.lock_run(Config(name="twin")),
        pytest.raises(Refused, match="a training of this name is going on"),
    ):
        inside(*words, "--name=twin")
    inside(*words, "--name=twin")
    assert json.loads(Path("checkpoints/twin/config.json").read_text())["flip"] is False
