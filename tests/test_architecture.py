"""Imports point down (docs/architecture.md)."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "noise": {"errors"},
    "partition": {"errors", "noise"},
    "task": {"noise", "partition"},
    "nn": {"nn"},
    "classification": {"errors", "noise", "partition", "task"},
    "families": {"classification", "errors", "families", "nn", "noise", "partition", "task"},
    "baselines": {
        "baselines",
        "classification",
        "errors",
        "families",
        "keys",
        "nn",
        "noise",
        "partition",
        "task",
    },
    "training": {"errors", "keys", "task"},
    "exchange": {"training"},
    "solvers": {"task"},
    "sampling": {"devices", "errors", "noise", "partition", "solvers", "task"},
    "adaptive": {"errors", "keys", "noise", "partition", "sampling", "solvers", "task"},
    "placement": {"devices", "errors", "exchange", "keys", "placement", "task", "training"},
    "optimizer": {"errors"},
    "loop": {"training"},
    "data": {"data", "errors", "packages"},
    "config": {"errors"},
    "packages": {"errors"},
    "sweeps": {"errors"},
}


def imports(file: Path) -> set[str]:
    """Modules of dbjax (second part of the name) that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            parts = node.module.split(".")
            if parts[0] == "dbjax":
                found |= {parts[1]} if len(parts) > 1 else {name.name for name in node.names}
            if parts[0] == "experiments":
                found.add("experiments")
    return found


def test_imports_point_down():
    for name, allowed in MAY_IMPORT.items():
        path = ROOT / "dbjax" / name
        files = list(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        for file in files:
            assert imports(file) <= allowed, file


def test_the_library_never_imports_the_programs():
    for file in (ROOT / "dbjax").rglob("*.py"):
        assert "experiments" not in imports(file), file
