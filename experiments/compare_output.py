"""The table and the figure of a comparison of methods."""

import csv
import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox, ScaledTranslation

from dbjax.pictures import PALETTE, STYLE
from experiments.report import show_bytes, show_number, show_percent, show_seconds
from experiments.tables import aligned_table, markdown_table, save_figure

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
ABOUT_EQUAL = 0.1
"""Costs that differ less, relative, are drawn side by side where accuracies do not differ."""
APART = 11.0
"""Points, 1/72 inch, between those that are."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What is known of a method, over all its seeds.

    Attributes:
        method: its name.
        config: its file and variant.
        family: of the config.
        num_blocks: B.
        steps: updates of each block.
        seeds: of the runs.
        accuracy: on the test images, mean over seeds.
        accuracy_std: standard deviation over seeds; None for one.
        accuracies: of each seed.
        negative_log_likelihood: nats, mean over seeds.
        calibration_error: expected, mean over seeds.
        training_flops: of all updates of all blocks of one run.
        prediction_flops: for one image, over all walks, steps and classes it takes.
        seconds_per_round: wall time of an update of each block, one after another, median over
            seeds.
        train_bytes: memory to train the block that needs most.
    """

    method: str
    config: str
    family: str
    num_blocks: int
    steps: list[int]
    seeds: list[int]
    accuracy: float
    accuracy_std: float | None
    accuracies: list[float]
    negative_log_likelihood: float
    calibration_error: float
    training_flops: int
    prediction_flops: float
    seconds_per_round: float
    train_bytes: int


def write_output(rows: Sequence[Row], folder: Path) -> None:
    """Writes table.md, table.csv, figure.png and figure.svg."""
    header, lines = cells(rows)
    (folder / "table.md").write_text(markdown_table(header, lines))
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in dataclasses.fields(Row)])
        for row in rows:
            values = dataclasses.asdict(row).values()
            writer.writerow([" ".join(map(str, v)) if isinstance(v, list) else v for v in values])
    save_figure(comparison_figure(rows), folder)


def text_table(rows: Sequence[Row]) -> str:
    """Aligned columns, a line for each method."""
    return aligned_table(*cells(rows))


def cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table, to be read by people."""
    spread = any(row.accuracy_std is not None for row in rows)
    header = ["method", "B", "steps of a block", "accuracy" + (" ± std" if spread else "")]
    header += ["NLL", "calibration error", "training FLOPs", "FLOPs of a prediction"]
    header += ["time of a round", "training memory"]
    lines = []
    for row in rows:
        lines.append(
            [
                row.method,
                str(row.num_blocks),
                "+".join(f"{n:,}" for n in dict.fromkeys(row.steps)),
                show_accuracy(row),
                f"{row.negative_log_likelihood:.3f}",
                f"{row.calibration_error:.3f}",
                show_flops(row.training_flops),
                show_flops(row.prediction_flops),
                show_seconds(row.seconds_per_round),
                show_bytes(row.train_bytes),
            ]
        )
    return header, lines


def show_accuracy(row: Row) -> str:
    """With its spread over seeds, if there are several."""
    if row.accuracy_std is None:
        return show_percent(row.accuracy)
    return f"{100 * row.accuracy:.1f} ± {100 * row.accuracy_std:.1f}%"


def show_flops(value: float) -> str:
    """In the largest unit, of 1000 of the one before, that leaves a number of 1 or more."""
    power = sum(value >= 1000**p for p in range(1, 7))
    return f"{show_number(value / 1000**power)} {('', 'K', 'M', 'G', 'T', 'P', 'E')[power]}FLOP"


# --- figure ---------------------------------------------------------------------------------------


@matplotlib.rc_context(STYLE)
def comparison_figure(rows: Sequence[Row]) -> Figure:
    """Accuracy against training compute, and against training memory.

    A point is a method's mean with the standard deviation over its seeds, whose own accuracies are
    the small dots. Points that would cover one another are set side by side. A colour stands for a
    method here, not for a block.
    """
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    costs = ([float(row.training_flops) for row in rows], [float(row.train_bytes) for row in rows])
    for axes, cost in zip(panels, costs, strict=True):
        low, high = min(cost), max(cost)
        axes.set_xscale("log")
        # Wide enough for names, and for more than one tick where all cost the same.
        axes.set_xlim(low / 3, high * 4)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid()
    left, right = panels
    spread = max(costs[0]) / min(costs[0])
    subs = (1.0, 2.0, 5.0) if spread < 4 else (1.0, 3.0) if spread < 30 else (1.0,)
    left.xaxis.set_major_locator(LogLocator(subs=subs, numticks=7))
    left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: show_flops(value)))
    right.xaxis.set_major_locator(LogLocator(base=2, numticks=7))
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: show_bytes(value)))
    left.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    left.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.4g}%" if y <= 1 else ""))
    left.set(xlabel="training compute", ylabel="accuracy")
    right.set_xlabel("training memory of the largest block")
    ends = [
        y
        for row in rows
        for y in (*row.accuracies, *(row.accuracy + s * (row.accuracy_std or 0) for s in (-1, 1)))
    ]
    margin = max(0.12 * (max(ends) - min(ends)), 0.005)
    left.set_ylim(min(ends) - margin, max(ends) + margin)
    # Names are placed by what they would cover, so all else has to have its place.
    figure.draw_without_rendering()
    for axes, cost in zip(panels, costs, strict=True):
        shifts = _side_by_side(rows, cost, 0.04 * np.ptp(left.get_ylim()))
        boxes = [_draw(axes, i, rows[i], cost[i], shifts[i]) for i in range(len(rows))]
        _name(axes, rows, boxes)
    return figure


def _side_by_side(rows: Sequence[Row], cost: Sequence[float], least: float) -> list[float]:
    """How far to move each point to the right, in points, so that none covers another.

    Args:
        rows: of the methods.
        cost: of each, as on the axis.
        least: accuracy from a point to one that it cannot cover.
    """
    ends = [(r.accuracy - (s := r.accuracy_std or 0.0) - least / 2, r.accuracy + s + least / 2)
            for r in rows]  # fmt: skip
    shifts = [0.0] * len(rows)
    groups: list[list[int]] = []
    for i in sorted(range(len(rows)), key=lambda i: ends[i]):
        for group in groups:
            reaches = max(ends[k][1] for k in group) > ends[i][0]
            if reaches and abs(np.log(cost[i] / cost[group[0]])) < ABOUT_EQUAL:
                group.append(i)
                break
        else:
            groups.append([i])
    for group in groups:
        for place, i in enumerate(sorted(group, key=lambda i: cost[i])):
            shifts[i] = APART * (place - (len(group) - 1) / 2)
    return shifts


def _draw(axes: Axes, number: int, row: Row, cost: float, shift: float) -> Bbox:
    """One method; returns the box it takes, in pixels."""
    colour, pixels = PALETTE[number % len(PALETTE)], axes.figure.dpi / 72
    moved = axes.transData + ScaledTranslation(shift / 72, 0, axes.figure.dpi_scale_trans)
    axes.errorbar(
        cost, row.accuracy, yerr=row.accuracy_std, color=colour, ms=6.5, capsize=4, elinewidth=1.4,
        marker=MARKERS[number % len(MARKERS)], transform=moved, zorder=3,
    )  # fmt: skip
    seeds = row.accuracies if row.accuracy_std is not None else []
    axes.scatter(
        [cost] * len(seeds), seeds, s=8, color=colour, alpha=0.5, lw=0, transform=moved, zorder=2
    )
    std = row.accuracy_std or 0.0
    low, high = moved.transform([(cost, row.accuracy - std), (cost, row.accuracy + std)])
    half = 5 * pixels
    return Bbox([low - half, high + half])


def _name(axes: Axes, rows: Sequence[Row], boxes: Sequence[Bbox]) -> None:
    """Writes each name beside its point or, where that is taken, above or below with a line."""
    pixels, inside = axes.figure.dpi / 72, axes.get_window_extent()
    taken = list(boxes)
    to_data = axes.transData.inverted()
    for i in sorted(range(len(rows)), key=lambda i: -rows[i].accuracy):
        middle = np.array([boxes[i].x0 + boxes[i].x1, 0.0]) / 2
        middle[1] = axes.transData.transform((1.0, rows[i].accuracy))[1]
        text = axes.annotate(
            rows[i].method, tuple(to_data.transform(middle)), xytext=(0, 0), fontsize=9,
            textcoords="offset points", color=PALETTE[i % len(PALETTE)], ha="center", va="center",
        )  # fmt: skip
        text.set_in_layout(False)
        size = text.get_window_extent()
        half = np.array([size.width, size.height]) / 2 + pixels
        found: list[tuple[float, tuple[float, float], Bbox]] = []
        for right, lines, gap in itertools.product((1, -1), _LINES, (8.0, 22.0, 40.0)):
            shift = np.array([right * (half[0] + gap * pixels), lines * 1.1 * 2 * half[1]])
            place = Bbox([middle + shift - half, middle + shift + half])
            line = np.linspace(middle, middle + shift - [right * half[0], 0], 12)
            covered = sum(_overlap(place, box) for box in taken)
            crossed = sum(box.count_contains(line) for k, box in enumerate(taken) if k != i)
            outside = 4 * half[0] * half[1] - _overlap(place, inside)
            away = abs(lines) + gap / 8
            cost = covered + 5 * outside + 30 * crossed * pixels + 6 * away * pixels**2
            found.append((cost, tuple(shift / pixels), place))
        _, shift_in_points, place = min(found, key=lambda candidate: candidate[0])
        text.set_position(shift_in_points)
        taken.append(place)
        edge = place.x0 if shift_in_points[0] > 0 else place.x1
        end = np.array([edge, (place.y0 + place.y1) / 2])
        if np.hypot(*(end - middle)) > 12 * pixels:
            x, y = to_data.transform([middle, end]).T
            axes.plot(x, y, color=PALETTE[i % len(PALETTE)], lw=0.7, alpha=0.6, zorder=1)


_LINES = (0, 1, -1, 2, -2, 3, -3, 4, -4, 6, -6)
"""Lines of text that a name may be above or below its point."""


def _overlap(a: Bbox, b: Bbox) -> float:
    """Area that two boxes share, in square pixels."""
    shared = Bbox.intersection(a, b)
    return 0.0 if shared is None else float(shared.width * shared.height)
