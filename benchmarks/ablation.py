"""One arm of the ablation on one set with one seed: trains it, scores it, keeps the line.

    python benchmarks/ablation.py run ARM SET SEED IMAGES --anime=anime-faces-128.zip
    python benchmarks/ablation.py table

SET: a 4,096 drawn avatars; b all of the zip; c its first 286 pictures, scored against the others.
Budgets are counted in images, so that a busy machine spoils no comparison. A killed run goes on
where it was; one that is in the table is not run again. 96 px, 1,000 fakes of the final average.
"""

import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from arms import ARMS

import main as toolkit
import models
from gan import checkpoint, data, features, metrics, report, sample

ROOT = Path(__file__).resolve().parent.parent
LINES = ROOT / "docs" / "ablation.jsonl"
WORK = Path(os.environ.get("ABLATION_WORK", ROOT / "benchmarks" / "work"))
FAKES = 1000
FIRST = 286
SCORED_EVERY = 25_000  # images from one score in mid-run to the next, at most
CACHE = Path("data/cache")


def first_of(archive: Path, count: int) -> Path:
    """A zip of the first `count` pictures of another."""
    path = Path(f"first-{count}.zip")

    def write(part: Path) -> None:
        with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(part, "w") as first:
            names = sorted(i.filename for i in whole.infolist() if not i.is_dir())
            for name in names[:count]:
                first.writestr(name, whole.read(name))

    if not path.exists():
        checkpoint.write_beside(path, write)
    return path


def unseen(anime: Path) -> features.Subset:
    """Up to 1,000 pictures of the zip that are neither among the first nor like one of them."""
    images = data.open_images(str(anime), 96, 3, CACHE)
    clusters = np.load(images.folder / "split.npy")[1]
    other = np.flatnonzero(~np.isin(clusters, clusters[:FIRST]))
    return features.Subset(
        images.array, other[np.linspace(0, len(other) - 1, min(1000, len(other))).astype(int)]
    )


def score(state: Path, which: str, anime: Path, picture: Path) -> dict[str, Any]:
    """The line of a finished run, and its grid of the first 64, not chosen."""
    nets, config = models.restore(state)
    images = data.open_images(
        config.data_path, config.img_size, config.channels, CACHE, held_out=config.held_out
    )
    z = sample.Source.of(config)(0, FAKES)
    fakes = sample.draw_uint8(nets.G, z, config.batch_size, torch.device("cpu"))
    sample.save_picture(sample.as_picture(sample.grid(fakes[:64])), picture)
    train = features.Subset(images.array, images.train)
    held_out = features.Subset(images.array, images.held_out)
    if which == "c":
        held_out = unseen(anime)
    reference = features.Reference(images.folder / "features.npz")
    found = metrics.evaluate(fakes.numpy(), train, held_out, reference=reference)
    values = {name: round(row["value"], 3) for name, row in found["scores"].items()}
    memory = found["memorisation"]
    return {
        **values,
        "floor": round(found["scores"]["score (lite0)"]["floor"], 3),
        "memorisation": round(memory["ratio"], 3),
        "copied": round(memory["copied"], 3),
    }


def run(arm: str, which: str, seed: str, images: str, anime: Path) -> None:
    name = f"{arm}-{which}-{seed}-{images}"
    if any(line["name"] == name for line in lines()):
        return
    flags, family = ARMS[arm]
    models.FAMILIES[arm] = family
    WORK.mkdir(parents=True, exist_ok=True)
    os.chdir(WORK)
    # the rates of some families do not fall with the budget: a longer run goes on from a shorter
    run_name = name if family.defaults.get("lr_end", 0) != 1 else f"{arm}-{which}-{seed}"
    words = [f"--family={arm}", f"--name={run_name}", "--gpu=False"]
    if which != "a":
        words.append(f"--data-path={anime if which == 'b' else first_of(anime, FIRST)}")
    words += [f"--seed={seed}", f"--eval-every={min(int(images) // 4, SCORED_EVERY)}"]
    words += ["--save-every=1000000", "--save-minutes=5", *flags.split()]
    folder = Path("checkpoints") / run_name
    if next(checkpoint.newest(folder), None):
        words = ["--resume", f"--name={run_name}"]
    words.append(f"--max-images={images}")
    try:
        toolkit.run(["train", *words])
    except toolkit.Refused as error:
        if "is spent" not in str(error):
            raise
    state = checkpoint.states(folder)[0]
    steps = checkpoint.load(state)
    shown = steps["step"] * steps["config"]["batch_size"]
    if not 0 <= shown - int(images) < steps["config"]["batch_size"]:
        sys.exit(f"{name}: its run is at {shown:,} images; short budgets come before long ones")
    found = score(state, which, anime, ROOT / WORK / "grids" / f"{name}.png")
    line = {"name": name, "arm": arm, "set": which, "seed": int(seed), "images": int(images)}
    log = report.lines(Path(f"runs/{run_name}/log.jsonl"))
    curve = {str(x["images"]): x["score"] for x in log if x.get("event") == "score"}
    alarms = [x["kind"] for x in log if x.get("event") == "health"]
    line |= {"rescues": steps["rescues"], "collapsed": "collapse" in alarms}
    best = score(folder / checkpoint.BEST, which, anime, ROOT / WORK / "grids" / f"{name}-best.png")
    line["best"] = best["score (lite0)"]  # of the state that scored best on the way
    line |= {"curve": curve, **found}
    with open(LINES, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def lines() -> list[dict[str, Any]]:
    if not LINES.exists():
        return []
    return [json.loads(line) for line in LINES.read_text(encoding="utf-8").splitlines()]


COLUMNS = {
    "score": "score (lite0)",
    "KID 96": "KID (lite0)",
    "KID 48": "KID (lite0), half size",
    "KID (random)": "KID (random)",
    "coverage": "coverage (lite0)",
    "coverage 48": "coverage (lite0), half size",
    "recall": "recall (lite0)",
    "SWD": "SWD",
    "memorisation": "memorisation",
}


def table() -> None:
    heads = ["set", "images", "arm", "seed", *COLUMNS]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for line in sorted(lines(), key=lambda x: (x["set"], x["images"], x["score (lite0)"])):
        cells = [line["set"], f"{line['images']:,}", f"`{line['arm']}`", str(line["seed"])]
        print("| " + " | ".join([*cells, *(f"{line[c]:.2f}" for c in COLUMNS.values())]) + " |")


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--anime=")]
    paths = [word[len("--anime=") :] for word in sys.argv[1:] if word.startswith("--anime=")]
    if words == ["table"]:
        table()
    elif len(words) == 5 and words[0] == "run" and words[1] in ARMS and words[2] in "abc" and paths:
        run(*words[1:], Path(paths[0]).resolve())
    else:
        sys.exit(__doc__)
