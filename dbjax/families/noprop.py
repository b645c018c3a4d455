"""The convolutional network of NoProp (arXiv 2503.24322, figure 6), one whole network a layer.

Each network reads an image and a noisy embedding of its label, and says which label it was. A block
holds one of them; nothing but the embedding passes from block to block.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from dbjax.classification import Answer
from dbjax.errors import require
from dbjax.nn.dropout import dropout, split_key
from dbjax.nn.embedding import sinusoid
from dbjax.nn.stacked import StackedNetwork, statistics_of
from dbjax.noise import Preconditioning, expand

EMBEDDINGS = ("one_hot", "learned", "prototype")
PADDINGS = ("same", "valid")
TIME_FEATURES = 64


@dataclasses.dataclass(frozen=True)
class NoPropConfig:
    """The `model` section of a config.

    Attributes:
        depth: networks, each with weights of its own.
        channels: of the three convolutions.
        width: features of each branch, and of the first layer after they meet; the second has half.
        dropout: rate after each convolution.
        padding: of the convolutions, `same` or `valid` (the paper does not say).
        batch_norm: BatchNorm, as NoProp-DT has it; without, as NoProp-CT and -FM.
        embedding: of the labels: `one_hot`; `learned`, from orthogonal rows; `prototype`, learned
            from a training image of each class, for which the label has an image branch.
        embedding_width: of the learned kind.

    Raises:
        SettingError: if a value is impossible.
    """

    depth: int = 10
    channels: tuple[int, ...] = (32, 64, 128)
    width: int = 256
    dropout: float = 0.2
    padding: str = "same"
    batch_norm: bool = True
    embedding: str = "one_hot"
    embedding_width: int = 20

    def __post_init__(self) -> None:
        for name in ("depth", "embedding_width"):
            value = getattr(self, name)
            require(value >= 1, f"model.{name}", value, "1 or more")
        require(self.width >= 2, "model.width", self.width, "2 or more")
        good = len(self.channels) == 3 and min(self.channels) >= 1
        require(good, "model.channels", self.channels, "three positive numbers")
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "a number in [0, 1)")
        for name, names in (("padding", PADDINGS), ("embedding", EMBEDDINGS)):
            value = getattr(self, name)
            require(value in names, f"model.{name}", value, " or ".join(map(repr, names)))

    def code_width(self, image_shape: tuple[int, int, int], num_classes: int) -> int:
        """Features of a label's embedding."""
        widths = {
            "one_hot": num_classes,
            "learned": self.embedding_width,
            "prototype": int(np.prod(image_shape)),
        }
        return widths[self.embedding]


@dataclasses.dataclass(frozen=True)
class SingleNetworkConfig(NoPropConfig):
    """One network for all noise, as NoProp-CT and -FM have it."""

    depth: int = 1
    batch_norm: bool = False


class Normalised(nnx.Module):
    """An affine layer, then BatchNorm if there is to be any."""

    def __init__(
        self, in_features: int, out_features: int, batch_norm: bool, *, rngs: nnx.Rngs
    ) -> None:
        self.linear = nnx.Linear(in_features, out_features, rngs=rngs)
        # A variance as E[x^2] - E[x]^2 would lose its digits.
        self.norm = (
            nnx.BatchNorm(out_features, momentum=0.9, use_fast_variance=False, rngs=rngs)
            if batch_norm
            else None
        )

    def __call__(self, x: Float[Array, "batch in"], training: bool) -> Float[Array, "batch out"]:
        x = self.linear(x)
        return x if self.norm is None else self.norm(x, use_running_average=not training)


