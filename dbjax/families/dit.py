"""DiT: the diffusion transformer (Peebles and Xie 2023, arXiv 2212.09748), cut into layers.

The network is defined with `flax.nnx`, but what leaves this file is a pair of pure functions of
plain parameter trees. The layers' parameters are stacked on a leading axis: any run of layers is a
slice of the whole network, and a block is a network with fewer layers.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dbjax.errors import require
from dbjax.nn.attention import SelfAttention
from dbjax.nn.embedding import ScalarEmbedding, position_table
from dbjax.nn.linear import xavier_linear, zero_linear
from dbjax.nn.mlp import MLP
from dbjax.nn.modulation import Modulation, layer_norm, modulate
from dbjax.nn.patches import patchify, unpatchify


class Dimensions(NamedTuple):
    """What a size name stands for."""

    depth: int
    width: int
    num_heads: int


SIZES = {
    "tiny": Dimensions(depth=6, width=128, num_heads=4),
    "S": Dimensions(depth=12, width=384, num_heads=6),
    "B": Dimensions(depth=12, width=768, num_heads=12),
    "L": Dimensions(depth=24, width=1024, num_heads=16),
    "XL": Dimensions(depth=28, width=1152, num_heads=16),
}
"""The sizes of Peebles and Xie 2023, table 1, and "tiny" for a demonstration on a CPU."""

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """The `model` section of a configuration file.

    Attributes:
        size: one of `SIZES`; sets depth, width and number of heads.
        patch_size: side of a patch in pixels; must divide the image's sides.
        depth: number of layers, in place of what `size` says.
        width: features of a token, in place of what `size` says.
        num_heads: attention heads, in place of what `size` says.
        mlp_ratio: hidden features of the MLP, as a multiple of the width.
        dtype: what matrices are multiplied in, float32 or bfloat16; parameters, residual stream,
            normalisation, softmax and output are float32 in any case.

    Raises:
        SettingError: if a value is impossible.
    """

    size: str = "S"
    patch_size: int = 2
    depth: int | None = None
    width: int | None = None
    num_heads: int | None = None
    mlp_ratio: float = 4.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        require(self.size in SIZES, "model.size", self.size, ", ".join(SIZES))
        require(self.dtype in DTYPES, "model.dtype", self.dtype, ", ".join(DTYPES))
        require(self.patch_size > 0, "model.patch_size", self.patch_size, "a positive integer")
        for name, value in self.dimensions._asdict().items():
            require(value > 0, f"model.{name}", value, "a positive integer")
        _, width, num_heads = self.dimensions
        require(width % 4 == 0, "model.width", width, "a multiple of 4 (sines, cosines, two axes)")
        require(
            width % num_heads == 0, "model.num_heads", num_heads, f"a divisor of the width {width}"
        )
        require(
            self.mlp_ratio * width >= 1, "model.mlp_ratio", self.mlp_ratio, "at least 1 / width"
        )

    @property
    def dimensions(self) -> Dimensions:
        """What the size and its overrides amount to."""
        overrides = {"depth": self.depth, "width": self.width, "num_heads": self.num_heads}
        given = {name: value for name, value in overrides.items() if value is not None}
        return SIZES[self.size]._replace(**given)


class Interface(nnx.Module):
    """All but the layers: embeddings of patches, noise level and label, and the final layer."""

    def __init__(
        self, config: DiTConfig, image_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs
    ) -> None:
        height, width, channels = image_shape
        patch, features = config.patch_size, config.dimensions.width
        values = patch * patch * channels
        self.patch_size, self.height, self.width = patch, height, width
        self.num_classes = num_classes
        self.patches = xavier_linear(values, features, dtype=config.dtype, rngs=rngs)
        self.noise_level = ScalarEmbedding(features, dtype=config.dtype, rngs=rngs)
        self.label = nnx.Embed(
            num_classes + 1, features, embedding_init=nnx.initializers.normal(0.02), rngs=rngs
        )
        self.modulation = Modulation(features, 2, dtype=config.dtype, rngs=rngs)
        # The output is a regression target with several digits, and this matrix is small.
        self.out = zero_linear(features, values, dtype=jnp.float32, rngs=rngs)

    def embed(
        self,
        z: Float[Array, "batch height width channels"],
        c_noise: Float[Array, " batch"],
        label: Int[Array, " batch"] | None,
    ) -> tuple[Float[Array, "batch tokens features"], Float[Array, "batch features"]]:
        """Tokens and condition that the layers read."""
        if label is None:
            label = jnp.full(z.shape[:1], self.num_classes)
        positions = position_table(
            self.height // self.patch_size, self.width // self.patch_size, self.patches.out_features
        )
        tokens = self.patches(patchify(z, self.patch_size)).astype(jnp.float32) + positions[None]
        return tokens, self.noise_level(c_noise).astype(jnp.float32) + self.label(label)

    def read_out(
        self,
        tokens: Float[Array, "batch tokens features"],
        condition: Float[Array, "batch features"],
    ) -> Float[Array, "batch height width channels"]:
        """Image that the final layer reads from the tokens."""
        shift, scale = self.modulation(condition)
        patches = self.out(modulate(layer_norm(tokens), shift, scale))
        return unpatchify(patches, self.patch_size, self.height, self.width)


class Layer(nnx.Module):
    """Attention and MLP, each a residual update modulated by the condition (adaLN-Zero)."""

    def __init__(self, config: DiTConfig, rngs: nnx.Rngs) -> None:
        _, width, num_heads = config.dimensions
        self.modulation = Modulation(width, 6, dtype=config.dtype, rngs=rngs)
        self.attention = SelfAttention(width, num_heads, dtype=config.dtype, rngs=rngs)
        self.mlp = MLP(width, int(config.mlp_ratio * width), dtype=config.dtype, rngs=rngs)

    def __call__(
        self,
        tokens: Float[Array, "batch tokens features"],
        condition: Float[Array, "batch features"],
    ) -> Float[Array, "batch tokens features"]:
        """One residual layer; the identity at initialisation, when both gates are zero."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)
        tokens = tokens + gate_a * self.attention(modulate(layer_norm(tokens), shift_a, scale_a))
        return tokens + gate_m * self.mlp(modulate(layer_norm(tokens), shift_m, scale_m))


