"""Classification by blocks: the label's embedding is noised, blocks denoise it given the image.

The tasks of a block-wise classifier and of its twin, which is trained end to end by
back-propagation. Networks are in `dbjax.families`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from dbjax.errors import require
from dbjax.noise import LogNormalNoise, Preconditioning, expand
from dbjax.partition import Partition
from dbjax.task import Batch, Estimate, Metrics, Params, Task, draw_u

BRIDGES = ("soft", "soft_normalised", "hard")
WEIGHTS = ("none", "edm", "batch_scalar")


class Answer(NamedTuple):
    """What a classifier says.

    Attributes:
        logits: [batch, classes].
        statistics: the new ones (see `dbjax.task.Params`), of a network that has any and trains.
    """

    logits: Array
    statistics: Any = None

    def with_statistics(self, metrics: Metrics) -> Metrics:
        """`metrics`, and the new statistics if there are any."""
        return metrics if self.statistics is None else {**metrics, "statistics": self.statistics}


@runtime_checkable
class LabelNetwork(Protocol):
    """A network that reads an image and the noisy embedding of its label."""

    @property
    def width(self) -> int:
        """Of an embedding."""

    def init(self, key: PRNGKeyArray, layers: Sequence[int]) -> Params:
        """As `dbjax.task.Network.init`."""

    def classify(
        self,
        params: Params,
        z: Float[Array, "batch width"],
        c: Preconditioning,
        image: Float[Array, "batch ..."],
        *,
        key: PRNGKeyArray | None = None,
        remat: bool = False,
    ) -> Answer:
        """The label, from its noisy embedding and a normalised image; zeros stand for no image.

        Args:
            params: interface and any consecutive layers.
            z: as it is, not scaled by c_in.
            c: the scalings at its noise.
            image: normalised.
            key: for dropout; None is evaluation.
            remat: see `dbjax.task.Network.apply`.
        """

    def label_table(self, params: Params) -> Float[Array, "classes width"]:
        """Embeddings of the classes, part of the interface."""


@runtime_checkable
class LabelDenoiser(Task, Protocol):
    """A task whose z is the noisy embedding of a label: a classifier that walks to its answer."""

    def embed_label(
        self, params: Params, label: Int[Array, " batch"]
    ) -> Float[Array, "batch width"]:
        """Clean z: the embedding of each label that this block denoises to."""


@dataclasses.dataclass(frozen=True)
class ClassificationConfig:
    """The `classification` section of a config.

    Attributes:
        bridge: from logits back to an embedding, between the steps of inference: `soft`,
            softmax(logits) times the table as it is (the released code); `soft_normalised`, times
            its unit rows, which is what training noises; `hard`, the unit row of the likeliest
            class.
        weight: of the cross entropy: `none`; `edm`, w(sigma) of each example (paper, equation 6);
            `batch_scalar`, the batch's mean of w(sigma) for all (the released code, by accident).
        image_dropout: probability of hiding the image in training, for guidance on it.
    """

    bridge: str = "soft_normalised"
    weight: str = "none"
    image_dropout: float = 0.0

    def __post_init__(self) -> None:
        for field, names in (("bridge", BRIDGES), ("weight", WEIGHTS)):
            value = getattr(self, field)
            allowed = " or ".join(map(repr, names))
            require(value in names, f"classification.{field}", value, allowed)
        value = self.image_dropout
        require(0 <= value < 1, "classification.image_dropout", value, "a number in [0, 1)")


@dataclasses.dataclass(frozen=True, eq=False)
class LabelDenoisingTask:
    """Label-embedding diffusion (paper, section 5.1 and appendix B).

    A batch holds "image" [batch, height, width, channels] in raw units and "label" [batch]. z is
    the noisy embedding of the label, [batch, width], and starts from a row of unit norm.

    Attributes:
        network: raw network F; its condition is the normalised image, zeros for "none".
        noise: log-normal noise.
        partition: who owns which noise and which layers.
        config: bridge, weight, image dropout.
        table: [classes, width] rows of unit norm that never change: what blocks that own their
            interface have in common. None trains the interface's own table, which blocks then
            have to share.
        mean, std: of the raw images, one number or one for each channel.
    """

    network: LabelNetwork
    noise: LogNormalNoise
    partition: Partition
    config: ClassificationConfig
    table: Float[Array, "classes width"] | None = None
    mean: Any = 0.0
    std: Any = 1.0

    def init(self, key: PRNGKeyArray, block: int) -> Params:
        return self.network.init(key, self.partition.layers[block])

    def encode(self, image: Array) -> Float[Array, "..."]:
        """Raw images to zero mean and unit standard deviation."""
        return (image.astype(jnp.float32) - jnp.asarray(self.mean)) / jnp.asarray(self.std)

    def loss(
        self,
        params: Params,
        batch: Batch,
        interval: Float[Array, " 2"],
        key: PRNGKeyArray,
        *,
        remat: bool = False,
    ) -> tuple[Float[Array, ""], Metrics]:
        """Cross entropy of the head on the denoised embedding, weighted as configured."""
        u_key, noise_key, image_key, network_key = jax.random.split(key, 4)
        label = batch["label"]
        y = self.embed_label(params, label)
        sigma = self.noise.level(draw_u(u_key, label.shape, interval))
        z = self.noise.corrupt(noise_key, y, sigma)
        image = self.encode(batch["image"])
        if self.config.image_dropout:
            hide = jax.random.bernoulli(image_key, self.config.image_dropout, label.shape)
            image = jnp.where(expand(hide, image), 0.0, image)
        answer = self._answer(params, z, sigma, image, network_key, remat)
        logits = answer.logits
        entropy = optax.losses.softmax_cross_entropy_with_integer_labels(logits, label)
        weight = self.noise.weight(sigma)
        weights = {"none": 1.0, "edm": weight, "batch_scalar": jnp.mean(weight)}
        loss = jnp.mean(weights[self.config.weight] * entropy)
        metrics = {
            "loss": loss,
            "cross_entropy": jnp.mean(entropy),
            "accuracy": jnp.mean(jnp.argmax(logits, -1) == label),
        }
        return loss, answer.with_statistics(metrics)

    def embed_label(
        self, params: Params, label: Int[Array, " batch"]
    ) -> Float[Array, "batch width"]:
        """Clean z: the unit row of each label."""
        return self._unit_rows(params)[label]

    def prior(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "batch width"]:
        return self.noise.prior(key, (num_samples, self.network.width))

    def denoise(
        self,
        params: Params,
        z: Float[Array, "batch width"],
        level: Float[Array, " batch"],
        condition: Shaped[Array, "batch ..."] | None = None,
        *,
        guidance: float = 1.0,
    ) -> Estimate:
        """Logits at this level, and the embedding that the bridge makes of them.

        Args:
            params: the block.
            z: noisy embeddings.
            level: sigma.
            condition: images in raw units.
            guidance: s of logits_none + s (logits_image - logits_none).
        """
        assert condition is not None
        image = self.encode(condition)
        if guidance == 1.0:
            logits = self._answer(params, z, level, image, None).logits
        else:
            both = self._answer(
                params,
                jnp.concatenate([z, z]),
                jnp.concatenate([level, level]),
                jnp.concatenate([image, jnp.zeros_like(image)]),
                None,
            ).logits
            with_image, without = jnp.split(both, 2)
            logits = without + guidance * (with_image - without)
        return Estimate(self._bridge(params, logits), logits)

    def decode(self, z: Float[Array, "batch width"]) -> Float[Array, "batch width"]:
        """Embeddings are their own units."""
        return z

    def _answer(
        self,
        params: Params,
        z: Float[Array, "batch width"],
        sigma: Float[Array, " batch"],
        image: Float[Array, "batch ..."],
        key: PRNGKeyArray | None,
        remat: bool = False,
    ) -> Answer:
        c = self.noise.precondition(sigma)
        return self.network.classify(params, z, c, image, key=key, remat=remat)

    def _rows(self, params: Params) -> Float[Array, "classes width"]:
        return self.network.label_table(params) if self.table is None else self.table

    def _unit_rows(self, params: Params) -> Float[Array, "classes width"]:
        rows = self._rows(params)
        return rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)

    def _bridge(
        self, params: Params, logits: Float[Array, "batch classes"]
    ) -> Float[Array, "batch width"]:
        if self.config.bridge == "hard":
            return self._unit_rows(params)[jnp.argmax(logits, -1)]
        soft = self.config.bridge == "soft"
        rows = self._rows(params) if soft else self._unit_rows(params)
        return jax.nn.softmax(logits) @ rows


def fixed_table(key: PRNGKeyArray, num_classes: int, width: int) -> Float[Array, "classes width"]:
    """Random rows of unit norm, the targets of blocks that own their interface."""
    rows = jax.random.normal(key, (num_classes, width))
    return rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)


@runtime_checkable
class Classifier(Protocol):
    """A network that classifies in one pass."""

    def init(self, key: PRNGKeyArray, layers: Any) -> Params:
        """As `dbjax.task.Network.init`."""

    def classify(
        self,
        params: Params,
        image: Float[Array, "batch ..."],
        *,
        key: PRNGKeyArray | None = None,
        remat: bool = False,
    ) -> Answer:
        """The label of normalised images."""


@dataclasses.dataclass(frozen=True, eq=False)
class ClassificationTask:
    """The twin: one block, trained by back-propagation through all layers, without noise.

    Its loss ignores the interval. Inference is a walk of one step, whose z is not looked at.

    Attributes:
        network: the classifier.
        noise: of no effect; the partition is one in its coordinate.
        partition: of one block.
        mean, std: of the raw images, one number or one for each channel.
    """

    network: Classifier
    noise: LogNormalNoise
    partition: Partition
    mean: Any = 0.0
    std: Any = 1.0

    def init(self, key: PRNGKeyArray, block: int) -> Params:
        return self.network.init(key, self.partition.layers[block])

    def loss(
        self,
        params: Params,
        batch: Batch,
        interval: Float[Array, " 2"],
        key: PRNGKeyArray,
        *,
        remat: bool = False,
    ) -> tuple[Float[Array, ""], Metrics]:
        """Cross entropy."""
        del interval
        label: Int[Array, " batch"] = batch["label"]
        answer = self._answer(params, batch["image"], key, remat)
        logits = answer.logits
        loss = jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, label))
        accuracy = jnp.mean(jnp.argmax(logits, -1) == label)
        metrics = {"loss": loss, "cross_entropy": loss, "accuracy": accuracy}
        return loss, answer.with_statistics(metrics)

    def prior(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "batch 1"]:
        return jnp.zeros((num_samples, 1))

    def denoise(
        self,
        params: Params,
        z: Float[Array, "batch 1"],
        level: Float[Array, " batch"],
        condition: Shaped[Array, "batch ..."] | None = None,
        *,
        guidance: float = 1.0,
    ) -> Estimate:
        """The logits of raw images; z comes back as it is."""
        assert condition is not None
        return Estimate(z, self._answer(params, condition, None).logits)

    def decode(self, z: Float[Array, "batch 1"]) -> Float[Array, "batch 1"]:
        return z

    def _answer(
        self, params: Params, image: Array, key: PRNGKeyArray | None, remat: bool = False
    ) -> Answer:
        image = (image.astype(jnp.float32) - jnp.asarray(self.mean)) / jnp.asarray(self.std)
        return self.network.classify(params, image, key=key, remat=remat)
