"""Pages of the reference: every module, in the order of the architecture."""

import inspect
import textwrap

import dbjax
from docs.site.text import ROOT, first_sentence, word_table

CHAPTERS = {
    "Core": ("noise", "partition", "task", "errors", "keys", "packages"),
    "Training": ("training", "optimizer", "loop", "monitor", "checkpoint", "exchange",
                 "distributed"),
    "Placement": ("placement",),
    "Sampling": ("sampling", "solvers", "adaptive", "unmasking", "categorical", "generation",
                 "writers"),
    "Runs": ("session", "build", "catalogue", "config", "settings", "workdir", "sweeps"),
    "Blocks as parts": ("parts", "transfer", "assembly", "conversion"),
    "Tasks": ("classification", "autoregressive", "baselines"),
    "Networks": ("families", "nn"),
    "Data": ("data",),
    "Measures": ("metrics", "diagnostics", "flops", "memory", "planning", "choosing",
                 "devices"),
    "Pictures": ("pictures", "classification_pictures", "masked_text", "refined_text"),
}  # fmt: skip
"""Modules and packages of dbjax by chapter."""


def pages() -> dict[str, str]:
    """Pages by path: an overview, then one for each module or package."""
    found = {"reference/index.md": _overview()}
    for name in (name for names in CHAPTERS.values() for name in names):
        own = modules(name)
        alone = "\n    options:\n      heading_level: 1\n"
        parts = [f"::: dbjax.{module}\n{alone if own == [name] else ''}" for module in own]
        heading = "" if own == [name] else f"# dbjax.{name}\n\n{_about(name)}\n\n"
        found[f"reference/{name}.md"] = heading + "\n".join(parts)
    return found


def modules(name: str) -> list[str]:
    """A module itself; of a package its modules."""
    folder = ROOT / "dbjax" / name
    if not folder.is_dir():
        return [name]
    return [
        f"{name}.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem != "__init__"
    ]


def _overview() -> str:
    names = [
        [f"[`{name}`][{thing.__module__}.{thing.__qualname__}]", _summary(thing)]
        for name in dbjax.__all__
        for thing in [getattr(dbjax, name)]
    ]
    start = textwrap.dedent(dbjax.__doc__ or "").strip()
    parts = [
        f"# Reference\n\n{start}\n\n{word_table(['in `dbjax`', 'what'], names)}",
        "All modules, in the order in which they build on each other:",
    ]
    for chapter, own in CHAPTERS.items():
        lines = [[f"[`dbjax.{name}`]({name}.md)", _about(name)] for name in own]
        parts.append(f"## {chapter}\n\n{word_table(['module', 'what'], lines)}")
    return "\n\n".join(parts)


def _about(name: str) -> str:
    path = ROOT / "dbjax" / name
    return first_sentence(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))


def _summary(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]
