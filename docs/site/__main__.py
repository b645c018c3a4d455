"""Makes the site: pages, then HTML, then a look through it. A warning is an error.

    python -m docs.site

build/docs has the pages, build/site the site.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from docs.site import configs, notebooks, programs, reference, results, sources
from docs.site.check import problems
from docs.site.studies import read_studies
from docs.site.text import ROOT

HERE = Path(__file__).parent


def main() -> int:
    out = ROOT / "build"
    shutil.rmtree(out / "docs", ignore_errors=True)
    shutil.rmtree(out / "site", ignore_errors=True)
    pages = all_pages()
    for path, text in pages.items():
        file = out / "docs" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    shutil.copytree(
        ROOT / "docs/images", out / "docs/images", ignore=shutil.ignore_patterns("*.py", "__*")
    )
    shutil.copy(HERE / "style.css", out / "docs")
    (out / "mkdocs.yml").write_text(yaml.safe_dump(site_config(pages), sort_keys=False))
    build = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file"]
    done = subprocess.run([*build, str(out / "mkdocs.yml")], stderr=subprocess.PIPE, text=True)
    # Docstrings are read by griffe, whose warnings --strict does not count.
    if done.returncode or "griffe: " in done.stderr:
        print(done.stderr, file=sys.stderr)
        return 1
    found = problems(out / "site")
    if found:
        print("\n".join(found), file=sys.stderr)
        return 1
    print(f"The site of {len(pages)} pages is {out / 'site/index.html'}")
    return 0


def all_pages() -> dict[str, str]:
    """Markdown by path, and the files that it names."""
    studies = read_studies(ROOT / "results")
    pages = {
        **sources.pages(),
        **notebooks.pages(),
        "programs.md": programs.page(),
        **configs.pages(studies),
        **reference.pages(),
        **results.pages(studies),
    }
    return {**pages, **sources.named_files(pages)}


def site_config(pages: Mapping[str, str]) -> dict[str, Any]:
    """With the navigation."""
    config = yaml.safe_load((HERE / "mkdocs.yml").read_text())
    config["plugins"][1]["mkdocstrings"]["handlers"]["python"]["paths"] = [str(ROOT)]
    return {**config, "docs_dir": "docs", "site_dir": "site", "nav": navigation(pages)}


def navigation(pages: Mapping[str, str]) -> list[Any]:
    """Every page but those of files, by title."""

    def entry(path: str) -> dict[str, str]:
        return {sources.heading(pages[path]) or Path(path).stem: path}

    studies = [path for path in pages if path.startswith("results/")]
    return [
        {"Start": "index.md"},
        {"Method": "method.md"},
        {"Architecture": "architecture.md"},
        {"Guides": ["guides/index.md", *(entry(f"guides/{name}.md") for name in sources.guides())]},
        {"Notebooks": [entry(f"notebooks/{name}.md") for name in notebooks.notebooks()]},
        {"Programs": "programs.md"},
        {"Configs": [
            "configs/index.md",
            *({title: f"configs/{group}.md"} for group, (title, _) in configs.GROUPS.items()),
        ]},
        {"Reference": ["reference/index.md", *(
            {chapter: [{name: f"reference/{name}.md"} for name in names]}
            for chapter, names in reference.CHAPTERS.items()
        )]},
        {"Results": ["results/index.md", *map(entry, studies[1:])]},
        {"More": [{"Contributing": "contributing.md"}, {"Changelog": "changelog.md"}]},
    ]  # fmt: skip


if __name__ == "__main__":
    status = main()
    # On a busy machine, threads of the libraries behind --help have kept Python from ending.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
