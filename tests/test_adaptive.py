"""Grids measured on exact denoisers, which say NaN outside of their range."""

import dataclasses

import jax
import numpy as np
import pytest

from dbjax.adaptive import adapt, check_adaptive
from dbjax.errors import SettingError
from dbjax.noise import MaskingNoise
from dbjax.sampling import Sampler, SamplingConfig
from tests.test_sampling import MixtureTask, gaussian, mixture


def errors_of_steps(task: MixtureTask, config: SamplingConfig) -> np.ndarray:
    """By how much Euler's steps differ from Heun's, as shares of z.

    On walks that no grid was measured on.
    """
    sampler = Sampler(task, config)
    path = sampler(task.blocks(), jax.random.key(1), 500, record=True).path
    assert path is not None
    levels = np.array(sampler.grid.levels)[:, None]
    z, clean = (np.asarray(x, np.float64).reshape(len(levels), -1) for x in path[:2])
    missed = np.diff(levels, axis=0) * np.diff((z - clean) / levels, axis=0) / 2
    return np.asarray(np.linalg.norm(missed, axis=1) / np.linalg.norm(z[:-1], axis=1))


def test_steps_of_equal_errors_land_on_every_seam() -> None:
    task = mixture()
    seams = task.noise.level(np.array(task.partition.edges))
    found = []
    for count in (41, 81):
        config = adapt(task, task.blocks(), SamplingConfig(count, "adaptive"))
        assert config.levels is not None
        assert len(config.levels) == count and set(seams) <= set(config.levels)
        assert config.levels[-1] == seams[-1]
        errors = errors_of_steps(task, config)
        found.append(errors.max())
        assert errors.max() < 1.5 * np.median(errors)
    # Twice the steps have a quarter of the error each.
    assert np.log2(found[0] / found[1]) == pytest.approx(2, abs=0.2)
    for grid in ("even", "karras"):
        assert found[1] < errors_of_steps(task, SamplingConfig(81, grid)).max() / 2


def test_a_grid_is_that_of_the_blocks_and_no_draw_of_samples() -> None:
    task = gaussian()
    config = SamplingConfig(20, "adaptive")
    once, again = (adapt(task, task.blocks(), config) for _ in range(2))
    assert once == again == adapt(task, task.blocks(), once)
    assert dataclasses.replace(once, levels=None) == config
    even = SamplingConfig(20)
    assert adapt(task, {}, even) is even


def test_refusals() -> None:
    task = gaussian()
    with pytest.raises(SettingError) as error:
        adapt(task, task.blocks(), SamplingConfig(3, "adaptive"))
    allowed = "4 or more on the adaptive grid of 3 blocks"
    assert str(error.value) == f"sampling.num_steps is 3; allowed: {allowed}"
    check_adaptive(task, SamplingConfig(4, "adaptive"))
    with pytest.raises(SettingError, match="the noise is MaskingNoise"):
        check_adaptive(dataclasses.replace(task, noise=MaskingNoise()), SamplingConfig())
    with pytest.raises(SettingError, match="'karras' where no trained blocks are measured"):
        Sampler(task, SamplingConfig(20, "adaptive"))
