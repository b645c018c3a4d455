"""Loss as a function of the noise, each level seen by the block that owns it, and what follows.

Time warping (Dieleman et al. 2022, arXiv 2211.15089, section 4.2) spends training where the cross
entropy of discrete targets falls. Here the density stays log-normal, so that two numbers say it.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special
from jaxtyping import Array, Float, PRNGKeyArray

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
        Rows of u, level (as the noise names it: "sigma"), block, loss, and the cross entropy of
        tasks that tell it, noisiest first.
    """
    examples = to_device(batch)
    told = ("loss", "cross_entropy")

    @jax.jit
    def look(params: Params, interval: Float[Array, " 2"], key: PRNGKeyArray) -> dict[str, Array]:
        _, metrics = task.loss(params, examples, interval, key)
        return {name: metrics[name] for name in told if name in metrics}

    rows = []
    for u in (np.arange(num_levels) + 0.5) / num_levels:
        block = task.partition.block_of(float(u))
        interval = jnp.full(2, u, jnp.float32)
        values = look(to_device(blocks[block]), interval, keys.derive(seed, "evaluate"))
        level = float(task.noise.level(u))
        named = {task.noise.level_name: level}
        rows.append({"u": float(u), **named, "block": block, **_floats(values)})
    return rows


def fit_log_normal(
    sigma: Float[np.ndarray, " levels"], entropy: Float[np.ndarray, " levels"]
) -> tuple[float, float, float]:
    """The log-normal density under which the cross entropy falls evenly in u.

    Args:
        sigma: noise levels, falling, from where z tells nothing to where it tells all.
        entropy: cross entropy at each of them, in nats.

    Returns:
        `noise.p_mean`, `noise.p_std`, and how far, at most, the share of the entropy that is left
        is from the share of the density that is.
    """
    left = entropy / entropy[0]

    def mass(x: np.ndarray, mean: float, std: float) -> np.ndarray:
        return np.asarray(scipy.special.ndtr((x - mean) / std))

    x = np.log(sigma)
    middle = float(x[np.argmin(np.abs(left - 0.5))])
    bounds = ([-np.inf, 0.01], np.inf)
    (mean, std), _ = scipy.optimize.curve_fit(mass, x, left, p0=(middle, 1.0), bounds=bounds)
    return float(mean), float(std), float(np.max(np.abs(mass(x, mean, std) - left)))


def equal_loss_edges(
    u: Float[np.ndarray, " levels"], entropy: Float[np.ndarray, " levels"], num_blocks: int
) -> Float[np.ndarray, " edges"]:
    """`partition.edges` of blocks that have equal shares of the cross entropy, summed over u."""
    inner = np.concatenate([[0.0], (u[1:] + u[:-1]) / 2, [1.0]])
    summed = np.concatenate([[0.0], np.cumsum(entropy * np.diff(inner))])
    shares = np.arange(num_blocks + 1) / num_blocks
    return np.interp(shares, summed / summed[-1], inner)


def _floats(values: Mapping[str, Array]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}
