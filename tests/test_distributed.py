"""Many processes: real ones, over gloo, that play the game of a single one."""

import contextlib
import functools
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import job_of_processes
import pytest
import torch
from conftest import ROOT
from processes import PATIENCE_SECONDS, alive, started, wait_until
from torch import Tensor, nn

import main
from commands.places import UNNAMED
from gan import checkpoint, distributed, job
from gan.errors import Refused

MAIN = str(ROOT / "main.py")
FAMILIES = ("modern", "dcgan", "wgan-gp", "rpgan", "mlp", "pix2pix", "cyclegan")
OF_FOUR = ("modern", "mlp")
WORDS = ("train", "--family=mlp-tiny", "--batch-size=20", "--gpu=False", "--held-out=0",
         "--num-workers=1", "--log-every=1", "--save-every=2")  # fmt: skip


def _end_with(parent: int) -> None:
    """End this process when the tests do: one that waits for ever must not outlive them."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


class Job:
    """Processes with the environment that torchrun gives them; forks, which have torch already."""

    def __init__(self, folders: Sequence[Path], call: Callable[[], object]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.folders, self.pids = folders, list[int]()
        self.ended: dict[int, int] = {}  # process -> exit code
        for place, folder in enumerate(folders):
            given = {"RANK": place, "WORLD_SIZE": len(folders), "MASTER_PORT": port}
            local = 0 if len(set(folders)) > 1 else place
            environment = {**given, "LOCAL_RANK": local, "MASTER_ADDR": "127.0.0.1"}
            pid = os.fork()
            if not pid:
                self._be(
                    place, folder, {key: str(value) for key, value in environment.items()}, call
                )
            self.pids.append(pid)

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *exc: object) -> None:
        for pid in set(self.pids) - self.ended.keys():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    @staticmethod
    def _be(place: int, folder: Path, given: dict[str, str], call: Callable[[], object]) -> None:
        code = 1
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        try:
            os.environ.update(given)
            os.chdir(folder)
            for number, name in ((1, "out"), (2, "err")):
                file = os.open(f"{name}-{place}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(file, number)
            for stream, number in (("stdout", 1), ("stderr", 2)):
                opened = os.fdopen(number, "w", buffering=1)
                setattr(sys, stream, opened)
                setattr(sys, f"__{stream}__", opened)
            call()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)

    def text(self, name: str, place: int = 0) -> str:
        path = self.folders[place] / f"{name}-{place}.txt"
        return path.read_text() if path.exists() else ""

    def codes(self) -> list[int]:
        """How each ended."""

        def all_ended() -> bool:
            for pid in set(self.pids) - self.ended.keys():
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    self.ended[pid] = os.waitstatus_to_exitcode(status)
            return len(self.ended) == len(self.pids)

        wait_until(all_ended)
        return [self.ended[pid] for pid in self.pids]


def run_job(folder: Path, count: int, call: Callable[[], object]) -> str:
    """What `count` processes print that each call `call`; they have to end well."""
    with Job([folder] * count, call) as made:
        codes = made.codes()
    said = [made.text(name, place) for name in ("err", "out") for place in range(count)]
    assert codes == [0] * count, said
    assert not any(made.text("out", place) for place in range(1, count))
    return made.text("out")


def command(*words: str) -> Callable[[], object]:
    """A call of `python main.py ...`."""

    def call() -> None:
        sys.argv = [MAIN, *words]
        main.main()

    return call


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Any]:
    """The states and logs of some steps by 1, 2 and 4 processes."""
    folder = tmp_path_factory.mktemp("steps")
    for count, names in ((1, FAMILIES), (2, FAMILIES), (4, OF_FOUR)):
        made = functools.partial(job_of_processes.steps, f"{count}.pt", *names)
        run_job(folder, count, made)
    return {count: torch.load(folder / f"{count}.pt", weights_only=False) for count in (1, 2, 4)}


def tensors(found: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(found, Mapping):
        for key, value in found.items():
            yield from tensors(value, f"{name}.{key}")
    elif isinstance(found, Tensor):
        yield name, found.double()


@pytest.mark.parametrize(
    ("family", "count"), [*((name, 2) for name in FAMILIES), *((name, 4) for name in OF_FOUR)]
)
def test_processes_play_the_game_of_one(steps: Mapping[int, Any], family: str, count: int) -> None:
    alone, many = (dict(tensors(steps[n][family])) for n in (1, count))
    assert alone.keys() == many.keys()
    for name, value in alone.items():
        torch.testing.assert_close(many[name], value, rtol=0, atol=1e-7, msg=name)
    for one, other in zip(steps[1][family]["logs"], steps[count][family]["logs"], strict=True):
        for name in one.keys() - {"pair_auc"}:  # of the pairs within a slice
            assert other[name] == pytest.approx(one[name], abs=1e-7), name


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What each of two processes was told, and the first when the second had left."""
    folder = tmp_path_factory.mktemp("told")
    run_job(folder, 2, job_of_processes.tell)
    return {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}


