"""Small parts of pages."""

import ast
import posixpath
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def docstring(file: Path) -> str:
    """Of a module, without importing it. As it stands: what is indented is code."""
    return ast.get_docstring(ast.parse(file.read_text()), clean=False) or ""


def first_sentence(file: Path) -> str:
    """The first line of a module's docstring."""
    return docstring(file).strip().partition("\n")[0]


def fenced(text: str, language: str = "") -> str:
    """A block of code, whatever it holds."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"


def details(title: str, text: str, language: str) -> str:
    """Code that is shown when it is asked for."""
    summary = f'<details markdown="1"><summary>{title}</summary>'
    return f"{summary}\n\n{fenced(text, language)}\n</details>\n"


def word_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown, all columns to the left."""
    ruler = ["---"] * len(header)
    rows = ([cell.replace("|", "\\|") for cell in cells] for cells in (header, ruler, *lines))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def to(target: str, page: str) -> str:
    """A link's target as seen from a page."""
    return posixpath.relpath(target, posixpath.dirname(page) or ".")


def file_link(path: str, page: str) -> str:
    """To a file of the repository."""
    return f"[{path}]({to(file_place(path), page)})"


def file_place(path: str) -> str:
    """Where the site has a file of the repository: JSON as it is, others as a page of code."""
    return f"files/{path}" if path.endswith(".json") else f"files/{path}.md"
