"""The one trainer: a pure update of one block, and what a placement must offer to run it.

End-to-end training is this trainer with one block. Where blocks live is the business of
`dbjax.placement`; nothing here knows how many blocks there are besides the one it updates.
"""

import dataclasses
from collections.abc import Generator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from dbjax import keys
from dbjax.errors import require
from dbjax.task import Batch, Metrics, Params, Task

SCHEDULES = ("constant", "cosine", "linear")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The `optimizer` section of a config. Every count is in the block's own steps.

    Attributes:
        learning_rate: peak AdamW learning rate.
        b1, b2, eps, weight_decay: AdamW's.
        warmup_steps: linear warm-up from 0.
        schedule: after the warm-up `constant`, or `cosine`/`linear` down to `final_scale` times
            the peak at the last step.
        final_scale: see `schedule`.
        clip_norm: largest global norm of a block's gradient; None does not clip.
        ema_decay: decay of the averaged weights that evaluation and sampling use, warmed up as
            min(ema_decay, (1 + n) / (10 + n)) at step n; 0 keeps no average.
    """

    learning_rate: float = 1e-4
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = 0
    schedule: str = "constant"
    final_scale: float = 0.0
    clip_norm: float | None = 1.0
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        name = "optimizer.{}".format
        require(self.learning_rate > 0, name("learning_rate"), self.learning_rate, "above 0")
        require(self.eps > 0, name("eps"), self.eps, "above 0")
        for field in ("b1", "b2", "ema_decay"):
            value = getattr(self, field)
            require(0 <= value < 1, name(field), value, "a number in [0, 1)")
        for field in ("weight_decay", "warmup_steps", "final_scale"):
            value = getattr(self, field)
            require(value >= 0, name(field), value, "0 or more")
        require(
            self.schedule in SCHEDULES,
            name("schedule"),
            self.schedule,
            f"one of {', '.join(map(repr, SCHEDULES))}",
        )
        require(
            self.clip_norm is None or self.clip_norm > 0,
            name("clip_norm"),
            self.clip_norm,
            "a number above 0, or None",
        )


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """AdamW with clipping, warm-up and decay over `num_steps` of the block's own steps."""
    peak = config.learning_rate
    decay_steps = max(num_steps - config.warmup_steps, 1)
    after: optax.Schedule
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, decay_steps, alpha=config.final_scale)
    elif config.schedule == "linear":
        after = optax.linear_schedule(peak, peak * config.final_scale, decay_steps)
    else:
        after = optax.constant_schedule(peak)
    warmup = optax.linear_schedule(0.0, peak, max(config.warmup_steps, 1))
    schedule = optax.join_schedules([warmup, after], [config.warmup_steps])
    adamw = optax.adamw(
        schedule, config.b1, config.b2, config.eps, weight_decay=config.weight_decay
    )
    if config.clip_norm is None:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlockState:
    """All that training one block needs to remember.

    Attributes:
        step: the block's own steps so far, an int32 scalar; here as in the other fields, a tree of
            shapes, types or differences holds those instead.
        params: {"interface": ..., "layers": ...}.
        opt_state: optax state of this block alone.
        ema: averaged params, float32 or wider, or None.
    """

    step: Any
    params: Params
    opt_state: Any
    ema: Params | None

    @property
    def weights(self) -> Params:
        """What evaluation and sampling use: the average where there is one."""
        return self.params if self.ema is None else self.ema


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """Pure functions that create and update one block.

    Attributes:
        task: loss and partition.
        optimizer: any optax transformation; each block has its own state of it.
        ema_decay: see `OptimizerConfig`.
        seed: root of every random draw of the run.
    """

    task: Task
    optimizer: optax.GradientTransformation
    ema_decay: float = 0.0
    seed: int = 0

    def init(self, block: int) -> BlockState:
        """The block before its first step; layers and interface depend on the seed alone."""
        params = self.task.init(keys.derive(self.seed, "init"), block)
        return BlockState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=self.optimizer.init(params),
            ema=jax.tree.map(_wide_copy, params) if self.ema_decay else None,
        )

    def update(
        self,
        state: BlockState,
        batch: Batch,
        block: int | Int[Array, ""],
        interval: Float[Array, " 2"],
    ) -> tuple[BlockState, Metrics]:
        """One step on one batch. The block's number only names its random stream."""
        key = keys.derive(self.seed, "step", block, state.step)
        gradient, metrics = jax.grad(self.task.loss, has_aux=True)(
            state.params, batch, interval, key
        )
        updates, opt_state = self.optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            n = state.step.astype(jnp.float32)
            decay = jnp.minimum(self.ema_decay, (1 + n) / (10 + n))
            ema = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, ema, params)
        metrics = {**metrics, "grad_norm": optax.tree.norm(gradient)}
        return BlockState(state.step + 1, params, opt_state, ema), metrics

    def run(
        self,
        state: BlockState,
        batches: Batch,
        block: int | Int[Array, ""],
        interval: Float[Array, " 2"],
    ) -> tuple[BlockState, Metrics]:
        """`update` over the leading axis of `batches`; metrics keep that axis."""

        def body(carry: BlockState, batch: Batch) -> tuple[BlockState, Metrics]:
            return self.update(carry, batch, block, interval)

        return jax.lax.scan(body, state, batches)

    def interval(self, block: int) -> Float[Array, " 2"]:
        """(lower, upper) u that `block` trains on."""
        return jnp.asarray(self.task.partition.intervals[block], jnp.float32)