def test_exchanges(told: Mapping[str, Any]) -> None:
    for place in (0, 1):
        found = told[str(place)]
        assert (found["rank"], found["count"], found["silent"]) == (place, 2, place == 1)
        assert found["exchange"] == ["of 0", "of 1"]
        assert found["first"] == "told by 0"
        assert found["trusting"] == (place == 1)  # of one machine the first process checks a cache
        assert found["agreed"] == [1, 0]
        assert found["average"] == [0.5, None]
        assert found["gathered"] == [[0, 0], [1, 1], [1, 1]]
    torch.manual_seed(3)
    assert told["0"]["rand"] == torch.rand(4).tolist()


def test_batch_norm_of_slices_is_that_of_the_batch(told: Mapping[str, Any]) -> None:
    torch.manual_seed(5)
    whole = torch.rand(8, 3, 4, 4, requires_grad=True)
    norm = nn.BatchNorm2d(3)
    out = norm(whole)
    out.square().mean((1, 2, 3)).sum().backward()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    running = torch.cat([norm.running_mean, norm.running_var])
    assert whole.grad is not None
    for found in (told["0"], told["1"]):
        for name, value in (("normed", out), ("gradient", whole.grad), ("running", running)):
            assert found[name] == pytest.approx(value.flatten().tolist(), abs=2e-6), name
        assert found["normed_kind"] == "BatchNorm2d"


def test_a_refusal_of_one_is_told_to_all(told: Mapping[str, Any]) -> None:
    node = os.uname().nodename
    for found in (told["0"]["refused"], told["1"]["refused"]):
        assert found == {
            "first": "no such folder",
            "second": f"process 1 on {node}: no such folder",
            "all": "no such folder",
            "first then all": "no such folder",
            "then the second": f"process 1 on {node}: no such folder",
            "other data": f"the data of process 1 on {node} is not that of process 0 on {node}; "
            "all processes of a job need the same",
            "batch": "--batch-size=7: 2 processes cannot share it evenly; give --batch-size=6 or "
            "8, or start another number of processes",
        }


def test_who_waits_for_one_that_left_is_told_which(told: Mapping[str, Any]) -> None:
    said = told["left"]["left"]
    assert said.startswith("a process of this job has left or does not answer")
    assert "1" in said.split("(")[1].split(")")[0]
    assert "--resume" in said


# --- alone ---------------------------------------------------------------------------------------


def test_alone_nothing_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "dist", None)
    x = torch.rand(3)
    assert distributed.own(x) is x
    assert distributed.mean(x) is x
    assert distributed.gather(x) is x
    assert distributed.exchange(1) == [1]
    assert distributed.agree([2.0]) == [2.0]
    assert distributed.average([None, 1.5]) == [None, 1.5]
    for call in (distributed.from_first, distributed.everywhere, distributed.first_then_all):
        assert call(lambda: "here") == "here"
    distributed.check_equal({"the data": "x"})
    distributed.send_weights(nn.Linear(1, 1))
    distributed.start(on_gpu=False)
    distributed.check_batch(7)
    assert (distributed.rank(), distributed.count(), job.is_first()) == (0, 1, True)


