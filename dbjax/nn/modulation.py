"""Conditioning by adaptive layer normalisation (adaLN-Zero; Peebles and Xie 2023, section 3.2)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dbjax.nn.linear import zero_linear


def layer_norm(
    tokens: Float[Array, "batch tokens width"], epsilon: float = 1e-6
) -> Float[Array, "batch tokens width"]:
    """Layer normalisation without gain or offset (Ba et al. 2016), always in float32."""
    tokens = tokens.astype(jnp.float32)
    centred = tokens - tokens.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + epsilon)


def modulate(
    tokens: Float[Array, "batch tokens width"],
    shift: Float[Array, "#batch #tokens width"],
    scale: Float[Array, "#batch #tokens width"],
) -> Float[Array, "batch tokens width"]:
    """Scale and shift tokens, all of an example alike or each by itself: x (1 + scale) + shift."""
    return tokens * (1 + scale) + shift


class Modulation(nnx.Module):
    """`count` vectors for modulation, an affine map of SiLU(condition) that starts at zero.

    Another activation may take the place of SiLU.
    """

    def __init__(
        self,
        width: int,
        count: int,
        *,
        condition_width: int | None = None,
        activation: Callable[[Array], Array] = jax.nn.silu,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        self.count, self.activation = count, activation
        self.linear = zero_linear(condition_width or width, count * width, dtype=dtype, rngs=rngs)

    def __call__(
        self, condition: Float[Array, "batch condition"] | Float[Array, "batch tokens condition"]
    ) -> list[Float[Array, "batch #tokens width"]]:
        """The vectors, float32, each with an axis for the tokens it will be applied to.

        A condition without that axis is that of all tokens of an example.
        """
        vectors = self.linear(self.activation(condition)).astype(jnp.float32)
        vectors = vectors[:, None, :] if condition.ndim == 2 else vectors
        return jnp.split(vectors, self.count, axis=-1)


class ActivatedModulation(Modulation):
    """`count` vectors for modulation, SiLU of SiLU(condition)'s affine map that starts at zero.

    The activation after the map is that of DiffusionBlocks' released ViT: no shift, scale or gate
    is ever below -0.28.
    """

    def __call__(
        self, condition: Float[Array, "batch condition"] | Float[Array, "batch tokens condition"]
    ) -> list[Float[Array, "batch #tokens width"]]:
        """As `Modulation`."""
        return [jax.nn.silu(vector) for vector in super().__call__(condition)]
