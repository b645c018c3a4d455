"""ViT: the vision transformer (Dosovitskiy et al. 2021) as a denoiser of label embeddings.

DiffusionBlocks (arXiv 2506.14202, appendix B) classifies by denoising: the network reads an image
and a noisy embedding of its label. Where the paper and the code released with it disagree, the code
is followed; its backbone is the ViT of HuggingFace transformers 4.52.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from dbjax.classification import Answer
from dbjax.errors import require
from dbjax.nn.dropout import dropout, split_key
from dbjax.nn.embedding import ScalarEmbedding
from dbjax.nn.encoder import EncoderLayer, ModulatedEncoderLayer, affine_layer_norm
from dbjax.nn.linear import normal_linear, zero_linear
from dbjax.nn.modulation import ActivatedModulation, modulate
from dbjax.nn.patches import patchify
from dbjax.nn.stacked import StackedNetwork
from dbjax.noise import Preconditioning, expand

DTYPES = ("float32", "bfloat16")
LAYOUTS = ("released", "paper")

# The released code truncates its normal distribution at +-2: a hundred standard deviations.
_normal = nnx.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """The `model` section of a configuration file.

    Attributes:
        patch_size: side of a patch in pixels; must divide the image's sides.
        depth: number of layers.
        width: features of a token and of a label's embedding.
        num_heads: attention heads.
        mlp_hidden: hidden features of the MLP. The default is the released code's at any width:
            24 times the width of its network for CIFAR-100, 4 times that for Tiny-ImageNet.
        dropout: rate on attention probabilities, on each sub-layer's output and on the tokens that
            enter the first layer.
        layout: where the noisy label is and what is read. `released`: it stands in the class
            token's place and is read, as in the released code. `paper`: it follows class token and
            patches, and the class token is read (appendix B). The plain ViT has none of this.
        label_scale: factor of the noisy label when it becomes a token. At 1, as released, it starts
            several times as large as the patches beside it, and blocks learn slowly to look past
            its noise.
        gates: what the gates of the block-wise network's layers start at: 0, as released, which
            makes every layer the identity; or 1, as if there were none.
        norm_epsilon: added to the variance in every LayerNorm: 1e-12 in transformers, 1e-6 in timm.
        dtype: what matrices are multiplied in, float32 or bfloat16; parameters, residual stream,
            normalisation, softmax and output are float32 in any case.

    Raises:
        SettingError: if a value is impossible.
    """

    patch_size: int = 4
    depth: int = 12
    width: int = 128
    num_heads: int = 4
    mlp_hidden: int = 3072
    dropout: float = 0.1
    layout: str = "released"
    label_scale: float = 1.0
    gates: int = 0
    norm_epsilon: float = 1e-12
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("patch_size", "depth", "num_heads", "mlp_hidden"):
            value = getattr(self, name)
            require(value > 0, f"model.{name}", value, "a positive integer")
        require(
            self.width >= 6, "model.width", self.width, "at least 6, for a sixth of it is embedded"
        )
        require(
            self.width % self.num_heads == 0,
            "model.num_heads",
            self.num_heads,
            f"a divisor of the width {self.width}",
        )
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "a number in [0, 1)")
        require(self.layout in LAYOUTS, "model.layout", self.layout, ", ".join(LAYOUTS))
        require(self.gates in (0, 1), "model.gates", self.gates, "0 or 1")
        for name in ("label_scale", "norm_epsilon"):
            value = getattr(self, name)
            require(value > 0, f"model.{name}", value, "a number above 0")
        require(self.dtype in DTYPES, "model.dtype", self.dtype, ", ".join(DTYPES))

    @property
    def condition_width(self) -> int:
        """Width of the noise level's embedding (released code)."""
        return self.width // 6

    @property
    def layer(self) -> dict[str, Any]:
        """Arguments of a layer."""
        names = ("width", "num_heads", "mlp_hidden", "dropout", "norm_epsilon", "dtype")
        return {name: getattr(self, name) for name in names}


