"""How much device memory training needs, read off the compiled programs.

Nothing is allocated and nothing is run: programs are compiled from shapes alone. The figures are
those of the backend that is compiled for.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dbjax.errors import require
from dbjax.placement import PlacementConfig
from dbjax.placement.program import Program
from dbjax.task import Batch
from dbjax.training import BlockState, Trainer

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes on one device at the peak of training.

    Attributes:
        parameters: of the blocks on the device, their interfaces included.
        gradients: of one block, since blocks are updated one after another; as many as what of its
            parameters is trained.
        optimizer: optax state of the blocks on the device.
        average: their averaged weights, 0 without.
        activations: what else is live at the peak: residuals of the forward pass, working space
            and batches.
        total: all of it, from the compiler: arguments, outputs that reuse no argument, and
            temporaries; and what waits on the device beside the program.
    """

    parameters: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    total: int

    @property
    def state(self) -> int:
        """What does not depend on the batch: all but activations."""
        return self.parameters + self.gradients + self.optimizer + self.average


def step_memory(trainer: Trainer, block: int, batch: Batch, num_steps: int = 1) -> StepMemory:
    """Compiles `num_steps` updates of `block` as one program and reads its memory.

    Args:
        trainer: what updates the block.
        block: its number.
        batch: one batch, arrays or their shapes, [batch, ...].
        num_steps: steps, and so batches, in the program.
    """
    state = _shape(trainer, block)
    batches = {k: jax.ShapeDtypeStruct((num_steps, *x.shape), x.dtype) for k, x in batch.items()}
    run = functools.partial(trainer.run, remat=block in trainer.remat)
    lowered = jax.jit(run, donate_argnums=0).lower(
        state, batches, jax.ShapeDtypeStruct((), jnp.int32), trainer.interval(block)
    )
    return _account([state], _gradients(trainer, state), _total(lowered))


def placement_memory(config: PlacementConfig, trainer: Trainer, batch: Batch) -> StepMemory:
    """Compiles what a placement dispatches and reads the memory of each of its devices.

    Beside the program, the batches of the next dispatch are on the device, and in `sequential` with
    `prefetch` a second block's state, while it arrives or leaves.

    Args:
        config: where the blocks live. With `sharded`, jax has to see as many devices.
        trainer: what updates them; all blocks of its partition are trained.
        batch: one batch of one block, arrays or their shapes, [batch, ...].

    Returns:
        Bytes on one device; of `sequential`, during the turn of the block that needs most.

    Raises:
        SettingError: if the blocks or the batch cannot be shared out among the devices as asked.
    """
    blocks = range(trainer.task.partition.num_blocks)
    if config.name in ("stacked", "sharded"):
        return _program_memory(config, trainer, batch, blocks)
    states = [_shape(trainer, b) for b in blocks]
    # Blocks of one shape need the same; a later one replaces the earlier.
    kinds = {str((states[b], b in trainer.remat)): b for b in blocks}
    ahead = config.steps_per_dispatch * _bytes(batch)
    turns = []
    for b in kinds.values():
        step = step_memory(trainer, b, batch, config.steps_per_dispatch)
        others = [states[other] for other in blocks if other != b]
        waits = config.name == "sequential" and config.prefetch and others
        waiting = [max(others, key=_bytes)] if waits else []
        total = step.total + _bytes(waiting) + ahead
        turns.append(_account([states[b], *waiting], step.gradients, total))
    return max(turns, key=lambda turn: turn.total)


def parse_bytes(text: str, name: str) -> int:
    """Bytes of an amount of memory as people write it: 16GiB, 80GB, 1.5GiB, 500MB.

    Args:
        text: a number and a unit, decimal (GB, 10^9 bytes) or binary (GiB, 2^30 bytes).
        name: of the setting, for the refusal.

    Raises:
        SettingError: if it is anything else, or nothing.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]i?B)", text.strip())
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    require(size > 0, name, text, "a number above 0 and a unit, such as 16GiB, 1.5GiB or 500MB")
    return size


def _program_memory(
    config: PlacementConfig, trainer: Trainer, batch: Batch, blocks: Sequence[int]
) -> StepMemory:
    """Of the one program that advances all blocks, on one of its devices."""
    program = Program(config, trainer, tuple(blocks))
    groups, ways = program.layout.mesh.devices.shape
    batch_size = jax.tree.leaves(batch)[0].shape[0]
    require(
        batch_size % ways == 0,
        "data.batch_size",
        batch_size,
        f"a multiple of {ways}, the devices that share out a batch",
    )
    states = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(sharding.shard_shape((groups, *x.shape)), x.dtype),
        program.shapes,
        program.shardings,
    )
    ahead = config.steps_per_dispatch * len(states) * _bytes(batch) // ways
    total = _total(program.lower(config.steps_per_dispatch, batch)) + ahead
    return _account(states, max(_gradients(trainer, state) for state in states), total)


def _account(states: Sequence[BlockState], gradients: int, total: int) -> StepMemory:
    """Shares out `total` bytes, of which `states` and gradients are known."""
    parameters = sum(_bytes(state.params) for state in states)
    optimizer = sum(_bytes(state.opt_state) for state in states)
    average = sum(_bytes(state.ema) for state in states)
    known = parameters + gradients + optimizer + average
    return StepMemory(
        parameters=parameters,
        gradients=gradients,
        optimizer=optimizer,
        average=average,
        activations=max(total - known, 0),
        total=total,
    )


def _total(lowered: jax.stages.Lowered) -> int:
    """Bytes that the program takes on each device."""
    analysis: Any = lowered.compile().memory_analysis()
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )


def _gradients(trainer: Trainer, state: BlockState) -> int:
    return _bytes(trainer.trained(state.params))


def _shape(trainer: Trainer, block: int) -> BlockState:
    return jax.eval_shape(functools.partial(trainer.init, block))


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
