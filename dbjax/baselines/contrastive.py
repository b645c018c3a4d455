"""Contrastive Forward-Forward (Aghagolzadeh and Ezoji 2025, arXiv 2502.00571).

Every layer of a vision transformer learns, from a loss of its own, to give images of one class
similar features; nothing is told of labels but which images share one. A linear head reads the last
layer. Follows the published code (HosseinAghagol/ContrastiveFF, `main_CFF.py`) but for these: its
layers are trained first and the head in a second stage, on the frozen layers, while here both
happen in the same steps, the head reading features that no gradient of its passes; the head learns
from both views; and patches are embedded as in `dbjax.families.vit`, without a ReLU.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dbjax.baselines.forward_forward import ForwardForwardConfig
from dbjax.baselines.local import LocalViT, normalised
from dbjax.classification import Answer, ClassificationTask
from dbjax.families.vit import Backbone, ViTConfig
from dbjax.nn.dropout import split_key
from dbjax.nn.linear import normal_linear
from dbjax.task import Batch, Metrics, Params


class HeadedPatches(Backbone):
    """The embedding of patches, and a linear head on the mean of the last tokens."""

    def __init__(
        self, config: ViTConfig, image_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs
    ) -> None:
        super().__init__(config, image_shape, class_token=False, label_token=False, rngs=rngs)
        self.classifier = normal_linear(config.width, num_classes, dtype=jnp.float32, rngs=rngs)

    def head(self, tokens: Float[Array, "batch tokens width"]) -> Float[Array, "batch classes"]:
        """Logits."""
        return self.classifier(self.norm(jnp.mean(tokens, axis=1)))


class ContrastiveViT(LocalViT):
    """Layers that bring images of one class together, without class token or label."""

    def __init__(
        self,
        config: ViTConfig,
        image_shape: tuple[int, int, int],
        num_classes: int,
        settings: ForwardForwardConfig,
    ) -> None:
        """Fixes the network's shape.

        Args:
            config: the model; its layout is not looked at.
            image_shape: (height, width, channels) of the images to classify.
            num_classes: number of classes.
            settings: margins and temperature.

        Raises:
            SettingError: if the images cannot be cut into patches of the configured size.
        """
        super().__init__(config, functools.partial(HeadedPatches, config, image_shape, num_classes))
        self._margins = np.linspace(
            settings.first_margin, settings.last_margin, config.depth, dtype=np.float32
        )
        self._temperature = settings.temperature

    def embed(
        self, interface: Any, examples: Mapping[str, Array], key: PRNGKeyArray | None
    ) -> Float[Array, "batch tokens width"]:
        return interface.embed(examples["image"], None, key)

    def judge(
        self,
        tokens: Float[Array, "batch tokens width"],
        examples: Mapping[str, Array],
        position: int | Int[Array, ""],
    ) -> tuple[Float[Array, ""], tuple[Float[Array, "batch tokens width"], Metrics]]:
        """Tokens are handed on as they are."""
        loss = contrastive_loss(
            jnp.mean(tokens, axis=1),
            examples["label"],
            margin=jnp.asarray(self._margins)[position],
            temperature=self._temperature,
        )
        return loss, (tokens, {"contrastive": loss})

    def classify(
        self,
        params: Params,
        image: Float[Array, "batch height width channels"],
        *,
        key: PRNGKeyArray | None = None,
        remat: bool = False,
    ) -> Answer:
        """The head on the last layer."""
        embed_key, layers_key = split_key(key, 2)
        interface = self.interface(params)
        tokens = interface.embed(image, None, embed_key)
        tokens = self.run_layers(params, tokens, key=layers_key, remat=remat)
        return Answer(interface.head(tokens))


@dataclasses.dataclass(frozen=True, eq=False)
class ContrastiveForwardForwardTask(ClassificationTask):
    """Contrastive Forward-Forward with labels, and its head.

    A batch holds two views of each image, "image" [batch, 2, height, width, channels] in raw units,
    and "label" [batch]. Of one optimizer for all layers the same holds as in
    `dbjax.baselines.forward_forward.ForwardForwardTask`.
    """

    network: ContrastiveViT

    def loss(
        self,
        params: Params,
        batch: Batch,
        interval: Float[Array, " 2"],
        key: PRNGKeyArray,
        *,
        remat: bool = False,
    ) -> tuple[Float[Array, ""], Metrics]:
        """Sum of the layers' losses and of the head's; `remat` makes no difference."""
        del interval, remat
        views = normalised(batch["image"], self.mean, self.std)
        image = views.reshape(-1, *views.shape[2:])
        label = jnp.repeat(batch["label"], views.shape[1])
        layers, tokens, metrics = self.network.train(params, {"image": image, "label": label}, key)
        logits = self.network.interface(params).head(jax.lax.stop_gradient(tokens))
        entropy = jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, label))
        loss = layers + entropy
        return loss, {
            "loss": loss,
            **metrics,
            "cross_entropy": entropy,
            "accuracy": jnp.mean(jnp.argmax(logits, -1) == label),
        }


def contrastive_loss(
    features: Float[Array, "batch width"],
    label: Int[Array, " batch"],
    *,
    margin: float | Float[Array, ""],
    temperature: float,
) -> Float[Array, ""]:
    """Supervised contrastive loss (Khosla et al. 2020, equation 2) with a margin.

    Each example is to be told, among all others, to belong with those of its class, by the cosine
    of their features. The cosine with one of its class counts for `margin` more, but for no more
    than 1: pairs that close are left alone. A larger margin therefore asks for less.

    Args:
        features: not normalised.
        label: each one at least twice, as two views of an image make sure of.
        margin: in units of the cosine.
        temperature: cosines are divided by it.

    Returns:
        Mean over the examples.
    """
    square = jnp.sum(features**2, axis=1, keepdims=True)
    unit = features * jax.lax.rsqrt(square + 1e-12)
    cosine = unit @ unit.T
    other = ~jnp.eye(len(label), dtype=bool)
    kin = (label[:, None] == label[None, :]) & other
    cosine = jnp.where(kin, jnp.minimum(cosine + margin, 1.0), cosine)
    log_share = jax.nn.log_softmax(jnp.where(other, cosine / temperature, -jnp.inf))
    return -jnp.mean(jnp.sum(jnp.where(kin, log_share, 0.0), axis=1) / jnp.sum(kin, axis=1))
