"""The denoising loss in nats: what a model of blocks knows of data, level by level.

With z = y + sigma eps, a denoiser that is worse than the best one by the squared error e(sigma) is
worth, to a sampler that follows the reverse diffusion, a divergence from the data of at most

    KL <= integral of e(sigma) / sigma^2 d ln sigma

(Song et al. 2021, arXiv 2101.09258, theorem 1, for dz = sqrt(d sigma^2 / dt) dw; it is the
continuous-time bound of Kingma et al. 2021, arXiv 2107.00630, section 5.1, where the signal to
noise ratio is 1 / sigma^2). It is a sum over levels, and the best denoiser drops out of the
difference of two models. Cut off at some sigma, the integral bounds the divergence of data and
samples that are both blurred by that much noise: of images it ends at one step of their values,
below which nothing can be seen.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from dbjax import keys
from dbjax.devices import to_device
from dbjax.errors import require
from dbjax.task import Batch, DenoisingTask, Params


@dataclasses.dataclass(frozen=True, eq=False)
class DenoisingLoss:
    """Where the loss is, in nats per value of an example (a pixel in one colour).

    Attributes:
        u: share of the training mass already denoised, rising, in even steps of ln sigma.
        sigma: the same as noise level.
        nats: what each level adds to the integral, in each group of examples.
    """

    u: Float[np.ndarray, " levels"]
    sigma: Float[np.ndarray, " levels"]
    nats: Float[np.ndarray, "groups levels"]

    @property
    def total(self) -> float:
        """The integral, over all examples."""
        return float(self.nats.sum(axis=1).mean())

    @property
    def error(self) -> float:
        """Its standard error over groups of examples."""
        return standard_error(self.nats.sum(axis=1))


def denoising_loss(
    task: DenoisingTask,
    blocks: Mapping[int, Params],
    batch: Batch,
    *,
    lowest: float = 0.0,
    num_levels: int = 32,
    num_groups: int = 32,
    seed: int = 0,
) -> DenoisingLoss:
    """The loss of each level by the block that owns it.

    Noise and hidden labels depend on seed, level and group alone: models that are asked with the
    same examples are compared under common random numbers.

    Args:
        task: loss, noise and partition.
        blocks: weights of every block.
        batch: examples that were not trained on.
        lowest: sigma at which the integral ends, where that is above the lowest level.
        num_levels: steps of ln sigma.
        num_groups: of examples, whose spread tells the error; what does not fill a group is left
            out.
        seed: of the noise.

    Raises:
        SettingError: if there are fewer examples than groups.
    """
    noise = task.noise
    size = len(next(iter(batch.values()))) // num_groups
    require(size >= 1, "number of examples", size * num_groups, f"{num_groups} or more")
    groups = to_device(
        {
            name: np.asarray(x)[: size * num_groups].reshape(num_groups, size, *x.shape[1:])
            for name, x in batch.items()
        }
    )

    @jax.jit
    def look(
        params: Params, groups: Batch, interval: Float[Array, " 2"], key: PRNGKeyArray
    ) -> Float[Array, " groups"]:
        def loss(batch: Batch, key: PRNGKeyArray) -> Float[Array, ""]:
            return task.loss(params, batch, interval, key)[0]

        return jax.vmap(loss)(groups, jax.random.split(key, num_groups))

    clean = np.log(max(lowest, noise.sigma_min))
    ends = np.linspace(float(noise.natural(0.0)), clean, num_levels + 1)
    u = np.asarray(noise.u_of_natural((ends[1:] + ends[:-1]) / 2))
    columns = []
    for level, at in enumerate(u):
        params = to_device(blocks[task.partition.block_of(float(at))])
        key = keys.derive(seed, "evaluate", level)
        columns.append(np.asarray(look(params, groups, jnp.full(2, at, jnp.float32), key)))
    sigma = np.asarray(noise.level(u))
    # The training loss of a level is its squared error times w(sigma).
    error = np.stack(columns, axis=1) / np.asarray(noise.weight(jnp.asarray(sigma, jnp.float32)))
    return DenoisingLoss(u, sigma, error * (ends[0] - ends[-1]) / num_levels / sigma**2)


def standard_error(values: Float[np.ndarray, " count"]) -> float:
    """Of the mean of independent values; infinite for a single one."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("inf")
