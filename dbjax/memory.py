"""How much memory one block's training step needs, read off the compiled program.

Nothing is allocated and nothing is run: the step is compiled from shapes alone.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from dbjax.task import Batch
from dbjax.training import Trainer


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes of one update of one block.

    Attributes:
        parameters: of the block, its interface included.
        gradients: as many as parameters.
        optimizer: optax state.
        average: averaged weights, 0 without.
        activations: what else is live at the peak: residuals of the forward pass, working space
            and the batch.
        total: all of it, from the compiler: arguments, outputs that reuse no argument, and
            temporaries.
    """

    parameters: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    total: int


def step_memory(trainer: Trainer, block: int, batch: Batch) -> StepMemory:
    """Compiles the update of `block` for batches shaped like `batch` and reads its memory."""
    state = jax.eval_shape(functools.partial(trainer.init, block))
    update = functools.partial(trainer.update, remat=block in trainer.remat)
    compiled = (
        jax.jit(update, donate_argnums=0)
        .lower(state, batch, jax.ShapeDtypeStruct((), jnp.int32), trainer.interval(block))
        .compile()
    )
    analysis: Any = compiled.memory_analysis()
    total = (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )
    parameters = _bytes(state.params)
    known = 2 * parameters + _bytes(state.opt_state) + _bytes(state.ema)
    return StepMemory(
        parameters=parameters,
        gradients=parameters,
        optimizer=_bytes(state.opt_state),
        average=_bytes(state.ema),
        activations=max(total - known, 0),
        total=total,
    )


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
