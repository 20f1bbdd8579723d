"""What is scored against what, when the alarms go off, what is logged, and how files are written.

Every test here fails on a change of one line; tests/mutants/scores.txt lists the changes.
"""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from states import new_state

from config import Config
from gan import (
    checkpoint,
    data,
    evaluation,
    features,
    filesystem,
    health,
    loop,
    metrics,
    pairs,
    ranking,
    report,
    split,
    whitened,
)

CPU = torch.device("cpu")
Pixels = NDArray[np.uint8]
Tiny = Callable[..., Config]
DARK, MIDDLE, BRIGHT = 30, 128, 220


# ---- names of the code under test ---------------------------------------------------------------


def brightness(images: Any, name: str = "lite0", scale: int = 1, device: str = "cpu") -> Any:
    """Features in no time: brightness and contrast of each image, [N, 2]."""
    pixels = np.array(images[:], np.float32).reshape(len(images), -1)
    return np.stack([pixels.mean(1), pixels.std(1)], 1) / 25


def use_features(monkeypatch: pytest.MonkeyPatch, extract: Callable[..., Any]) -> None:
    """`extract` takes the place of the networks."""
    monkeypatch.setattr(features, "extract", extract)
    monkeypatch.setattr(metrics, "extract", extract)


def shades(count: int, shade: int, side: int = 28, seed: int = 0) -> Pixels:
    """Noise around one shade: uint8 [count, 3, side, side]."""
    drawn = np.random.default_rng(seed).integers(-20, 20, (count, 3, side, side))
    level = np.random.default_rng(seed + 1).integers(-9, 9, (count, 1, 1, 1))
    return (shade + drawn + level).astype(np.uint8)


def dark_and_bright(folder: Path, train: int = 20, held_out: int = 20) -> data.Images:
    """A data set that is dark where it is trained on and bright where it is held out."""
    array = np.concatenate([shades(train, DARK), shades(held_out, BRIGHT)])
    return data.Images(
        array=array,
        train=np.arange(train),
        held_out=np.arange(train, train + held_out),
        groups=split.Groups.of(np.arange(train)),
        digest="digest",
        skipped={},
        folder=folder,
    )


def picture_set(folder: Path, direction: str, test_paired: bool) -> pairs.PictureSet:
    """A and B in four shades: those to train on, then those to score with."""
    a, b, test_a, test_b = (
        shades(12, shade, seed=shade) for shade in (10 + DARK, MIDDLE, 90, BRIGHT)
    )
    names = tuple(f"{i}.png" for i in range(12))
    pictures = pairs.PictureSet(
        given=a,
        wanted=b,
        test_given=test_a,
        test_wanted=test_b,
        test_names_given=names,
        test_names_wanted=names,
        paired=True,
        test_paired=test_paired,
        streams=(0, 0),
        digest="digest",
        skipped={},
        folder=folder,
    )
    return pictures if direction == "AtoB" else pictures.reversed()


def mid_run_score(images: Any, config: Config) -> Callable[[Any], dict[str, float]]:
    noise = isinstance(images, data.Images)
    scorer = evaluation.noise_scorer if noise else evaluation.picture_scorer
    score = scorer(config, images, CPU)
    assert score is not None
    return score


def fit(
    config: Config, images: data.Images, top: Path, saved: Any = None, **more: Any
) -> loop.Outcome:
    folders = loop.Folders(top / "checkpoints", top / "imgs", top / "runs")
    state = new_state(config)
    if saved is not None:
        loop.resume(state, saved, images, folders)
    return loop.fit(state, images, folders, **more)


def reading(step: int, **signals: Any) -> health.Reading:
    well = {"pair_auc": 0.85, "diversity": 0.9, "gradient": 1.0, "gap": 0.1}
    return health.Reading(step, True, **{**well, **signals})


def alarms(*readings: health.Reading) -> list[str]:
    monitor = health.Monitor()
    return [alarm.kind for one in readings for alarm in monitor.read(one)]


def atomic_write(path: Path, write: Callable[[Path], Any]) -> None:
    filesystem.atomic_write(path, write)


def column(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)[:, None]


# ---- what is compared with what -----------------------------------------------------------------


