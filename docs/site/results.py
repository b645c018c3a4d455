"""Pages of results/: a page for each file, and published figures beside ours."""

import json
from collections.abc import Mapping, Sequence

from docs.site.configs import config_link
from docs.site.published import page as published_page
from docs.site.studies import Study
from docs.site.text import ROOT, details, file_link, first_sentence, word_table


def pages(studies: Sequence[Study]) -> dict[str, str]:
    """Pages by path: an overview, the published figures, one for each study."""
    return {
        "results/index.md": _overview(studies),
        "results/published.md": published_page(studies),
        **{f"results/{study.name}.md": study_page(study) for study in studies},
    }


def study_page(study: Study) -> str:
    """Tables, each with where it comes from; the figure, if docs/images has one of this name."""
    about = ""
    program = ROOT / f"experiments/{study.program}.py"
    if study.program and program.exists():
        about = f"{first_sentence(program)} ([{study.program}](../programs.md#{study.program}))\n\n"
    configs = [config for config in study.configs if (ROOT / config).exists()]
    if configs:
        named = ", ".join(config_link(config, "results/x.md") for config in configs)
        about += f"Configs: {named}.\n\n"
    picture = next(iter(sorted((ROOT / "docs/images").glob(f"{study.name}.*"))), None)
    figure = f"![{study.title}](../images/{picture.name})\n\n" if picture else ""
    own = study.document.get("config")
    whole = json.dumps(own, indent=2) if isinstance(own, Mapping) else ""
    config = details("The whole config", whole, "json") if whole else ""
    body = traced(study.tables(), trace(study))
    # Wide tables take the place of a list of contents that would have no entries.
    head = "---\nhide:\n  - toc\n---\n\n"
    return f"{head}# {study.title}\n\n{about}{body}\n{figure}{config}"


def trace(study: Study) -> str:
    """Where a table comes from: file, commit, device, versions and command."""
    of = study.provenance
    link = file_link(f"results/{study.name}.json", "results/x.md")
    versions = ", ".join(f"{key} {of[key]}" for key in ("python", "jax", "flax") if key in of)
    changed = " (files differed from it)" if of["commit"].endswith("+changes") else ""
    return (
        f"From {link}: commit `{of['commit']}`{changed}, {of['device']}, {versions}.\n"
        f"`{of['command']}`\n{{ .trace }}\n"
    )


def traced(markdown: str, line: str) -> str:
    """`line` after each table."""
    parts = markdown.strip().split("\n\n")
    with_lines = (f"{part}\n\n{line}" if part.startswith("|") else part for part in parts)
    return "\n\n".join(with_lines) + "\n"


def _overview(studies: Sequence[Study]) -> str:
    lines = [
        [
            f"[{study.title}]({study.name}.md)",
            f"[{study.program}](../programs.md#{study.program})",
            f"`{study.provenance['commit']}`",
            study.provenance["device"],
            f"{study.provenance['python']}, {study.provenance['jax']}",
        ]
        for study in studies
    ]
    table = word_table(["study", "program", "commit", "device", "Python, jax"], lines)
    return (
        "# Results\n\nA page for each file of `results/`, made from it, with the command that made "
        "it. [Published figures](published.md) stand beside ours on a page of their own."
        f"\n\n{table}"
    )
