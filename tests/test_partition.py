"""Who owns which noise and which layers."""

from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.stats

from dbjax.errors import SettingError
from dbjax.noise import LogNormalNoise, MaskingNoise
from dbjax.partition import Partition, PartitionConfig, make_partition, parse_blocks, sampling_grid

NOISE = LogNormalNoise()


def partition(num_layers: int = 12, noise: Any = NOISE, **settings: Any) -> Partition:
    return make_partition(PartitionConfig(**settings), noise, num_layers)


def sigma_intervals(p: Partition) -> list[tuple[float, float]]:
    """Training intervals as (largest, smallest) sigma."""
    return [(float(NOISE.level(lo)), float(NOISE.level(hi))) for lo, hi in p.intervals]


def test_edges_are_even_in_u() -> None:
    p = partition(num_blocks=4)
    np.testing.assert_allclose(p.edges, [0, 0.25, 0.5, 0.75, 1], rtol=1e-15)


def test_edges_have_equal_mass_under_the_log_normal() -> None:
    p = partition(num_blocks=3)
    mass = scipy.stats.norm(-1.2, 1.2).sf(np.log(NOISE.level(np.array(p.edges))))
    np.testing.assert_allclose(np.diff(mass), np.diff(mass)[0], rtol=1e-9)


def test_published_overlap() -> None:
    """B = 3, gamma = 0.05: low [.002, .2249], middle [.1706, .5318], high [.3920, 80]."""
    expected = [(80, 0.3920), (0.5318, 0.1706), (0.2249, 0.002)]
    np.testing.assert_allclose(sigma_intervals(partition(overlap=0.05)), expected, rtol=3e-4)


def test_no_overlap_trains_on_what_it_owns() -> None:
    p = partition(num_blocks=3, overlap=0.0)
    assert p.intervals == tuple(zip(p.edges[:-1], p.edges[1:], strict=True))


def test_overlap_is_cut_to_the_range() -> None:
    assert partition(num_blocks=3, overlap=50.0).intervals == ((0.0, 1.0),) * 3
    assert partition(num_blocks=1, overlap=0.05).intervals == ((0.0, 1.0),)


def test_overlap_in_masking_time() -> None:
    """gamma / B on both sides for equal intervals of time."""
    p = partition(noise=MaskingNoise(), num_blocks=4, overlap=0.1)
    expected = [(0, 0.275), (0.225, 0.525), (0.475, 0.775), (0.725, 1)]
    np.testing.assert_allclose(p.intervals, expected, atol=1e-12)


def test_overlap_leaves_edges_alone() -> None:
    assert partition(overlap=0.3).edges == partition(overlap=0.0).edges


def test_uniform_edges_are_even_in_log_sigma() -> None:
    p = partition(strategy="uniform", num_blocks=3)
    np.testing.assert_allclose(
        NOISE.level(np.array(p.edges)), [80, 2.339, 0.0684, 0.002], rtol=3e-4
    )


def test_edges_of_ones_own() -> None:
    p = partition(num_blocks=3, edges=(0.0, 0.5, 0.9, 1.0), overlap=0.0, strategy="uniform")
    assert p.edges == (0, 0.5, 0.9, 1)
    assert p.intervals == ((0, 0.5), (0.5, 0.9), (0.9, 1))
    assert [p.block_of(u) for u in (0.0, 0.49, 0.5, 0.89, 0.9, 1.0)] == [0, 0, 1, 1, 2, 2]


def test_uniform_edges_in_masking_time() -> None:
    p = partition(noise=MaskingNoise(schedule="cosine"), strategy="uniform")
    times = MaskingNoise(schedule="cosine").level(np.array(p.edges))
    np.testing.assert_allclose(times, [1, 2 / 3, 1 / 3, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (None, [range(0, 4), range(4, 8), range(8, 12)]),
        ((3, 6, 3), [range(0, 3), range(3, 9), range(9, 12)]),
        ((2, 4, 6), [range(0, 2), range(2, 6), range(6, 12)]),
    ],
)
def test_layers_are_consecutive_and_all_used(layers: Any, expected: list[range]) -> None:
    p = partition(layers=layers)
    assert p.layers == tuple(tuple(own) for own in expected)
    assert p.num_blocks == 3


@pytest.mark.parametrize("num_blocks", range(1, 13))
def test_a_boundary_belongs_to_the_cleaner_block(num_blocks: int) -> None:
    """For every even grid, against exact arithmetic: block floor(u B), the last one at u = 1."""
    p = partition(num_blocks=num_blocks, layers=(1,) * num_blocks, num_layers=num_blocks)
    for num_steps in range(1, 201):
        us = [Fraction(i, max(num_steps - 1, 1)) for i in range(num_steps)]
        exact = [min(int(u * num_blocks), num_blocks - 1) for u in us]
        assert list(sampling_grid(p, NOISE, num_steps).blocks) == exact
    assert [p.block_of(edge) for edge in p.edges[:-1]] == list(range(num_blocks))


def test_boundaries_that_went_through_sigma_belong_to_the_cleaner_block() -> None:
    """A level mapped to u and back, and the edges of a uniform partition."""
    for p in (partition(num_blocks=3), partition(num_blocks=3, strategy="uniform")):
        for b, edge in enumerate(p.edges[:-1]):
            assert p.block_of(float(NOISE.u_of(NOISE.level(edge)))) == b
        assert p.block_of(1.0) == 2


