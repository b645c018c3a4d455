"""What trainer, placements and sampler ask of a family of networks: the `Task`.

A family supplies a `Network` (pure functions around residual layers) and a `Task` (loss and
denoiser around the network). Nothing above this file knows which family it runs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dbjax.noise import LogNormalNoise, NoiseProcess, expand
from dbjax.partition import Partition

Params = Mapping[str, Any]
"""One block's parameters: {"interface": tree, "layers": tree}.

The layers are a tuple with one tree for each, or one tree whose arrays have them as leading axis.
Either way blocks can be taken apart into layers and put together (see `dbjax.parts`).

Layers that measure something while they train and do not learn it (the running moments of
BatchNorm) have it in a third tree, "statistics", arranged as the layers are. Blocks that read the
context through layers of others have copies of them in "context" (see `dbjax.exchange`)."""
Batch = Mapping[str, Any]
"""Arrays with a leading batch axis, on the host or the device."""
Metrics = dict[str, Array]


@runtime_checkable
class Network(Protocol):
    """A residual network cut at its layers.

    The interface is everything that is not a residual layer: input embedding, noise and label
    embeddings, head. Each block has its own copy (see `Task`).
    """

    @property
    def depth(self) -> int:
        """Number of residual layers."""

    def init(self, key: PRNGKeyArray, layers: Sequence[int]) -> Params:
        """Fresh parameters of the interface and of the layers with the given indices.

        Layer i is drawn from (key, i) alone, so a cut network starts from the uncut one's weights.
        """

    def apply(
        self,
        params: Params,
        z: Array,
        c_noise: Array,
        condition: Any = None,
        *,
        key: PRNGKeyArray | None = None,
        remat: bool = False,
    ) -> Array:
        """Raw output F of the interface around the layers in `params`.

        Args:
            params: interface and any consecutive layers.
            z: [batch, ...] network input, already scaled.
            c_noise: [batch] noise level as the network reads it.
            condition: what the family conditions on, or None.
            key: for dropout; None is evaluation.
            remat: keep each layer's input only for the backward pass (`jax.checkpoint`).
        """


class Estimate(NamedTuple):
    """What a denoiser says about the clean data.

    Attributes:
        clean: D(z, level), in the space of z; for masked tokens the likeliest ones.
        logits: for discrete targets, the logits behind it.
    """

    clean: Array
    logits: Array | None = None


@runtime_checkable
class Task(Protocol):
    """One family under one partition: everything the trainer and the sampler call.

    A block is a tree of parameters; which layers it holds can be read off the tree, so no method
    but `init` asks for the block's number, and all but the layer count may be vmapped over blocks.
    """

    @property
    def noise(self) -> NoiseProcess:
        """The noise process whose coordinate u the partition splits."""

    @property
    def partition(self) -> Partition:
        """Who owns which noise and which layers."""

    def init(self, key: PRNGKeyArray, block: int) -> Params:
        """Fresh parameters of one block; the interface is the same for all blocks of one key."""

    def loss(
        self,
        params: Params,
        batch: Batch,
        interval: Float[Array, " 2"],
        key: PRNGKeyArray,
        *,
        remat: bool = False,
    ) -> tuple[Float[Array, ""], Metrics]:
        """Training loss of one block, and scalars worth logging.

        Where `params` have "statistics", the new ones are among the scalars under that name.

        Args:
            params: the block.
            batch: arrays with a leading batch axis.
            interval: (lower, upper) u; levels are drawn uniformly from it. Two equal ends give the
                loss at that level.
            key: all randomness of the step.
            remat: see `Network.apply`.
        """

    def prior(self, key: PRNGKeyArray, num_samples: int) -> Array:
        """z at u = 0: [num_samples, ...]."""

    def denoise(
        self,
        params: Params,
        z: Array,
        level: Float[Array, " batch"],
        condition: Any = None,
        *,
        guidance: float = 1.0,
    ) -> Estimate:
        """The block's estimate of the clean data behind z at `level`."""

    def decode(self, z: Array) -> Array:
        """Clean z in the units of the data."""


def draw_u(
    key: PRNGKeyArray, shape: tuple[int, ...], interval: Float[Array, " 2"]
) -> Float[Array, "..."]:
    """Uniform u in [interval[0], interval[1]]."""
    lower, upper = interval[0], interval[1]
    return jnp.clip(lower + (upper - lower) * jax.random.uniform(key, shape), lower, upper)


