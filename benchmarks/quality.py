"""The `modern` family against the classic one: every promise of docs/recipe.md, both sides.

    python benchmarks/quality.py speed                 images/s of both, alone, side by side
    python benchmarks/quality.py run --anime=ZIP       trains what is missing, one run after another
    python benchmarks/quality.py                       prints the ratios of what there is

Budgets are minutes turned into images by `speed` (docs/speed.json), so that a busy machine spoils
no comparison. Runs are those of ablation.py: resumable, one line each in docs/ablation.jsonl.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ablation
from speed import CPU, rate, stepper

from gan import machine

SPEED = ablation.ROOT / "docs" / "speed.json"
FAMILY = {"classic": "dcgan", "modern": "modern"}  # arms of arms.py
SHORT = 12_000  # images of a run that is looked at for collapse only
SEEDS = range(5)
SCORE = "score (lite0)"
NEEDED = [  # (arm, set, minutes)
    ("modern", "b", 10),
    ("classic", "b", 10),
    ("modern", "a", 10),
    ("classic", "a", 10),
    ("modern", "b", 60),
    ("modern", "c", 60),
    ("classic", "b", 60),
    ("classic", "c", 60),
    ("modern", "b", 5),
    ("modern", "a", 60),
]


def speed() -> None:
    """Images/s of a training step of each family, by turns, on an idle machine."""
    machine.keep_memory()
    amp = machine.has_bfloat16(CPU)  # what `train` would choose
    steps = {arm: stepper(FAMILY[arm], {"amp": amp}) for arm in FAMILY}
    found: dict[str, list[float]] = {arm: [] for arm in FAMILY}
    for _ in range(5):
        for arm, (step, state) in steps.items():
            found[arm].append(rate(step, state.config.batch_size))
    rates = {arm: round(sorted(values)[2], 1) for arm, values in found.items()}
    SPEED.write_text(json.dumps(rates) + "\n", encoding="utf-8")
    print(f"images/s of a step on this machine, alone: {rates}")


def images_in(arm: str, minutes: int) -> int:
    """The budget in images, rounded to hundreds."""
    rate = json.loads(SPEED.read_text(encoding="utf-8"))[arm]
    return round(rate * 60 * minutes / 100) * 100


def wanted() -> list[tuple[str, str, int, int]]:
    """(arm, set, seed, images) of every run, the most telling first."""
    runs = [(arm, which, 0, images_in(arm, minutes)) for arm, which, minutes in NEEDED]
    return runs + [("modern", which, seed, SHORT) for seed in SEEDS for which in "ca"]


def found(arm: str, which: str, seed: int, images: int) -> dict[str, Any] | None:
    name = f"{arm}-{which}-{seed}-{images}"
    return next((line for line in ablation.lines() if line["name"] == name), None)


def run(anime: str) -> None:
    """Each in a process of its own; a killed one goes on where it was."""
    for arm, which, seed, images in wanted():
        if found(arm, which, seed, images) is None:
            words = [arm, which, str(seed), str(images), f"--anime={anime}"]
            script = str(Path(__file__).with_name("ablation.py"))
            subprocess.run([sys.executable, script, "run", *words], check=True)


def report() -> None:
    """The table, as far as the runs are there."""
    rows = {
        (arm, which, minutes): found(arm, which, 0, images_in(arm, minutes))
        for arm, which, minutes in NEEDED
    }
    for (arm, which, minutes), line in rows.items():
        text = "not yet" if line is None else describe(line)
        print(f"{arm:8} ({which}) {minutes:2} min, {images_in(arm, minutes):,} images: {text}")

    def ratio(one: tuple[str, str, int], other: tuple[str, str, int]) -> str:
        a, b = rows[one], rows[other]
        return "not yet" if a is None or b is None else f"{a[SCORE] / b[SCORE]:.2f}"

    for which in "ab":
        pair = ("modern", which, 10), ("classic", which, 10)
        print(f"score after 10 minutes over the classic's, ({which}): {ratio(*pair)} (goal 0.4)")
    for minutes in (5, 10):
        pair = ("modern", "b", minutes), ("classic", "b", 60)
        goal = " (goal 1)" if minutes == 10 else ""
        print(f"score after {minutes} minutes over the classic's hour, (b): {ratio(*pair)}{goal}")
    best = rows["classic", "c", 60]
    ours = rows["modern", "c", 60]
    if best and ours:
        least = min(best[SCORE], best["best"])
        print(
            "score after an hour over the classic's best, (c): "
            f"{ours[SCORE] / least:.2f} (goal 0.4)"
        )
    short = [found("modern", which, seed, SHORT) for seed in SEEDS for which in "ca"]
    there = [line for line in short if line]
    fallen = sum(line["rescues"] > 0 or line["collapsed"] for line in there)
    print(f"short runs that collapsed: {fallen} of {len(there)}")


def describe(line: dict[str, Any]) -> str:
    names = {
        "score": SCORE,
        "coverage": "coverage (lite0)",
        "recall": "recall (lite0)",
        "memorisation": "memorisation",
    }
    return ", ".join(f"{name} {line[key]:.3f}" for name, key in names.items())


if __name__ == "__main__":
    paths = [word[len("--anime=") :] for word in sys.argv[1:] if word.startswith("--anime=")]
    if sys.argv[1:] == ["speed"]:
        speed()
    elif sys.argv[1:2] == ["run"] and paths:
        run(str(Path(paths[0]).resolve()))
    elif len(sys.argv) == 1:
        report()
    else:
        sys.exit(__doc__)