def test_the_score_in_mid_run_is_against_held_out_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Tiny
) -> None:
    use_features(monkeypatch, brightness)
    score = mid_run_score(dark_and_bright(tmp_path), tiny())
    unseen, known = score(shades(16, BRIGHT, seed=5)), score(shades(16, DARK, seed=5))
    assert unseen["score"] < 0.01 * known["score"]
    assert unseen["coverage (lite0)"] > 0.5 > known["coverage (lite0)"]
    energies = [unseen[f"energy (layers){size}"] for size in ("", " half size")]
    assert unseen["score"] == pytest.approx(unseen["score (lite0)"] + 10 * sum(energies))


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_translations_are_scored_with_the_test_pictures_wanted(
    direction: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_features(monkeypatch, brightness)
    config = Config(family="pix2pix", direction=direction)
    wanted = shades(
        12, BRIGHT if direction == "AtoB" else 90, seed=BRIGHT if direction == "AtoB" else 90
    )
    score = mid_run_score(picture_set(tmp_path, direction, test_paired=True), config)
    found = score(wanted)
    assert (found["score"], found["L1"], found["PSNR"]) == (0, 0, 100)
    assert found["score (lite0)"] < 0.1
    assert score(255 - wanted)["score (lite0)"] > 1
    # fewer translations than test pictures: each is compared with its own
    assert score(wanted[features.spaced(12, 9)])["score"] == 0
    # no pairs: the score is of sets
    loose = mid_run_score(picture_set(tmp_path, direction, test_paired=False), config)
    assert loose(255 - wanted)["score"] > 1
    assert "L1" not in loose(wanted)


def test_the_floor_is_what_training_images_score(monkeypatch: pytest.MonkeyPatch) -> None:
    use_features(monkeypatch, brightness)
    train, held_out = shades(30, DARK), shades(12, BRIGHT, seed=3)
    found = metrics.evaluate(shades(12, BRIGHT, seed=9), train, held_out, "random")
    names = ("score (random)", "KID (random) half size", "FID (random)", "SWD 28 px", "SWD")
    for name in names:
        row = found["scores"][name]
        assert row["value"] < 0.3 * row["floor"], name
    assert found["scores"]["coverage (random)"]["value"] > 0.5
    assert found["scores"]["coverage (random)"]["floor"] == 0
    assert found["n_floor"] == 12
    # a perfect copy of the training images is at the floor, and the floor does not move
    again = metrics.evaluate(train[features.spaced(30, 12)], train, held_out, "random")
    for name in names:
        row = again["scores"][name]
        assert row["value"] == pytest.approx(row["floor"], rel=1e-6), name
        assert row["floor"] == pytest.approx(found["scores"][name]["floor"], rel=1e-6), name


def test_the_memory_gap_is_between_images_trained_on_and_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Tiny
) -> None:
    asked: list[list[float]] = []

    def gap(D: Any, train: Any, held_out: Any, fake: Any) -> float:
        asked.append([float(look[0].mean()) for look in (train, held_out, fake)])
        return 0.25

    monkeypatch.setattr(health, "memory_gap", gap)
    config = tiny(batch_size=4, max_epoch=0, max_images=80, log_every=1)
    fit(config, dark_and_bright(tmp_path), tmp_path)
    assert len(asked) == 2  # every tenth reading
    for train, held_out, fake in asked:
        assert train < -0.6
        assert held_out > 0.6
        assert -0.6 < fake < 0.6
    lines = [json.loads(x) for x in (tmp_path / "runs" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line.get("gap") == 0.25] == [10, 20]


# ---- the numbers --------------------------------------------------------------------------------


def test_swd_divides_both_sides_by_the_deviation_of_the_reals() -> None:
    """White noise of half the reals' contrast, 28 px: one level, values of deviation 1/2 and 1."""
    random = np.random.default_rng(0)
    real = random.integers(0, 256, (60, 3, 16, 16)).astype(np.uint8)
    flat = (128 + (random.integers(0, 256, real.shape) - 128) / 2).astype(np.uint8)
    half = 1e3 * 0.5 * (2 / np.pi) ** 0.5
    assert metrics.swd(flat, real)["16"] == pytest.approx(half, rel=0.1)
    assert metrics.swd(real, flat)["16"] == pytest.approx(2 * half, rel=0.1)


def test_memorisation_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, train, held_out = shades(4, BRIGHT), shades(9, DARK), shades(101, MIDDLE)
    found = {4: np.array([0.5, 1.5, 30.0, 50.5]), 101: np.arange(101.0)}

    def nearest(queries: Any, pool: Any) -> tuple[Any, Any, Any]:
        assert pool is train
        distance = found[len(queries)]
        return distance, np.zeros(len(distance), int), np.zeros(len(distance), bool)

    monkeypatch.setattr(metrics, "nearest", nearest)
    result = metrics.memorisation(fake, train, held_out, pairs=2)
    assert result["ratio"] == pytest.approx(15.75 / 50)
    assert result["copied"] == 0.25  # 1 % of the held-out ones are nearer than 1.0
    assert [pair["fake"] for pair in result["pairs"]] == [0, 1]


def test_the_score_of_a_network_is_the_mean_of_its_kid_at_both_sizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def extract(images: Any, name: str, scale: int = 1, device: str = "cpu") -> Any:
        asked.append((int(images[0].max() > 99), name, scale, device))
        return np.full((len(images), 1), scale, np.float32)

    def kid(fake: Any, real: Any) -> tuple[float, float]:
        assert fake[0, 0] == real[0, 0]
        return (3.0, 0.3) if fake[0, 0] == 2 else (1.0, 0.1)

    use_features(monkeypatch, extract)
    monkeypatch.setattr(metrics, "kid", kid)
    whiten = {scale: whitened.fit_whitening(np.zeros((9, 1))) for scale in (1, 2)}
    found = metrics.quality(shades(9, BRIGHT), shades(9, DARK), whiten, "random")
    assert sorted(asked) == [
        (side, net, scale, "cpu")
        for side in (0, 1)
        for net in ("layers", "random")
        for scale in (1, 2)
    ]
    assert found["KID (random)"] == {"value": 1.0, "error": 0.1}
    assert found["KID (random) half size"] == {"value": 3.0, "error": 0.3}
    assert found["score (random)"] == {"value": 2.0, "error": 0.2}
    assert next(iter(found)) == "score (random)"


def test_five_neighbours() -> None:
    """Reals 0 to 9: the fifth neighbour of 0 and of 9 is 5 off, of 1 and of 8 4 off."""
    real, fake = column(*range(10)), column(*[-4.5] * 5, *[14.4] * 5)
    density, coverage = metrics.density_coverage(fake, real)
    assert (density, coverage) == pytest.approx((5 / 50, 1 / 10))
    assert metrics.precision_recall(fake, real)[0] == pytest.approx(0.5)


def test_realism_is_by_five_neighbours_and_the_denser_half() -> None:
    """The six in the middle have their fifth neighbour 3 off, and are the denser half."""
    real = torch.arange(10.0)[:, None].double()
    fake = torch.tensor([[9.0], [-1.0], [3.5]]).double()
    assert ranking.realism(fake, real).tolist() == pytest.approx([1.5, 1.0, 6.0])


def test_a_face_is_new_beyond_one_percent_of_the_training_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, fresh = shades(404, DARK), shades(2, BRIGHT)
    asked = []

    def nearest(queries: Any, pool: Any) -> tuple[Any]:
        asked.append((len(queries), len(pool)))
        return (np.arange(101.0) if len(queries) == 101 else np.array([0.5, 1.5]),)

    monkeypatch.setattr(metrics, "nearest", nearest)
    assert ranking.novelty(fresh, train).tolist() == pytest.approx([-0.5, 0.5])
    assert asked == [(101, 303), (2, 404)]  # a quarter is told from the others


# ---- alarms -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signal", "silent", "raised", "kind"),
    [
        ("pair_auc", 0.9895, 0.9905, "d wins"),
        ("pair_auc", 0.5005, 0.4995, "g wins"),
        ("gap", 0.495, 0.505, "memory"),
        ("diversity", 0.605, 0.595, "narrow"),
        ("gradient", 0.094, 0.092, "no gradient"),  # the mean goes down to 0.93 meanwhile
    ],
)
def test_where_an_alarm_begins(signal: str, silent: float, raised: float, kind: str) -> None:
    before = [reading(1000 + i) for i in range(20)]
    for value, expected in ((silent, []), (raised, [kind])):
        assert alarms(*before, *(reading(1020 + i, **{signal: value}) for i in range(5))) == (
            expected
        )


