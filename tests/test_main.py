"""The command line as people use it, in processes of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from conftest import ROOT
from faces import check_target
from PIL import Image

import main
from config import Config
from gan import checkpoint, loop
from gan.errors import Refused

Cli = Callable[..., subprocess.CompletedProcess[str]]
Inside = Callable[..., None]
TINY = (
    "--img-size=28", "--nz=8", "--ngf=4", "--ndf=4", "--batch-size=20", "--gpu=False",
    "--held-out=0",
)  # fmt: skip


def refused(done: subprocess.CompletedProcess[str], says: str) -> None:
    """One line, exit code 2, no traceback."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert says in lines[0]


def test_train_and_generate_from_end_to_end(cli: Cli, faces: Path, tmp_path: Path) -> None:
    done = cli(
        "train", *TINY, f"--data-path={faces}", "--max-epoch=2", "--save-every=1", "--lr2=1e-4",
        "--held-out=0.15",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "170 images to train on, 30 held out" in done.stdout
    assert "coverage (lite0)" in done.stdout
    assert (tmp_path / "imgs" / "2.png").exists()
    assert (tmp_path / "checkpoints" / "best.pth").exists()
    assert json.loads((tmp_path / "checkpoints" / "config.json").read_text())["lr2"] == 1e-4
    done = cli(
        "generate", "--gen-num=9", "--gen-search-num=50", "--gen-dir=out", "--gen-img=a/top.png"
    )
    assert done.returncode == 0, done.stderr
    assert "9 faces from checkpoints/best.pth" in done.stdout
    assert done.stdout.endswith("one file a face: out\n")
    about = json.loads((tmp_path / "a" / "top.json").read_text())
    assert about["ranked_by"] == "realism"
    scores = [face["realism"] for face in about["faces"]]
    assert len(scores) == 9
    assert scores == sorted(scores, reverse=True)
    by_d = cli("generate", "--rank=score", "--gen-num=5", "--gen-search-num=50", "--gen-img=d.png")
    assert by_d.returncode == 0, by_d.stderr
    scores = [face["score"] for face in json.loads((tmp_path / "d.json").read_text())["faces"]]
    assert scores == sorted(scores, reverse=True)
    assert Image.open(tmp_path / "a" / "top.png").size == (8 * 30 + 2, 2 * 30 + 2)
    # whatever is drawn beside it, a face has one score
    scores = {}
    for count in (3, 9):
        words = ["--rank=ratio", f"--gen-num={count}", "--gen-search-num=9", "--gen-img=r.png"]
        by_ratio = cli("generate", *words)
        assert by_ratio.returncode == 0, by_ratio.stderr
        ranked = json.loads((tmp_path / "r.json").read_text())["faces"]
        scores[count] = {face["index"]: face["ratio"] for face in ranked}
    assert scores[9].items() >= scores[3].items()
    assert list(scores[9].values()) == sorted(scores[9].values(), reverse=True)
    # any face again, from its seed and index alone
    face = about["faces"][4]
    again = cli(
        "generate", f"--gen-index={face['index']}", f"--seed={face['seed']}",
        "--gen-dir=again", "--gen-img=again/grid.png",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "again, beside 2 files that are not of these" in again.stdout  # the grid, its JSON
    first, second = (
        np.asarray(Image.open(tmp_path / path), dtype=int)
        for path in (face["file"], f"again/0000_{face['index']}.png")
    )
    assert np.abs(first - second).max() <= 1  # another batch size rounds differently
    # bare weights, with the D beside them and the config beside both
    bare = cli("generate", "--netg-path=checkpoints/netg_2.pth", "--gen-num=3", "--gen-img=b.png")
    assert bare.returncode == 0, bare.stderr
    best = json.loads((tmp_path / "b.json").read_text())["faces"]
    assert [f["index"] for f in best]
    refused(cli("generate", "--netg-path=checkpoints/netg_2.pth", "--ngf=8"), "main.0.weight")
    refused(cli("generate", "--ngf=8"), "--ngf=8")
    # a second run does not overwrite the first by accident
    refused(cli("train", *TINY, f"--data-path={faces}"), "--overwrite")
    # weights that do not fit are refused before --overwrite deletes anything
    before = sorted(tmp_path.rglob("*.p??"))
    done = cli(
        "train", *TINY, f"--data-path={faces}", "--overwrite", "--ngf=8",
        "--netg-path=checkpoints/netg_2.pth",
    )  # fmt: skip
    refused(done, "main.0.weight")
    assert sorted(tmp_path.rglob("*.p??")) == before
    # images that a run was trained on are no test of it
    refused(cli("evaluate", "--held-out=0.3"), "--held-out=0.3: the run was trained with 0.15")
    # a new run from given weights
    done = cli(
        "train", *TINY, f"--data-path={faces}", "--max-images=20", "--name=second",
        "--netg-path=checkpoints/netg_2.pth", "--netd-path=checkpoints/netd_2.pth", "--lr1=1e-9",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # nor does one run go on in the folder of another
    refused(
        cli("train", "--resume=checkpoints/state_00000016.pth", "--name=second"),
        "holds another run",
    )
    old, new = (
        torch.load(tmp_path / "checkpoints" / path, weights_only=True)["main.0.weight"]
        for path in ("netg_2.pth", "second/netg_1.pth")
    )
    assert torch.allclose(old, new, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("trian", "did you mean train?"),
        ("train --lr3=1", "--lr"),
        ("train fast", "fast: a stray word"),
        ("train -", "a stray word"),
        ("train --img-size=12", "--img-size=12: at least 28"),
        ("train --data-path=nowhere", "--data-path=nowhere: no such"),
        ("train --data-path=", "--data-path=: empty"),
        ("generate --gen-img=faces.msp", "--gen-img=faces.msp"),
        ("generate --gen-img=.", "--gen-img=.: a folder"),
        ("train --resume", "no valid state"),
        ("train --resume=none.pth", "none.pth: no such file"),
        ("train --resume --overwrite", "--overwrite: not with --resume"),
        ("train --family=dcgam", "did you mean dcgan?"),
        ("train --config=none.json", "--config=none.json"),
        ("train --data-path=FACES --batch-size=201", "only 172 usable"),
        ("train --data-path=FACES --batch-size=1", "--batch-size=1: drawn from noise"),
        ("train --data-path=FACES --netg-path=no.pth", "no.pth: no such file"),
        ("generate", "no checkpoint"),
        ("generate --name=x", "no checkpoint of run x"),
        ("generate --gen-num=600", "--gen-num=600: more than the 512 candidates"),
        ("generate --gen-img=faces.xyz", "--gen-img=faces.xyz"),
        ("generate --gen-index=1,b", "--gen-index=1,b"),
        ("generate --gen-index=99999999999999999999", "--gen-index=99999999999999999999"),
        ("generate --netd-path=x.pth", "--netg-path"),
        ("generate --gen-index=1 --gen-num=2", "--gen-num: --gen-index names the faces"),
        ("train --family=wgan --beta1=0.5", "--beta1: rmsprop has no use for it"),
        ("train --family=cyclegan --channels-a=1 --identity=0.5", "--identity: A and B have"),
        ("evaluate", "no checkpoint"),
        ("evaluate --report=page.pdf", "--report=page.pdf"),
        ("evaluate --fake-path=FACES --name=x", "--name: --fake-path is scored"),
        ("evaluate --fake-path=FACES --seed=1", "--seed: --fake-path is scored"),
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
    words: str, says: str, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused) as refusal:
        main.run(words.replace("FACES", str(faces)).split())
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert {p.name for p in tmp_path.iterdir()} <= {"data"}  # at most the cache of the pictures


def test_a_mistake_is_one_line_and_exit_code_2(cli: Cli) -> None:
    refused(cli("train", "--learning-rate=1"), "--learning-rate: no such flag of train")
    refused(cli("generate"), "train first")


def test_two_folders_are_compared(cli: Cli, faces: Path, tmp_path: Path) -> None:
    """The "fakes" are the training images and the held-out ones: good, and copies."""
    done = cli(
        "evaluate", f"--data-path={faces}", f"--fake-path={faces}", "--features=random",
        "--img-size=32", "--report=out/page.html",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "KID (random), half size" in done.stdout
    found = json.loads((tmp_path / "out" / "page.json").read_text())
    assert (found["n_fake"], found["n_train"], found["n_held_out"]) == (200, 172, 28)
    assert found["memorisation"]["ratio"] < 0.1
    assert found["memorisation"]["copied"] > 0.8
    page = (tmp_path / "out" / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "memorisation ratio" in page


def test_help(cli: Cli) -> None:
    for words, says in (
        ((), "train"),
        (("--help",), "generate"),
        (("train", "--help"), "--nz            int       64 "),
        (("train", "--family=wgan", "--help"), "--g-every       int       5 "),
        (("generate", "-h"), "--gen-search-num"),
        (("compare", "--help"), "--seeds"),
    ):
        done = cli(*words)
        assert done.returncode == 0
        assert says in done.stdout
        assert not done.stderr
    table = cli("train", "--family=pix2pix", "--help").stdout
    assert "--direction " in table
    assert "--nz " not in table


def start(tmp_path: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), "train", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def wait_for(folder: Path, pattern: str, process: "subprocess.Popen[str]") -> None:
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_a_killed_run_resumed_is_the_run(cli: Cli, faces: Path, tmp_path: Path) -> None:
    words = (*TINY, f"--data-path={faces}", "--max-epoch=40", "--save-every=3", "--g-every=3")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert cli("train", *words, cwd=whole).returncode == 0
    process = start(killed, *words)
    wait_for(killed, "checkpoints/state_*.pth", process)
    time.sleep(0.1)  # into the next epochs
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = cli("train", "--resume", cwd=killed)
    assert done.returncode == 0, done.stderr
    a, b = (torch.load(top / "checkpoints" / "state_00000400.pth") for top in (whole, killed))
    for player in ("G", "D"):
        for key, value in a["nets"][player].items():
            assert torch.equal(value, b["nets"][player][key]), key
    for key, value in a["ema"].items():
        assert torch.equal(value, b["ema"][key]), key
    assert (whole / "imgs" / "40.png").read_bytes() == (killed / "imgs" / "40.png").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(
    cli: Cli, faces: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = start(tmp_path, *TINY, f"--data-path={faces}", "--max-epoch=10000", "--name=x")
    wait_for(tmp_path, "runs/x/log.jsonl", process)
    time.sleep(0.5)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert not err.strip().startswith("Traceback")
    states = list((tmp_path / "checkpoints" / "x").glob("state_*.pth"))
    assert len(states) == 1
    command = out.strip().splitlines()[-1].split("go on with: python main.py ")[1].split()
    assert command[:3] == ["train", "--name=x", "--resume"]
    step = torch.load(states[0])["step"]
    done = cli(*command, f"--max-images={(step + 3) * 20}", "--lr2=5e-5")
    assert done.returncode == 0, done.stderr
    assert "--lr2 0.0004 -> 5e-05" in done.stdout
    log = (tmp_path / "runs" / "x" / "log.jsonl").read_text()
    assert '"lr2": [0.0004, 5e-05]' in log
    refused(cli("train", "--name=x", "--resume", "--ngf=8"), "cannot change it in mid-run")


def test_a_truncated_state_is_named_and_the_one_before_it_used(
    cli: Cli, faces: Path, tmp_path: Path
) -> None:
    words = (*TINY, f"--data-path={faces}", "--max-epoch=2", "--save-every=1")
    assert cli("train", *words).returncode == 0
    newest = tmp_path / "checkpoints" / "state_00000020.pth"
    newest.write_bytes(newest.read_bytes()[:1000])
    done = cli("train", "--resume")
    assert done.returncode == 0, done.stderr
    assert "state_00000020.pth: damaged" in done.stderr
    assert "resume: checkpoints/state_00000010.pth" in done.stdout
    assert torch.load(newest)["step"] == 20


def test_a_state_of_other_networks_is_refused(inside: Inside, faces: Path, tmp_path: Path) -> None:
    inside("train", *TINY, f"--data-path={faces}", "--max-epoch=1")
    (path,) = (tmp_path / "checkpoints").glob("state_*.pth")
    state = torch.load(path, weights_only=True)
    state["nets"]["G"]["main.0.weight"] = torch.zeros(3, 3)  # as another version would have it
    torch.save(state, path)
    before = path.read_bytes()
    with pytest.raises(Refused, match=r"^--resume: .*another version.*main\.0\.weight"):
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
    words = [*TINY, "--data-path=in", "--conditional", "--held-out=0.3"]
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
    with pytest.raises(Refused, match=r"^--rank=realism.*only [1-6]; leave"):
        inside("generate", "--label=six", "--rank=ratio")
    capsys.readouterr()
    inside("generate", "--label=six", "--gen-num=4")
    assert "ranked by D's score, for there are only" in capsys.readouterr().out
    with pytest.raises(Refused, match="--conditional"):
        inside("train", "--resume", "--conditional=False")
    inside("train", "--resume", "--max-images=300")
    inside("evaluate", "--gen-num=30")


def test_a_knob_a_family_has_no_use_for_is_refused(inside: Inside) -> None:
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
    monkeypatch.setattr(main, "drawn", None)  # it is told before anything is drawn
    with pytest.raises(Refused, match="8 images of each kind; there are 40 generated, 5 training"):
        inside("evaluate", f"--data-path={few}", "--gen-num=40")


def test_the_knobs_of_a_run_are_not_its_name(inside: Inside, faces: Path, tmp_path: Path) -> None:
    """`--config=.../mine/config.json --overwrite` would else delete the run `mine`."""
    words = ["train", f"--data-path={faces}", "--max-images=40", "--gpu=False"]
    inside(*words, *TINY, "--name=mine")
    before = {path: path.read_bytes() for path in tmp_path.glob("*/mine/*")}
    inside("train", "--config=checkpoints/mine/config.json", "--overwrite")
    assert {path: path.read_bytes() for path in tmp_path.glob("*/mine/*")} == before
    assert checkpoint.states(tmp_path / "checkpoints")


def test_a_grid_too_high_for_its_format_is_refused() -> None:
    check_target({"gen_img": "x.webp"}, 16_000)
    check_target({"gen_img": "x.png"}, 70_000)
    for name in ("x.webp", "x.jpg", "x.gif"):
        with pytest.raises(Refused, match=rf"--gen-img={name}: .* cannot be 70,000 pixels high"):
            check_target({"gen_img": name}, 70_000)


def test_the_family_of_help_is_one_word_or_two(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--family=dcgan"], ["--family", "dcgan"]):
        main.run(["train", *words, "--help"])
        assert "--lr1           float     0.0002 " in capsys.readouterr().out


def test_without_a_standard_output(tmp_path: Path) -> None:
    command = f"'{sys.executable}' '{ROOT / 'main.py'}' generate >&-"
    done = subprocess.run(command, shell=True, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


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
        runs.claimed(Config(name="twin")),
        pytest.raises(Refused, match="a training of this name is going on"),
    ):
        inside(*words, "--name=twin")
    inside(*words, "--name=twin")
    assert json.loads(Path("checkpoints/twin/config.json").read_text())["flip"] is False


def test_a_reader_that_leaves_stops_no_training(faces: Path, tmp_path: Path) -> None:
    words = ["train", *TINY, f"--data-path={faces}", "--max-images=60"]
    command = [sys.executable, str(ROOT / "main.py"), *words]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        run.stdout.close()
        assert run.wait(120) == 0, run.stderr and run.stderr.read()
    assert (tmp_path / "checkpoints" / "state_00000003.pth").exists()
