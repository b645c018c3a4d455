"""Sampling: a walk along a grid of noise levels that asks one block at each of them.

The number of steps, the grid and the solver (`dbjax.solvers`) are chosen when sampling, not when
training.
"""

import abc
import dataclasses
import itertools
import operator
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dbjax.devices import to_device
from dbjax.errors import require
from dbjax.noise import GaussianNoise, NoiseProcess
from dbjax.partition import GRIDS, Grid, Partition, grid_at, sampling_grid
from dbjax.solvers import SOLVERS, Churn, Solver, Step, levels_of_walk
from dbjax.task import Estimate, Params, Task

ADAPTIVE = "adaptive"


@dataclasses.dataclass(frozen=True)
class WalkConfig(abc.ABC):
    """What the `sampling` section of every config has.

    Attributes:
        num_steps: points of the grid; the network is called at each.
        grid: `even` in u, `left` (even, without the clean end), `karras`, or `adaptive`, steps that
            all make about the same error: it is measured on trained blocks (`dbjax.adaptive`).
        solver: what a step does, by name.
        batch_size: samples drawn together.
        levels: the points themselves, in place of what `grid` says.
    """

    num_steps: int = 50
    grid: str = "even"
    solver: str = "euler"
    batch_size: int = 256
    levels: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        grids = (*GRIDS, ADAPTIVE)
        require(self.grid in grids, "sampling.grid", self.grid, " or ".join(map(repr, grids)))
        for field in ("num_steps", "batch_size"):
            value = getattr(self, field)
            require(value >= 1, f"sampling.{field}", value, "1 or more")
        if self.levels is not None:
            allowed = f"{self.num_steps}, which is sampling.num_steps"
            count = len(self.levels)
            require(count == self.num_steps, "number of sampling.levels", count, allowed)

    def make_grid(self, partition: Partition, noise: NoiseProcess) -> Grid:
        """The points of a walk, each with its block.

        Raises:
            SettingError: if they do not go with the noise, or are yet to be measured.
        """
        if self.levels is not None:
            return grid_at(partition, noise, self.levels)
        allowed = f"{' or '.join(map(repr, GRIDS))} where no trained blocks are measured"
        require(self.grid != ADAPTIVE, "sampling.grid", self.grid, allowed)
        return sampling_grid(partition, noise, self.num_steps, self.grid)

    @abc.abstractmethod
    def make_solver(self, noise: NoiseProcess) -> tuple[Solver, int]:
        """A step, and its network calls; the last step always takes one.

        Raises:
            SettingError: if it does not go with the noise.
        """


@dataclasses.dataclass(frozen=True)
class SamplingConfig(WalkConfig):
    """The `sampling` section of a config with Gaussian noise.

    Attributes:
        solver: `euler`, `heun` (two network calls a step but the last), `dpmpp_2m`
            (DPM-Solver++(2M): second order with one call a step) or `ancestral` (draws noise at
            each step but the last). Heun wants the Karras grid: over the even grid's first step,
            nearly all of ln sigma, its average of two slopes is far off.
        guidance: scale of classifier-free guidance; 1 is none.
        prior_scale: standard deviation of the starting noise as a multiple of its own: 1 draws from
            the model; 0 starts from the mean, so that a deterministic solver's walk does not draw a
            label from its probabilities but goes to the most probable one.
        churn, churn_min, churn_max, churn_noise: S_churn, S_min, S_max and S_noise of the
            stochastic sampler; churn 0 is deterministic.
    """

    guidance: float = 1.0
    prior_scale: float = 1.0
    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = float("inf")
    churn_noise: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = " or ".join(map(repr, SOLVERS))
        require(self.solver in SOLVERS, "sampling.solver", self.solver, allowed)
        scales = ("guidance", "prior_scale", "churn", "churn_min", "churn_max", "churn_noise")
        for field in scales:
            value = getattr(self, field)
            require(value >= 0, f"sampling.{field}", value, "0 or more")
        # It remembers an estimate of z as it was before the noise was raised.
        remembers = self.solver == "dpmpp_2m"
        require(not (remembers and self.churn), "sampling.churn", self.churn, "0 with 'dpmpp_2m'")

    def make_solver(self, noise: NoiseProcess) -> tuple[Solver, int]:
        require(
            isinstance(noise, GaussianNoise),
            "sampling.solver",
            self.solver,
            f"one of masked tokens, for the noise is {type(noise).__name__}",
        )
        solver, calls = SOLVERS[self.solver]
        if self.churn:
            gamma = min(self.churn / self.num_steps, 2**0.5 - 1)
            solver = Churn(solver, gamma, self.churn_min, self.churn_max, self.churn_noise)
        return solver, calls


