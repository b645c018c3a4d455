"""The page of programs: what each says when it is asked for --help."""

import ast
import contextlib
import importlib
import io
import os

from docs.site.text import ROOT, fenced

WIDTH = "88"


def page() -> str:
    """Every program with its help."""
    parts = [f"## {name}\n\n{fenced(help_of(name), 'text')}" for name in programs()]
    return "# Programs\n\nRun from a checkout. This is what they say to `--help`.\n\n" + "\n".join(
        parts
    )


def programs() -> list[str]:
    """Modules of experiments that are run by people."""
    return sorted(
        path.stem
        for path in (ROOT / "experiments").glob("*.py")
        if any(
            isinstance(node, ast.FunctionDef) and node.name == "main"
            for node in ast.parse(path.read_text()).body
        )
    )


def help_of(name: str) -> str:
    """Asked in this process: in one of its own, each would import jax anew."""
    main = importlib.import_module(f"experiments.{name}").main
    said = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDTH
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            main(["--help"])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return said.getvalue()