def test_every_level_has_the_block_that_trained_on_it() -> None:
    p = partition(num_blocks=6, overlap=0.05)
    for u in np.linspace(0, 1, 500):
        lower, upper = p.intervals[p.block_of(float(u))]
        assert lower <= u <= upper


@pytest.mark.parametrize(("kind", "calls"), [("even", [17, 16, 17]), ("karras", [33, 4, 13])])
def test_published_calls_per_block(kind: str, calls: list[int]) -> None:
    grid = sampling_grid(partition(num_blocks=3), NOISE, 50, kind)
    assert Counter(grid.blocks) == dict(enumerate(calls))
    assert list(grid.blocks) == sorted(grid.blocks)


@pytest.mark.parametrize(
    ("num_steps", "levels"),
    [
        (3, [80, 0.3012, 0.002]),
        (4, [80, 0.505041, 0.179632, 0.002]),
        (5, [80, 0.6766, 0.3012, 0.1341, 0.002]),
    ],
)
def test_published_even_grids(num_steps: int, levels: list[float]) -> None:
    grid = sampling_grid(partition(), NOISE, num_steps)
    np.testing.assert_allclose(grid.levels, levels, rtol=3e-4)


def test_karras_grid() -> None:
    """Equation 5 of Karras et al. 2022, rho = 7."""
    grid = sampling_grid(partition(), NOISE, 18, "karras")
    i = np.arange(18)
    expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(grid.levels, expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["even", "karras"])
def test_a_grid_of_one_point_is_pure_noise(kind: str) -> None:
    grid = sampling_grid(partition(), NOISE, 1, kind)
    assert grid.levels == pytest.approx((80.0,))
    assert grid.blocks == (0,)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_blocks": 0}, "partition.num_blocks is 0; allowed: 1 or more"),
        (
            {"strategy": "even"},
            "partition.strategy is 'even'; allowed: one of 'equiprobable', 'uniform'",
        ),
        ({"overlap": -0.1}, "partition.overlap is -0.1; allowed: 0 or more"),
        (
            {"num_blocks": 13},
            "partition.num_blocks is 13; allowed: at most the number of layers, 12",
        ),
        (
            {"num_blocks": 5},
            "partition.num_blocks is 5; allowed: a divisor of the 12 layers (1, 2, 3, 4, 6, 12), "
            "or any number together with partition.layers",
        ),
        (
            {"layers": (6, 6)},
            "partition.layers is (6, 6); allowed: 3 positive numbers (partition.num_blocks) that "
            "add up to 12 layers",
        ),
        (
            {"layers": (4, 4, 5)},
            "partition.layers is (4, 4, 5); allowed: 3 positive numbers (partition.num_blocks) "
            "that add up to 12 layers",
        ),
        (
            {"layers": (0, 6, 6)},
            "partition.layers is (0, 6, 6); allowed: 3 positive numbers (partition.num_blocks) "
            "that add up to 12 layers",
        ),
        (
            {"strategy": "uniform", "noise": LogNormalNoise(p_std=0.4)},
            "partition.strategy is 'uniform'; allowed: 'equiprobable' for this noise and 3 "
            "blocks (a block would train on the share 1e-07 of the noise levels; at least 1e-06 "
            "is needed)",
        ),
    ],
)
def test_refusals(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError) as error:
        partition(**settings)
    assert str(error.value) == sentence


def test_left_grid_gives_every_block_its_noisy_end() -> None:
    grid = sampling_grid(partition(num_blocks=4), NOISE, 4, "left")
    assert grid.blocks == (0, 1, 2, 3)
    np.testing.assert_allclose(grid.levels, NOISE.level(np.arange(4) / 4), rtol=1e-12)


@pytest.mark.parametrize(
    ("num_steps", "kind", "noise", "sentence"),
    [
        (0, "even", NOISE, "sampling.num_steps is 0; allowed: 1 or more"),
        (5, "linear", NOISE, "sampling.grid is 'linear'; allowed: one of 'even', 'left', 'karras'"),
        (
            5,
            "karras",
            MaskingNoise(),
            "sampling.grid is 'karras', which needs noise with a sigma; "
            "allowed with MaskingNoise: 'even' or 'left'",
        ),
    ],
)
def test_grid_refusals(num_steps: int, kind: str, noise: Any, sentence: str) -> None:
    with pytest.raises(SettingError) as error:
        sampling_grid(partition(noise=noise), noise, num_steps, kind)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    "edges",
    [
        (0.0, 1.0),
        (0.0, 0.5, 0.9),
        (0.1, 0.5, 0.9, 1.0),
        (0.0, 0.9, 0.5, 1.0),
        (0.0, 0.5, 0.5, 1.0),
    ],
)
def test_refused_edges(edges: tuple[float, ...]) -> None:
    with pytest.raises(SettingError) as error:
        partition(num_blocks=3, edges=edges)
    allowed = "4 rising numbers from 0 to 1 (partition.num_blocks + 1)"
    assert str(error.value) == f"partition.edges is {edges}; allowed: {allowed}"


def test_blocks_as_people_write_them() -> None:
    assert parse_blocks("2, 0", 3, "--blocks") == (0, 2)


@pytest.mark.parametrize("text", ["", "3", "0,0", "-1", "a", "0,"])
def test_refused_blocks(text: str) -> None:
    with pytest.raises(SettingError) as error:
        parse_blocks(text, 3, "training.remat", "none", "all")
    assert str(error.value) == (
        f"training.remat is {text!r}; allowed: 'none' or 'all' or different numbers from 0 to 2, "
        "as '0,1'"
    )
