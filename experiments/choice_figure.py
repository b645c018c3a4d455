"""The figure of `experiments.choose_blocks`: what each cut costs, and at which noise."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from dbjax.choosing import CERTAIN
from dbjax.pictures import FIGURE_SIZE, INK, PALETTE, STYLE

RING: dict[str, Any] = {"marker": "o", "ms": 13, "mfc": "none", "mec": INK, "mew": 1.6, "ls": ""}
"""Around the number of blocks that the rule has chosen."""


@matplotlib.rc_context(STYLE)
def choice_figure(choice: Mapping[str, Any]) -> Figure:
    """Excess over B, with the tolerance, and below where over the noise it lies.

    Args:
        choice: what is in choice.json.
    """
    cuts = choice["candidates"]
    counts = [one["num_blocks"] for one in cuts]
    figure = Figure(figsize=(FIGURE_SIZE[0], 1.5 * FIGURE_SIZE[1]), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1)
    top.axhline(choice["tolerance"], color=INK, lw=1.4, ls=(0, (4, 2)), label="tolerance")
    for one, colour in zip(cuts, _colours(len(cuts)), strict=True):
        at = one["num_blocks"], one["excess"]
        top.errorbar(*at, yerr=CERTAIN * one["error"], color=colour, marker="o", ms=6, capsize=3.5)
        if one["num_blocks"] == choice["num_blocks"]:
            top.plot(*at, **RING)
            top.annotate("chosen", at, xytext=(0, 12), textcoords="offset points", ha="center")
    blocks_axis(top, counts)
    top.set_ylabel("excess loss (nats per value)")
    top.margins(x=0.12, y=0.2)
    top.legend()
    top.grid()
    sigma = np.array([row["sigma"] for row in choice["levels"]])
    nats = {b: np.array([row[f"B = {b}"] for row in choice["levels"]]) for b in counts}
    for b, colour in list(zip(counts, _colours(len(cuts)), strict=True))[1:]:
        bottom.plot(sigma, nats[b] - nats[1], color=colour, label=f"B = {b}")
    bottom.axhline(0, color=INK, lw=1)
    bottom.set(xscale="log", ylabel="what each level adds")
    bottom.set_xlabel("noise level σ (model units), from noisy to clean")
    bottom.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bottom.xaxis.set_minor_locator(NullLocator())
    bottom.invert_xaxis()
    bottom.legend()
    bottom.grid()
    return figure


def blocks_axis(axes: Any, counts: list[int]) -> None:
    """Numbers of blocks as they double."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(b) for b in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("number of blocks B")


def _colours(count: int) -> list[str]:
    """Grey for the uncut network, then a colour for each cut."""
    return [INK, *(PALETTE[i % len(PALETTE)] for i in range(count - 1))]
