"""Pictures of samples, of their denoising paths, of a partition and of losses.

One colour stands for one block in every picture. All are drawn on a transparent ground in colours
that read on white and on black, so that they fit any page.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import scipy.special
from jaxtyping import Float, Integer, Shaped
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image

from dbjax import sampling
from dbjax.data.dataset import DatasetInfo
from dbjax.noise import GaussianNoise, LogNormalNoise, NoiseProcess
from dbjax.partition import Grid, Partition

# Found by search: contrast of about 3 or more on white and on black, and as far apart as that
# allows for normal vision and for the three kinds of colour blindness (Machado et al. 2009).
PALETTE = ("#DF6F2B", "#7F39EF", "#1CA8AB", "#8E6A4C", "#6375B7", "#AC376E")
INK = "#757B84"
"""Text and axes: a grey with the same contrast on white as on black."""

STYLE: dict[Any, Any] = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "image.interpolation": "nearest",
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "dbjax",
}
SQUARED_ERROR = "weighted squared error"
FIGURE_SIZE = (6.1, 3.7)  # inches: narrow enough for its text to stay readable on a phone
_DPI = 200
_SMALL: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7.5}
_SPREAD = 3.0  # standard deviations of the data on either side of the mean that a scatter shows


def block_colour(block: int) -> str:
    """The colour of a block, as #RRGGBB; beyond six blocks they repeat, neighbours never alike."""
    return PALETTE[block % len(PALETTE)]


# --- samples --------------------------------------------------------------------------------------


def draw_samples(
    samples: Shaped[np.ndarray, "count *shape"],
    label: Integer[np.ndarray, " count"] | None,
    info: DatasetInfo,
    path: Path,
    *,
    rows: int = 8,
) -> None:
    """Writes a PNG of samples.

    Images fill a grid of `rows` rows, one class a column where there are labels; small ones are
    enlarged without smoothing. Points are a scatter coloured by class.

    Args:
        samples: [count, height, width, channels] or [count, 2], raw units.
        label: class of each.
        info: facts about the data the samples are to look like.
        path: file to write.
        rows: images of a column.
    """
    if len(info.image_shape) == 1:
        _scatter_figure(samples, label, info).savefig(path, dpi=_DPI)
        return
    columns = _columns(len(samples), label, rows)
    tiles = _enlarge(pixels(samples[np.concatenate(columns)], info), 96)
    ends = np.cumsum([len(column) for column in columns])[:-1]
    Image.fromarray(_mosaic(np.split(tiles, ends), rows, gap=8)).save(path, optimize=True)


def _columns(
    count: int, label: Integer[np.ndarray, " count"] | None, rows: int, width: int = 10
) -> list[np.ndarray]:
    """Indices of the samples of each column: of one class each, or as they come."""
    if label is None:
        shown = np.arange(min(count, rows * width))
        return np.array_split(shown, min(width, len(shown)))
    classes = np.unique(label)
    spread = np.linspace(0, len(classes) - 1, min(width, len(classes))).round().astype(int)
    return [np.flatnonzero(label == c)[:rows] for c in classes[spread]]


def pixels(
    images: Shaped[np.ndarray, "*lead height width channels"], info: DatasetInfo
) -> np.ndarray:
    """uint8 [..., height, width, 4]: gray, or the first three channels as red, green and blue.

    Values without fixed levels (latents) are shown between 2.5 standard deviations of the data
    either side of its mean.
    """
    images = np.asarray(images, np.float32)
    if info.max_value:
        shares = images / info.max_value
    else:
        shares = (images - info.mean) / (5 * info.std) + 0.5
    colours = shares[..., :3] if images.shape[-1] >= 3 else np.repeat(shares[..., :1], 3, axis=-1)
    colours = np.concatenate([colours, np.ones_like(colours[..., :1])], axis=-1)
    return np.rint(255 * colours.clip(0, 1)).astype(np.uint8)


