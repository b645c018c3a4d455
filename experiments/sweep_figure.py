"""The figure of a sweep: its main measure over what was varied."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from dbjax.pictures import FIGURE_SIZE, INK, PALETTE, STYLE
from experiments.sweep_points import show

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
STEPS = (1, 2, 2.5, 5, 10)
"""Ticks are such numbers apart, times powers of 10."""
BESIDE = 5.0
"""Points, 1/72 inch, from a mean to the seeds that it is of."""
_WIDE = 20.0
"""Values of which the largest is so many times the smallest are spread on a logarithmic axis."""
_DASHES = ((4.0, 2.0), (1.0, 1.5), (6.0, 2.0, 1.0, 2.0))
"""Of lines across."""
_TICKS = 8
"""Values on an axis that are all named."""


@dataclasses.dataclass(frozen=True)
class Mark:
    """A point of the sweep as it is drawn.

    Attributes:
        name: what to call it.
        settings: that vary and that it sets itself, by key.
        values: of the main measure, one for each seed.
        status: told in place of values, where there are none.
    """

    name: str
    settings: Mapping[str, Any]
    values: Sequence[float]
    status: str

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    def without(self, key: str) -> tuple[tuple[str, str], ...]:
        """All other settings, in words."""
        return tuple((other, show(value)) for other, value in self.settings.items() if other != key)

    @property
    def std(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@matplotlib.rc_context(STYLE)
def sweep_figure(
    marks: Sequence[Mark],
    settings: Mapping[str, str],
    measure: str,
    shown: Callable[[float], str],
) -> Figure:
    """The measure over a numeric setting that varies, or else by name.

    Other settings make a line for each of their combinations, and points that do not set the
    numeric one are lines across. Bars are standard deviations over seeds, whose own values are the
    small dots.

    Args:
        marks: the points.
        settings: that vary, by key, with their short names.
        measure: in words.
        shown: a value of it in words.
    """
    x = _axis(marks)
    if x is None:
        return _by_name(marks, measure, shown)
    figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _place(axes, sorted({float(mark.settings[x]) for mark in marks if x in mark.settings}))
    for number, (name, line) in enumerate(_lines(marks, x, settings).items()):
        line = sorted((m for m in line if m.values), key=lambda mark: float(mark.settings[x]))
        at, colour = [float(mark.settings[x]) for mark in line], PALETTE[number]
        axes.errorbar(
            at, [mark.mean for mark in line], yerr=[mark.std or math.nan for mark in line],
            ms=5.5, capsize=3.5, elinewidth=1.3, zorder=3, color=colour, marker=MARKERS[number],
            label=name or None,
        )  # fmt: skip
        for place, mark in zip(at, line, strict=True):
            seeds = [place] * len(mark.values), mark.values
            _draw_seeds(axes, *seeds, colour, right=BESIDE)
    across = [mark for mark in marks if x not in mark.settings and mark.values]
    for mark, dash in zip(across, _DASHES, strict=False):
        axes.axhline(mark.mean, color=INK, ls=(0, dash), lw=1.4, label=mark.name, zorder=2)
        if mark.std is not None:
            axes.axhspan(mark.mean - mark.std, mark.mean + mark.std, color=INK, alpha=0.12, lw=0)
    axes.set(xlabel=settings[x].replace("_", " "), ylabel=measure)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))
    axes.grid()
    if names := axes.get_legend_handles_labels()[1]:
        columns = 3 if max(map(len, names)) <= 18 else 2 if max(map(len, names)) <= 30 else 1
        figure.legend(loc="outside upper left", ncols=columns, handlelength=1.8, columnspacing=1.4)
    return figure


def _axis(marks: Sequence[Mark]) -> str | None:
    """The numeric setting of most values; None where lines over it would not show all points."""
    values: dict[str, list[Any]] = {}
    for mark in marks:
        for key, value in mark.settings.items():
            values.setdefault(key, []).append(value)
    numeric = {
        key: len(set(found))
        for key, found in values.items()
        if len(set(found)) > 1
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in found)
    }
    if not numeric:
        return None
    x = max(numeric, key=lambda key: numeric[key])
    over = [mark for mark in marks if x in mark.settings]
    lines = {mark.without(x) for mark in over}
    few = len(lines) <= len(PALETTE) and len(marks) - len(over) <= len(_DASHES)
    return x if few and len(lines) < len(over) and any(mark.values for mark in over) else None


def _lines(marks: Sequence[Mark], x: str, settings: Mapping[str, str]) -> dict[str, list[Mark]]:
    """The points of each line, by its name, which is empty of a single one that needs none."""
    lines: dict[str, list[Mark]] = {}
    for mark in marks:
        if x in mark.settings:
            name = " ".join(f"{settings[key]}={value}" for key, value in mark.without(x))
            lines.setdefault(name, []).append(mark)
    return lines


def _place(axes: Axes, values: Sequence[float]) -> None:
    """An axis on which the values are spread, and named if they are few."""
    if values[0] > 0 and values[-1] / values[0] >= _WIDE:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    if len(values) <= _TICKS:
        axes.set_xticks(values, [show(value) for value in values])


def _draw_seeds(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    colour: str,
    *,
    right: float = 0.0,
    up: float = 0.0,
) -> None:
    """Each seed's own value, where there are several, so far beside the mean."""
    if len(x) > 1:
        beside = ScaledTranslation(right / 72, up / 72, axes.figure.dpi_scale_trans)
        moved = axes.transData + beside
        axes.scatter(x, y, s=10, color=colour, alpha=0.6, lw=0, zorder=2, transform=moved)
        # Axes make room for what is not moved only.
        axes.update_datalim(list(zip(x, y, strict=True)))
        axes.autoscale_view()


def _by_name(marks: Sequence[Mark], measure: str, shown: Callable[[float], str]) -> Figure:
    """A line of the figure for each point, the first on top."""
    height = max(1.3 + 0.3 * len(marks), 2.2)
    figure = Figure(figsize=(FIGURE_SIZE[0], height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for row, mark in enumerate(marks):
        if not mark.values:
            continue
        axes.errorbar(
            mark.mean, row, xerr=mark.std, color=PALETTE[0], marker="o", ms=5.5, capsize=3.5,
            elinewidth=1.3, zorder=3,
        )  # fmt: skip
        _draw_seeds(axes, mark.values, [row] * len(mark.values), PALETTE[0], up=BESIDE)
    for row, mark in enumerate(marks):
        if not mark.values:
            words = mark.status.partition(":")[0]
            axes.annotate(words, (0, row), xytext=(5, 0), xycoords=("axes fraction", "data"),
                          textcoords="offset points", va="center", fontsize=9)  # fmt: skip
    axes.set_yticks(range(len(marks)), [mark.name for mark in marks])
    axes.set_ylim(len(marks) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(measure)
    axes.xaxis.set_major_locator(
        MaxNLocator(5, steps=STEPS) if any(mark.values for mark in marks) else NullLocator()
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))
    axes.grid()
    return figure