class ImageBranch(nnx.Module):
    """Three convolutions, flattened."""

    def __init__(
        self, config: NoPropConfig, image_shape: tuple[int, int, int], *, rngs: nnx.Rngs
    ) -> None:
        self.rate, self.batch_norm = config.dropout, config.batch_norm
        first, second, third = config.channels
        conv = functools.partial(
            nnx.Conv, kernel_size=(3, 3), padding=config.padding.upper(), rngs=rngs
        )
        self.first = conv(image_shape[2], first)
        self.second = conv(first, second)
        self.third = conv(second, third)
        lost = 2 if config.padding == "valid" else 0
        sides = [((side - lost) // 2 - 2 * lost) // 2 for side in image_shape[:2]]
        require(
            min(sides) >= 1,
            "model.padding",
            config.padding,
            f"'same' for images of {image_shape[0]} x {image_shape[1]} pixels"
            if lost
            else "networks of images of at least 4 x 4 pixels",
        )
        flat = sides[0] * sides[1] * config.channels[-1]
        self.out = Normalised(flat, config.width, config.batch_norm, rngs=rngs)

    def __call__(
        self, image: Float[Array, "batch height width channels"], key: PRNGKeyArray | None
    ) -> Float[Array, "batch features"]:
        x = self.out(self._features(image, key), key is not None)
        return x if self.batch_norm else jax.nn.relu(x)

    def _features(self, x: Array, key: PRNGKeyArray | None) -> Array:
        keys = split_key(key, 3)
        x = dropout(_pool(jax.nn.relu(self.first(x))), self.rate, keys[0])
        x = dropout(jax.nn.relu(self.second(x)), self.rate, keys[1])
        x = dropout(_pool(jax.nn.relu(self.third(x))), self.rate, keys[2])
        return x.reshape(len(x), -1)


def _pool(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch h w channels"]:
    """The largest of each 2 x 2."""
    return nnx.max_pool(x, (2, 2), strides=(2, 2))


class LabelBranch(nnx.Module):
    """Of embeddings that are no images: one layer, or with BatchNorm three and a shortcut."""

    def __init__(self, config: NoPropConfig, in_features: int, *, rngs: nnx.Rngs) -> None:
        width, norm = config.width, config.batch_norm
        self.first = Normalised(in_features, width, norm, rngs=rngs)
        self.inner = Normalised(width, width, norm, rngs=rngs) if norm else None
        self.outer = Normalised(width, width, norm, rngs=rngs) if norm else None

    def __call__(
        self, z: Float[Array, "batch embedding"], key: PRNGKeyArray | None
    ) -> Float[Array, "batch features"]:
        training = key is not None
        h = jax.nn.relu(self.first(z, training))
        if self.inner is None or self.outer is None:
            return h
        return h + self.outer(jax.nn.relu(self.inner(h, training)), training)


class LabelNet(nnx.Module):
    """One network: branches for image, noisy label and, if asked for, noise level; then fusion."""

    def __init__(
        self,
        config: NoPropConfig,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        timed: bool,
        rngs: nnx.Rngs,
    ) -> None:
        width, norm = config.width, config.batch_norm
        self.label_shape = image_shape if config.embedding == "prototype" else None
        self.image = ImageBranch(config, image_shape, rngs=rngs)
        self.label: nnx.Module = (
            ImageBranch(config, image_shape, rngs=rngs)
            if self.label_shape
            else LabelBranch(config, config.code_width(image_shape, num_classes), rngs=rngs)
        )
        self.time = nnx.Linear(TIME_FEATURES, width, rngs=rngs) if timed else None
        self.fusion = Normalised((2 + timed) * width, width, norm, rngs=rngs)
        self.hidden = Normalised(width, width // 2, norm, rngs=rngs)
        self.out = nnx.Linear(width // 2, num_classes, rngs=rngs)

    def __call__(
        self,
        z: Float[Array, "batch embedding"],
        image: Float[Array, "batch height width channels"],
        time: Float[Array, " batch"] | None,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch classes"]:
        """Logits. With a key BatchNorm uses the batch's moments and updates the running ones."""
        training = key is not None
        image_key, label_key = split_key(key, 2)
        if self.label_shape:
            z = z.reshape(len(z), *self.label_shape)
        branches = [self.image(image, image_key), self.label(z, label_key)]
        if self.time is not None:
            assert time is not None
            branches.append(jax.nn.relu(self.time(sinusoid(time, TIME_FEATURES))))
        h = jax.nn.relu(self.fusion(jnp.concatenate(branches, axis=-1), training))
        return self.out(jax.nn.relu(self.hidden(h, training)))


class NoPropNetwork(StackedNetwork):
    """`depth` networks as pure functions, and an interface of the task's choice.

    Attributes:
        config: the model.
        width: features of a label's embedding.
        num_classes: the labels are 0 to num_classes - 1.
    """

    def __init__(
        self,
        config: NoPropConfig,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        timed: bool,
        prototypes: Float[Array, "classes embedding"] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Fixes the network's shape.

        Args:
            config: the model.
            image_shape: (height, width, channels).
            num_classes: number of classes.
            timed: whether networks read the noise level.
            prototypes: what embeddings of that kind start from; None is zeros, for shapes.
            extra: constructors of what the interface has besides the embedding, called as (rngs=).

        Raises:
            SettingError: if the images are too small.
        """
        self.config, self.num_classes = config, num_classes
        self.width = config.code_width(image_shape, num_classes)
        if config.embedding == "prototype" and prototypes is None:
            prototypes = jnp.zeros((num_classes, self.width))
        super().__init__(
            config.depth,
            functools.partial(
                Interface,
                (num_classes, self.width) if config.embedding != "one_hot" else None,
                prototypes,
                extra or {},
            ),
            functools.partial(LabelNet, config, image_shape, num_classes, timed=timed),
        )

    def predict(
        self,
        params: Mapping[str, Any],
        z: Float[Array, "batch embedding"],
        image: Float[Array, "batch height width channels"],
        time: Float[Array, " batch"] | None = None,
        *,
        position: int = 0,
        key: PRNGKeyArray | None = None,
        remat: bool = False,
    ) -> Answer:
        """Logits of one network of a block.

        Args:
            params: the block.
            z: scaled noisy embeddings.
            image: normalised images.
            time: noise level as the network reads it.
            position: which of the block's networks.
            key: for dropout; None is evaluation, with the running moments.
            remat: compute all but the arguments again in the backward pass.
        """

        def run(params: Any, *inputs: Any) -> tuple[Array, Any]:
            module = self.layer_module(params, position)
            logits = module(*inputs, key)
            measured = statistics_of([module]) if key is not None else None
            return logits, measured or None

        return Answer(*(jax.checkpoint(run) if remat else run)(params, z, image, time))

    def label_table(self, params: Mapping[str, Any]) -> Float[Array, "classes embedding"]:
        """Embeddings of the classes."""
        if self.config.embedding == "one_hot":
            return jnp.eye(self.num_classes)
        return params["interface"]["embedding"]

    def classify(
        self,
        params: Mapping[str, Any],
        z: Float[Array, "batch embedding"],
        c: Preconditioning,
        image: Float[Array, "batch height width channels"],
        *,
        key: PRNGKeyArray | None = None,
        remat: bool = False,
    ) -> Answer:
        """As a block of DiffusionBlocks (see `dbjax.classification.LabelNetwork`).

        The network's logits are the answer, as in NoProp: there is no skip connection from z, whose
        weight would be c_skip.
        """
        return self.predict(params, expand(c.c_in, z) * z, image, c.c_noise, key=key, remat=remat)


class Interface(nnx.Module):
    """The embedding, unless it is one-hot, and what a task adds."""

    def __init__(
        self,
        shape: tuple[int, int] | None,
        prototypes: Array | None,
        extra: Mapping[str, Any],
        *,
        rngs: nnx.Rngs,
    ) -> None:
        if shape is not None:
            initial = prototypes
            if initial is None:
                initial = nnx.initializers.orthogonal()(rngs.params(), shape)
            self.embedding = nnx.Param(initial)
        for name, make in extra.items():
            setattr(self, name, make(rngs=rngs))


def prototypes(
    images: Float[np.ndarray, "size ..."], label: np.ndarray, num_classes: int
) -> Float[np.ndarray, "classes embedding"]:
    """For each class its image with the smallest median distance to the others (NoProp, section 4).

    Args:
        images: normalised.
        label: class of each.
        num_classes: every class must have an image.
    """
    found = []
    for c in range(num_classes):
        own = images[label == c].reshape(np.sum(label == c), -1)
        square = np.sum(own**2, axis=1)
        distances = square[:, None] + square[None] - 2 * own @ own.T
        found.append(own[np.argmin(np.median(distances, axis=1))])
    return np.stack(found)