def _enlarge(pixels: np.ndarray, size: int) -> np.ndarray:
    """Pixels [..., height, width, 4] repeated a whole number of times, up to `size` if they fit."""
    times = max(1, size // pixels.shape[-3])
    return pixels.repeat(times, axis=-3).repeat(times, axis=-2)


def _mosaic(columns: Sequence[np.ndarray], rows: int, gap: int) -> np.ndarray:
    """uint8 [height, width, 4] of columns of up to `rows` tiles, the gaps transparent."""
    height, width = columns[0].shape[1:3]
    rows = min(rows, max(len(column) for column in columns))
    shape = (rows * (height + gap) - gap, len(columns) * (width + gap) - gap, 4)
    result = np.zeros(shape, np.uint8)
    for x, column in enumerate(columns):
        for y, tile in enumerate(column):
            top, left = y * (height + gap), x * (width + gap)
            result[top : top + height, left : left + width] = tile
    return result


@matplotlib.rc_context(STYLE)
def _scatter_figure(
    points: Float[np.ndarray, "count 2"],
    label: Integer[np.ndarray, " count"] | None,
    info: DatasetInfo,
    limit: int = 4000,
) -> Figure:
    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    # From the palette's other end, so that three classes are not taken for three blocks.
    colours = np.array(PALETTE[3:] + PALETTE[:3])
    colour = colours[np.zeros(limit, int) if label is None else label[:limit] % len(colours)]
    axes.scatter(points[:limit, 0], points[:limit, 1], c=colour[: len(points)], s=3, linewidths=0)
    _data_window(axes, info)
    axes.set(xlabel="first coordinate", ylabel="second coordinate")
    axes.grid()
    return figure


def _data_window(axes: Axes, info: DatasetInfo) -> None:
    window = (info.mean - _SPREAD * info.std, info.mean + _SPREAD * info.std)
    axes.set(xlim=window, ylim=window, aspect="equal")


# --- a denoising path -----------------------------------------------------------------------------


@matplotlib.rc_context(STYLE)
def draw_paths(
    path: sampling.Trajectory, grid: Grid, info: DatasetInfo, file: Path, *, columns: int = 11
) -> None:
    """Writes a PNG of how samples came to be: above what each block was given, below its estimate.

    A column is a step, headed by its sigma and the colour of the block that made it. What a block
    is given is shrunk to the spread of the data, as its noise would else fill every picture. Of
    images four samples are shown, of points all, in the colour of the block.

    Args:
        path: z and estimate, [T, samples, ...], raw units.
        grid: the T levels and their blocks.
        info: facts about the data.
        file: to write.
        columns: steps to show, spread evenly over the grid.
    """
    steps = np.unique(np.linspace(0, len(grid.levels) - 1, columns).round().astype(int)).tolist()
    bands = [_to_data_spread(np.asarray(path.z)[steps], info), np.asarray(path.clean)[steps]]
    is_image = len(info.image_shape) > 1
    left, top, gap, between, tile = 56, 84, 8, 24, 96 if is_image else 168
    height, width = tile, len(steps) * (tile + gap) - gap
    if is_image:
        tiles = [_enlarge(pixels(band[:, :4], info), tile) for band in bands]
        mosaics = [_mosaic([*column], 4, gap) for column in tiles]
        height, width = mosaics[0].shape[:2]
    pitch = (width + gap) / len(steps)
    lefts = left + pitch * np.arange(len(steps))
    size = np.array([left + width, top + 2 * height + between])
    figure = Figure(figsize=tuple(size / _DPI), dpi=_DPI)
    # All is placed in pixels, so that a pixel of an image is a square of whole pixels.
    whole = figure.add_axes((0, 0, 1, 1), xlim=(0, size[0]), ylim=(size[1], 0))
    whole.set_axis_off()
    for k, name in enumerate(("noisy input", "estimate")):
        y = top + k * (height + between)
        whole.text(left * 0.4, y + height / 2, name, rotation=90, **_SMALL)
        if is_image:
            whole.imshow(mosaics[k], extent=(left, size[0], y + height, y), aspect="auto")
            continue
        for x, step, points in zip(lefts, steps, bands[k], strict=True):
            box = (x / size[0], 1 - (y + tile) / size[1], *(tile / size))
            axes = figure.add_axes(box, xticks=[], yticks=[])
            colour, dot = block_colour(grid.blocks[step]), float(np.clip(600 / len(points), 2, 12))
            axes.scatter(points[:, 0], points[:, 1], c=colour, s=dot, linewidths=0)
            axes.spines[:].set(visible=True, alpha=0.35)
            _data_window(axes, info)
    whole.text(left * 0.4, 62, "σ", **_SMALL)
    for x, step in zip(lefts + (pitch - gap) / 2, steps, strict=True):
        whole.text(x, 62, f"{grid.levels[step]:.2g}", **_SMALL)
    owners = [grid.blocks[step] for step in steps]
    for block in dict.fromkeys(owners):
        own = lefts[[owner == block for owner in owners]]
        ends = [own[0], own[-1] + pitch - gap]
        whole.plot(ends, [38, 38], color=block_colour(block), lw=3, solid_capstyle="butt")
        whole.text(float(np.mean(ends)), 17, f"block {block}", **_SMALL)
    figure.savefig(file, dpi=_DPI)


def _to_data_spread(z: np.ndarray, info: DatasetInfo) -> np.ndarray:
    """Noisy samples [T, ...] shrunk about the mean, each step to the spread of the data."""
    spread = z.reshape(len(z), -1).std(axis=1).clip(min=info.std)
    return info.mean + (z - info.mean) * (info.std / spread).reshape(-1, *[1] * (z.ndim - 1))


# --- partition and losses -------------------------------------------------------------------------


@matplotlib.rc_context(STYLE)
def partition_figure(partition: Partition, noise: NoiseProcess, grid: Grid) -> Figure:
    """Who owns which noise: the training density by block, training ranges, sampling steps."""
    figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
    density, lanes = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    scaled = np.exp if isinstance(noise, GaussianNoise) else np.asarray
    spread = np.linspace(float(noise.natural(1.0)), float(noise.natural(0.0)), 400)
    # u is the share of training that is noisier, so the density per unit of ln sigma, or of time,
    # is its slope.
    bell = -np.gradient(np.asarray(noise.u_of(scaled(spread))), spread)
    for b in range(partition.num_blocks):
        clean, noisy = (float(noise.natural(partition.edges[b + i])) for i in (1, 0))
        own = np.concatenate([[clean], spread[(spread > clean) & (spread < noisy)], [noisy]])
        height = np.interp(own, spread, bell)
        colour = block_colour(b)
        density.fill_between(scaled(own), height, color=colour, alpha=0.55, lw=0)
        density.plot(scaled(own), height, color=colour, label=f"block {b}")
        share = partition.edges[b + 1] - partition.edges[b]
        if share > 0.1:  # narrower ones have no room for a number
            middle = float(noise.natural(partition.edges[b] + share / 2))
            at = float(np.interp(middle, spread, bell)) / 2
            density.text(scaled(middle), at, f"{share:.0%}", ha="center", va="center", fontsize=9)
        wide = [float(noise.level(u)) for u in partition.intervals[b]]
        lane = 2 - b % 2
        lanes.plot(wide, [lane] * 2, color=colour, alpha=0.45, lw=7, solid_capstyle="butt")
        lanes.plot(scaled([clean, noisy]), [lane] * 2, color=colour, lw=3, solid_capstyle="butt")
    for level, block in zip(grid.levels, grid.blocks, strict=True):
        lanes.plot([level] * 2, [-0.3, 0.3], color=block_colour(block), lw=1)
    unit = "ln σ" if noise.level_name == "sigma" else noise.level_name
    density.set(ylim=(0, None), ylabel=f"share of training\nper unit of {unit}")
    density.grid(axis="y")
    lanes.set(ylim=(-0.6, 2.6), yticks=[0, 1.5], yticklabels=["sampled at", "trained on"])
    lanes.tick_params(axis="y", length=0)
    lanes.spines["left"].set_visible(False)
    _noise_axis(lanes, noise.level_name)
    add_legend(figure)
    return figure


@matplotlib.rc_context(STYLE)
def loss_figure(
    rows: Sequence[Mapping[str, Any]],
    other: Sequence[Mapping[str, Any]] = (),
    other_name: str = "end to end",
    *,
    meaning: str = SQUARED_ERROR,
) -> Figure:
    """Training loss of each block, and the mean of all beside that of another run.

    Args:
        rows: rows of `metrics.jsonl`, with "block", "step" and "loss".
        other: those of the other run.
        other_name: what to call it.
        meaning: what the loss is.
    """
    figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
    axes = figure.add_subplot()
    blocks = sorted({row["block"] for row in rows})
    for b in blocks if len(blocks) > 1 else ():
        own = [(row["step"], row["loss"]) for row in rows if row["block"] == b]
        axes.plot(*np.array(own).T, color=block_colour(b), label=f"block {b}")
    name = "mean of the blocks" if len(blocks) > 1 else "loss"
    axes.plot(*_mean_loss(rows), color=INK, label=name)
    if other:
        axes.plot(*_mean_loss(other), color=INK, ls=(0, (4, 2)), label=other_name)
    axes.set(xlabel="steps of each block", ylabel=f"training loss ({meaning})")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    subs = (1, 2, 3, 4, 5, 6, 8) if high < 10 * low else (1, 2, 5)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(left=0)
    axes.grid()
    add_legend(figure)
    return figure


def _mean_loss(rows: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[float]]:
    """Steps that every block has logged, and the mean loss of the blocks there."""
    blocks = {row["block"] for row in rows}
    by_step: dict[int, dict[int, float]] = {}
    for row in rows:
        by_step.setdefault(row["step"], {})[row["block"]] = row["loss"]
    shared = sorted(step for step, losses in by_step.items() if len(losses) == len(blocks))
    return shared, [float(np.mean(list(by_step[step].values()))) for step in shared]


@matplotlib.rc_context(STYLE)
def loss_over_noise_figure(
    rows: Sequence[Mapping[str, float]],
    other: Sequence[Mapping[str, float]] = (),
    other_name: str = "end to end",
    *,
    meaning: str = SQUARED_ERROR,
    level: str = "sigma",
) -> Figure:
    """Loss at each noise level, in the colour of the block that owns it, beside another run's.

    Args:
        rows: "loss_over_noise" of `evaluation.json`, with the level, "block" and "loss".
        other: those of the other run.
        other_name: what to call it.
        meaning: what the loss is.
        level: what the noise calls its level (`NoiseProcess.level_name`).
    """
    figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
    axes = figure.add_subplot()
    for b in sorted({int(row["block"]) for row in rows}):
        own = np.array([(row[level], row["loss"]) for row in rows if row["block"] == b])
        axes.plot(*own.T, color=block_colour(b), marker="o", ms=3.5, label=f"block {b}")
    if other:
        theirs = np.array([(row[level], row["loss"]) for row in other])
        axes.plot(*theirs.T, color=INK, ls=(0, (4, 2)), label=other_name)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"loss ({meaning})")
    axes.grid()
    _noise_axis(axes, level)
    add_legend(figure)
    return figure


