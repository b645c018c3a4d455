"""Draws the answer to "how many blocks may I use?" from a sweep over numbers of blocks.

Reads the sweep.json of configs/sweeps/trade_off.py, or of another sweep over data and numbers of
blocks, and draws quality and memory relative to the uncut network, a curve for each data set. Of
`experiments.choose_blocks` it draws what was chosen, as rings, by the longest probe of a data set,
and the training time that was measured side by side. Points that are missing are not drawn, and
named.
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
from experiments.trade_off_samples import samples_figure

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
        help="choice.json of choose_blocks, of each data set one or several",
    )
    parser.add_argument(
        "--measure",
        metavar="KEY",
        help="of the sweep, the less the better; default: its first",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="PNG to write")
    parser.add_argument(
        "--samples",
        metavar="FILE",
        type=Path,
        help="PNG to write of samples from the same noise; the sweep's runs must be there",
    )
    args = parser.parse_args(arguments)
    require(args.sweep.is_file(), "--sweep", str(args.sweep), "a sweep.json")
    document = json.loads(args.sweep.read_text())
    measure = args.measure or document["measures"][0]
    measures = ", ".join(document["measures"])
    require(measure in document["measures"], "--measure", measure, measures)
    read = (json.loads(file.read_text()) for file in args.choices)
    choices = sorted(read, key=lambda choice: choice["share"])
    chosen = {choice["data"]: choice["num_blocks"] for choice in choices}
    quality, memory = (relative(document, key) for key in (measure, MEMORY))
    figure = trade_off_figure(quality, memory, times(choices), label(measure), chosen)
    figures = {args.out: figure}
    if args.samples is not None:
        figures[args.samples] = samples_figure(runs(document, args.sweep.parent))
    for file, drawn in figures.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(STYLE):
            drawn.savefig(file, dpi=200)
    missing = [row["name"] for row in document["rows"] if row["status"] != "done"]
    print(
        f"wrote {', '.join(map(str, figures))}"
        + (f"; not measured: {', '.join(missing)}" if missing else "")
    )


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


def runs(document: Mapping[str, Any], folder: Path) -> dict[str, dict[int, Path]]:
    """The first run of each point that is done, by data set and number of blocks."""
    found: dict[str, dict[int, Path]] = {}
    for row in document["rows"]:
        if row["status"] == "done":
            settings = row["settings"]
            own = found.setdefault(str(settings.get(DATA, "")), {})
            own[settings[BLOCKS]] = folder / row["runs"][0]["folder"]
    return found


def times(choices: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """Time of a step of all blocks, as a multiple of the uncut network's, by data set.

    Args:
        choices: what is in files choice.json; of several for a data set the last one counts.
    """
    found: dict[str, dict[int, float]] = {}
    for choice in choices:
        seconds = {one["num_blocks"]: one["seconds_per_round"] for one in choice["candidates"]}
        own = found.setdefault(choice["data"], {})
        own.update({b: value / seconds[1] for b, value in seconds.items()})
    return found


@matplotlib.rc_context(STYLE)
def trade_off_figure(
    quality: Curves, memory: Curves, time: Curves, measure: str, chosen: Mapping[str, int | None]
) -> Figure:
    """Quality, memory and time, one above the other, over the number of blocks.

    Args:
        quality: multiples of the uncut network's measure.
        memory: shares of its training memory.
        time: multiples of its training time; none is drawn where there are none.
        measure: in words.
        chosen: number of blocks by data set, where there is a choice.
    """
    panels = [
        (f"{measure}\n(times B = 1, less is better)", quality),
        ("training memory\n(share of B = 1)", memory),
        *([("training time\n(times B = 1)", time)] if time else []),
    ]
    colours = {data: number for number, data in enumerate(quality)}
    size = FIGURE_SIZE[0], 0.7 * len(panels) * FIGURE_SIZE[1]
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    columns = figure.subplots(len(panels), 1, sharex=True)
    for axes, (said, curves) in zip(columns, panels, strict=True):
        for data, values in curves.items():
            if data in colours:
                _draw(axes, values, colours[data], data, chosen.get(data))
        axes.axhline(1, color=INK, lw=1, ls=(0, (4, 2)), zorder=1)
        axes.margins(y=0.15)
        axes.grid()
        axes.set_ylabel(said)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    top, below = columns[0], columns[1]
    below.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    for axes in columns[1:]:
        axes.set_ylim(bottom=0)
    blocks_axis(columns[-1], sorted({b for values in quality.values() for b in values}))
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