def spread_u(key: PRNGKeyArray, count: int, interval: Float[Array, " 2"]) -> Float[Array, " count"]:
    """`count` values of u, each uniform in the interval, and together evenly spread over it.

    One draw shifts an even grid, which lowers the variance of a mean over them (Kingma et al. 2021,
    arXiv 2107.00630, appendix I.1).
    """
    lower, upper = interval[0], interval[1]
    share = (jax.random.uniform(key) + jnp.arange(count) / count) % 1.0
    return jnp.clip(lower + (upper - lower) * share, lower, upper)


@dataclasses.dataclass(frozen=True, eq=False)
class DenoisingTask:
    """Generation of continuous data: EDM-preconditioned L2 denoising (paper, equations 2 and 6).

    A batch holds "image" [batch, *image_shape] in raw units and, for conditional models, "label"
    [batch] in 0..num_classes-1. An image may have any shape: the points of a toy problem do too.

    Attributes:
        network: raw network F; its condition is the label, with `num_classes` for "none".
        noise: log-normal noise.
        partition: who owns which noise and which layers.
        image_shape: shape of one clean sample.
        num_classes: 0 for unconditional models.
        label_dropout: probability of hiding the label in training, for guidance.
        mean, std: of the raw data; the model sees (image - mean) / std * sigma_data.
    """

    network: Network
    noise: LogNormalNoise
    partition: Partition
    image_shape: tuple[int, ...]
    num_classes: int = 0
    label_dropout: float = 0.1
    mean: float = 0.0
    std: float = 1.0

    def init(self, key: PRNGKeyArray, block: int) -> Params:
        return self.network.init(key, self.partition.layers[block])

    def encode(self, image: Array) -> Float[Array, "..."]:
        """Raw data to the model's units, standard deviation sigma_data."""
        return (image.astype(jnp.float32) - self.mean) * (self.noise.sigma_data / self.std)

    def decode(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        """Inverse of `encode`."""
        return y * (self.std / self.noise.sigma_data) + self.mean

    def loss(
        self,
        params: Params,
        batch: Batch,
        interval: Float[Array, " 2"],
        key: PRNGKeyArray,
        *,
        remat: bool = False,
    ) -> tuple[Float[Array, ""], Metrics]:
        """E[w(sigma) |D(y + sigma eps, sigma) - y|^2], averaged over elements."""
        u_key, noise_key, label_key, network_key = jax.random.split(key, 4)
        y = self.encode(batch["image"])
        sigma = self.noise.level(draw_u(u_key, y.shape[:1], interval))
        z = self.noise.corrupt(noise_key, y, sigma)
        label = None
        if self.num_classes:
            hide = jax.random.bernoulli(label_key, self.label_dropout, y.shape[:1])
            label = jnp.where(hide, self.num_classes, batch["label"])
        clean = self._denoise(params, z, sigma, label, network_key, remat)
        error = jnp.mean((clean - y) ** 2, axis=tuple(range(1, y.ndim)))
        loss = jnp.mean(self.noise.weight(sigma) * error)
        return loss, {"loss": loss}

    def prior(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "batch ..."]:
        return self.noise.prior(key, (num_samples, *self.image_shape))

    def denoise(
        self,
        params: Params,
        z: Float[Array, "batch ..."],
        level: Float[Array, " batch"],
        condition: Int[Array, " batch"] | None = None,
        *,
        guidance: float = 1.0,
    ) -> Estimate:
        """D(z, sigma); with guidance s: D_null + s (D_label - D_null) (Ho & Salimans 2022)."""
        if condition is None or guidance == 1.0:
            return Estimate(self._denoise(params, z, level, condition, None))
        null = jnp.full_like(condition, self.num_classes)
        both = self._denoise(
            params,
            jnp.concatenate([z, z]),
            jnp.concatenate([level, level]),
            jnp.concatenate([condition, null]),
            None,
        )
        with_label, without = jnp.split(both, 2)
        return Estimate(without + guidance * (with_label - without))

    def _denoise(
        self,
        params: Params,
        z: Float[Array, "batch ..."],
        sigma: Float[Array, " batch"],
        label: Int[Array, " batch"] | None,
        key: PRNGKeyArray | None,
        remat: bool = False,
    ) -> Float[Array, "batch ..."]:
        c = self.noise.precondition(sigma)
        raw = self.network.apply(
            params, expand(c.c_in, z) * z, c.c_noise, label, key=key, remat=remat
        )
        return expand(c.c_skip, z) * z + expand(c.c_out, z) * raw
