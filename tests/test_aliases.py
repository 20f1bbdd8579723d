"""Flags of other tools: each is one of ours, or says what to do instead."""

from pathlib import Path

import pytest
from conftest import refused

import main
from commands import (
    compare_plan,
    evaluate,
    export,
    flags,
    generate,
    help,
    prepare,
    train,
    translate,
)
from commands.aliases import ALIASES, TABLE, Alias, snake_case
from config import flag
from gan.errors import Refused

ROOT = Path(__file__).resolve().parent.parent
ALL = (train, generate, evaluate, translate, export, compare_plan, prepare)
SPECS = {module.FLAGS.command: module.FLAGS for module in ALL}


def settings(**words: str) -> dict[str, object]:
    return dict(flags.read(train.FLAGS, [], words).settings)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"dataroot": "x"}, {"data_path": "x"}),
        ({"data": "x"}, {"data_path": "x"}),
        ({"imageSize": "64"}, {"img_size": 64}),
        ({"image_size": "64"}, {"img_size": 64}),
        ({"batchSize": "8"}, {"batch_size": 8}),
        ({"batch": "8"}, {"batch_size": 8}),
        ({"niter": "25"}, {"max_epoch": 25}),
        ({"epochs": "25"}, {"max_epoch": 25}),
        ({"n_epochs": "25"}, {"max_epoch": 25}),
        ({"lr": "2e-4"}, {"lr1": 2e-4, "lr2": 2e-4}),
        ({"learning_rate": "2e-4"}, {"lr1": 2e-4, "lr2": 2e-4}),
        ({"mirror": "1"}, {"flip": True}),
        ({"no_flip": flags.BARE}, {"flip": False}),
        ({"workers": "3"}, {"num_workers": 3}),
        ({"workers": "0"}, {"num_workers": 1}),  # PyTorch's 0 is no further process
        ({"n_critic": "5"}, {"g_every": 5}),
        ({"kimg": "25"}, {"max_images": 25_000}),
        ({"kimg": "0.5"}, {"max_images": 500}),
        ({"cuda": flags.BARE}, {"gpu": True}),
        ({"no_cuda": flags.BARE}, {"gpu": False}),
        ({"cpu": "True"}, {"gpu": False}),
        ({"nogpu": flags.BARE}, {"gpu": False}),
        ({"device": "cuda:0"}, {"gpu": True}),
        ({"device": "cpu"}, {"gpu": False}),
        ({"gpu_ids": "-1"}, {"gpu": False}),
        ({"gpu_ids": "0"}, {"gpu": True}),
        ({"ngpu": "0"}, {"gpu": False}),
        ({"gpus": "1"}, {"gpu": True}),
        ({"manualSeed": "7"}, {"seed": 7}),
        ({"netG": "g.pth", "netD": "d.pth"}, {"netg_path": "g.pth", "netd_path": "d.pth"}),
        ({"lambda_L1": "10"}, {"l1": 10.0}),
        ({"model": "cycle_gan"}, {"family": "cyclegan"}),
        ({"gan_mode": "lsgan"}, {"loss": "least-squares"}),
        ({"fp32": flags.BARE}, {"amp": False}),
        ({"aug": "noaug"}, {"augment": 0.0}),
        ({"greyscale": flags.BARE}, {"channels": 1}),
        ({"b1": "0.5", "b2": "0.9", "latent_dim": "8"}, {"beta1": 0.5, "beta2": 0.9, "nz": 8}),
        ({"gamma": "5"}, {"penalty": 5.0}),
        ({"cuda": flags.BARE, "ngpu": "1"}, {"gpu": True}),  # PyTorch's example takes both
        ({"d_steps": "5"}, {"g_every": 5}),
    ],
)  # fmt: skip
def test_flags_of_other_tools_work(theirs: dict[str, str], ours: dict[str, object]) -> None:
    assert settings(**theirs) == ours


