"""Loss as a function of the noise, each level seen by the block that owns it."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from dbjax import keys
from dbjax.devices import to_device
from dbjax.task import Batch, Params, Task


def loss_over_noise(
    task: Task, blocks: Mapping[int, Params], batch: Batch, *, num_levels: int = 30, seed: int = 0
) -> list[dict[str, float]]:
    """Training loss at even shares u of the training mass, each by its own block.

    Args:
        task: loss, noise and partition.
        blocks: weights of every block.
        batch: examples, the same at every level.
        num_levels: how many levels.
        seed: of the noise, the same at every level.

    Returns:
        Rows of u, level (as the noise names it: "sigma"), block and loss, noisiest first.
    """
    examples = to_device(batch)
    loss = jax.jit(lambda params, interval, key: task.loss(params, examples, interval, key)[0])
    rows = []
    for u in (np.arange(num_levels) + 0.5) / num_levels:
        block = task.partition.block_of(float(u))
        interval = jnp.full(2, u, jnp.float32)
        value = loss(to_device(blocks[block]), interval, keys.derive(seed, "evaluate"))
        level = float(task.noise.level(u))
        named = {task.noise.level_name: level}
        rows.append({"u": float(u), **named, "block": block, "loss": float(value)})
    return rows