class Trajectory(NamedTuple):
    """The walk itself, for looking at: leading axis T, the steps.

    Attributes:
        z: before each step.
        clean: the estimate made there.
        logits: behind the estimate, where a sample has one answer; those of every token of a text
            would be too many.
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
        calls: of each block for one walk, guidance not counted.
        layer_evaluations: residual layers run for one sample, guidance counted.
        batch_size: samples that are meant to be drawn together.
    """

    def __init__(self, task: Task, config: WalkConfig, *, without: Collection[int] = ()) -> None:
        """Compiles nothing.

        Args:
            task: whose blocks are sampled from.
            config: grid, steps, solver, guidance.
            without: blocks whose steps are left out of the walk, to see what they contribute.
                Without the first, it starts from noise around zero at the next one's level.

        Raises:
            SettingError: if no step is left, or if the walk does not go with the noise.
        """
        self._task = task
        self._config = config
        self._solver, self._calls_of_step = config.make_solver(task.noise)
        self._guidance = self._prior_scale = 1.0
        if isinstance(config, SamplingConfig):
            self._guidance, self._prior_scale = config.guidance, config.prior_scale
        whole = config.make_grid(task.partition, task.noise)
        self.grid = _leave_out(whole, without)
        # Tokens are all masked also where a later block is the first.
        late = self.grid.levels[0] != whole.levels[0]
        self._starts_late = late and isinstance(task.noise, GaussianNoise)
        self.batch_size = config.batch_size
        # A second call is made at the next level, so none at the end of the walk.
        asked = [*self.grid.blocks, *(self.grid.blocks[1:] if self._calls_of_step == 2 else ())]
        layers = [len(own) for own in task.partition.layers]
        self.calls = tuple(asked.count(block) for block in range(len(layers)))
        passes = 1 if self._guidance == 1.0 else 2
        self.layer_evaluations = passes * sum(map(operator.mul, self.calls, layers))
        self._levels = levels_of_walk(self.grid.levels)
        self._walk = jax.jit(self._walk_blocks)

    def __call__(
        self,
        blocks: Mapping[int, Params],
        key: PRNGKeyArray,
        num_samples: int,
        condition: Any = None,
        *,
        start: Array | None = None,
        record: bool = False,
    ) -> Samples:
        """Walks from pure noise to clean data.

        Args:
            blocks: weights of every block, on the device or the host; one block (two at a seam
                of a two-call solver) is brought to the device at a time.
            key: of the starting noise and of stochastic solvers.
            num_samples: samples drawn together.
            condition: as the task wants it, with a leading axis `num_samples`.
            start: z at u = 0, in place of a draw from the prior: text with gaps to fill, say.
            record: also return the path.
        """
        start_key, step_key = jax.random.split(key)
        z = self._task.prior(start_key, num_samples) if start is None else start
        if self._starts_late:
            levels = jnp.broadcast_to(self._levels.here[0], z.shape[:1])
            z = self._task.noise.corrupt(start_key, jnp.zeros_like(z), levels)
        if self._prior_scale != 1.0:
            z = self._prior_scale * z
        owners = self.grid.blocks
        # Shapes only: weights that wait on the host cannot be combined with z.
        params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), blocks[owners[0]])
        shapes = jax.eval_shape(self._denoise, params, z, self._levels.here[0], condition)
        estimate = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        path = None
        if record:
            path = jax.tree.map(
                lambda x: jnp.zeros((len(owners), *x.shape), x.dtype), _point(z, estimate)
            )
        # Bound to the device as the weights are: for unbound arrays jit would compile once more.
        walk = to_device(Samples(z, estimate, path))
        # Only a second call, at the end of a step, can need the next block.
        following = (*owners[1:], owners[-1]) if self._calls_of_step == 2 else owners
        position = 0
        for (first, second), steps in itertools.groupby(zip(owners, following, strict=True)):
            stop = position + len(list(steps))
            here = to_device(blocks[first])
            there = here if second == first else to_device(blocks[second])
            walk = self._walk(here, there, walk, position, stop, step_key, condition)
            # Dispatch runs ahead: without waiting, several blocks would be on their way.
            jax.block_until_ready(walk)
            del here, there
            position = stop
        return walk

    def _denoise(
        self, params: Params, z: Array, level: Float[Array, ""], condition: Any
    ) -> Estimate:
        levels = jnp.broadcast_to(level, z.shape[:1])
        return self._task.denoise(params, z, levels, condition, guidance=self._guidance)

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
            z, before, path = walk
            of_step = Step(
                here=lambda z, level: self._denoise(here, z, level, condition),
                there=lambda z, level: self._denoise(there, z, level, condition),
                z=z,
                levels=jax.tree.map(lambda levels: levels[i], self._levels),
                before=before.clean,
                key=jax.random.fold_in(key, i),
            )
            new, estimate = self._solver(of_step)
            if path is not None:
                path = jax.tree.map(lambda rows, x: rows.at[i].set(x), path, _point(z, estimate))
            return Samples(new, estimate, path)

        return jax.lax.fori_loop(start, stop, step, walk)


def _point(z: Array, estimate: Estimate) -> Trajectory:
    """What is recorded of a step."""
    logits = estimate.logits
    return Trajectory(
        z, estimate.clean, logits if logits is not None and logits.ndim == 2 else None
    )


def _leave_out(grid: Grid, blocks: Collection[int]) -> Grid:
    """`grid` without the steps of `blocks`."""
    kept = [
        (level, b) for level, b in zip(grid.levels, grid.blocks, strict=True) if b not in blocks
    ]
    require(bool(kept), "without", sorted(blocks), "fewer blocks, so that a step is left")
    return Grid(*map(tuple, zip(*kept, strict=True)))  # type: ignore[arg-type]