def test_flags_that_depend_on_the_command() -> None:
    drawn = flags.read(
        generate.FLAGS, [], {"outdir": "o", "trunc_psi": "0.7", "class": "3"}
    ).options
    assert (drawn.gen_dir, drawn.gen_std, drawn.label) == ("o", 0.7, "3")
    turned = flags.read(translate.FLAGS, [], {"results_dir": "o", "dataroot": "i"})
    assert (turned.options.output, turned.options.input) == ("o", "i")
    assert not turned.settings
    scored = flags.read(evaluate.FLAGS, [], {"input1": "a", "input2": "b"})
    assert scored.options.fake_path == "a"
    assert scored.settings == {"data_path": "b"}
    assert flags.read(generate.FLAGS, [], {"num": "4", "out": "a.png"}).options.gen_img == "a.png"
    assert flags.read(export.FLAGS, [], {"format": "onnx", "output": "a.onnx"}).options.to == "onnx"
    words = {"input": "a", "output": "b"}
    assert flags.read(prepare.FLAGS, [], words).options.out == "b"
    assert flags.read(train.FLAGS, [], {"continue_train": flags.BARE}).options.resume is True


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--outdir=o"], "--outdir: files go to checkpoints/, imgs/ and runs/; --name=NAME"),
        (
            ["--trunc-psi=0.7"],
            "--trunc-psi: no such flag of train; it is --gen-std here, and it belongs to generate",
        ),
        (["--device=cuda:1"], "--device=cuda:1: --gpu=True takes the first GPU"),
        (["--device"], "--device: --gpu=True takes the first GPU"),
        (["--gpus=8"], "--gpus=8: torchrun --nproc-per-node=8 main.py train ... takes several"),
        (["--gpu-ids=0,1"], "--gpu-ids=0,1: torchrun --nproc-per-node=2 main.py train"),
        (["--gpu-ids=2"], "--gpu-ids=2: --gpu=True takes the first GPU"),
        (["--multi-gpus"], "--multi-gpus: torchrun --nproc-per-node=N main.py train"),
        (["--cuda", "--ngpu=0"], "--ngpu: given twice; --gpu is True already"),
        (["--gradient-accumulate-every=4"], "--gradient-accumulate-every: --batch-size is the"),
        (["--netG=unet_256"], "--netG=unet_256: the family sets the nets"),
        (["--steps=100"], "--steps: --max-images is steps times --batch-size"),
        (["--kimg=many"], "--kimg=many: not a value of it; it is --max-images here"),
        (["--kimg"], "--kimg: not a value of it"),
        (["--lr=many"], "--lr=many: --lr1=many: wants a number"),
        (["--epochs=-1"], "--epochs=-1: --max-epoch=-1: at least 0"),
        (["--lr=1", "--lr1=0.5"], "--lr1: given twice; --lr1 is 1.0 already"),
        (["--epochs=1", "--niter=2"], "--niter: given twice"),
        (["--epoch=3"], "--epoch: --max-epoch is how many to train"),
    ],
)
def test_what_has_no_equal_says_what_to_do(words: list[str], says: str) -> None:
    refused(main.run, ["train", *words], says=says)


@pytest.mark.parametrize("name", ["momentum", "weight_decay", "deterministic", "jit", "tile"])
def test_a_guess_means_the_same_or_is_not_made(name: str) -> None:
    with pytest.raises(Refused, match="see train --help"):
        settings(**{name: "1"})


@pytest.mark.parametrize(
    ("slip", "meant"),
    [("imagesize", "--image-size"), ("lr3", "--lr"), ("data_pth", "--data-path")],
)  # fmt: skip
def test_a_slip_is_recognised(slip: str, meant: str) -> None:
    with pytest.raises(Refused, match=f"did you mean {meant}"):
        settings(**{slip: "1"})


def test_a_comparison_varies_what_an_alias_sets() -> None:
    runs = compare_plan.plan([], {"lr": "1e-4,2e-4", "kimg": "1"}).runs
    assert [(r.given["lr1"], r.given["lr2"]) for r in runs] == [(1e-4, 1e-4), (2e-4, 2e-4)]
    assert runs[0].given["max_images"] == 1000
    assert runs[0].name == "compare.lr1-0.0001.lr2-0.0001.seed-0"
    refused(compare_plan.plan, [], {"lr": "1e-4,0.0001"}, says="the same value twice")


def test_no_alias_hides_a_flag_and_all_of_ours_exist() -> None:
    spellings = [name for row in TABLE for name in row.spellings]
    assert len(spellings) == len(set(spellings)) == len(ALIASES)
    fields = {name for spec in SPECS.values() for name in spec.fields}
    for row in TABLE:
        assert {*row.ours, *row.along} <= fields
        assert row.ours or row.instead
        for name in row.spellings:
            assert name == snake_case(name)
    # a flag of the same name would be used first
    assert not {name for row in TABLE for name in row.spellings if name not in row.ours} & fields


def as_line(row: Alias) -> str:
    theirs = ", ".join(f"`{flag(name)}`" for name in row.spellings)
    ours = " and ".join(f"`{flag(name)}`" for name in (*row.ours[:1], *row.along))
    ours += "".join(f", or `{flag(name)}`" for name in row.ours[1:])
    return f"| {theirs} | {'; else: '.join(part for part in (ours, row.instead) if part)} |"


def test_the_page_of_other_tools_has_every_line() -> None:
    page = (ROOT / "docs" / "other-tools.md").read_text(encoding="utf-8")
    table = page.split("| theirs | here |")[1].split("\n\n")[0]
    lines = [line for line in table.split("\n") if line.startswith("| `--")]
    assert lines == [as_line(row) for row in TABLE]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "--seed=1", "--seed=2"], "--seed: given twice"),
        (["train", "--max-epoch", "1", "--max_epoch=2"], "--max-epoch: given twice"),
        (["train", "--noise"], "--noise: needs a value: --noise=..."),
        (["train", "--name"], "--name: needs a value: --name=..."),
        (["train", "--name", "--gpu=False"], "--name: needs a value"),
        (["compare", "--noise", "--seeds=2"], "--noise: needs a value"),
        (["generate", "--gen-num"], "--gen-num: needs a value"),
    ],
)
def test_fire_guesses_nothing(words: list[str], says: str) -> None:
    refused(main.run, words, says=says)


def test_words_are_spelled_out() -> None:
    spelled = main.spell_out(["--gen-mean", "-0.5", "--gpu", "--name", "x", "y", "-q"])
    bare = flags.BARE
    assert spelled == ["--gen-mean=-0.5", f"--gpu={bare}", "--name=x", "y", f"-q={bare}"]
    assert help.owners("gen_std", main.COMMANDS) == ["generate"]
