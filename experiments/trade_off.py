"""Draws the answer to "how many blocks may I use?" from a sweep over numbers of blocks.

Reads the sweep.json of configs/sweeps/trade_off.py, or of another sweep over data and numbers of
blocks, and draws quality and memory relative to the uncut network, a curve for each data set. What
`experiments.choose_blocks` chose is ringed. Points that are missing are not drawn, and named.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from dbjax.errors import SettingError, require
from dbjax.pictures import FIGURE_SIZE, INK, PALETTE, STYLE
from experiments import cli
from experiments.choice_figure import RING, blocks_axis
from experiments.sweep_figure import MARKERS
from experiments.sweep_output import label

DATA, BLOCKS, MEMORY = "data.name", "partition.num_blocks", "train_bytes.total"

Curves = Mapping[str, Mapping[int, float]]
"""A number for each data set and number of blocks."""


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("trade_off", __doc__ or "", config=False)
    parser.add_argument("--sweep", metavar="FILE", type=Path, required=True, help="sweep.json")
    parser.add_argument(
        "--choices",
        metavar="FILE",
        type=Path,
        nargs="+",
        default=[],
        help="choice.json of choose_blocks, one for each data set",
    )
    parser.add_argument(
        "--measure",
        metavar="KEY",
        help="of the sweep, the less the better; default: its first",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="PNG to write")
    args = parser.parse_args(arguments)
    require(args.sweep.is_file(), "--sweep", str(args.sweep), "a sweep.json")
    document = json.loads(args.sweep.read_text())
    measure = args.measure or document["measures"][0]
    measures = ", ".join(document["measures"])
    require(measure in document["measures"], "--measure", measure, measures)
    chosen = {}
    for file in args.choices:
        choice = json.loads(file.read_text())
        chosen[choice["data"]] = choice["num_blocks"]
    quality, memory = (relative(document, key) for key in (measure, MEMORY))
    figure = trade_off_figure(quality, memory, label(measure), chosen)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure.savefig(args.out, dpi=200)
    missing = [row["name"] for row in document["rows"] if row["status"] != "done"]
    print(f"wrote {args.out}" + (f"; not measured: {', '.join(missing)}" if missing else ""))


def relative(document: Mapping[str, Any], measure: str) -> dict[str, dict[int, float]]:
    """A measure as a multiple of that of the uncut network, by data set and number of blocks.

    Data sets without the uncut network are left out.

    Raises:
        SettingError: if the sweep is not over numbers of blocks, or has no uncut network.
    """
    found: dict[str, dict[int, float]] = {}
    for row in document["rows"]:
        settings, mean = row["settings"], row["values"][measure]["mean"]
        require(BLOCKS in settings, "settings of --sweep", list(settings), f"{BLOCKS} among them")
        if mean is not None:
            found.setdefault(str(settings.get(DATA, "")), {})[settings[BLOCKS]] = mean
    curves = {
        data: {b: value / values[1] for b, value in values.items()}
        for data, values in found.items()
        if 1 in values
    }
    if not curves:
        raise SettingError("--sweep has no uncut network; allowed: one where B = 1 is done")
    return curves


@matplotlib.rc_context(STYLE)
def trade_off_figure(
    quality: Curves, memory: Curves, measure: str, chosen: Mapping[str, int | None]
) -> Figure:
    """Quality above, memory below, over the number of blocks, both relative to B = 1.

    Args:
        quality: multiples of the uncut network's measure.
        memory: shares of its training memory.
        measure: in words.
        chosen: number of blocks by data set, where there is a choice.
    """
    figure = Figure(figsize=(FIGURE_SIZE[0], 1.4 * FIGURE_SIZE[1]), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True)
    for axes, curves in ((top, quality), (bottom, memory)):
        for number, (data, values) in enumerate(curves.items()):
            _draw(axes, values, number, data, chosen.get(data))
        axes.axhline(1, color=INK, lw=1, ls=(0, (4, 2)), zorder=1)
        axes.margins(y=0.15)
        axes.grid()
    counts = sorted(
        {b for curves in (quality, memory) for values in curves.values() for b in values}
    )
    blocks_axis(bottom, counts)
    top.set_ylabel(f"{measure}\n(times B = 1, less is better)")
    top.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    bottom.set_ylabel("training memory\n(share of B = 1)")
    bottom.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    bottom.set_ylim(bottom=0)
    if any(chosen.get(data) for data in quality):
        top.plot([], [], **{**RING, "ms": 8}, label="chosen by the probe")
    handles, names = top.get_legend_handles_labels()
    if any(names):
        figure.legend(handles, names, loc="outside upper left", ncols=4, columnspacing=1.2)
    return figure


def _draw(
    axes: Axes, values: Mapping[int, float], number: int, name: str, chosen: int | None
) -> None:
    line, colour = sorted(values.items()), PALETTE[number % len(PALETTE)]
    axes.plot(
        [b for b, _ in line], [value for _, value in line], color=colour,
        marker=MARKERS[number % len(MARKERS)], ms=5.5, label=name or None, zorder=3,
    )  # fmt: skip
    if chosen is not None and chosen in values:
        axes.plot(chosen, values[chosen], **{**RING, "mec": colour}, zorder=4)


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
