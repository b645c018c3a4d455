"""Forward-Forward (Hinton 2022, arXiv 2212.13345) on the layers of a vision transformer.

Every layer learns from a loss of its own and hands its output on without a gradient: there is one
block, and back-propagation through one layer at a time. The label is an input; a layer shall give
images with their own label a high goodness and images with a wrong one a low goodness, and the
answer is the label with the highest goodness.

Follows the Forward-Forward baseline in the repository of Contrastive Forward-Forward
(HosseinAghagol/ContrastiveFF, `main_FF.py`), with which DiffusionBlocks compares itself, where that
does what it means to. Not taken from it: codes of labels with one entry each instead of a fifth of
them, and drawn anew in every process; an answer from the last layer alone; and tokens of unit norm
in all, so that their mean square falls with their number (here it is 1).
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dbjax.baselines.local import LocalViT, normalised
from dbjax.classification import Answer, ClassificationTask
from dbjax.errors import require
from dbjax.families.vit import Backbone, ViTConfig
from dbjax.task import Batch, Metrics, Params

LOSSES = ("threshold", "symba")


@dataclasses.dataclass(frozen=True)
class ForwardForwardConfig:
    """The `forward_forward` section of a config, for Forward-Forward and its contrastive kin.

    Attributes:
        loss: of a layer, from the goodness g+ with the image's own label and g- with a wrong one.
            `threshold`: softplus(threshold - g+) + softplus(g- - threshold); `symba`:
            softplus(-alpha (g+ - g-)) (Lee and Song 2023).
        threshold: goodness that tells right labels from wrong ones.
        alpha: steepness of `symba`.
        counted_from: first layer, counted from 1, whose goodness counts in the answer. The first
            layer's is left out since it may speak of the label alone (Hinton 2022).
        first_margin, last_margin: contrastive: what is added to the similarity of images of one
            class, in the first layer and in the last; linear in between.
        temperature: contrastive: similarities are divided by it.
    """

    loss: str = "threshold"
    threshold: float = 2.0
    alpha: float = 1.0
    counted_from: int = 2
    first_margin: float = 0.4
    last_margin: float = 0.1
    temperature: float = 0.15

    def __post_init__(self) -> None:
        name = "forward_forward.{}".format
        require(self.loss in LOSSES, name("loss"), self.loss, " or ".join(map(repr, LOSSES)))
        for field in ("threshold", "alpha", "temperature"):
            value = getattr(self, field)
            require(value > 0, name(field), value, "a number above 0")
        require(self.counted_from >= 1, name("counted_from"), self.counted_from, "1 or more")
        for field in ("first_margin", "last_margin"):
            value = getattr(self, field)
            require(0 <= value < 2, name(field), value, "a number in [0, 2)")


class LabelledPatches(Backbone):
    """The embedding of patches, and of the token in front of them that is the label."""

    def __init__(
        self, config: ViTConfig, image_shape: tuple[int, int, int], rngs: nnx.Rngs
    ) -> None:
        super().__init__(config, image_shape, class_token=False, label_token=True, rngs=rngs)
        # Nothing is read from the last tokens but their goodness.
        del self.norm


class ForwardForwardViT(LocalViT):
    """Layers that tell right labels from wrong ones.

    A label is a token in front of the patches: a code of as many values as a patch, embedded as the
    patches are. There is no head.
    """

    def __init__(
        self,
        config: ViTConfig,
        image_shape: tuple[int, int, int],
        codes: Float[Array, "classes values"],
        settings: ForwardForwardConfig,
    ) -> None:
        """Fixes the network's shape.

        Args:
            config: the model; its layout is not looked at.
            image_shape: (height, width, channels) of the images to classify.
            codes: of the labels, as from `label_codes`; never trained.
            settings: loss and answer.

        Raises:
            SettingError: if the images cannot be cut into patches of the configured size, or no
                layer counts.
        """
        require(
            settings.counted_from <= config.depth,
            "forward_forward.counted_from",
            settings.counted_from,
            f"1 to {config.depth}, the number of layers",
        )
        super().__init__(
            config,
            functools.partial(LabelledPatches, config, image_shape),
        )
        self.codes, self.settings = codes, settings

    def embed(
        self, interface: Any, examples: Mapping[str, Array], key: PRNGKeyArray | None
    ) -> Float[Array, "batch tokens width"]:
        label = interface.patches(self.codes[examples["label"]]).astype(jnp.float32)
        return interface.embed(examples["image"], label, key)

    def judge(
        self,
        tokens: Float[Array, "batch tokens width"],
        examples: Mapping[str, Array],
        position: int | Int[Array, ""],
    ) -> tuple[Float[Array, ""], tuple[Float[Array, "batch tokens width"], Metrics]]:
        """Of a batch whose first half has right labels, its second the same images and wrong."""
        right, wrong = jnp.split(goodness(tokens), 2)
        threshold = self.settings.threshold
        if self.settings.loss == "symba":
            loss = jax.nn.softplus(-self.settings.alpha * (right - wrong))
        else:
            loss = jax.nn.softplus(threshold - right) + jax.nn.softplus(wrong - threshold)
        metrics = {
            "right_above_threshold": jnp.mean(right > threshold),
            "wrong_above_threshold": jnp.mean(wrong > threshold),
            "right_above_wrong": jnp.mean(right > wrong),
        }
        return jnp.mean(loss), (scaled(tokens), metrics)

    def classify(
        self,
        params: Params,
        image: Float[Array, "batch height width channels"],
        *,
        key: PRNGKeyArray | None = None,
        remat: bool = False,
    ) -> Answer:
        """Goodness with every label, summed over the layers that count: one pass for each label."""
        del remat
        interface = self.interface(params)

        def step(tokens: Array, layer: Any) -> tuple[Array, Array]:
            tokens = self.layer(layer, tokens, key)
            return scaled(tokens), goodness(tokens)

        def total(label: Int[Array, ""]) -> Float[Array, " batch"]:
            labels = jnp.full(len(image), label)
            tokens = self.embed(interface, {"image": image, "label": labels}, key)
            _, found = jax.lax.scan(step, tokens, params["layers"])
            return jnp.sum(found[self.settings.counted_from - 1 :], axis=0)

        # One label after another: all at once would take the memory of so many batches.
        return Answer(jax.lax.map(total, jnp.arange(len(self.codes))).T)


@dataclasses.dataclass(frozen=True, eq=False)
class ForwardForwardTask(ClassificationTask):
    """Forward-Forward with labels: wrong ones are drawn evenly from all others.

    A batch holds "image" [batch, height, width, channels] in raw units and "label" [batch]. The
    logits of `denoise` are goodness, not calibrated in any way. Gradients never leave a layer, and
    AdamW treats each number by itself, so one optimizer is as good as one for each layer, provided
    that `optimizer.clip_norm` is None.
    """

    network: ForwardForwardViT

    def loss(
        self,
        params: Params,
        batch: Batch,
        interval: Float[Array, " 2"],
        key: PRNGKeyArray,
        *,
        remat: bool = False,
    ) -> tuple[Float[Array, ""], Metrics]:
        """Sum of the layers' losses; `remat` makes no difference, see `dbjax.baselines.local`."""
        del interval, remat
        label_key, network_key = jax.random.split(key)
        label, classes = batch["label"], len(self.network.codes)
        wrong = (label + jax.random.randint(label_key, label.shape, 1, classes)) % classes
        image = normalised(batch["image"], self.mean, self.std)
        examples = {
            "image": jnp.concatenate([image, image]),
            "label": jnp.concatenate([label, wrong]),
        }
        loss, _, metrics = self.network.train(params, examples, network_key)
        return loss, {"loss": loss, **metrics}


