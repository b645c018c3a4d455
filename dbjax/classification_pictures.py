"""Pictures of a classifier: of its walk, its blocks, its confidence and its mistakes.

In the colours and the style of `dbjax.pictures`.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    PercentFormatter,
)

from dbjax.metrics.classification import Reliability
from dbjax.pictures import FIGURE_SIZE, INK, PALETTE, STYLE, add_legend, block_colour

# From the palette's other end, so that they are not taken for the first blocks.
RIGHT, WRONG = PALETTE[4], PALETTE[5]
NAMED_STEPS = 10
"""Steps up to which each is named on the axis, with its noise."""
MARKED_STEPS = 40
"""Steps up to which each has its marker; those of more would hide the lines."""
WRITTEN_CLASSES = 12
"""Classes up to which the numbers of a confusion matrix are written into it."""
_DASHED = (0, (4, 2))
_DOTTED = (0, (1, 1.6))


@matplotlib.rc_context(STYLE)
def walk_figure(
    rows: Sequence[Mapping[str, Any]],
    chance: float,
    other: float | None = None,
    other_name: str = "end to end",
) -> Figure:
    """Accuracy after every step of the walk, between what its block could do and does alone.

    Args:
        rows: "walk" of `dbjax.diagnostics.diagnose`.
        chance: accuracy of guessing.
        other: accuracy of another run.
        other_name: what to call it.
    """
    figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
    axes = figure.add_subplot()
    steps = [row["step"] for row in rows]
    colours = [block_colour(row["block"]) for row in rows]
    for key, name, style, marker in (
        ("accuracy", "in the walk", "-", "o"),
        ("oracle", "from the true label, noised", _DASHED, "^"),
        ("image_only", "from the image alone", _DOTTED, "v"),
    ):
        values = [row[key] for row in rows]
        thin = key != "accuracy"
        axes.plot(steps, values, color=INK, ls=style, lw=1.2 if thin else 1.8, zorder=2)
        if len(rows) <= MARKED_STEPS:
            axes.scatter(
                steps, values, s=42, c=colours, marker=marker, linewidths=0,
                alpha=0.7 if thin else 1, zorder=3 if thin else 4,
            )  # fmt: skip
        # For the legend alone: a line with its marker, in no block's colour.
        axes.plot([], [], color=INK, ls=style, lw=1.2 if thin else 1.8, marker=marker, label=name)
    if other is not None:
        axes.axhline(other, color=INK, lw=0.9, zorder=1)
        # Where the walk has not come to yet, there is room.
        axes.annotate(
            other_name, (0.012, other), xycoords=("axes fraction", "data"),
            xytext=(0, -3), textcoords="offset points", va="top", fontsize=8.5,
        )  # fmt: skip
    axes.axhline(chance, color=INK, lw=0.9, alpha=0.6, zorder=1)
    axes.annotate(
        "guessing", (0.012, chance), xycoords=("axes fraction", "data"),
        xytext=(0, 2.5), textcoords="offset points", va="bottom", fontsize=8.5,
    )  # fmt: skip
    _block_strip(axes, rows)
    axes.set(ylim=(0, 1.02), ylabel="accuracy", xlim=(steps[0] - 0.5, steps[-1] + 0.5))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if len(rows) <= NAMED_STEPS:
        axes.set_xticks(steps, [f"{row['step']}\nσ = {row['sigma']:.2g}" for row in rows])
        for row in rows:
            axes.annotate(
                f"{100 * row['accuracy']:.1f}%", (row["step"], row["accuracy"]),
                xytext=(0, -7), textcoords="offset points", ha="center", va="top", fontsize=8.5,
            )  # fmt: skip
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step of the walk")
    axes.grid(axis="y")
    add_legend(figure)
    return figure


def _block_strip(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Along the lower edge, whose steps they are."""
    for block, own in itertools.groupby(rows, lambda row: row["block"]):
        steps = [row["step"] for row in own]
        ends = [steps[0] - 0.5, steps[-1] + 0.5]
        axes.plot(
            ends, [0, 0], color=block_colour(block), lw=6, solid_capstyle="butt", zorder=4,
            transform=axes.get_xaxis_transform(), clip_on=False,
        )  # fmt: skip
        if (ends[1] - ends[0]) / len(rows) > 0.12:  # narrower ones have no room for a name
            axes.annotate(
                f"block {block}", (float(np.mean(ends)), 0), xycoords=axes.get_xaxis_transform(),
                xytext=(0, 5), textcoords="offset points", ha="center", va="bottom", fontsize=8.5,
            )  # fmt: skip


@matplotlib.rc_context(STYLE)
def leave_out_figure(rows: Sequence[Mapping[str, Any]], whole: float) -> Figure:
    """Accuracy without each of the blocks.

    Args:
        rows: "without_block" of `dbjax.diagnostics.diagnose`.
        whole: accuracy with all blocks.
    """
    height = float(np.clip(0.9 + 0.38 * len(rows), 2, 6))
    figure = Figure(figsize=(FIGURE_SIZE[0], height), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(rows))
    values = [row["accuracy"] for row in rows]
    axes.barh(places, values, 0.62, color=[block_colour(row["block"]) for row in rows], alpha=0.75)
    axes.axvline(whole, color=INK, lw=1.2, ls=_DASHED)
    axes.set_title(f"all blocks: {100 * whole:.1f}%", fontsize=9, color=INK)
    axes.set_yticks(
        places, [f"without block {row['block']}: {100 * row['accuracy']:.1f}%" for row in rows]
    )
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="accuracy")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="x")
    return figure


