"""Tables for people, and figures as files."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from dbjax.pictures import STYLE


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    ruler = ["---", *["---:"] * (len(header) - 1)]
    rows = ([cell.replace("|", "\\|") for cell in cells] for cells in (header, ruler, *lines))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows) + "\n"


def aligned_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, for a terminal."""
    columns = list(zip(header, *lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    pads = [str.ljust, *[str.rjust] * (len(widths) - 1)]
    return "\n".join(
        "  ".join(pad(cell, width) for pad, cell, width in zip(pads, cells, widths, strict=True))
        for cells in (header, *lines)
    )


def save_figure(figure: Figure, folder: Path) -> None:
    """Writes figure.png and figure.svg."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(folder / "figure.png", dpi=200)
        figure.savefig(folder / "figure.svg", metadata={"Date": None})