class Backbone(nnx.Module):
    """What both kinds of ViT have around their layers: embeddings, and the last LayerNorm."""

    def __init__(
        self,
        config: ViTConfig,
        image_shape: tuple[int, int, int],
        *,
        class_token: bool,
        label_token: bool,
        rngs: nnx.Rngs,
    ) -> None:
        height, width, channels = image_shape
        patch = config.patch_size
        require(
            height % patch == 0 and width % patch == 0,
            "model.patch_size",
            patch,
            f"a common divisor of the image's sides {height} and {width}",
        )
        self.patch_size, self.dropout = patch, config.dropout
        self.label_scale = config.label_scale
        num_tokens = (height // patch) * (width // patch) + class_token + label_token
        self.patches = normal_linear(
            patch * patch * channels, config.width, dtype=config.dtype, rngs=rngs
        )
        self.positions = nnx.Param(_normal(rngs.params(), (1, num_tokens, config.width)))
        self.class_token = (
            nnx.Param(_normal(rngs.params(), (1, 1, config.width))) if class_token else None
        )
        self.norm = affine_layer_norm(config.width, epsilon=config.norm_epsilon, rngs=rngs)

    def embed(
        self,
        image: Float[Array, "batch height width channels"],
        z: Float[Array, "batch features"] | None,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch tokens features"]:
        """Tokens that the layers read: the noisy label or a class token first, then the patches.

        With a class token, the noisy label, if there is one, is the last.
        """
        patches = self.patches(patchify(image, self.patch_size)).astype(jnp.float32)
        label = [] if z is None else [self.label_scale * z[:, None, :]]
        if self.class_token is None:
            tokens = [*label, patches]
        else:
            tokens = [jnp.tile(self.class_token[...], (len(image), 1, 1)), patches, *label]
        return dropout(jnp.concatenate(tokens, axis=1) + self.positions[...], self.dropout, key)

    def read_out(
        self, tokens: Float[Array, "batch tokens features"]
    ) -> Float[Array, "batch features"]:
        """The first token, normalised."""
        return self.norm(tokens[:, 0])


class Interface(Backbone):
    """All of the denoiser but its layers."""

    def __init__(
        self, config: ViTConfig, image_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs
    ) -> None:
        paper = config.layout == "paper"
        super().__init__(config, image_shape, class_token=paper, label_token=True, rngs=rngs)
        width, inner, dtype = config.width, config.condition_width, config.dtype
        self.label_table = nnx.Param(_normal(rngs.params(), (num_classes, width)))
        self.noise_level = ScalarEmbedding(inner, dtype=dtype, rngs=rngs)
        self.modulation = ActivatedModulation(
            width, 2, condition_width=inner, dtype=dtype, rngs=rngs
        )
        # Float32, for the loss weighs the logits' errors heavily at low noise.
        self.classifier = zero_linear(width, num_classes, dtype=jnp.float32, rngs=rngs)

    def logits(
        self, estimate: Float[Array, "batch features"], c_noise: Float[Array, " batch"]
    ) -> Float[Array, "batch classes"]:
        """The classifier around the modulated estimate."""
        shift, scale = self.modulation(self.noise_level(c_noise))
        return self.classifier(modulate(estimate[:, None, :], shift, scale)[:, 0])


class PlainInterface(Backbone):
    """All of the plain ViT but its layers."""

    def __init__(
        self, config: ViTConfig, image_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs
    ) -> None:
        super().__init__(config, image_shape, class_token=True, label_token=False, rngs=rngs)
        self.classifier = normal_linear(config.width, num_classes, dtype=jnp.float32, rngs=rngs)


def interface_from_plain(plain: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    """A plain ViT's interface with the positions that blocks have.

    Where the noisy label stands in the class token's place, it is added to that token; else the
    label's own position is new.

    Args:
        plain: of a `PlainViT`.
        fresh: of a `ViT`, as it is drawn.
    """
    positions = jnp.asarray(plain["positions"])
    if "class_token" in fresh:
        positions = jnp.concatenate([positions, fresh["positions"][:, -1:]], axis=1)
    else:
        positions = positions.at[:, :1].add(plain["class_token"])
    return {**plain, "positions": positions}


class ViT(StackedNetwork):
    """The raw network F on label embeddings: pure functions of parameters, and no parameters.

    Initial weights are N(0, 0.02^2) and biases zero, but modulations and classifier start at zero:
    with gates of 0 every layer is the identity, and all logits are 0 (released code).

    Attributes:
        width: features of a token and of a label's embedding.
        num_classes: the labels are 0 to num_classes - 1.
    """

    def __init__(
        self, config: ViTConfig, image_shape: tuple[int, int, int], num_classes: int
    ) -> None:
        """Fixes the network's shape.

        Args:
            config: the model.
            image_shape: (height, width, channels) of the images to classify.
            num_classes: number of classes.

        Raises:
            SettingError: if the images cannot be cut into patches of the configured size.
        """
        super().__init__(
            config.depth,
            functools.partial(Interface, config, image_shape, num_classes),
            functools.partial(
                ModulatedEncoderLayer,
                condition_width=config.condition_width,
                gates=config.gates,
                **config.layer,
            ),
        )
        self.width, self.num_classes = config.width, num_classes
        self._image_shape = image_shape

    def apply(
        self,
        params: Mapping[str, Any],
        z: Float[Array, "batch features"],
        c_noise: Float[Array, " batch"],
        condition: Float[Array, "batch height width channels"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
        remat: bool = False,
    ) -> Float[Array, "batch features"]:
        """Raw output F of the interface around the layers in `params`.

        Args:
            params: the interface and any consecutive layers, as from `init`.
            z: noisy embeddings of labels, already scaled by c_in.
            c_noise: ln(sigma) / 4, embedded as it is.
            condition: normalised images; None stands for zeros, which guidance takes for no image.
            key: for dropout; None is evaluation.
            remat: keep only each layer's input for the backward pass, compute the rest again.

        Returns:
            F in float32: the token that is read, after the last LayerNorm.
        """
        if condition is None:
            condition = jnp.zeros((len(z), *self._image_shape))
        embed_key, layers_key = split_key(key, 2)
        interface = self.interface(params)
        tokens = interface.embed(condition, z, embed_key)
        context = interface.noise_level(c_noise)
        tokens = self.run_layers(params, tokens, context, key=layers_key, remat=remat)
        return interface.read_out(tokens)

    def logits(
        self,
        params: Mapping[str, Any],
        estimate: Float[Array, "batch features"],
        c_noise: Float[Array, " batch"],
    ) -> Float[Array, "batch classes"]:
        """What the head reads from c_skip z + c_out F, with z not scaled by c_in (released code).

        Logits in float32; exactly zero for parameters that `init` has just drawn.
        """
        return self.interface(params).logits(estimate, c_noise)

    def classify(
        self,
        params: Mapping[str, Any],
        z: Float[Array, "batch features"],
        c: Preconditioning,
        image: Float[Array, "batch height width channels"],
        *,
        key: PRNGKeyArray | None = None,
        remat: bool = False,
    ) -> Answer:
        """The head on the preconditioned estimate (see `dbjax.classification.LabelNetwork`)."""
        raw = self.apply(params, expand(c.c_in, z) * z, c.c_noise, image, key=key, remat=remat)
        estimate = expand(c.c_skip, z) * z + expand(c.c_out, z) * raw
        return Answer(self.logits(params, estimate, c.c_noise))

    def label_table(self, params: Mapping[str, Any]) -> Float[Array, "classes features"]:
        """The labels' embeddings, learned and not normalised."""
        return params["interface"]["label_table"]


class PlainViT(StackedNetwork):
    """The same backbone as an ordinary classifier, trained by back-propagation through all layers.

    A learned class token is read; there is no noise, and the head starts from N(0, 0.02^2).
    """

    def __init__(
        self, config: ViTConfig, image_shape: tuple[int, int, int], num_classes: int
    ) -> None:
        """Fixes the network's shape; arguments and errors as for `ViT`."""
        super().__init__(
            config.depth,
            functools.partial(PlainInterface, config, image_shape, num_classes),
            functools.partial(EncoderLayer, **config.layer),
        )
        self.num_classes = num_classes

    def classify(
        self,
        params: Mapping[str, Any],
        image: Float[Array, "batch height width channels"],
        *,
        key: PRNGKeyArray | None = None,
        remat: bool = False,
    ) -> Answer:
        """Logits, float32, of normalised images; `key` and `remat` as for `ViT.apply`."""
        embed_key, layers_key = split_key(key, 2)
        interface = self.interface(params)
        tokens = interface.embed(image, None, embed_key)
        tokens = self.run_layers(params, tokens, key=layers_key, remat=remat)
        return Answer(interface.classifier(interface.read_out(tokens)))
