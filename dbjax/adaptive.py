"""A grid whose steps all make about the same error, measured on a few walks of trained blocks.

Solvers with adaptive steps estimate each step's error and choose the next step's length by it
(Jolicoeur-Martineau et al. 2021, arXiv 2105.14080). Where a sampler runs many walks of one model,
those estimates come out alike: so they are made once, and the grid made of them is an ordinary one.
The walk stays one compiled program with a number of calls known before, a sample does not depend on
those it is drawn with, and any solver can walk it.
"""

import dataclasses
import itertools
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from dbjax import keys
from dbjax.errors import require
from dbjax.noise import GaussianNoise
from dbjax.partition import Partition
from dbjax.sampling import ADAPTIVE, Sampler, SamplingConfig, Trajectory
from dbjax.solvers import ORDERS
from dbjax.task import Params, Task

PROBED = 32
"""Walks that errors are measured on."""
FINE = 128
"""Steps of these walks, in all blocks together."""
_FEWEST = 8
"""Of these in a block, however many blocks there are."""


def check_adaptive(task: Task, config: SamplingConfig) -> None:
    """Refuses an adaptive grid that no blocks could have, before there are any.

    Raises:
        SettingError: for fewer steps than let each block make one and the walk reach its end.
    """
    config.make_solver(task.noise)
    least = task.partition.num_blocks + 1
    allowed = f"{least} or more on the adaptive grid of {least - 1} blocks"
    require(config.num_steps >= least, "sampling.num_steps", config.num_steps, allowed)


def adapt(task: Task, blocks: Mapping[int, Params], config: SamplingConfig) -> SamplingConfig:
    """`config` with the levels of its adaptive grid; any other comes back as it is.

    Levels that two blocks share are always among them: no step leads past the end of the range that
    a block was trained on.

    Args:
        task: of data that are drawn by label, or without a condition.
        blocks: weights of every block.
        config: its guidance is that of the walks which are measured.

    Raises:
        SettingError: if there are too few steps.
    """
    if config.grid != ADAPTIVE or config.levels is not None:
        return config
    check_adaptive(task, config)
    assert isinstance(task.noise, GaussianNoise)
    levels = _fine_levels(task.partition, task.noise)
    fine = dataclasses.replace(
        config, num_steps=len(levels), levels=tuple(levels.tolist()), solver="dpmpp_2m", churn=0.0
    )
    classes = getattr(task, "num_classes", 0)
    label = jnp.arange(PROBED, dtype=jnp.int32) % classes if classes else None
    sampler = Sampler(task, fine)
    path = sampler(blocks, keys.derive(0, "probe"), PROBED, label, record=True).path
    assert path is not None
    owners = np.asarray(sampler.grid.blocks)
    density = _density(levels, owners, path, ORDERS[config.solver])
    chosen = _equal_steps(levels, owners, density, config.num_steps)
    return dataclasses.replace(config, levels=chosen)


def _fine_levels(partition: Partition, noise: GaussianNoise) -> Float[np.ndarray, " fine"]:
    """Even in ln sigma within each block, with the levels at which blocks begin."""
    edges = noise.level(np.asarray(partition.edges))
    count = max(FINE // partition.num_blocks, _FEWEST)
    ranges = itertools.pairwise(edges)
    parts = [np.geomspace(noisy, clean, count, endpoint=False) for noisy, clean in ranges]
    return np.concatenate([*parts, edges[-1:]])


def _density(
    levels: Float[np.ndarray, " fine"],
    owners: Int[np.ndarray, " fine"],
    path: Trajectory,
    order: int,
) -> Float[np.ndarray, " fine"]:
    """How many steps, up to a factor, a unit of ln sigma needs at each level.

    A step of length h along -ln sigma misses h^(p+1) times the p-th derivative of D, p the order of
    the solver, up to a factor (Lu et al. 2022, appendix B); as a share of z, both as root mean
    squares over all elements. Steps of equal errors are as many as its root.
    """
    along = -np.log(levels)
    z, clean = (np.asarray(x, np.float64).reshape(len(levels), -1) for x in path[:2])
    # Apart for each block: between two D jumps, and no step is shorter for it.
    for block in np.unique(owners):
        own = owners == block
        for _ in range(order):
            clean[own] = np.gradient(clean[own], along[own], axis=0)
    change, size = (np.sqrt(np.mean(x**2, axis=1)) for x in (clean, z))
    return np.asarray((change / size) ** (1 / (order + 1)))


def _equal_steps(
    levels: Float[np.ndarray, " fine"],
    owners: Int[np.ndarray, " fine"],
    density: Float[np.ndarray, " fine"],
    num_steps: int,
) -> tuple[float, ...]:
    """`num_steps` levels with equal integrals of `density` between those of a block."""
    # Where a block's estimate never changes there is no error; its steps are then even.
    middle = np.maximum((density[1:] + density[:-1]) / 2, 1e-9)
    along = np.concatenate([[0.0], np.cumsum(-np.diff(np.log(levels)) * middle)])
    firsts = np.unique(owners, return_index=True)[1]
    ends = [*firsts, len(levels) - 1]
    needs, counts = np.diff(along[ends]), np.ones(len(firsts), int)
    # One by one to the block whose steps make the largest error.
    for _ in range(num_steps - 1 - len(firsts)):
        counts[np.argmax(needs / counts)] += 1
    chosen: list[float] = []
    for (first, last), count in zip(itertools.pairwise(ends), counts, strict=True):
        inside = np.linspace(along[first], along[last], count, endpoint=False)[1:]
        chosen += [levels[first], *np.exp(np.interp(inside, along, np.log(levels)))]
    return tuple(map(float, [*chosen, levels[-1]]))
