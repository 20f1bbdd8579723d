"""A training with scores, previews, saves and pruning, for long: what grows."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from soak_work import (
    LOST,
    NETS,
    OF_A_RUN,
    PATIENCE_SECONDS,
    Record,
    Watch,
    fork,
    see_cheaply,
    wait,
    workplace,
)

COLUMNS = ["minute", "memory, MB", "threads", "open files", "states and weights", "previews"]
ROWS = 11  # figures are taken so often, evenly
FIRST_SHARE = 0.02  # of the time, when the first are taken: all caches are warm
GROWTH = 0.03  # of the memory from the first row to the last that is still flat


def sizes(pid: int, folder: Path, watch: Watch) -> list[int]:
    """MB of memory, threads and open files of a process; files in the folders of its run.

    Not in the middle of a save or score, which have files of their own open.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while watch.phase() in ("save", "score") and time.monotonic() < deadline:
        time.sleep(0.0005)
    status = Path(f"/proc/{pid}/status").read_text()
    values = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    handles = len(os.listdir(f"/proc/{pid}/fd"))
    memory, threads = int(values["VmRSS"].split()[0]) // 1024, int(values["Threads"])
    kept = len(list((folder / "checkpoints").rglob("*.pth")))
    return [memory, threads, handles, kept, len(list((folder / "imgs").rglob("*.png")))]


def hours(record: Record, minutes: int) -> None:
    """A training of so many minutes, which scores, draws and saves every few seconds."""
    see_cheaply()
    rows: list[list[object]] = []
    with workplace() as top:
        words = ["train", "--family=dcgan", f"--data-path={top / 'faces'}", "--name=k", *OF_A_RUN]
        words += [*NETS, "--held-out=0.3", f"--max-minutes={10 * minutes}", "--save-every=100000"]
        words += ["--save-minutes=0.1", "--eval-every=400", "--keep=3"]
        watch = Watch()
        began, pid = time.monotonic(), fork(top, words, watch)
        for part in range(ROWS):
            share = max(part / (ROWS - 1), FIRST_SHARE)
            time.sleep(max(0.0, began + 60 * minutes * share - time.monotonic()))
            took = (time.monotonic() - began) / 60
            rows.append([f"{took:.1f}", *sizes(pid, top, watch)])
            print(rows[-1], flush=True)
        os.kill(pid, 15)
        code = wait(pid)
        said = (top / "said.txt").read_text()
        logged = (top / "runs/k/log.jsonl").read_text().splitlines()
    events = [json.loads(line).get("event") for line in logged]
    counts = {kind: events.count(kind) for kind in ("save", "score")}
    grown = (int(str(rows[-1][1])) - int(str(rows[0][1]))) / int(str(rows[0][1]))
    flat = grown < GROWTH and all(rows[1][i] == rows[-1][i] for i in (2, 3, 4))
    outcome = f"{minutes} minutes, {counts}, exit code {code}" + ("" if flat else ", it grew")
    if code != 128 + 15 or not flat:
        outcome = f"{LOST}{outcome}; {said[-300:]}"
    fault = f"a training of {minutes} minutes: {outcome}"
    line = {"fault": fault, "columns": COLUMNS, "rows": rows}
    with open(record.results, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(fault)


PARTS: dict[str, tuple[Callable[[Record, int], None], int]] = {"hours": (hours, 60)}