@matplotlib.rc_context(STYLE)
def noise_fit_figure(
    sigma: Float[np.ndarray, " levels"],
    entropy: Float[np.ndarray, " levels"],
    noise: LogNormalNoise,
    fitted: tuple[float, float],
) -> Figure:
    """The share of the cross entropy that is left at each noise level, and two densities' mass.

    Args:
        sigma: noise levels, falling.
        entropy: cross entropy at each.
        noise: that of the run.
        fitted: mean and standard deviation of ln sigma that fit.
    """
    figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
    axes = figure.add_subplot()
    x = np.geomspace(noise.sigma_max, noise.sigma_min, 200)
    axes.plot(sigma, entropy / entropy[0], color=INK, marker="o", ms=3.5, label="cross entropy")
    for (mean, std), colour, name in (
        ((noise.p_mean, noise.p_std), PALETTE[0], "this run's density"),
        (fitted, PALETTE[1], "fitted density"),
    ):
        mass = scipy.special.ndtr((np.log(x) - mean) / std)
        axes.plot(x, mass, color=colour, label=name)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("share that is left")
    axes.grid()
    _noise_axis(axes, "sigma")
    add_legend(figure)
    return figure


def _noise_axis(axes: Axes, level: str) -> None:
    """ln sigma, or time, from noise to clean, left to right, as samples are made."""
    label = f"{level}, from all masked (1) to clean (0)"
    if level == "sigma":
        label = "noise level σ (model units), from noisy to clean"
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.invert_xaxis()
    axes.set_xlabel(label)


def add_legend(figure: Figure) -> None:
    if len(figure.axes[0].get_legend_handles_labels()[0]) > 1:
        figure.legend(loc="outside upper left", ncols=5, handlelength=1.4, columnspacing=1.2)