@pytest.mark.parametrize(
    ("peak", "diversity", "collapsed"),
    [
        (0.9, 0.355, False), (0.9, 0.345, True),  # at most 0.35
        (0.5, 0.255, False), (0.5, 0.245, True),  # half of the peak
        (0.31, 0.1, True), (0.29, 0.1, False),  # no variety to lose
    ],
)  # fmt: skip
def test_where_a_collapse_begins(peak: float, diversity: float, collapsed: bool) -> None:
    course = [*[peak] * 5, *[diversity] * 5]
    found = alarms(*(reading(1000 + i, diversity=value) for i, value in enumerate(course)))
    assert ("collapse" in found) == collapsed


def test_five_readings_have_to_agree_and_none_of_the_first_400_steps() -> None:
    ill = {"pair_auc": 1.0}
    assert alarms(*(reading(1000 + i, **ill) for i in range(4))) == []
    assert alarms(*(reading(1000 + i, **ill) for i in range(5))) == ["d wins"]
    assert alarms(*(reading(395 + i, **ill) for i in range(5))) == []
    assert alarms(*(reading(396 + i, **ill) for i in range(5))) == ["d wins"]


# ---- the log ------------------------------------------------------------------------------------


class Board:
    """Keeps what TensorBoard is given."""

    def __init__(self, folder: str, purge_step: int | None) -> None:
        self.folder, self.purge_step = folder, purge_step
        self.points: list[tuple[str, float, int]] = []
        self.pictures: list[tuple[str, tuple[int, ...], int]] = []
        self.open = True

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.points.append((name, value, step))

    def add_image(self, name: str, picture: Any, step: int) -> None:
        self.pictures.append((name, picture.shape, step))

    def add_text(self, name: str, text: str, step: int) -> None:
        self.texts = (name, text, step)

    def close(self) -> None:
        self.open = False


