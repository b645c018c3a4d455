"""Pages of configs: what each says of itself, and what has been measured with it."""

import functools
from collections.abc import Sequence

from dbjax.config import load_config
from docs.site.studies import Measured, Study
from docs.site.text import ROOT, docstring, file_link, first_sentence, to, word_table
from experiments.sweep_points import kind_of

GROUPS = {
    "images": ("Images and points", "draws"),
    "classification": ("Classification", "classifies"),
    "language": ("Language", "writes"),
    "comparisons": ("Comparisons", ""),
    "sweeps": ("Sweeps", ""),
}
"""Title of each page, and what the models of its configs do; the last two are folders."""


def pages(studies: Sequence[Study]) -> dict[str, str]:
    """Pages by path: an overview, then one for each group."""
    files = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.py"))
    groups = {group: [file for file in files if group_of(file) == group] for group in GROUPS}
    found = [measured for study in studies for measured in study.measured()]
    overview = "# Configs\n\n" + "\n".join(
        f"## [{GROUPS[group][0]}]({group}.md)\n\n" + word_table(["config", "what"], [
            [config_link(file, "configs/index.md"), first_sentence(ROOT / file)] for file in own
        ])
        for group, own in groups.items()
    )  # fmt: skip
    return {
        "configs/index.md": overview,
        **{
            f"configs/{group}.md": f"# {GROUPS[group][0]}\n\n"
            + "\n".join(_section(file, found, f"configs/{group}.md") for file in own)
            for group, own in groups.items()
        },
    }


def _section(file: str, found: Sequence[Measured], page: str) -> str:
    own = [measured for measured in found if measured.config.partition(":")[0] == file]
    lines = [
        [
            x.name,
            f"`{x.config.partition(':')[2]}`" if ":" in x.config else "–",
            x.data or "–",
            f"{x.measure} {x.value}",
            x.budget,
            f"[{x.study.title}]({to(f'results/{x.study.name}.md', page)})",
        ]
        for x in own
    ]
    header = ["method", "variant", "data", "measured", "budget of a block", "study"]
    table = f"\n{word_table(header, lines)}" if lines else ""
    name = config_place(file)[1]
    return (
        f"## {name}\n\n{docstring(ROOT / file).strip()}\n\nFile: {file_link(file, page)}\n{table}"
    )


@functools.cache
def group_of(file: str) -> str:
    """The page of a config."""
    folder = file.removeprefix("configs/").rpartition("/")[0]
    if folder:
        return folder
    kind = kind_of(load_config(ROOT / file).family)
    return next(group for group, (_, does) in GROUPS.items() if does == kind)


def config_place(file: str) -> tuple[str, str]:
    """Page and anchor of a config."""
    return f"configs/{group_of(file)}.md", file.removesuffix(".py").rpartition("/")[2]


def config_link(file: str, page: str) -> str:
    """From a page to the place where a config is described."""
    target, anchor = config_place(file)
    return f"[{file.removeprefix('configs/').removesuffix('.py')}]({to(target, page)}#{anchor})"
