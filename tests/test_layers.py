"""The plan of the rooms: who may import whom."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

MAY_IMPORT = {
    "gan.errors": set(),
    "gan.avatars": set(),
    "gan.augment": set(),
    "gan.budget": set(),
    "gan.losses": {"gan.augment"},
    "gan.checkpoint": {"gan.errors"},
    "gan.split": set(),
    "gan.translation": {"gan.errors"},
    "gan.health": set(),
    "gan.idx": {"gan.errors"},
    "gan.data": {"gan.errors", "gan.avatars", "gan.idx", "gan.split"},
    "gan.layout": {"gan.errors"},
    "gan.machine": {"gan.errors"},
    "gan.pairs": {"gan.data", "gan.errors", "gan.layout", "gan.split"},
    "gan.features": {"gan.checkpoint", "gan.errors"},
    "gan.metrics": {"gan.errors", "gan.features"},
    "gan.sample": {"gan.checkpoint"},
    "gan.report": {"gan.checkpoint"},
    "gan.curves": {"gan.checkpoint", "gan.report"},
    "gan.compare": {"gan.checkpoint", "gan.curves", "gan.report"},
    "gan.export": {"gan.checkpoint", "gan.errors"},
    "gan.ranking": {"gan.features", "gan.metrics", "gan.sample"},
    "gan.state": {"gan.budget", "gan.health", "gan.report", "gan.sample"},
    "gan.feed": {"gan.data", "gan.features", "gan.losses", "gan.pairs", "gan.sample"},
    "gan.loop": {
        "gan.budget",
        "gan.feed",
        "gan.pairs",
        "gan.state",
        "gan.checkpoint",
        "gan.data",
        "gan.errors",
        "gan.health",
        "gan.losses",
        "gan.report",
        "gan.sample",
    },
    "config": {"gan.errors"},
    "models": {"config", "gan.checkpoint", "gan.errors", "gan.losses", "gan.translation"},
    "runs": {"config", "gan.checkpoint", "gan.data", "gan.errors", "gan.pairs", "models"},
    "pictures": {
        "config",
        "gan.errors",
        "gan.features",
        "gan.feed",
        "gan.machine",
        "gan.metrics",
        "gan.pairs",
        "gan.report",
        "gan.sample",
        "runs",
    },
    "faces": {
        "config",
        "gan.data",
        "gan.errors",
        "gan.features",
        "gan.machine",
        "gan.ranking",
        "gan.sample",
        "runs",
    },
    "grid": {"config", "gan.errors"},
    "usage": {"config", "models"},
    "cells": {
        "config",
        "gan.budget",
        "gan.checkpoint",
        "gan.compare",
        "gan.curves",
        "gan.errors",
        "grid",
        "runs",
    },
    "main": {
        "cells",
        "config",
        "faces",
        "grid",
        "pictures",
        "runs",
        "usage",
        "gan.checkpoint",
        "gan.data",
        "gan.errors",
        "gan.export",
        "gan.features",
        "gan.loop",
        "gan.machine",
        "gan.metrics",
        "gan.report",
        "gan.sample",
        "models",
    },
}


def room_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


ROOMS = {
    room_name(path): path
    for path in [*ROOT.glob("*.py"), *(ROOT / "gan").glob("*.py")]
    if path.name != "__init__.py"
}


def imports(path: Path, top_only: bool = False) -> set[str]:
    """Names of the modules that the file imports, anywhere in it."""
    found: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_room_is_on_the_plan() -> None:
    assert set(ROOMS) == set(MAY_IMPORT)
    assert (ROOT / "gan" / "__init__.py").read_text() == ""


def test_imports_only_go_where_the_plan_lets_them() -> None:
    for room, path in ROOMS.items():
        used = imports(path) & set(ROOMS)
        assert used <= MAY_IMPORT[room], f"{room} imports {used - MAY_IMPORT[room]}"


def test_what_has_to_start_at_once_imports_no_torch() -> None:
    heavy = {"torch", "torchvision", "fire", "numpy", "matplotlib"}
    assert not imports(ROOMS["main"], top_only=True) & heavy
    assert not imports(ROOMS["runs"], top_only=True) & heavy
    assert not (imports(ROOMS["config"]) | imports(ROOMS["grid"]) | imports(ROOMS["usage"])) & heavy
    assert not any("matplotlib" in imports(path, top_only=True) for path in ROOMS.values())
    for room in ("gan.data", "gan.pairs", "gan.layout", "gan.avatars", "gan.split"):
        assert "torch" not in imports(ROOMS[room]), room


def test_the_sizes_of_rooms_and_functions() -> None:
    for path in ROOMS.values():
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 500, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path}: {node.name}"