class DiT:
    """The raw network F of a DiT: pure functions of (parameters, inputs), and no parameters.

    Attributes:
        depth: number of layers of the whole network.
    """

    def __init__(
        self, config: DiTConfig, image_shape: tuple[int, int, int], num_classes: int
    ) -> None:
        """Fixes the network's shape.

        Args:
            config: the model.
            image_shape: (height, width, channels) of input and output.
            num_classes: the labels are 0 to num_classes - 1, and num_classes stands for none.

        Raises:
            SettingError: if the images cannot be cut into patches of the configured size.
        """
        height, width, _ = image_shape
        require(
            height % config.patch_size == 0 and width % config.patch_size == 0,
            "model.patch_size",
            config.patch_size,
            f"a common divisor of the image's sides {height} and {width}",
        )
        self.depth = config.dimensions.depth
        self._new_interface = functools.partial(Interface, config, image_shape, num_classes)
        self._new_layer = functools.partial(Layer, config)
        self._interface = _definition(self._new_interface)
        self._layer = _definition(self._new_layer)

    def init(self, key: PRNGKeyArray, layers: Sequence[int]) -> dict[str, Any]:
        """Fresh parameters, float32, of the interface and of some layers.

        The interface depends on the key alone and layer i on the key and i alone, so blocks that
        are drawn one by one start from exactly the weights of the whole network.

        Args:
            key: what to draw from.
            layers: indices of the layers, counted in the whole network.

        Returns:
            {"interface": tree, "layers": tree}; the arrays of the second have a leading axis, one
            entry for each of `layers`.
        """
        interface_key, layers_key = jax.random.split(key)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(layers_key, jnp.asarray(layers))
        # Not vmap: with some kinds of key it would draw other numbers for other sets of layers.
        return {
            "interface": _parameters(self._new_interface, interface_key),
            "layers": jax.lax.map(functools.partial(_parameters, self._new_layer), keys),
        }

    def apply(
        self,
        params: Mapping[str, Any],
        z: Float[Array, "batch height width channels"],
        c_noise: Float[Array, " batch"],
        condition: Int[Array, " batch"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
        remat: bool = False,
    ) -> Float[Array, "batch height width channels"]:
        """Raw output F of the interface around the layers in `params`.

        Args:
            params: the interface and any consecutive layers, as from `init`.
            z: noisy images, already scaled by c_in.
            c_noise: ln(sigma) / 4, embedded as it is.
            condition: labels; None stands for no label in any example.
            key: unused, since the network has no dropout.
            remat: keep only each layer's input for the backward pass, compute the rest again.

        Returns:
            F in float32; exactly zero for parameters that `init` has just drawn.
        """
        del key
        interface = nnx.merge(self._interface, params["interface"])
        tokens, vector = interface.embed(z, c_noise, condition)

        def apply_layer(tokens: Array, layer: Any) -> tuple[Array, None]:
            return nnx.merge(self._layer, layer)(tokens, vector), None

        if remat:
            apply_layer = jax.checkpoint(apply_layer, prevent_cse=False)
        # A rolled loop keeps one layer's intermediate results at a time, which is what remat is
        # for. Without remat it would copy them all into one array and back: that is slower and
        # larger than the unrolled program, which only takes longer to compile.
        tokens, _ = jax.lax.scan(apply_layer, tokens, params["layers"], unroll=not remat)
        return interface.read_out(tokens, vector)


def _definition(make: Callable[[nnx.Rngs], nnx.Module]) -> Any:
    """The static part of the module that `make` makes."""
    return nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))


def _parameters(make: Callable[[nnx.Rngs], nnx.Module], key: PRNGKeyArray) -> dict[str, Any]:
    """The parameters of the module that `make` makes."""
    return nnx.to_pure_dict(nnx.state(make(nnx.Rngs(key))))
