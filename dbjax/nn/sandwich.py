"""Layers of recurrent-depth models as Huginn has them (Geiping et al. 2025, arXiv 2502.05171)."""

import functools
import math

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from dbjax.nn.decoder import Cache
from dbjax.nn.mlp import GatedMLP
from dbjax.nn.modulation import modulate
from dbjax.nn.rotary import Heads, RotaryAttention, causal_mask

BASE = 50_000.0
"""Of the rotary frequencies."""
VECTORS = 6
"""Shift, scale and gate of the attention, then of the MLP: what modulates a layer."""

Half = Float[Array, "3 #batch #tokens width"] | None

sandwich_norm = functools.partial(nnx.RMSNorm, epsilon=1e-6, dtype=jnp.float32)
"""Root-mean-square normalisation with gain, in float32, called as (features, rngs=)."""


def takase(width: int, depth: int | None = None) -> nnx.Initializer:
    """Initial weights of Takase et al. 2023 (arXiv 2312.16903) as Huginn's code has them.

    Normal with standard deviation sqrt(2 / (5 width)), cut at three of them.

    Args:
        width: features of a token.
        depth: layers that a token goes through, where a matrix ends an update: the deviation is
            then divided by sqrt(2 depth).
    """
    deviation = math.sqrt(2 / (5 * width)) / (math.sqrt(2 * depth) if depth else 1)
    return nnx.initializers.truncated_normal(deviation, lower=-3.0, upper=3.0)


class SandwichLayer(nnx.Module):
    """x <- n2(attention(n1(x)) + x), then x <- n4(mlp(n3(x)) + x): also the sum is normalised.

    The attention is rotary and causal, with learned vectors added to queries and keys; the MLP is
    SwiGLU. What modulates a layer is handed to it and not its own, so that modulated and plain
    layers have the same parameters.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_hidden: int,
        *,
        effective_depth: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        """Makes the maps.

        Args:
            width: features of a token.
            num_heads: attention heads.
            mlp_hidden: hidden features of the MLP.
            effective_depth: layers that a token goes through, repetitions counted.
            dtype: what matrices are multiplied in.
            rngs: of the weights.
        """
        linear = functools.partial(nnx.Linear, kernel_init=takase(width))
        out = functools.partial(nnx.Linear, kernel_init=takase(width, effective_depth))
        self.attention_norm = sandwich_norm(width, rngs=rngs)
        self.attention = RotaryAttention(
            width,
            num_heads,
            linear=linear,
            out=out,
            base=BASE,
            interleaved=True,
            query_key_bias=True,
            dtype=dtype,
            rngs=rngs,
        )
        self.attention_sum_norm = sandwich_norm(width, rngs=rngs)
        self.mlp_norm = sandwich_norm(width, rngs=rngs)
        self.mlp = GatedMLP(width, mlp_hidden, linear=linear, out=out, dtype=dtype, rngs=rngs)
        self.mlp_sum_norm = sandwich_norm(width, rngs=rngs)

    def __call__(
        self,
        tokens: Float[Array, "batch tokens width"],
        vectors: Float[Array, "6 #batch #tokens width"] | None = None,
    ) -> Float[Array, "batch tokens width"]:
        """One layer over whole texts.

        Args:
            tokens: of the texts, from position 0 on.
            vectors: `VECTORS` of them; those that are zero, like None, leave the layer as it is.
        """
        attention, mlp = _halves(vectors)
        positions = jnp.arange(tokens.shape[1])
        heads = self._read(tokens, positions, attention)
        update = self.attention.attend(*heads, causal_mask(len(positions)))
        return self._finish(tokens, update, attention, mlp)

    def extend(
        self,
        tokens: Float[Array, "batch tokens width"],
        vectors: Float[Array, "6 #batch #tokens width"] | None,
        positions: Int[Array, " tokens"],
        cache: Cache,
    ) -> tuple[Float[Array, "batch tokens width"], Cache]:
        """Some positions of texts, and the cache with them; what it had there is replaced.

        Args:
            tokens: at `positions`.
            vectors: see `__call__`.
            positions: -1 is a place before the text, at which no other token looks: it takes the
                cache's last place, which then has to be one that no token of the text needs.
            cache: of the positions before the first of these.
        """
        attention, mlp = _halves(vectors)
        heads = self._read(tokens, positions, attention)
        key = cache.key.at[:, positions].set(heads.key)
        value = cache.value.at[:, positions].set(heads.value)
        mask = jnp.arange(key.shape[1])[None] <= positions[:, None]
        update = self.attention.attend(heads.query, key, value, mask[None])
        return self._finish(tokens, update, attention, mlp), Cache(key, value)

    def _read(self, tokens: Array, positions: Int[Array, " tokens"], half: Half) -> Heads:
        return self.attention.read(_modulated(self.attention_norm(tokens), half), positions)

    def _finish(self, tokens: Array, update: Array, attention: Half, mlp: Half) -> Array:
        """The tokens with the attention's update, and then the MLP's."""
        tokens = self.attention_sum_norm(tokens + _gated(update, attention))
        update = self.mlp(_modulated(self.mlp_norm(tokens), mlp))
        normalised: Array = self.mlp_sum_norm(tokens + _gated(update, mlp))
        return normalised


def _halves(vectors: Array | None) -> tuple[Half, Half]:
    """What modulates the attention, and what modulates the MLP."""
    return (None, None) if vectors is None else (vectors[:3], vectors[3:])


def _modulated(tokens: Array, half: Half) -> Array:
    return tokens if half is None else modulate(tokens, half[0], half[1])


def _gated(update: Array, half: Half) -> Array:
    return update if half is None else (1 + half[2]) * update