@dataclasses.dataclass(frozen=True)
class Chunk:
    """What one dispatch did: `num_steps` steps of each block in `metrics`.

    Attributes:
        num_steps: steps done by each of the blocks.
        metrics: block to scalars with a leading axis of length `num_steps`; still on the device,
            so that reading them is what waits for the computation.
    """

    num_steps: int
    metrics: Mapping[int, Metrics]


@runtime_checkable
class Stream(Protocol):
    """Endless batches of one block, a pure function of (seed, block, position)."""

    def take(self, count: int) -> Batch:
        """The next batches, stacked on a new leading axis."""

    def state(self) -> dict[str, Any]:
        """JSON-able position."""

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a position."""


@runtime_checkable
class Placement(Protocol):
    """Where blocks live while they train.

    The contract: with an owned interface every placement gives the same parameters for one seed,
    to float tolerance; closing the iterator that `advance` returns leaves consistent states.
    """

    def advance(self, target: int) -> Generator[Chunk, None, None]:
        """Brings every block to `target` of its own steps, yielding after each dispatch."""

    def state(self, block: int) -> BlockState:
        """The block's current state, wherever it is; the next step may consume its arrays."""

    def step(self, block: int) -> int:
        """The block's own steps so far, without waiting for the device."""


def _wide_copy(leaf: Array) -> Array:
    """A copy in at least float32: in bfloat16 an average would soon stop moving."""
    return jnp.array(leaf, jnp.promote_types(leaf.dtype, jnp.float32), copy=True)


def next_stop(step: int, target: int, every: int) -> int:
    """The next multiple of `every` after `step`, or `target` if that comes first.

    Cutting at absolute multiples makes a resumed run dispatch the very programs it would have.
    """
    return min(target, (step // every + 1) * every)


def interface_leaves(state: BlockState) -> list[Array]:
    """All that belongs to the interface: its weights, optimizer moments and average."""
    return [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state) if _interface(path)]


def with_interface(state: BlockState, leaves: list[Array]) -> BlockState:
    """`state` with `interface_leaves` replaced."""
    new = iter(leaves)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: next(new) if _interface(path) else leaf, state
    )


def average_leaves(blocks: list[list[Array]]) -> list[Array]:
    """Mean over blocks, leaf by leaf: the whole communication of a shared interface."""
    return [sum(leaves[1:], start=leaves[0]) / len(leaves) for leaves in zip(*blocks, strict=True)]


def _interface(path: tuple[Any, ...]) -> bool:
    """Whether a path turns to the interface where a block's tree forks; deeper names are free."""
    fork = (e.key for e in path if getattr(e, "key", None) in ("interface", "layers"))
    return next(fork, None) == "interface"
