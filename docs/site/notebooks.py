"""Pages of notebooks: what they say and do; what they show is seen by running them."""

import json

from docs.site.text import ROOT, fenced, to


def pages() -> dict[str, str]:
    """A page for each notebook, by path."""
    return {f"notebooks/{name}.md": _page(name) for name in notebooks()}


def notebooks() -> list[str]:
    """Their names, in the order in which they are meant to be read."""
    return sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def _page(name: str) -> str:
    cells = json.loads((ROOT / f"notebooks/{name}.ipynb").read_text())["cells"]
    parts = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    title, *rest = [text if kind == "markdown" else fenced(text, "python") for kind, text in parts]
    guide = to("guides/notebooks.md", f"notebooks/{name}.md")
    about = f"The notebook `notebooks/{name}.ipynb`. [How to open and run it]({guide})."
    return "\n\n".join([title, about, *rest]) + "\n"
