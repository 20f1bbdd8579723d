"""The plan of a comparison: the product of its settings, the names of its runs."""

from pathlib import Path

from commands import flags, train
from commands.compare_plan import PlannedRun, plan


def planned(**words: str) -> list[PlannedRun]:
    return plan([], words).runs


def test_a_folder_may_have_a_comma_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    folder = str(tmp_path / "a,b")
    assert [run.given["data_path"] for run in planned(data_path=folder)] == [folder]
    parts = [run.given["data_path"] for run in planned(data_path="a,b")]
    assert parts == ["a", "b"]


def test_the_runs_are_the_product_of_all_values_and_seeds() -> None:
    found = planned(g_every="1,5", d_every="1,2", seeds="2", seed="7", name="x", lr1="1e-4")
    assert [run.name for run in found] == [
        f"x.d-every-{d}.g-every-{g}.seed-{seed}" for seed in (7, 8) for d in (1, 2) for g in (1, 5)
    ]
    assert found[1].given == {
        "g_every": 5, "d_every": 1, "seed": 7, "name": "x.d-every-1.g-every-5.seed-7", "lr1": 1e-4,
    }  # fmt: skip
    assert (found[1].setting, found[1].seed) == ("d-every 1, g-every 5", 7)
    # neither the order of the flags nor the way a number is written makes it another one
    assert [run.name for run in planned(lr2="1e-4,2e-4", lr1="0.0001,3e-4")] == [
        run.name for run in planned(lr1="1e-4,0.0003", lr2="0.0001,0.0002")
    ]
    # one setting: its seeds
    assert [run.name for run in planned(seeds="2")] == ["compare.seed-0", "compare.seed-1"]
    assert [run.given["ema"] for run in planned(noema="True", image_size="28,32")] == [False] * 2
    assert [run.name for run in planned(flip="True,False")] == [
        "compare.flip-True.seed-0",
        "compare.flip-False.seed-0",
    ]


def test_names_of_runs_are_valid_and_differ() -> None:
    values = ["a/b.zip", "a-b.zip", "*" * 200, "_" * 200, "ü"]
    found = planned(data_path=",".join(values), family="dcgan,modern", **dict.fromkeys(
        ("nz", "ngf", "ndf", "d_every", "g_every", "ema_images", "batch_size"), "50,1000"
    ))  # fmt: skip
    names = [run.name for run in found]
    assert len(set(names)) == len(names) == 5 * 2 * 2**7
    for name in names:
        assert len(name) < 200
        assert flags.read(train.FLAGS, [], {"name": name}).settings == {"name": name}
