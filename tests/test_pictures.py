"""What is drawn: the right samples in the right places, and one colour for one block everywhere."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from dbjax import pictures
from dbjax.data.dataset import DatasetInfo, in_memory_dataset
from dbjax.noise import LogNormalNoise, MaskingNoise
from dbjax.partition import Partition, PartitionConfig, make_partition, sampling_grid
from dbjax.sampling import Trajectory

NOISE = LogNormalNoise()
TILE, GAP = 96, 8


def info_of(*shape: int, max_value: float | None = None) -> DatasetInfo:
    data = in_memory_dataset(
        "drawn",
        np.zeros((1, *shape), np.float32),
        np.zeros(1, np.int32),
        num_classes=3,
        mean=0.0 if max_value is None else max_value / 2,
        std=1.0,
        max_value=max_value,
    )
    return data.info


def partition_of(num_blocks: int, **settings: object) -> Partition:
    return make_partition(PartitionConfig(num_blocks, **settings), NOISE, num_blocks)  # type: ignore[arg-type]


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def line_colours(axes: Axes) -> set[str]:
    return {to_hex(line.get_color()).upper() for line in axes.get_lines()}


def luminance(colour: str) -> float:
    """Relative luminance of sRGB (WCAG 2)."""
    levels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_each_column_shows_one_class_in_order(tmp_path: Path) -> None:
    label = np.tile(np.arange(3), 10)
    images = np.broadcast_to(label[:, None, None, None] * 8, (30, 8, 8, 1)).astype(np.uint8)
    pictures.draw_samples(
        images, label, info_of(8, 8, 1, max_value=16.0), tmp_path / "s.png", rows=4
    )
    drawn = pixels_of(tmp_path / "s.png")
    assert drawn.shape == (4 * (TILE + GAP) - GAP, 3 * (TILE + GAP) - GAP, 4)
    for column, value in enumerate((0, 128, 255)):
        left = column * (TILE + GAP)
        assert np.all(drawn[:TILE, left : left + TILE, :3] == value)
    assert np.all(drawn[:, TILE : TILE + GAP, 3] == 0), "gaps let the page through"


def test_enlarging_keeps_hard_edges(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 17, (1, 8, 8, 1)).astype(np.uint8)
    pictures.draw_samples(image, None, info_of(8, 8, 1, max_value=16.0), tmp_path / "s.png")
    drawn = pixels_of(tmp_path / "s.png")
    assert drawn.shape == (TILE, TILE, 4)
    expected = np.rint(image[0, ..., 0] / 16 * 255).repeat(12, 0).repeat(12, 1)
    np.testing.assert_array_equal(drawn[..., 0], expected)


def test_colours_stay_in_their_channels(tmp_path: Path) -> None:
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[..., 0], image[..., 2] = 255, 51
    pictures.draw_samples(image, None, info_of(32, 32, 3, max_value=255.0), tmp_path / "s.png")
    assert tuple(pixels_of(tmp_path / "s.png")[5, 5]) == (255, 0, 51, 255)


def test_latents_show_three_channels_about_their_mean(tmp_path: Path) -> None:
    latent = np.zeros((1, 32, 32, 4), np.float16)
    latent[..., 1], latent[..., 3] = 100.0, -100.0
    pictures.draw_samples(latent, None, info_of(32, 32, 4), tmp_path / "s.png")
    assert tuple(pixels_of(tmp_path / "s.png")[5, 5]) == (128, 255, 128, 255)


def test_samples_fewer_than_the_grid(tmp_path: Path) -> None:
    images = np.full((3, 8, 8, 1), 16, np.uint8)
    facts = info_of(8, 8, 1, max_value=16.0)
    pictures.draw_samples(images, np.array([0, 0, 2]), facts, tmp_path / "s.png")
    drawn = pixels_of(tmp_path / "s.png")
    assert drawn.shape[:2] == (2 * (TILE + GAP) - GAP, 2 * (TILE + GAP) - GAP)
    assert np.all(drawn[-TILE:, -TILE:, 3] == 0), "the second class has one sample only"


def test_of_many_classes_some_are_spread_over_all(tmp_path: Path) -> None:
    label = np.arange(1000)
    images = (label[:, None, None, None] * np.ones((1, 4, 4, 1))).astype(np.float32)
    facts = dataclasses.replace(info_of(4, 4, 1, max_value=999.0), num_classes=1000)
    pictures.draw_samples(images, label, facts, tmp_path / "s.png")
    shown = pixels_of(tmp_path / "s.png")[0, :: TILE + GAP, 0]
    np.testing.assert_allclose(shown, np.linspace(0, 255, 10), atol=1)


@pytest.mark.parametrize("labelled", [True, False])
def test_points_are_drawn(tmp_path: Path, labelled: bool) -> None:
    points = np.random.default_rng(0).standard_normal((50, 2)).astype(np.float32)
    label = np.arange(50) % 3 if labelled else None
    pictures.draw_samples(points, label, info_of(2), tmp_path / "s.png")
    drawn = pixels_of(tmp_path / "s.png")
    height, width = drawn.shape[:2]
    assert height == width >= 600
    assert drawn[0, 0, 3] == 0
    colours = {tuple(c) for c in drawn[drawn[..., 3] == 255][:, :3]}
    for colour, present in [("#8E6A4C", True), ("#6375B7", labelled), ("#AC376E", labelled)]:
        assert (tuple(bytes.fromhex(colour[1:])) in colours) == present


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (32, 32, 4), (2,)])
def test_path_heads_columns_with_the_colours_of_the_blocks(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    grid = sampling_grid(partition_of(3), NOISE, 20)
    walk = np.random.default_rng(0).standard_normal((20, 5, *shape)).astype(np.float32)
    levels = np.array(grid.levels, np.float32).reshape(20, *[1] * (walk.ndim - 1))
    facts = info_of(*shape, max_value=255.0 if shape[-1] == 3 else None)
    pictures.draw_paths(Trajectory(walk * levels, walk), grid, facts, tmp_path / "p.png")
    drawn = pixels_of(tmp_path / "p.png")
    head = drawn[38]
    colours = [to_hex(c[:3] / 255).upper() for c in head[head[:, 3] == 255]]
    in_order = list(dict.fromkeys(colours))
    assert [c for c in in_order if c in pictures.PALETTE] == list(pictures.PALETTE[:3])
    assert drawn.shape[1] > 1000, "two pixels of the file to one of a page"


def test_path_shows_noise_at_the_spread_of_the_data(tmp_path: Path) -> None:
    grid = sampling_grid(partition_of(1), NOISE, 2)
    noise = np.random.default_rng(0).standard_normal((1, 4, 32, 32, 1)).astype(np.float32)
    walk = Trajectory(np.concatenate([1000 * noise, noise]), np.concatenate([noise, noise]))
    pictures.draw_paths(walk, grid, info_of(32, 32, 1), tmp_path / "p.png")
    drawn = pixels_of(tmp_path / "p.png")[84 : 84 + TILE, 56:]
    difference = drawn[:, :TILE, 0].astype(int) - drawn[:, TILE + GAP : 2 * TILE + GAP, 0]
    assert np.abs(difference).max() <= 4


def rows_of(num_blocks: int, steps: int = 4) -> list[dict[str, float]]:
    return [
        {"block": b, "step": 50 * s, "loss": (b + 1) / s}
        for b in range(num_blocks)
        for s in range(1, steps + 1)
    ]


def levels_of(num_blocks: int) -> list[dict[str, float]]:
    partition = partition_of(num_blocks)
    return [
        {"u": u, "sigma": float(NOISE.level(u)), "block": partition.block_of(u), "loss": 1 - u}
        for u in (np.arange(12) + 0.5) / 12
    ]


def test_a_block_has_one_colour_in_every_figure() -> None:
    partition = partition_of(3)
    grid = sampling_grid(partition, NOISE, 10)
    expected = {pictures.block_colour(b) for b in range(3)}
    figures: list[Figure] = [
        pictures.partition_figure(partition, NOISE, grid),
        pictures.loss_figure(rows_of(3), rows_of(1)),
        pictures.loss_over_noise_figure(levels_of(3), levels_of(1)),
    ]
    for figure in figures:
        for axes in figure.axes:
            assert line_colours(axes) - {pictures.INK} == expected
        labels = dict(
            zip(*reversed(figure.axes[0].get_legend_handles_labels()), strict=True)  # type: ignore[arg-type]
        )
        for b in range(3):
            assert to_hex(labels[f"block {b}"].get_color()).upper() == pictures.block_colour(b)


def test_colours_read_on_white_and_on_black_and_neighbours_differ() -> None:
    for colour in (*pictures.PALETTE, pictures.INK):
        own, dark = luminance(colour) + 0.05, luminance("#14171B") + 0.05
        assert min(1.05 / own, own / dark) > 2.7
    for b in range(30):
        assert pictures.block_colour(b) != pictures.block_colour(b + 1)


def test_sampling_steps_and_training_ranges_are_where_they_are() -> None:
    partition = partition_of(3, overlap=0.1)
    grid = sampling_grid(partition, NOISE, 10)
    lanes = pictures.partition_figure(partition, NOISE, grid).axes[1]
    ends = [tuple(np.asarray(line.get_xdata())) for line in lanes.get_lines()]
    for lower, upper in partition.intervals:
        assert any(np.allclose(e, [NOISE.level(lower), NOISE.level(upper)]) for e in ends)
    for level in grid.levels:
        assert any(np.allclose(e, level) for e in ends)


@pytest.mark.parametrize("strategy", ["equiprobable", "uniform"])
@pytest.mark.parametrize("num_blocks", [1, 4, 12])
def test_areas_of_the_density_are_the_shares(num_blocks: int, strategy: str) -> None:
    partition = partition_of(num_blocks, strategy=strategy)
    figure = pictures.partition_figure(partition, NOISE, sampling_grid(partition, NOISE, 50))
    density = figure.axes[0].get_lines()
    assert len(density) == num_blocks
    areas = [
        np.trapezoid(np.asarray(line.get_ydata()), np.log(np.asarray(line.get_xdata())))
        for line in density
    ]
    np.testing.assert_allclose(areas, np.diff(partition.edges), atol=2e-3)


def test_mean_of_the_blocks_is_over_steps_that_all_have_logged() -> None:
    rows = [row for row in rows_of(2) if not (row["block"] == 1 and row["step"] == 200)]
    axes = pictures.loss_figure(rows).axes[0]
    mean = next(line for line in axes.get_lines() if line.get_label() == "mean of the blocks")
    np.testing.assert_allclose(mean.get_xdata(), [50, 100, 150])
    np.testing.assert_allclose(mean.get_ydata(), [1.5, 0.75, 0.5])


def test_one_run_alone_has_no_second_curve() -> None:
    assert len(pictures.loss_figure(rows_of(1)).axes[0].get_lines()) == 1
    assert len(pictures.loss_over_noise_figure(levels_of(1)).axes[0].get_lines()) == 1


def test_noise_falls_from_left_to_right() -> None:
    left, right = pictures.loss_over_noise_figure(levels_of(2)).axes[0].get_xlim()
    assert left > right


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_masking_has_time_on_its_axis(schedule: str) -> None:
    noise = MaskingNoise(schedule)
    partition = make_partition(PartitionConfig(3), noise, 3)
    figure = pictures.partition_figure(partition, noise, sampling_grid(partition, noise, 9, "left"))
    density, lanes = figure.axes
    area = 0.0
    for b in range(3):
        time, height = density.get_lines()[b].get_data()
        ends = np.array([noise.level(partition.edges[b + i]) for i in (1, 0)])
        np.testing.assert_allclose([time[0], time[-1]], ends, atol=1e-9)
        area += np.trapezoid(height, time)
    assert area == pytest.approx(1, rel=1e-2)
    assert lanes.get_xlabel() == "time, from all masked (1) to clean (0)"
    assert density.get_ylabel().endswith("per unit of time")
    rows = [{"time": 0.9, "block": 0, "loss": 2.0}, {"time": 0.1, "block": 1, "loss": 1.0}]
    axes = pictures.loss_over_noise_figure(rows, level="time").axes[0]
    assert axes.get_xscale() == "linear"
    left, right = axes.get_xlim()
    assert left > right
