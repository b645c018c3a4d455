"""The figure of a sweep: its main measure over what was varied."""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from dbjax.pictures import FIGURE_SIZE, INK, PALETTE, STYLE
from experiments.sweep_points import show

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
_WIDE = 20.0
"""Values of which the largest is so many times the smallest are spread on a logarithmic axis."""
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
    """The measure over the one numeric setting that varies, or else by name.

    A second setting makes a line for each of its values, and points that set neither are lines
    across. Bars are standard deviations over seeds, whose own values are the small dots.

    Args:
        marks: the points.
        settings: that vary, by key, with their short names.
        measure: in words.
        shown: a value of it in words.
    """
    swept = [mark for mark in marks if mark.settings]
    axis = _axis(swept, settings)
    if axis is None:
        return _by_name(marks, measure, shown)
    x, by = axis
    figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lines: dict[str, list[Mark]] = {}
    for mark in swept:
        lines.setdefault("" if by is None else show(mark.settings[by]), []).append(mark)
    places = sorted({float(mark.settings[x]) for mark in swept})
    _place(axes, places)
    for number, (name, line) in enumerate(lines.items()):
        line = sorted((m for m in line if m.values), key=lambda mark: float(mark.settings[x]))
        style: dict[str, Any] = {
            "color": PALETTE[number % len(PALETTE)], "marker": MARKERS[number % len(MARKERS)],
        }  # fmt: skip
        at = [float(mark.settings[x]) for mark in line]
        axes.errorbar(
            at, [mark.mean for mark in line], yerr=[mark.std or math.nan for mark in line],
            ms=5.5, capsize=3.5, elinewidth=1.3, zorder=3,
            label=f"{settings[by]} {name}" if by else None, **style,
        )  # fmt: skip
        for place, mark in zip(at, line, strict=True):
            _seeds(axes, [place] * len(mark.values), mark.values, style["color"])
    for mark, dash in zip(
        (mark for mark in marks if not mark.settings and mark.values),
        itertools.cycle(((4, 2), (1, 1.5), (6, 2, 1, 2))),
        strict=False,
    ):
        axes.axhline(mark.mean, color=INK, ls=(0, dash), lw=1.4, label=mark.name, zorder=2)
        if mark.std is not None:
            axes.axhspan(mark.mean - mark.std, mark.mean + mark.std, color=INK, alpha=0.12, lw=0)
    axes.set(xlabel=settings[x].replace("_", " "), ylabel=measure)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))
    axes.grid()
    if axes.get_legend_handles_labels()[0]:
        columns = 2 if max(len(t) for t in axes.get_legend_handles_labels()[1]) > 20 else 3
        figure.legend(loc="outside upper left", ncols=columns, handlelength=1.8, columnspacing=1.4)
    return figure


def _axis(marks: Sequence[Mark], settings: Mapping[str, str]) -> tuple[str, str | None] | None:
    """The setting along the axis, and that of the lines; None where there are no such two."""
    keys = list(dict.fromkeys(key for mark in marks for key in mark.settings))
    if not 1 <= len(keys) <= 2 or any(set(mark.settings) != set(keys) for mark in marks):
        return None
    kinds = {key: [mark.settings[key] for mark in marks] for key in keys}
    numeric = [
        key
        for key, values in kinds.items()
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        and len(set(values)) > 1
    ]
    if not numeric:
        return None
    x = max(numeric, key=lambda key: len(set(kinds[key])))
    return x, next((key for key in keys if key != x), None)


def _place(axes: Axes, values: Sequence[float]) -> None:
    """An axis on which the values are spread, and named if they are few."""
    if values[0] > 0 and values[-1] / values[0] >= _WIDE:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    if len(values) <= _TICKS:
        axes.set_xticks(values, [show(value) for value in values])


def _seeds(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str) -> None:
    """Each seed's own value, where there are several."""
    if len(x) > 1:
        axes.scatter(x, y, s=9, color=colour, alpha=0.5, lw=0, zorder=2)


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
        _seeds(axes, mark.values, [row] * len(mark.values), PALETTE[0])
    for row, mark in enumerate(marks):
        if not mark.values:
            words = mark.status.partition(":")[0]
            axes.annotate(words, (0, row), xytext=(5, 0), xycoords=("axes fraction", "data"),
                          textcoords="offset points", va="center", fontsize=9)  # fmt: skip
    axes.set_yticks(range(len(marks)), [mark.name for mark in marks])
    axes.set_ylim(len(marks) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(measure)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))
    axes.grid()
    return figure