@matplotlib.rc_context(STYLE)
def effort_figure(
    steps: Sequence[Mapping[str, Any]],
    noises: Sequence[Mapping[str, Any]],
    num_steps: int,
) -> Figure:
    """What more computing for a prediction is worth: spent on steps, or on walks to average.

    Args:
        steps: "by_num_steps" of `dbjax.diagnostics.diagnose`.
        noises: "by_num_noises" of it.
        num_steps: steps of each walk of `noises`.
    """
    figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
    axes = figure.add_subplot()
    for rows, key, style, marker, above, name in (
        (steps, "num_steps", "-", "o", True, "one walk of so many steps"),
        (
            noises,
            "num_noises",
            _DASHED,
            "s",
            False,
            f"so many walks of {num_steps} steps, averaged",
        ),
    ):
        cost, accuracy = zip(
            *((row["layer_evaluations"], row["accuracy"]) for row in rows), strict=True
        )
        axes.plot(cost, accuracy, color=INK, ls=style, marker=marker, ms=4.5, label=name)
        for row in rows:
            axes.annotate(
                f"{row[key]}", (row["layer_evaluations"], row["accuracy"]),
                xytext=(0, 7 if above else -7), textcoords="offset points",
                ha="center", va="bottom" if above else "top", fontsize=8.5,
            )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.margins(x=0.08, y=0.2)
    axes.set(xlabel="layers run per prediction", ylabel="accuracy")
    axes.grid()
    add_legend(figure)
    return figure


@matplotlib.rc_context(STYLE)
def reliability_figure(
    bins: Reliability, name: str, other: Reliability | None = None, other_name: str = "end to end"
) -> Figure:
    """How often predictions are right that claim to be right so often, and how many claim it.

    Args:
        bins: of a run.
        name: what to call it.
        other: of another run.
        other_name: what to call that.
    """
    figure = Figure(figsize=(FIGURE_SIZE[0], 4.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color=INK, lw=1, alpha=0.6)
    runs: list[tuple[Any, ...]] = [(bins, name, "-", "o", INK)]
    if other is not None:
        runs.append((other, other_name, _DASHED, "s", "none"))
    for found, label, style, marker, fill in runs:
        # Few images in a bin say little, and are not to catch the eye.
        size = np.where(found.share > 0, 5 + 75 * np.sqrt(found.share), 0)
        upper.scatter(
            found.confidence, found.accuracy, s=size, c=fill, marker=marker, edgecolors=INK,
            linewidths=1, clip_on=False, zorder=3,
        )  # fmt: skip
        edges = np.linspace(0, 1, len(found.share) + 1)
        lower.stairs(found.share, edges, baseline=0, color=INK, ls=style, lw=1.2)
        # For the legend alone: the marker, and the line of the histogram.
        upper.plot([], [], marker, ls=style, c=INK, mfc=fill, lw=1.2, ms=6, label=label)
    for at, text, side, end in (
        (0.03, "too timid", "left", "top"), (0.97, "too sure", "right", "bottom"),
    ):  # fmt: skip
        place = (at, 1 - at)
        upper.text(*place, text, transform=upper.transAxes, ha=side, va=end, fontsize=8.5)
    upper.set(ylim=(0, 1.02), ylabel="share that is right")
    lower.set_yscale("log")
    lower.set(xlim=(0, 1.01), ylim=(None, 1.5), xlabel="confidence", ylabel="share of\nimages")
    lower.yaxis.set_minor_locator(NullLocator())
    lower.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    for axis in (lower.xaxis, upper.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    upper.grid()
    lower.grid(axis="y")
    add_legend(figure)
    return figure


@matplotlib.rc_context(STYLE)
def confusion_figure(confusion: Int[np.ndarray, "classes classes"]) -> Figure:
    """Right answers on the diagonal, mistakes off it, as shares of their class.

    Rare mistakes are drawn stronger than in proportion, to be seen at all.

    Args:
        confusion: numbers of images by class (row) and prediction (column).
    """
    figure = Figure(figsize=(FIGURE_SIZE[0], FIGURE_SIZE[0]), layout="constrained")
    axes = figure.add_subplot()
    num_classes = len(confusion)
    axes.imshow(_confusion_colours(confusion), interpolation="none", aspect="equal")
    few = num_classes <= WRITTEN_CLASSES
    if few:
        for row, column in np.argwhere(confusion):
            axes.text(
                column, row, f"{confusion[row, column]:,}", ha="center", va="center", fontsize=9
            )
        axes.set_xticks(range(num_classes))
        axes.set_yticks(range(num_classes))
    axes.tick_params(length=0 if few else 3)
    axes.spines[:].set(visible=True, alpha=0.35)
    axes.set(xlabel="predicted class", ylabel="class")
    return figure


def _confusion_colours(
    confusion: Int[np.ndarray, "classes classes"],
) -> Float[np.ndarray, "classes classes 4"]:
    """Transparent where nothing is, so that it fits any page."""
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    right = np.eye(len(confusion), dtype=bool)
    colours = np.empty((*confusion.shape, 4))
    colours[..., :3] = np.where(right[..., None], to_rgb(RIGHT), to_rgb(WRONG))
    colours[..., 3] = np.where(right, 0.75 * share, 0.9 * np.sqrt(share))
    return colours
