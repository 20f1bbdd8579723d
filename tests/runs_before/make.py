"""Made the runs in this folder, with the code before it was moved; it cannot be run any more.

Kept so that one sees what the files are. Each run was trained for 6 steps without a stop; on its
way it saved the state after 3 of them, which is kept with what `generate` or `translate` drew
from it, and of the state after 6 the mean and the norm of every tensor. `test_runs_before.py`
goes on from the former and expects the latter. The moving average of `average` matters more: it
was saved after 59 of 62 steps, and half of its average after 62 is what it was after 59.

In an empty folder: PYTHONPATH=REPO:REPO/tests python REPO/tests/runs_before/make.py
"""

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from runs_before import data

import main
import models
from gan import loop

HERE = Path(__file__).parent
STEPS = {"average": 62}  # of a run; else 6
LEFT = 3  # steps from the state that is kept to the end
OTHER_FAMILY = {"conditional": "modern", "average": "dcgan"}  # of runs not called by theirs
SMALL = {
    "img_size": data.SIZE, "ngf": 2, "ndf": 2, "nz": 4, "seed": 3, "lr1": 0.005, "lr2": 0.005,
    "gpu": False, "amp": False, "log_every": 5, "num_workers": 1, "data_path": "pictures",
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


def steps_of(run: str) -> int:
    return STEPS.get(run, 6)


def flags(run: str, family: str) -> list[str]:
    row = models.FAMILIES[family]
    knobs = {**SMALL, **(OF_NOISE if row.data == "images" else OF_PICTURES), **MORE.get(run, {})}
    for name in models.ONLY_SOME:
        if name not in row.knobs:
            knobs.pop(name, None)
    knobs |= {"family": family, "name": run, "max_images": steps_of(run) * knobs["batch_size"]}
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


def make(run: str) -> None:
    print(run)
    family, end = OTHER_FAMILY.get(run, run), steps_of(run)
    saved_at = end - LEFT
    loop.Run.save_due = lambda self: self.state.step == saved_at  # type: ignore[method-assign]
    for folder in ("pictures", "out", "checkpoints", "imgs", "runs"):
        shutil.rmtree(folder, ignore_errors=True)
    row = models.FAMILIES[family]
    channels = int(row.defaults.get("channels", 3))
    kind = "classes" if run == "conditional" else row.data
    data.write(kind, channels, Path("pictures"))
    main.run(["train", *flags(run, family)])
    folder, kept = Path("checkpoints", run), HERE / run
    last = torch.load(folder / f"state_{end:08}.pth", weights_only=True)
    (folder / f"state_{end:08}.pth").unlink()
    (folder / "best.pth").unlink(missing_ok=True)
    lines = [json.loads(line) for line in Path("runs", run, "log.jsonl").read_text().splitlines()]
    log = next(line for line in lines if line["step"] > saved_at and "loss_d" in line)
    expected = {
        "family": family,
        "steps": [saved_at, end],
        "data": kind,
        "channels": channels,
        "drawn": drawn(run, row.data == "images"),
        "logged": {name: float(f"{log[name]:.6g}") for name in LOGGED if name in log},
        "tensors": numbers(last),
    }
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    weights = min(folder.glob("netg_*.pth"), key=lambda path: int(path.stem[5:]))
    for path in (folder / f"state_{saved_at:08}.pth", weights, folder / "config.json"):
        shutil.copy(path, kept / path.name)
    text = json.dumps(expected, indent=1)
    (kept / "expected.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    narrow()
    for name in (*models.FAMILIES, *OTHER_FAMILY):
        make(name)
