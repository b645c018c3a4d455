"""The one trainer: a pure update of one block, and what a placement must offer to run it.

End-to-end training is this trainer with one block. Where blocks live is the business of
`dbjax.placement`; nothing here knows how many blocks there are besides the one it updates.
"""

import dataclasses
from collections.abc import Collection, Generator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from dbjax import keys
from dbjax.errors import require
from dbjax.task import Batch, Metrics, Params, Task


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlockState:
    """All that training one block needs to remember.

    Attributes:
        step: the block's own steps so far, an int32 scalar; here as in the other fields, a tree of
            shapes, types or differences holds those instead.
        params: {"interface": ..., "layers": ...} and, if there are any, "statistics" of the layers
            and the "context" borrowed from other blocks.
        opt_state: optax state of this block alone, for what of `params` is trained.
        ema: averaged params, float32 or wider, or None.
    """

    step: Any
    params: Params
    opt_state: Any
    ema: Any

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
        ema_decay: see `dbjax.optimizer.OptimizerConfig`.
        seed: root of every random draw of the run, from 0.
        freeze_interface: train the layers only; the interface stays as it is.
        remat: blocks that keep each layer's input only and compute the rest again in the backward
            pass.
    """

    task: Task
    optimizer: optax.GradientTransformation
    ema_decay: float = 0.0
    seed: int = 0
    freeze_interface: bool = False
    remat: Collection[int] = ()

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, "seed", self.seed, "a whole number from 0 to 2^31 - 1")

    def init(self, block: int) -> BlockState:
        """The block before its first step; layers and interface depend on the seed alone."""
        return self.begin(self.task.init(keys.derive(self.seed, "init"), block))

    def begin(self, params: Params) -> BlockState:
        """The block before its first step, from given weights."""
        return BlockState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=self.optimizer.init(self.trained(params)),
            ema=jax.tree.map(_wide_copy, params) if self.ema_decay else None,
        )

    def update(
        self,
        state: BlockState,
        batch: Batch,
        block: int | Int[Array, ""],
        interval: Float[Array, " 2"],
        *,
        remat: bool = False,
    ) -> tuple[BlockState, Metrics]:
        """One step on one batch.

        The block's number only names its random stream, so that one compiled program serves all
        blocks of one shape; `remat` is part of the program.
        """
        key = keys.derive(self.seed, "step", block, state.step)
        trained = self.trained(state.params)

        def loss(trained: Params) -> tuple[Float[Array, ""], Metrics]:
            return self.task.loss({**state.params, **trained}, batch, interval, key, remat=remat)

        gradient, metrics = jax.grad(loss, has_aux=True)(trained)
        updates, opt_state = self.optimizer.update(gradient, state.opt_state, trained)
        params = {**state.params, **optax.apply_updates(trained, updates)}
        if "statistics" in params:
            params["statistics"] = metrics.pop("statistics")
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
        *,
        remat: bool = False,
    ) -> tuple[BlockState, Metrics]:
        """`update` over the leading axis of `batches`; metrics keep that axis."""

        def body(carry: BlockState, batch: Batch) -> tuple[BlockState, Metrics]:
            return self.update(carry, batch, block, interval, remat=remat)

        return jax.lax.scan(body, state, batches)

    def interval(self, block: int) -> Float[Array, " 2"]:
        """(lower, upper) u that `block` trains on."""
        return jnp.asarray(self.task.partition.intervals[block], jnp.float32)

    def trained(self, params: Params) -> Params:
        """The part of a block's parameters that is trained."""
        names = ("layers",) if self.freeze_interface else ("interface", "layers")
        return {name: params[name] for name in names}


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