def test_what_a_run_logs_and_under_which_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Tiny
) -> None:
    boards: list[Board] = []

    def board_of(folder: Path, purge: int | None) -> Board:
        boards.append(Board(str(folder), purge))
        return boards[-1]

    monkeypatch.setattr(report, "Curves", board_of)
    drawn: list[tuple[Any, ...]] = []

    def score(fakes: Any) -> dict[str, float]:
        drawn.append((fakes.shape, fakes.dtype))
        return {"score": 2.5, "coverage": 0.5}

    config = tiny(
        batch_size=4, max_epoch=0, max_images=40, log_every=5, eval_every=24, save_every=1
    )
    done = fit(
        config, dark_and_bright(tmp_path), tmp_path, score=score, events=[{"event": "start"}]
    )
    lines = [json.loads(x) for x in (tmp_path / "runs" / "log.jsonl").read_text().splitlines()]
    for line in lines:
        for of_the_clock in ("seconds", "images/s", "took"):
            line.pop(of_the_clock, None)
    pauses = [(line["step"], line["what"]) for line in lines if line.get("event") == "pause"]
    assert pauses == [(5, "saving"), (6, "scoring"), (10, "scoring"), (10, "saving")]
    lines = [line for line in lines if line.get("event") != "pause"]
    kinds = [(line["step"], line.get("event"), line.get("images")) for line in lines]
    assert kinds == [
        (0, "start", None), (5, None, 20), (5, "save", 20), (6, "score", 24), (10, None, 40),
        (10, "score", 40), (10, "save", 40),
    ]  # fmt: skip
    assert lines[3] == {"step": 6, "event": "score", "images": 24, "score": 2.5, "coverage": 0.5}
    assert lines[2] == {"step": 5, "event": "save", "images": 20, "preview": "1.png"}
    losses = {"loss_d", "D(x)", "D(G(z))", "pair_auc", "loss_g"}
    assert set(lines[1]) == {"step", "images", "epoch", "diversity", "gradient", *losses}
    assert (lines[1]["epoch"], lines[4]["epoch"]) == (1, 2)
    assert drawn == [((256, 3, 28, 28), np.uint8)] * 2
    # TensorBoard counts images, whatever the batch
    (board,) = boards
    assert (board.folder, board.purge_step, board.open) == (str(tmp_path / "runs"), None, False)
    curves = {
        "loss/D", "loss/G", "D/real", "D/fake", "speed/images per second", "health/pair_auc",
        "health/diversity", "health/gradient",
    }  # fmt: skip
    assert {(name, at) for name, _, at in board.points} == {
        *((name, at) for name in curves for at in (20, 40)),
        *((f"scores/{name}", at) for name in ("score", "coverage") for at in (24, 40)),
    }
    assert ("scores/score", 2.5, 24) in board.points
    assert ("loss/D", lines[1]["loss_d"], 20) in board.points
    assert board.texts[::2] == ("config", 0)
    assert "\n| batch_size | 4 |\n" in board.texts[1]
    assert board.pictures == [("preview", (3, 8 * 30 + 2, 8 * 30 + 2), at) for at in (20, 40)]
    # a resumed run: points later than its state are purged
    config.max_images = 60
    saved = checkpoint.load(done.state)
    fit(config, dark_and_bright(tmp_path), tmp_path, saved=saved)
    assert boards[1].purge_step == 41


# ---- how a file is written ----------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced to the disk and what is renamed, in order."""
    found: list[str] = []
    sync, replace = os.fsync, os.replace

    def fsync(number: int) -> None:
        found.append("sync folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "sync file")
        sync(number)

    def rename(source: Path, target: Path) -> None:
        assert source.parent == target.parent
        found.append(f"rename {source.read_text()} over {target.read_text()}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    return found


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, calls: list[str]) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def write(part: Path) -> None:
        assert part != path
        part.write_text("new")
        calls.append("write")

    atomic_write(path, write)
    assert calls == ["write", "sync file", "rename new over old", "sync folder"]
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x", "new")]


@pytest.mark.parametrize("fails", ["write", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def fail(*_: Any) -> None:
        raise OSError(fails)

    def write(part: Path) -> None:
        part.write_text("new")
        if fails == "write":
            fail()

    if fails != "write":
        monkeypatch.setattr(os, fails, fail)
    with pytest.raises(OSError, match=fails):
        atomic_write(path, write)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x", "old")]
