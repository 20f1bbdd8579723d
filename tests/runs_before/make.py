"""Made the runs in this folder, with the code before it was moved; it cannot be run any more.

Kept so that one sees what the files are. Each run was trained for 6 steps without a stop; on its
way it saved the state after 3 of them, which is kept with what `generate` or `translate` drew
from it, and of the state after 6 the mean and the norm of every tensor. `test_runs_before.py`
goes on from the former and expects the latter.

    cd EMPTY_FOLDER && PYTHONPATH=REPOSITORY:REPOSITORY/tests python REPOSITORY/tests/runs_before/make.py
"""

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import main
import models
from gan import loop
from runs_before import data

HERE = Path(__file__).parent
STEPS, SAVED_AT, LOGGED_AT = 6, 3, 5
SMALL = {
    "img_size": data.SIZE, "ngf": 2, "ndf": 2, "nz": 4, "seed": 3, "lr1": 0.005, "lr2": 0.005,
    "gpu": False, "amp": False, "log_every": LOGGED_AT, "num_workers": 1, "data_path": "pictures",
    "held_out": 0.0,
}  # fmt: skip
OF_NOISE = {"batch_size": 8}
OF_PICTURES = {"batch_size": 4}
MORE: dict[str, dict[str, Any]] = {
    "modern": {"warm_up": 4},
    "conditional": {"warm_up": 4, "conditional": True},
    "wgan": {"d_lead": 4, "g_every": 2},
    "wgan-gp": {"g_every": 2},
    "cyclegan": {"pool": 2},
}
LOGGED = ("loss_d", "loss_g", "penalty", "l1", "cycle", "identity", "diversity", "gradient")
HIDDEN = {"mlp": (4, 4), "mlp-tiny": (4,)}  # else their states would have several MB


def narrow() -> None:
    for name, hidden in HIDDEN.items():
        build = functools.partial(models.mlp_nets, hidden=hidden)
        models.FAMILIES[name] = dataclasses.replace(models.FAMILIES[name], build=build)


def flags(run: str, family: str) -> list[str]:
    row = models.FAMILIES[family]
    knobs = {**SMALL, **(OF_NOISE if row.data == "images" else OF_PICTURES), **MORE.get(run, {})}
    for name in models.ONLY_SOME:
        if name not in row.knobs:
            knobs.pop(name, None)
    knobs |= {"family": family, "name": run, "max_images": STEPS * knobs["batch_size"]}
    return [f"--{name.replace('_', '-')}={value}" for name, value in knobs.items()]


def numbers(state: dict[str, Any]) -> dict[str, Any]:
    """{tensor: [mean, norm]} of every tensor but those that only rounding moves.

    Such are the biases that a norm takes out again: their gradient is 0 but for rounding, and Adam
    makes a whole step of it.
    """
    found: dict[str, Any] = {}
    for part, net in (("G", "G"), ("D", "D"), ("ema", "G")):
        weights = state["ema"] if part == "ema" else state["nets"][part]
        if weights is None:
            continue
        rows = models.FAMILIES[state["config"]["family"]]
        nets = rows.build(models.Config(**state["config"]))
        moments = state["optimizers"][net]["state"]
        names = [name for name, _ in getattr(nets, net).named_parameters()]
        still = {
            name for name, own in zip(names, moments.values(), strict=True)
            if 0 < own.get("exp_avg_sq", own.get("square_avg")).mean().sqrt() < 1e-6
        }  # fmt: skip
        found[part] = {
            name: [float(f"{x:.7g}") for x in (value.double().mean(), value.double().norm())]
            for name, value in weights.items()
            if name not in still and value.is_floating_point() and value.numel()
        }
        print(f"  {part}: {len(found[part])} tensors, left out: {', '.join(sorted(still)) or '-'}")
    return found


def drawn(run: str, of_noise: bool) -> list[dict[str, Any]]:
    """Mean and first 8 values of the first two pictures that are drawn from the state."""
    if of_noise:
        how = ["--rank=none", "--gen-num=2", "--gen-search-num=2", "--gen-dir=out"]
        main.run(["generate", f"--name={run}", *how])
    else:
        main.run(["translate", f"--name={run}", "--input=pictures/testA", "--output=out"])
    found = []
    for file in sorted(Path("out").iterdir())[:2]:
        values = torch.tensor(list(Image.open(file).tobytes()), dtype=torch.float64)
        found.append({"mean": round(float(values.mean()), 3), "first": values[:8].int().tolist()})
    return found


def make(run: str, family: str) -> None:
    print(run)
    for folder in ("pictures", "out", "checkpoints", "imgs", "runs"):
        shutil.rmtree(folder, ignore_errors=True)
    row = models.FAMILIES[family]
    channels = int(row.defaults.get("channels", 3))
    kind = "classes" if run == "conditional" else row.data
    data.write(kind, channels, Path("pictures"))
    main.run(["train", *flags(run, family)])
    folder, kept = Path("checkpoints", run), HERE / run
    last = torch.load(folder / f"state_{STEPS:08}.pth", weights_only=True)
    (folder / f"state_{STEPS:08}.pth").unlink()
    (folder / "best.pth").unlink(missing_ok=True)
    lines = [json.loads(line) for line in Path("runs", run, "log.jsonl").open()]
    log = next(line for line in lines if line["step"] == LOGGED_AT and "loss_d" in line)
    expected = {
        "family": family,
        "data": kind,
        "channels": channels,
        "drawn_at_3": drawn(run, row.data == "images"),
        "logged_at_5": {name: float(f"{log[name]:.6g}") for name in LOGGED if name in log},
        "tensors_at_6": numbers(last),
    }
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    for name in (f"state_{SAVED_AT:08}.pth", "netg_1.pth", "config.json"):
        shutil.copy(folder / name, kept / name)
    text = json.dumps(expected, indent=1)
    (kept / "expected.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    narrow()
    loop.Run.save_due = lambda self: self.state.step == SAVED_AT  # type: ignore[method-assign]
    for name in models.FAMILIES:
        make(name, name)
    make("conditional", "modern")
