"""`modern` against what it was before and the classic family: every promise of docs/recipe.md.

    python benchmarks/quality.py speed                 images/s of each, alone, in turn
    python benchmarks/quality.py run --anime=ZIP       trains what is missing, one run after another
    python benchmarks/quality.py                       prints the ratios of what there is

Budgets are minutes turned into images by `speed` (docs/speed.json), so that a busy machine spoils
no comparison. Runs are those of ablation.py: resumable, one line each in docs/ablation.jsonl.
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import common
from ablation import Line, Run, find_line
from common import CPU, LITE0, ROOT, SCORE
from speed import images_per_second, make_step

from gan import machine

SPEED = ROOT / "docs" / "speed.json"
FAMILY = {"classic": "dcgan", "unmodulated": "unmodulated", "modern": "modern"}  # of these arms
SPEED_ROUNDS = 5
SHORT = 12_000  # images of a run that is checked for collapse only
SEEDS = range(5)  # of these runs
SHORT_ARMS = ("modern", "unmodulated")
SHORT_RUNS = [
    Run(arm, data_set, seed, SHORT) for arm in SHORT_ARMS for seed in SEEDS for data_set in "ca"
]
SETS_AND_MINUTES = [("b", 10), ("a", 10), ("b", 60), ("c", 60), ("b", 5), ("a", 60)]
TIMED_RUNS = [  # (arm, set, minutes), the most telling first
    (arm, data_set, minutes)
    for data_set, minutes in SETS_AND_MINUTES
    for arm in FAMILY
    if arm != "classic" or (data_set, minutes) not in (("b", 5), ("a", 60))
]
GOALS = [("a", 10, 0.6), ("b", 10, 0.6), ("c", 60, 0.8)]  # set, minutes, ratio
SHOWN = {
    "score": SCORE,
    "score (lite0)": LITE0,
    "coverage": "coverage (lite0)",
    "recall": "recall (lite0)",
    "memorisation": "memorisation",
}


def measure_speed() -> None:
    """Images/s of a training step of each family, in turn, on an idle machine."""
    machine.reuse_freed_memory()
    mixed = machine.has_bfloat16(CPU)  # what `train` would choose
    steps = {arm: make_step(family, {}, mixed) for arm, family in FAMILY.items()}
    found: dict[str, list[float]] = {arm: [] for arm in steps}
    for _ in range(SPEED_ROUNDS):
        for arm, (step, state) in steps.items():
            found[arm].append(images_per_second(step, state.config.batch_size))
    rates = {arm: round(median(values), 1) for arm, values in found.items()}
    SPEED.write_text(json.dumps(rates) + "\n", encoding="utf-8")
    print(f"images/s of a step on this machine, alone: {rates}")


def read_speed() -> dict[str, float]:
    """Images/s of each arm, as `speed` measured them."""
    rates: dict[str, float] = json.loads(SPEED.read_text(encoding="utf-8"))
    return rates


def timed_run(arm: str, data_set: str, minutes: int) -> Run:
    """The run of seed 0 whose images, rounded to hundreds, take so many minutes."""
    return Run(arm, data_set, 0, round(read_speed()[arm] * 60 * minutes / 100) * 100)


def train_missing(anime: Path) -> None:
    """Each in a process of its own, the most telling first; a killed one is resumed."""
    script = str(Path(__file__).with_name("ablation.py"))
    for run in [*(timed_run(*key) for key in TIMED_RUNS), *SHORT_RUNS]:
        if find_line(run) is None:
            words = [run.arm, run.data_set, str(run.seed), str(run.images), f"--anime={anime}"]
            subprocess.run([sys.executable, script, "run", *words], check=True)


def describe(line: Line | None) -> str:
    if line is None:
        return "not yet"
    return ", ".join(f"{name} {line[key]:.3f}" for name, key in SHOWN.items() if key in line)


def ratio(ours: Line | None, theirs: Line | None, best: bool = False) -> str:
    """Of their scores; with `best` over the better of theirs: the last, or the best on the way.

    By LITE0 where one of the lines is of an earlier version, which had no other score.
    """
    if ours is None or theirs is None:
        return "not yet"
    shared = SCORE if SCORE in ours and SCORE in theirs else LITE0
    lowest = theirs[shared]
    # the best on the way is of the score that its version had
    if best and shared == (SCORE if SCORE in theirs else LITE0):
        lowest = min(lowest, theirs["best"])
    return f"{ours[shared] / lowest:.2f} by {shared}"


def print_ratios(lines: dict[tuple[str, str, int], Line | None], ours: str) -> None:
    """What the classic family reaches, of the score of arm `ours`."""
    for data_set in "ab":
        found = ratio(lines[ours, data_set, 10], lines["classic", data_set, 10])
        print(
            f"{ours}: score after 10 minutes over the classic's, ({data_set}): {found} (goal 0.4)"
        )
    for minutes in (5, 10):
        found = ratio(lines[ours, "b", minutes], lines["classic", "b", 60])
        goal = " (goal 1)" if minutes == 10 else ""
        print(f"{ours}: score after {minutes} minutes over the classic's hour, (b): {found}{goal}")
    found = ratio(lines[ours, "c", 60], lines["classic", "c", 60], best=True)
    print(f"{ours}: score after an hour over the classic's best, (c): {found} (goal 0.4)")


def print_report() -> None:
    """All promises, as far as the runs are there."""
    lines: dict[tuple[str, str, int], Line | None] = {}
    rates = read_speed()
    for arm, data_set, minutes in TIMED_RUNS:
        if arm not in rates:
            print(f"{arm:11} ({data_set}) {minutes:2} min: not yet; `speed` comes first")
            lines[arm, data_set, minutes] = None
            continue
        run = timed_run(arm, data_set, minutes)
        line = lines[arm, data_set, minutes] = find_line(run)
        print(f"{arm:11} ({data_set}) {minutes:2} min, {run.images:,} images: {describe(line)}")
    for data_set, minutes, goal in GOALS:
        found = ratio(lines["modern", data_set, minutes], lines["unmodulated", data_set, minutes])
        print(
            f"modern: score after {minutes} minutes over unmodulated's, ({data_set}): "
            f"{found} (goal {goal})"
        )
    for ours in SHORT_ARMS:
        print_ratios(lines, ours)
        short = [line for run in SHORT_RUNS if run.arm == ours and (line := find_line(run))]
        collapsed = sum(line["rescues"] > 0 or line["collapsed"] for line in short)
        print(f"{ours}: short runs that collapsed: {collapsed} of {len(short)}")


def main(*given: str) -> None:
    words, anime = common.take_flag("anime", given)
    if words == ["speed"]:
        measure_speed()
    elif words == ["run"] and anime:
        train_missing(Path(anime).resolve())
    elif not given:
        print_report()
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    common.run(main)