@pytest.mark.parametrize(("length", "count", "sizes"), [(16, 2, [8, 8]), (7, 3, [2, 2, 3])])
def test_parts_are_everything_once(
    monkeypatch: pytest.MonkeyPatch, length: int, count: int, sizes: list[int]
) -> None:
    monkeypatch.setattr(distributed, "count", lambda: count)
    parts = []
    for place in range(count):
        monkeypatch.setattr(distributed, "rank", lambda place=place: place)
        parts.append(distributed.own(list(range(length))))
    assert [len(part) for part in parts] == sizes
    assert [thing for part in parts for thing in part] == list(range(length))


@pytest.mark.parametrize(
    ("error", "rank", "local", "heard"),
    [
        (Refused("x"), "0", "0", True),
        (Refused("x"), "1", "0", False),
        (job.Left("x"), "2", "0", True),  # of another machine than the first process
        (job.Left("x"), "1", "1", False),
        (job.Alone("x"), "3", "3", True),
    ],
)
def test_one_process_speaks(
    monkeypatch: pytest.MonkeyPatch, error: Exception, rank: str, local: str, heard: bool
) -> None:
    given = {"RANK": rank, "LOCAL_RANK": local, "WORLD_SIZE": "4", "MASTER_ADDR": "x"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert (job.voice_for(error) is not None) == heard
    assert job.where() == f"process {rank} of 4: "


def test_each_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"RANK": "2", "LOCAL_RANK": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "x",
             "LOCAL_WORLD_SIZE": "4"}  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(
        Refused, match=r"--nproc-per-node=4: each process needs a GPU, and .* has 2"
    ):
        distributed.start(on_gpu=True)


@pytest.mark.parametrize("end", [None, SystemExit(130), Refused("x")])
def test_a_process_leaves_the_job_when_it_is_done(
    monkeypatch: pytest.MonkeyPatch, end: BaseException | None
) -> None:
    done: list[str] = []

    class Command:
        @staticmethod
        def main(stray: object, options: object) -> None:
            done.append("main")
            if end:
                raise end

    given = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(main.importlib, "import_module", lambda name: Command)
    monkeypatch.setattr(distributed, "stop", lambda: done.append("stop"))
    with contextlib.suppress(Refused, SystemExit):
        main.call("train", (), {})
    assert done == (["main"] if isinstance(end, Refused) else ["main", "stop"])


# --- the command line ----------------------------------------------------------------------------


def weights(folder: Path) -> dict[str, Tensor]:
    """Everything that the newest state under `folder` holds."""
    state = checkpoint.load(checkpoint.states(folder / "checkpoints")[0])
    kept = {key: state[key] for key in ("nets", "ema", "optimizers", "step", "meters")}
    return dict(tensors(kept))


