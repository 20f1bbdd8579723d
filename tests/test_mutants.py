"""The tables of faults: read as they are written, and kept up with the code."""

import subprocess
from pathlib import Path

import mutants
import pytest
from processes import PATIENCE_SECONDS

TABLE = """# a remark
# of two lines

# adds, not subtracts
file: a.py
-     return a - b
+     return a + b
test: test_a.py::test_minus test_a.py

# says nothing
file: a.py
- import sys
-
test: test_a.py
"""
CODE = """import sys

def minus(a: int, b: int) -> int:
    return a - b

def plus(a: int, b: int) -> int:
    return a + b
"""
TEST = """import a

def test_minus():
    assert a.minus(3, 3) == 0

def test_broken():
    assert a.minus(3, 2) == 5
"""


def test_a_table_is_read_as_it_is_written() -> None:
    first, second = mutants.parse(TABLE, "x.txt")
    assert (first.what, first.file, first.row) == ("adds, not subtracts", "a.py", "x.txt:4")
    assert first.changes == (("    return a - b", "    return a + b"),)
    assert first.tests == ("test_a.py::test_minus", "test_a.py")
    assert second.changes == (("import sys\n", ""),)
    assert first.applied(CODE) == CODE.replace("a - b", "a + b")
    assert second.applied(CODE) == CODE.removeprefix("import sys\n\n")
    with pytest.raises(ValueError, match=r"text missing in a\.py"):
        first.applied(CODE.replace("    return", "\treturn"))
    with pytest.raises(ValueError, match=r"not unique in a\.py"):
        first.applied(CODE.replace("a + b", "a - b"))
    with pytest.raises(ValueError, match="not unique"):  # one after the other
        first.applied("    return a - b\n    return a - b")
    (parts,) = mutants.parse("# x\nfile: a.py\n- a - b\n+ b\n- a + b\n+ a\ntest: t.py", "x")
    assert parts.applied(CODE) == CODE.replace("a - b", "b").replace("a + b", "a")
    (broken,) = mutants.parse("# x\nfile: a.py\n-     return a - b\ntest: t.py", "x")
    with pytest.raises(ValueError, match="no Python with it"):
        broken.applied(CODE)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n# x\nfile: a.py\n- a\n", "x.txt:2: no line with test:"),
        ("file: a.py\n- a\ntest: b.py", "x.txt:1: no line with #"),
        ("# x\nfile: a.py\n-a\ntest: b.py", "'-a' starts with none of"),
        ("# x\nfile: a.py\n+ b\n- a\ntest: b.py", "x.txt:1: [+] before any -"),
        ("# x\nfile: a.py\nfile: b.py\n- a\ntest: b.py", "more than one file"),
    ],
)
def test_an_incomplete_row_is_named(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        mutants.parse(text, "x.txt")


@pytest.mark.parametrize(
    "table", sorted((mutants.ROOT / "tests" / "mutants").glob("*.txt")), ids=lambda path: path.stem
)
def test_every_row_applies_to_the_code(table: Path) -> None:
    wrong = []
    for fault in mutants.parse(table.read_text("utf-8"), table.name):
        try:
            fault.check(mutants.ROOT)
        except ValueError as error:
            wrong.append(f"{fault.row} {fault.what}: {error}")
    assert not wrong, "\n".join(wrong)


def test_faults_are_found_or_not_and_known_the_next_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "project"
    root.mkdir()
    (root / "a.py").write_text(CODE)
    (root / "test_a.py").write_text(TEST)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True, timeout=PATIENCE_SECONDS)
    row = "# fault {0}\nfile: a.py\n-     return a {1} b\n+     return a {2} b\ntest: {3}\n"
    good, bad = "test_a.py::test_minus", "test_a.py::test_broken"
    rows = [("-", "+", good), ("+", "-", good), ("*", "/", good), ("-", "+", f"{good} {bad}")]
    faults = mutants.parse("\n".join(row.format(i, *r) for i, r in enumerate(rows)), "t")
    found = mutants.run(root, faults, tmp_path / "state.json", 2)
    assert [found[fault.row] for fault in faults] == [
        "found",
        "NOT FOUND",
        "no longer applies: text missing in a.py: return a * b",
        f"tests already fail without it: {bad}",
    ]
    assert mutants.summary(found) == ("1 of 4 found (25%)", False)
    assert mutants.summary({**dict.fromkeys(map(str, range(9)), "found"), "t": "NOT FOUND"})[1]
    assert (root / "a.py").read_text() == CODE
    monkeypatch.setattr(mutants, "Bench", None)
    assert mutants.run(root, faults[:2], tmp_path / "state.json", 2) == {
        fault.row: found[fault.row] for fault in faults[:2]
    }
    assert capsys.readouterr().out.count("(known)") == 2
