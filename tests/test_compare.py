"""Comparisons: which runs are trained and which are not."""

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TINY
from PIL import Image
from processes import PATIENCE_SECONDS, alive, started, wait_until

import main
from commands import compare_jobs
from config import Config, RunFacts, difference
from gan import checkpoint
from gan.errors import Refused

# what is refused, and what a run of its own is


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--g-every=1,five", "--g-every=five: wants a whole number"),
        ("--g-every=1,", "--g-every=: wants a whole number"),
        ("--lr1=1e-4,2", "--lr1=2: at most 1"),
        ("--lr1=1e-4,0.0001", "--lr1=1e-4,0.0001: the same value twice"),
        ("--g-evry=1,5", "did you mean --g-every"),
        ("--name=a,b", "--name=a,b: one value only"),
        ("--seed=0,1", "--seeds=N takes N of them"),
        ("--seeds=0", "--seeds=0: at least 1"),
        ("--seeds=2 --seed=9223372036854775807", "--seed=9223372036854775808: at most"),
        ("--resume", "belongs to train"),
        ("--gen-num=3", "belongs to generate"),
        ("--max-images=100,0 --max-epoch=0", "all are 0"),
        ("--family=dcgan,modem", "--family=modem: no such family; did you mean modern?"),
        ("--data-path=FACES,nowhere", "--data-path=nowhere: no such"),
        ("--data-path=FACES --batch-size=20,201", "--batch-size=201: only 200 usable"),
        ("--data-path=FACES --netg-path=,no.pth", "no.pth: no such file"),
        ("--data-path=FACES --config=none.json", "none.json"),
        ("--report=page.pdf", "--report=page.pdf: a name that ends in .html"),
    ],
)
def test_a_mistake_in_any_run_is_refused_before_the_first_one_starts(
    words: str, says: str, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fail = "a training was started"
    monkeypatch.setattr(compare_jobs.Children, "train", lambda *_: pytest.fail(fail))
    words = words.replace("FACES", str(faces))
    small = [word for word in TINY if word.split("=")[0] not in words]
    with pytest.raises(Refused) as refusal:
        main.run(["compare", *small, *words.split()])
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert {p.name for p in tmp_path.iterdir()} <= {"data"}  # at most the cache of the pictures


def test_what_makes_two_configs_another_run() -> None:
    saved = vars(Config(lr1=1e-4))
    assert difference(saved, Config(lr1=1e-4, gpu=False, name="x", save_every=3)) == ""
    assert difference({**saved, "amp": True}, Config(lr1=1e-4)) == ""  # auto is either
    assert difference(saved, Config()) == "--lr1 0.0001, not 0.0008"
    assert difference(saved, Config(lr1=1e-4, max_epoch=3)) == "--max-epoch 200, not 3"


@pytest.mark.parametrize("name", ["amp", "flip"])
@pytest.mark.parametrize("value", [True, False])
def test_a_run_has_what_auto_became(name: str, value: bool) -> None:
    """Whether it was asked for, or chosen for it; now, and before the facts were kept."""
    config = vars(Config())
    facts = RunFacts((), mixed_precision=value, flip=value)
    chosen = {"config": config, "facts": vars(facts)}
    before = {"config": {**config, name: value, "classes": ""}}
    for state in (chosen, before):
        saved = compare_jobs.saved_settings(state)
        asked, other = (Config(**{name: choice}) for choice in (value, not value))  # type: ignore[arg-type]
        assert difference(saved, Config()) == difference(saved, asked) == ""
        assert difference(saved, other) == f"--{name} {value}, not {not value}"


def test_runs_save_often_enough_for_four_previews(tiny: Callable[..., Config]) -> None:
    def found(**given: Any) -> dict[str, Any]:
        config = tiny(**{"max_epoch": 0, **given})
        return compare_jobs.enough_previews(config, {}, 210)  # 10 steps, 200 images an epoch

    assert found(max_images=2000) == {"save_every": 2}  # 10 epochs: after 2, 4, 6, 8, 10
    assert found(max_images=100) == {"save_every": 1}
    assert found(max_epoch=200) == {"save_every": 10}  # 20 previews
    assert found(max_minutes=4.0) == {"save_minutes": 0.5}
    assert compare_jobs.enough_previews(tiny(max_epoch=8), {"save_every": 50}, 210) == {}


# which runs are trained


class Trained:
    """Trainings in this process: the words each was started with; those named fail."""

    def __init__(self) -> None:
        self.calls: list[Sequence[str]] = []
        self.fail = ""

    def train(self, words: Sequence[str]) -> str:
        self.calls.append(words)
        if self.fail and any(word.endswith(self.fail) for word in words):
            return "RuntimeError: <no> luck"
        main.run(["train", *words])
        return ""


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    monkeypatch.chdir(tmp_path)
    fake = Trained()
    monkeypatch.setattr(compare_jobs.Children, "train", lambda _, words: fake.train(words))
    return fake


def together(faces: Path, *words: str) -> None:
    main.run(["compare", *TINY, f"--data-path={faces}", *words])


def dates(top: Path) -> dict[Path, int]:
    kept = (path for kind in ("checkpoints", "imgs", "runs") for path in (top / kind).rglob("*"))
    return {path: path.stat().st_mtime_ns for path in kept}


def weights(top: Path, name: str, step: int) -> dict[str, torch.Tensor]:
    return checkpoint.load(top / "checkpoints" / name / f"state_{step:08}.pth")["nets"]["G"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


def test_what_is_finished_is_not_trained_again_and_what_was_lost_is(
    faces: Path, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--max-images=400", "--g-every=1,5"]
    together(faces, *words)
    one, five = "compare.g-every-1.seed-0", "compare.g-every-5.seed-0"
    assert [call[-2:] for call in trained.calls] == [["--seed=0", "--save-every=1"]] * 2
    assert "2 runs, 2 settings: 0 finished before, 2 to do" in capsys.readouterr().out
    found = json.loads(Path("compare.json").read_text())
    assert [row["setting"] for row in found["settings"]] == ["g-every 1", "g-every 5"]
    assert [(row["finished"], row["images"]) for row in found["settings"]] == [(1, 400.0)] * 2
    page = Path("compare.html").read_text()
    assert page.count("data:image/") == 1 + 2 * 4  # the curves, and 4 points of 2
    assert Image.open("compare.png").format == "PNG"
    # the same command again trains nothing
    before, end = dates(tmp_path), weights(tmp_path, five, 20)
    together(faces, *words)
    assert len(trained.calls) == 2
    assert dates(tmp_path) == before
    assert "2 finished before\n" in capsys.readouterr().out
    # a damaged state: on from the one before it; no state: from the start
    newest = Path("checkpoints") / one / "state_00000020.pth"
    kept = weights(tmp_path, one, 20)
    newest.write_bytes(newest.read_bytes()[:1000])
    for path in (Path("checkpoints") / five).glob("state_*.pth"):
        path.unlink()
    with pytest.warns(UserWarning, match="damaged"):
        together(faces, *words)
    out = capsys.readouterr().out
    assert f"{one}: goes on at 200 images" in out
    assert f"{five}: its states are gone, starts again" in out
    assert same(weights(tmp_path, one, 20), kept)
    assert same(weights(tmp_path, five, 20), end)
    # one more value, one more run
    together(faces, "--max-images=400", "--g-every=1,5,7")
    assert len(trained.calls) == 5


def test_what_was_finished_before_facts_were_kept_is_finished(
    faces: Path, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such states have the precision of the run in their config, and options of commands."""
    words = ["--max-images=40", "--g-every=1,5"]
    together(faces, *words)
    for path in tmp_path.glob("checkpoints/*/*.pth"):
        state = torch.load(path)
        if "facts" in state:
            del state["facts"]
            state["config"] |= {"amp": True, "classes": "", "gen_num": 64, "rank": "realism"}
            torch.save(state, path)
    before = dates(tmp_path)
    capsys.readouterr()
    together(faces, *words)
    assert "2 finished before\n" in capsys.readouterr().out
    together(faces, *words, "--amp=True")
    assert len(trained.calls) == 2
    assert dates(tmp_path) == before
    with pytest.raises(Refused, match=r"holds another run \(--amp True, not False\)"):
        together(faces, *words, "--amp=False")
    together(faces, "--max-images=40", "--g-every=1,5", "--amp=False", "--overwrite")
    assert [call[-1] for call in trained.calls[2:]] == ["--overwrite"] * 2


def test_another_run_of_that_name_is_refused_and_replaced_only_on_demand(
    faces: Path, trained: Trained, tmp_path: Path
) -> None:
    together(faces, "--max-images=40", "--g-every=1,5")
    with pytest.raises(Refused) as refusal:
        together(faces, "--max-images=60", "--g-every=5,1")
    assert "g-every-5.seed-0 holds another run (--max-images 40, not 60)" in str(refusal.value)
    assert "--name=" in str(refusal.value)
    assert "--overwrite" in str(refusal.value)
    one, five = "compare.g-every-1.seed-0", "compare.g-every-5.seed-0"
    main.run(["train", *TINY, f"--data-path={faces}", f"--name={five}", "--g-every=5",
              "--max-images=60", "--overwrite"])  # fmt: skip
    before = dates(tmp_path / "checkpoints" / five)
    together(faces, "--max-images=60", "--g-every=1,5", "--overwrite")
    assert [call[-1] for call in trained.calls[2:]] == ["--overwrite"]
    assert f"--name={one}" in trained.calls[2]
    assert dates(tmp_path / "checkpoints" / five) == before
    (tmp_path / "checkpoints" / one / "config.json").unlink()
    for path in (tmp_path / "checkpoints" / one).glob("state_*.pth"):
        path.unlink()
    with pytest.raises(Refused, match=r"no config\.json"):
        together(faces, "--max-images=60", "--g-every=1,5")


def test_a_run_that_fails_does_not_stop_the_others(
    faces: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--max-images=40", "--g-every=1,5", "--seeds=2", "--report=out/page.html")
    trained.fail = "g-every-1.seed-0"
    with pytest.raises(SystemExit) as exit:
        together(faces, *words)
    assert exit.value.code == 1
    assert len(trained.calls) == 4
    out = capsys.readouterr().out
    assert "compare.g-every-1.seed-0 failed: RuntimeError: <no> luck" in out
    assert "1 of 4 failed; the same command tries again" in out
    page = Path("out/page.html").read_text()
    assert "3 of 4 runs are finished" in page
    assert "failed: RuntimeError: &lt;no&gt; luck" in page
    trained.fail = ""
    together(faces, *words)
    assert len(trained.calls) == 5
    assert "4 of 4 runs are finished" in Path("out/page.html").read_text()


def test_a_child_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with compare_jobs.Children() as children:
        words = ["--max-images=20", "--img-size=12"]
        assert children.train(words) == "--img-size=12: at least 28"
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


STUB = """
import signal, sys, time
came = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: came.append(number))
print("ready", file=sys.stderr, flush=True)
while len(came) < int(sys.argv[1]):
    time.sleep(0.01)
print("came:", *map(int, came), file=sys.stderr)
sys.exit(1)
"""


@pytest.mark.parametrize(
    ("sent", "came"),
    [
        ([signal.SIGINT], "came: 2"),
        ([signal.SIGTERM], "came: 15"),
        ([signal.SIGHUP], "came: 15"),  # a window that is closed
        ([signal.SIGINT, signal.SIGTERM], "came: 2 15"),
    ],
)
def test_signals_are_passed_on_once_each(
    sent: list[signal.Signals], came: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_jobs, "TRAIN", [sys.executable, "-c", STUB])

    class Heard:
        """stderr: at the child's first word the signals are sent, to this process alone."""

        def write(self, text: str) -> None:
            if text.startswith("ready"):
                for number in sent:
                    os.kill(os.getpid(), number)

        def flush(self) -> None: ...

    monkeypatch.setattr(sys, "stderr", Heard())
    # under nohup a closed window is ignored, by `compare` too
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with compare_jobs.Children() as children:
            assert children.train([str(len(sent))]) == came
    finally:
        signal.signal(signal.SIGHUP, before)
    assert children.signal == sent[-1]


# `compare`, whose trainings wait in their 15th step for a signal
PAUSED = """
import os, select, signal, sys
import main
from gan import loop
train_step, steps = loop.train_step, iter(range(14))

def until_then(*given):
    if next(steps, 14) == 14:
        receive, send = os.pipe()
        os.set_blocking(send, False)
        signal.set_wakeup_fd(send)
        with open("paused.part", "w") as file:
            file.write(str(os.getpid()))
        os.rename("paused.part", "paused")
        select.select([receive], [], [], 300)
    return train_step(*given)

loop.train_step = until_then
sys.argv.insert(1, "train")
main.main()
"""
COMPARE = f"""
import sys
import main
from commands import compare_jobs
compare_jobs.TRAIN = [sys.executable, "-c", {PAUSED!r}]
main.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_comparison_stopped_half_way_goes_on_to_the_same_end(
    number: signal.Signals,
    faces: Path,
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if number == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("what a kill does to the child is up to the system")
    words = ["compare", *TINY, f"--data-path={faces}", "--max-images=400", "--save-every=1"]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder, paused = tmp_path / "checkpoints" / "compare.seed-0", tmp_path / "paused"
    # as a shell does, in a session of its own: the signal goes to the whole group
    with started(tmp_path, "-c", COMPARE, *words, "--seeds=2", own_session=True) as process:
        wait_until(paused.exists, process)
        child = int(paused.read_text())
        try:
            os.killpg(process.pid, number)
            out, err = process.communicate(timeout=PATIENCE_SECONDS)
            if number == signal.SIGKILL:
                assert process.returncode == -number
                wait_until(lambda: not alive(child))  # it saves, and ends by itself
            else:
                assert process.returncode == 128 + number, err
        finally:
            if alive(child):
                os.kill(child, signal.SIGKILL)
    if number != signal.SIGKILL:
        assert out.splitlines()[-1].startswith("stopped; go on with: python main.py compare")
        page = (tmp_path / "compare.html").read_text()
        assert "compare.seed-0: stopped half-way" in page
        assert "compare.seed-1: to do" in page
    saved = max(int(path.stem[6:]) for path in folder.glob("state_*.pth"))
    assert saved == 15
    main.run(words)
    assert "--resume" in trained.calls[0]
    if not STRAIGHT:
        main.run(["train", *words[1:], "--name=straight"])
        STRAIGHT.update(weights(tmp_path, "straight", 20))
    assert same(weights(tmp_path, "compare.seed-0", 20), STRAIGHT)


STRAIGHT: dict[str, torch.Tensor] = {}  # the run above, trained once without a stop