@pytest.fixture(scope="module")
def undisturbed(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that two processes trained from its start to its end, 12 epochs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    out = run_job(folder, 2, command(*WORDS, f"--data-path={faces}", "--max-epoch=12"))
    assert out.count("train: state ") == 1
    assert out.count("cpu x 2") == 1
    return folder


def test_files_are_written_once(undisturbed: Path) -> None:
    assert [line["step"] for line in shown(undisturbed)] == list(range(1, 121))
    assert len(list((undisturbed / "runs" / UNNAMED).glob("events*"))) == 1
    assert sorted(int(file.stem) for file in (undisturbed / "imgs").glob("*.png")) == [
        2, 4, 6, 8, 10, 12,
    ]  # fmt: skip


def test_two_one_and_four_processes_go_on_with_each_other(
    undisturbed: Path, faces: Path, tmp_path: Path
) -> None:
    run_job(tmp_path, 2, command(*WORDS, f"--data-path={faces}", "--max-epoch=4"))
    run_job(tmp_path, 1, command("train", "--resume", "--max-epoch=8"))
    run_job(tmp_path, 4, command("train", "--resume", "--max-epoch=12"))
    a, b = ([line["D(x)"] for line in shown(folder)] for folder in (undisturbed, tmp_path))
    assert b == pytest.approx(a, abs=0.02)  # Adam enlarges what rounding makes of the order of sums
    assert weights(tmp_path).keys() == weights(undisturbed).keys()


def shown(folder: Path) -> list[dict[str, Any]]:
    """The lines of the log with losses, one for each step."""
    lines = (folder / "runs" / UNNAMED / "log.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "loss_d" in line]


def workers_of(folder: Path) -> dict[int, int]:
    """Local rank -> process of the job whose working directory is `folder`."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (
                Path(os.readlink(path / "cwd")) == folder
                and b"main.py" in (path / "cmdline").read_bytes()
            ):
                pairs = (path / "environ").read_bytes().split(b"\0")
                own = dict(pair.split(b"=", 1) for pair in pairs if b"=" in pair)
                if b"LOCAL_RANK" in own and alive(int(path.name)):
                    found[int(own[b"LOCAL_RANK"])] = int(path.name)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_killed_worker_is_started_again_and_nothing_is_lost(
    undisturbed: Path, faces: Path, tmp_path: Path
) -> None:
    words = (*WORDS, f"--data-path={faces}", "--max-epoch=12")
    more = ("--nproc-per-node=2", "--max-restarts=3", "--monitor-interval=0.1")
    # --overwrite is for the first start: a restart must not repeat it
    torchrun = ("-m", "torch.distributed.run", "--standalone", *more)
    with started(tmp_path, *torchrun, MAIN, *words, "--overwrite") as process:
        wait_until(lambda: bool(checkpoint.states(tmp_path / "checkpoints")), process)
        os.kill(workers_of(tmp_path)[1], signal.SIGKILL)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, out + err
    assert "resume: " in out
    for name, value in weights(undisturbed).items():
        assert torch.equal(weights(tmp_path)[name], value), name


def two_machines(top: Path) -> list[Path]:
    """The folders of two machines that share nothing."""
    folders = [top / "first", top / "second"]
    for folder in folders:
        folder.mkdir()
    return folders


def test_a_job_goes_on_though_only_the_first_machine_has_the_run(
    faces: Path, tmp_path: Path
) -> None:
    folders, words = two_machines(tmp_path), (*WORDS, f"--data-path={faces}")
    for more in ((*words, "--max-epoch=2"), ("train", "--resume", "--max-epoch=4")):
        with Job(folders, command(*more)) as made:
            assert made.codes() == [0, 0], made.text("err")
    assert shown(folders[0])[-1]["step"] == 40
    assert not (folders[1] / "checkpoints").exists()


def test_a_machine_that_is_lost_leaves_a_state_and_a_clear_line(
    faces: Path, tmp_path: Path
) -> None:
    words = (*WORDS, f"--data-path={faces}", "--max-epoch=100000")
    folders = two_machines(tmp_path)
    with Job(folders, command(*words)) as made:
        wait_until(lambda: bool(checkpoint.states(folders[0] / "checkpoints")))
        os.kill(made.pids[1], signal.SIGKILL)
        assert made.codes() == [2, -signal.SIGKILL]
    said = made.text("err").strip().splitlines()
    assert "has left or does not answer (process 1 of 2); --resume" in said[-1]
    assert not any("Traceback" in line for line in said)
    assert not (folders[1] / "checkpoints").exists()
    assert checkpoint.load(checkpoint.states(folders[0] / "checkpoints")[0])["step"] >= 20


def test_if_the_first_machine_is_lost_the_other_says_so(faces: Path, tmp_path: Path) -> None:
    words = (*WORDS, f"--data-path={faces}", "--max-epoch=100000")
    folders = two_machines(tmp_path)
    with Job(folders, command(*words)) as made:
        wait_until(lambda: bool(checkpoint.states(folders[0] / "checkpoints")))
        os.kill(made.pids[0], signal.SIGKILL)
        assert made.codes() == [-signal.SIGKILL, 2]
    assert "has left or does not answer; --resume" in made.text("err", 1).splitlines()[-1]


@pytest.mark.parametrize("told", [0, 1])
def test_a_signal_to_any_process_saves(faces: Path, tmp_path: Path, told: int) -> None:
    words = (*WORDS, f"--data-path={faces}", "--max-epoch=100000")
    with Job([tmp_path] * 2, command(*words)) as made:
        log = tmp_path / "runs" / UNNAMED / "log.jsonl"
        wait_until(lambda: log.exists() and log.read_text().count("loss_d") > 5)
        os.kill(made.pids[told], signal.SIGTERM)
        assert made.codes() == [128 + signal.SIGTERM] * 2
    assert "stopped; go on with: python main.py train --resume" in made.text("out")
    newest = checkpoint.load(checkpoint.states(tmp_path / "checkpoints")[0])
    assert newest["step"] == shown(tmp_path)[-1]["step"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("film",), "film: one process does it"),
        (("train", "--batch-size=21"), "--batch-size=21: 2 processes cannot share it evenly"),
        (("train", "--data-path=nowhere"), "nowhere"),
        (("generate", "--gen-search-num=64"), "no checkpoint"),
    ],
)
def test_a_refused_job_says_so_once(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    with Job([tmp_path] * 2, command(*words, *(("--gpu=False",) * (words[0] != "film")))) as made:
        assert made.codes() == [2, 2]
    assert made.text("err").count("main.py: ") == 1
    assert says in made.text("err")
    assert not made.text("err", 1)
    assert not list(tmp_path.glob("checkpoints/**/*.pth"))


def test_what_one_process_cannot_see_is_refused_by_all(faces: Path, tmp_path: Path) -> None:
    folders = two_machines(tmp_path)
    (folders[0] / "faces").symlink_to(faces)
    (folders[1] / "faces").mkdir()
    with Job(folders, command(*WORDS, "--data-path=faces", "--max-epoch=1")) as made:
        assert made.codes() == [2, 2]
    assert made.text("err").startswith(f"main.py: process 1 on {os.uname().nodename}: ")
    assert not (folders[0] / "checkpoints").exists()


def test_other_data_on_one_machine_is_refused(faces: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for number, folder in enumerate(folders):
        (folder / "faces").mkdir(parents=True)
        for file in sorted(faces.glob("*.png"))[number : number + 40]:
            (folder / "faces" / file.name).symlink_to(file)
    with Job(folders, command(*WORDS, "--data-path=faces", "--max-epoch=1")) as made:
        assert made.codes() == [2, 2]
    assert "the data at --data-path=faces of process 1" in made.text("err")


def test_processes_draw_and_score_what_one_does(undisturbed: Path) -> None:
    drawn = ("generate", "--gen-search-num=50", "--gen-num=4", "--rank-by=score")
    scored = ("evaluate", "--gen-num=40", "--features=random")
    for count in (1, 2):
        run_job(undisturbed, count, command(*drawn, f"--gen-img={count}.png"))
        run_job(undisturbed, count, command(*scored, f"--report={count}.html"))
    for kind in ("png", "json", "html"):
        a, b = ((undisturbed / f"{count}.{kind}").read_bytes() for count in (1, 2))
        assert a == b, kind
    with Job([undisturbed] * 2, command("generate", "--gen-index=1")) as made:
        assert made.codes() == [2, 2]
    assert "can share a search among --gen-search-num candidates only" in made.text("err")
