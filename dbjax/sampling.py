"""Sampling: a walk along a grid of noise levels that asks one block at each of them.

The number of steps, the grid and the solver (`dbjax.solvers`) are chosen when sampling, not when
training.
"""

import dataclasses
import itertools
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dbjax.devices import to_device
from dbjax.errors import require
from dbjax.noise import GaussianNoise
from dbjax.partition import GRIDS, Grid, sampling_grid
from dbjax.solvers import SOLVERS, Churn
from dbjax.task import Estimate, Params, Task


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """The `sampling` section of a config.

    Attributes:
        num_steps: points of the grid; the network is called at each.
        grid: `even` in u, `left` (even, without the clean end) or `karras`.
        solver: `euler`, `heun` (two network calls a step but the last) or `ancestral` (draws noise
            at each step but the last). Heun wants the Karras grid: over the even grid's first
            step, nearly all of ln sigma, its average of two slopes is far off.
        guidance: scale of classifier-free guidance; 1 is none.
        prior_scale: standard deviation of the starting noise as a multiple of its own: 1 draws from
            the model; 0 starts from the mean, so that a deterministic solver's walk does not draw a
            label from its probabilities but goes to the most probable one. Gaussian noise only.
        churn, churn_min, churn_max, churn_noise: S_churn, S_min, S_max and S_noise of the
            stochastic sampler; churn 0 is deterministic.
        batch_size: samples drawn together.
    """

    num_steps: int = 50
    grid: str = "even"
    solver: str = "euler"
    guidance: float = 1.0
    prior_scale: float = 1.0
    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = float("inf")
    churn_noise: float = 1.0
    batch_size: int = 256

    def __post_init__(self) -> None:
        for field, names in (("grid", GRIDS), ("solver", tuple(SOLVERS))):
            value = getattr(self, field)
            require(value in names, f"sampling.{field}", value, " or ".join(map(repr, names)))
        for field in ("num_steps", "batch_size"):
            value = getattr(self, field)
            require(value >= 1, f"sampling.{field}", value, "1 or more")
        scales = ("guidance", "prior_scale", "churn", "churn_min", "churn_max", "churn_noise")
        for field in scales:
            value = getattr(self, field)
            require(value >= 0, f"sampling.{field}", value, "0 or more")


class Trajectory(NamedTuple):
    """The walk itself, for looking at: leading axis T, the steps.

    Attributes:
        z: before each step.
        clean: the estimate made there.
        logits: behind the estimate, where the task has them.
    """

    z: Array
    clean: Array
    logits: Array | None = None


class Samples(NamedTuple):
    """What a walk ends with.

    Attributes:
        clean: [num_samples, ...] samples in the model's units.
        estimate: the last estimate, with logits where the task has them.
        path: the way there, if recorded.
    """

    clean: Array
    estimate: Estimate
    path: Trajectory | None


