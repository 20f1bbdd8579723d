"""Who may import whom, how large files and functions are, and that lists equal their tables."""

import ast
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import Field
from pathlib import Path

import pytest
from processes import PATIENCE_SECONDS

from commands.evaluate import EvaluateOptions
from commands.generate import GenerateOptions
from commands.prepare import PrepareOptions
from config import FIELDS
from gan.detect import DETECTORS
from gan.examine import CROPS, KINDS
from gan.features import FEATURES
from gan.feed import NOISES
from gan.losses import GAMES
from gan.ranking import RANKERS
from gan.state import OPTIMIZERS
from gan.whitened import NETWORK

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 500
MAX_FUNCTION_LINES = 60
HEAVY = {"torch", "torchvision", "numpy", "matplotlib", "PIL", "fire"}

# what the engine may take from config.py
CONFIG_IN_GAN = {"Config", "RunFacts", "Value", "write_config"}
# what a command may import of commands/; every command may import SHARED
SHARED = {"commands.flags", "commands.places", "commands.runs", "commands.faces"}
OF_COMMANDS = {
    "commands.flags": {"commands.aliases"},
    "commands.compare": {"commands.compare_plan", "commands.compare_jobs"},
    "commands.compare_plan": set(),
    "commands.compare_jobs": {
        "commands.compare_plan",
        "commands.compare_curves",
        "commands.compare_page",
        "commands.train",  # each run is prepared before the first one starts
    },
    "commands.compare_page": {"commands.compare_curves"},
    "commands.report": {"commands.compare_curves", "commands.report_page"},
    "commands.report_page": {"commands.compare_curves"},
}
# `compare` imports these when it starts to train, `report` when it writes
STARTS_LATER = {
    "commands.compare_jobs", "commands.compare_curves", "commands.compare_page",
    "commands.report_page",
}  # fmt: skip
# the processes that decode import these
WITHOUT_TORCH = {
    "gan.data", "gan.pairs", "gan.progress", "gan.console", "gan.layout",
    "gan.cache", "gan.readers", "gan.split",
    "gan.avatars", "gan.idx", "gan.errors", "gan.depth", "gan.folders", "gan.overview",
    "gan.unpack", "gan.shards", "gan.examine", "gan.detect", "gan.intake", "gan.selection",
    "gan.delivery",
    "gan.container", "gan.processes",
    "gan.filesystem", "gan.job",
}  # fmt: skip
ANY = {  # where a type of the standard library or of a file is Any
    "config": "dataclasses.Field is generic in a type that differs from setting to setting",
    "commands.flags": "the same",
    "gan.checkpoint": "a file holds tensors, numbers, strings and containers of them",
    "gan.state": "a saved state is such a file",
    "gan.spectral": "the context of an autograd.Function has no type",
    "gan.distributed": "values that are pickled, and tensors or arrays that are sliced alike",
    "gan.health": "the fields of a reading, as a saved state has them",
    "gan.report": "a line of the log is JSON",
    "gan.pages": "the scores of an evaluation are JSON",
    "gan.card": "a line of the log is JSON",
    "gan.export": "torch.onnx.export has no type",
    "gan.unpack": "pyarrow has no types",
    "gan.tasks": "a row's own functions alone know which data it opens",
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


FILES = {
    name_of(path): path
    for folder in (ROOT, ROOT / "commands", ROOT / "gan", ROOT / "facegan")
    for path in sorted(folder.glob("*.py"))
    if path.name != "__init__.py"
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """What these import: `from a import b` is a and a.b."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "a relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def on_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the file is imported: not functions, nor `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        checking = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not checking and not isinstance(child, ast.FunctionDef | ast.Lambda):
            yield child
            yield from on_import(child)


IMPORTS = {name: imported(ast.walk(tree)) for name, tree in TREES.items()}
GRAPH = {name: found & FILES.keys() for name, found in IMPORTS.items()}  # of our own files
AT_START = {name: imported(on_import(tree)) for name, tree in TREES.items()}


def packages(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def in_package(package: str) -> list[str]:
    return [name for name in FILES if name.startswith(f"{package}.")]


def layer(name: str) -> str:
    """The top-level file or package of a file."""
    return name.split(".")[0]


# --- layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", in_package("gan"))
def test_the_engine_imports_nothing_above_it(name: str) -> None:
    assert not {layer(other) for other in GRAPH[name]} & {"main", "models", "commands"}
    taken = {other for other in IMPORTS[name] if other.startswith("config.")}
    assert taken <= {f"config.{each}" for each in CONFIG_IN_GAN}
    assert "config" not in IMPORTS[name] or taken, "by name, not as a module"


def test_config_is_at_the_bottom_and_models_above_the_engine() -> None:
    assert GRAPH["config"] == {"gan.errors"}
    assert {layer(name) for name in GRAPH["models"]} == {"config", "gan"}
    assert {layer(name) for name in GRAPH["main"]} <= {"commands", "config", "gan"}


@pytest.mark.parametrize("name", in_package("commands"))
def test_a_command_imports_no_other_command(name: str) -> None:
    assert "main" not in GRAPH[name]
    others = {other for other in GRAPH[name] if layer(other) == "commands"}
    allowed = SHARED | OF_COMMANDS.get(name, set())
    assert others - {name} <= allowed


def test_no_file_imports_itself_in_a_circle() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for other in sorted(GRAPH[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in FILES:
        visit(name, ())


# --- what is imported when -----------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({"main", "config", *in_package("commands")} - STARTS_LATER))
def test_what_starts_at_once_imports_nothing_heavy(name: str) -> None:
    seen: set[str] = set()

    def visit(name: str) -> None:
        seen.add(name)
        assert not packages(AT_START[name]) & HEAVY, name
        for other in (AT_START[name] & FILES.keys()) - seen:
            visit(other)

    visit(name)


def test_help_imports_no_torch() -> None:
    found = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "main.py"), "--help"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    modules = {line.rpartition("|")[2].strip() for line in found.stderr.splitlines()}
    assert "config" in modules
    assert not packages(modules) & HEAVY
    for command in ("train", "generate", "compare"):
        assert f"main.py {command} " in found.stdout


@pytest.mark.parametrize("name", sorted(WITHOUT_TORCH))
def test_the_files_that_read_data_import_no_torch(name: str) -> None:
    assert not packages(IMPORTS[name]) & {"torch", "torchvision"}
    assert GRAPH[name] <= WITHOUT_TORCH


# --- sizes and types -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_files_and_functions_are_short(name: str) -> None:
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, node.name


def names_any(tree: ast.AST) -> bool:
    """Whether `Any` is used, also inside an annotation that is a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "Any":
            return True
        if isinstance(node, ast.Attribute) and node.attr == "Any":
            return True
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and re.search(r"\[(.*\W)?Any\W", text):
            return True
    return False


def test_types_are_any_only_where_there_is_a_reason() -> None:
    assert {name for name, tree in TREES.items() if names_any(tree)} == set(ANY)


# --- the page about the design, and the tables ----------------------------------------------------


def test_the_page_has_a_row_for_every_file() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    table = page.split("## Files")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| .{10,} \|$", table, re.MULTILINE)
    files = {path.relative_to(ROOT).as_posix() for path in FILES.values()}
    assert len(rows) == len(set(rows))
    assert set(rows) == files | {"gan/templates/"}
    assert (ROOT / "gan" / "templates").is_dir()


def test_the_page_names_only_files_that_are_there() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    examples = {"gan/npy.py", "gan/colour.py", "commands/walk.py", "commands/<word>.py"}
    for name in set(re.findall(r"`([\w/<>]+\.py)`", page)) - examples:
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize(
    ("option", "table"),
    [
        (FIELDS["loss"], {"", *GAMES}),
        (FIELDS["optimizer"], OPTIMIZERS),
        (FIELDS["noise"], NOISES),
        (PrepareOptions.__dataclass_fields__["detector"], DETECTORS),
        (PrepareOptions.__dataclass_fields__["crop"], CROPS),
        (PrepareOptions.__dataclass_fields__["format"], KINDS),
        (GenerateOptions.__dataclass_fields__["rank_by"], {"", *RANKERS}),
        (EvaluateOptions.__dataclass_fields__["features"], FEATURES.keys() - {NETWORK}),
    ],
    ids=["loss", "optimizer", "noise", "detector", "crop", "format", "rank_by", "features"],
)
def test_the_choices_of_a_flag_are_the_rows_of_its_table(
    option: "Field[str]", table: Collection[str]
) -> None:
    choices = option.metadata["choices"]
    assert set(choices) == set(table)
    for name in choices:
        assert name in option.metadata["help"], "the help names every choice"