def goodness(tokens: Float[Array, "batch tokens width"]) -> Float[Array, " batch"]:
    """Mean square of the mean patch token; the first token is the label's and does not count."""
    return jnp.mean(jnp.mean(tokens[:, 1:], axis=1) ** 2, axis=-1)


def scaled(tokens: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
    """The tokens of each image together at mean square 1: goodness is not handed on as a length."""
    return tokens * jax.lax.rsqrt(jnp.mean(tokens**2, axis=(1, 2), keepdims=True) + 1e-12)


def label_codes(
    key: PRNGKeyArray, num_classes: int, patch_size: int, channels: int, peak: float
) -> Float[Array, "classes values"]:
    """A code for each class: a random fifth of its values at `peak`, the others 0.

    Args:
        key: what to draw from.
        num_classes: no two classes have the same code.
        patch_size: side of a patch in pixels.
        channels: of the images; a code has as many values as a patch.
        peak: the largest value of a normalised image.

    Raises:
        SettingError: if patches are too small for that many codes.
    """
    num_values = patch_size * patch_size * channels
    lit = max(round(num_values / 5), 1)
    codes = math.comb(num_values, lit)
    require(
        codes >= num_classes,
        "model.patch_size",
        patch_size,
        f"patches large enough for {num_classes} different codes of labels "
        f"({lit} of {num_values} values can be chosen in {codes} ways)",
    )
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    places: dict[tuple[int, ...], None] = {}
    while len(places) < num_classes:
        places[tuple(sorted(rng.choice(num_values, lit, replace=False).tolist()))] = None
    table = np.zeros((num_classes, num_values), np.float32)
    np.put_along_axis(table, np.array(list(places)), peak, axis=1)
    return jnp.asarray(table)