class Sampler:
    """Draws samples from the blocks of a task; compiled once per kind of block.

    Attributes:
        grid: levels visited and the block asked at each.
        layer_evaluations: residual layers run for one sample, guidance counted.
        batch_size: samples that are meant to be drawn together.
    """

    def __init__(
        self, task: Task, config: SamplingConfig, *, without: Collection[int] = ()
    ) -> None:
        """Compiles nothing.

        Args:
            task: whose blocks are sampled from.
            config: grid, steps, solver, guidance.
            without: blocks whose steps are left out of the walk, to see what they contribute.
                Without the first, it starts from noise around zero at the next one's level.

        Raises:
            SettingError: if no step is left, or if noise that has no scale is to be scaled.
        """
        require(
            config.prior_scale == 1.0 or isinstance(task.noise, GaussianNoise),
            "sampling.prior_scale",
            config.prior_scale,
            "1.0 for noise that is not Gaussian",
        )
        self._task = task
        self._config = config
        self._solver, self._calls = SOLVERS[config.solver]
        if config.churn:
            gamma = min(config.churn / config.num_steps, 2**0.5 - 1)
            self._solver = Churn(
                self._solver, gamma, config.churn_min, config.churn_max, config.churn_noise
            )
        whole = sampling_grid(task.partition, task.noise, config.num_steps, config.grid)
        self.grid = _leave_out(whole, without)
        self._starts_late = self.grid.levels[0] != whole.levels[0]
        self.batch_size = config.batch_size
        self.layer_evaluations = self._count_layers()
        self._levels = jnp.asarray((*self.grid.levels, 0.0), jnp.float32)
        self._walk = jax.jit(self._walk_blocks)

    def __call__(
        self,
        blocks: Mapping[int, Params],
        key: PRNGKeyArray,
        num_samples: int,
        condition: Any = None,
        *,
        record: bool = False,
    ) -> Samples:
        """Walks from pure noise to clean data.

        Args:
            blocks: weights of every block, on the device or the host; one block (two at a seam
                of a two-call solver) is brought to the device at a time.
            key: of the starting noise and of stochastic solvers.
            num_samples: samples drawn together.
            condition: as the task wants it, with a leading axis `num_samples`.
            record: also return the path.
        """
        start_key, step_key = jax.random.split(key)
        z = self._task.prior(start_key, num_samples)
        if self._starts_late:
            levels = jnp.broadcast_to(self._levels[0], z.shape[:1])
            z = self._task.noise.corrupt(start_key, jnp.zeros_like(z), levels)
        if self._config.prior_scale != 1.0:
            z = self._config.prior_scale * z
        owners = self.grid.blocks
        # Shapes only: weights that wait on the host cannot be combined with z.
        params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), blocks[owners[0]])
        shapes = jax.eval_shape(self._denoise, params, z, self._levels[0], condition)
        estimate = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        path = None
        if record:
            path = jax.tree.map(
                lambda x: jnp.zeros((len(owners), *x.shape), x.dtype), Trajectory(z, *estimate)
            )
        # Bound to the device as the weights are: for unbound arrays jit would compile once more.
        walk = to_device(Samples(z, estimate, path))
        # Only a second call, at the end of a step, can need the next block.
        following = (*owners[1:], owners[-1]) if self._calls == 2 else owners
        start = 0
        for (first, second), steps in itertools.groupby(zip(owners, following, strict=True)):
            stop = start + len(list(steps))
            here = to_device(blocks[first])
            there = here if second == first else to_device(blocks[second])
            walk = self._walk(here, there, walk, start, stop, step_key, condition)
            # Dispatch runs ahead: without waiting, several blocks would be on their way.
            jax.block_until_ready(walk)
            del here, there
            start = stop
        return walk

    def _denoise(
        self, params: Params, z: Array, level: Float[Array, ""], condition: Any
    ) -> Estimate:
        levels = jnp.broadcast_to(level, z.shape[:1])
        return self._task.denoise(params, z, levels, condition, guidance=self._config.guidance)

    def _walk_blocks(
        self,
        here: Params,
        there: Params,
        walk: Samples,
        start: Int[Array, ""],
        stop: Int[Array, ""],
        key: PRNGKeyArray,
        condition: Any,
    ) -> Samples:
        """Steps start..stop-1 of the grid, all owned by one pair of blocks."""

        def step(i: Array, walk: Samples) -> Samples:
            z, _, path = walk
            new, estimate = self._solver(
                lambda z, level: self._denoise(here, z, level, condition),
                lambda z, level: self._denoise(there, z, level, condition),
                z,
                self._levels[i],
                self._levels[i + 1],
                jax.random.fold_in(key, i),
            )
            if path is not None:
                path = jax.tree.map(
                    lambda rows, x: rows.at[i].set(x), path, Trajectory(z, *estimate)
                )
            return Samples(new, estimate, path)

        return jax.lax.fori_loop(start, stop, step, walk)

    def _count_layers(self) -> int:
        layers = [len(own) for own in self._task.partition.layers]
        calls = list(self.grid.blocks)
        if self._calls == 2:
            calls += self.grid.blocks[1:]
        passes = 1 if self._config.guidance == 1.0 else 2
        return passes * sum(layers[b] for b in calls)


def _leave_out(grid: Grid, blocks: Collection[int]) -> Grid:
    """`grid` without the steps of `blocks`."""
    kept = [
        (level, b) for level, b in zip(grid.levels, grid.blocks, strict=True) if b not in blocks
    ]
    require(bool(kept), "without", sorted(blocks), "fewer blocks, so that a step is left")
    return Grid(*map(tuple, zip(*kept, strict=True)))  # type: ignore[arg-type]
