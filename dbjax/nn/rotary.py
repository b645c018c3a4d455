"""Self-attention with rotary positions, as language models have it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from dbjax.nn.dropout import dropout


def rotate(
    x: Float[Array, "batch tokens heads dim"],
    positions: Int[Array, " tokens"] | Int[Array, "batch tokens"],
    *,
    base: float = 10_000.0,
    interleaved: bool = False,
) -> Float[Array, "batch tokens heads dim"]:
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864, section 3.2), in float32.

    Pair k of a head's features is turned by position * base^(-2k / dim).

    Args:
        x: queries or keys; dim is even.
        positions: of the tokens.
        base: of the frequencies.
        interleaved: pair k is the features 2k and 2k + 1 (the paper, MD4, Huginn); else k and
            k + dim / 2 (Llama, GPT-NeoX).
    """
    half = x.shape[-1] // 2
    frequencies = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    # Positions that all examples share get an axis for the batch; all get one for the heads.
    positions = jnp.atleast_2d(positions)[..., None, None]
    angles = positions * frequencies[None, None, None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    if interleaved:
        first, second = x[..., ::2], x[..., 1::2]
    else:
        first, second = x[..., :half], x[..., half:]
    turned = (first * cos - second * sin, second * cos + first * sin)
    if interleaved:
        return jnp.stack(turned, axis=-1).reshape(x.shape).astype(x.dtype)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


class Heads(NamedTuple):
    """What attention reads of some tokens, queries and keys already turned by their positions."""

    query: Float[Array, "batch tokens heads dim"]
    key: Float[Array, "batch tokens heads dim"]
    value: Float[Array, "batch tokens heads dim"]


class RotaryAttention(nnx.Module):
    """Multi-head self-attention without biases, its positions rotary.

    `read` and `attend` are apart, so that some tokens may look at others than themselves: at a
    cache, or at another stream of the same text. Dropout, off by default, acts on the attention
    probabilities.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        linear: Callable[..., nnx.Linear],
        out: Callable[..., nnx.Linear] | None = None,
        base: float = 10_000.0,
        interleaved: bool = False,
        query_key_bias: bool = False,
        dropout: float = 0.0,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        """Makes the maps.

        Args:
            width: features of a token.
            num_heads: a divisor of the width with an even quotient.
            linear: makes the map to query, key and value, called as (in, out, use_bias=, ...).
            out: makes the map back; None is as `linear`.
            base: see `rotate`.
            interleaved: see `rotate`.
            query_key_bias: add a learned vector, at first zero, to queries and keys (Huginn).
            dropout: on the attention probabilities.
            dtype: what matrices are multiplied in.
            rngs: of the weights.
        """
        self.num_heads, self.base, self.interleaved = num_heads, base, interleaved
        self.dropout = dropout
        settings = {"use_bias": False, "dtype": dtype, "rngs": rngs}
        self.qkv = linear(width, 3 * width, **settings)
        self.out = (out or linear)(width, width, **settings)
        bias = jnp.zeros((2, num_heads, width // num_heads))
        self.query_key_bias = nnx.Param(bias) if query_key_bias else None

    def read(
        self,
        tokens: Float[Array, "batch tokens width"],
        positions: Int[Array, " tokens"] | Int[Array, "batch tokens"],
    ) -> Heads:
        """Query, key and value of tokens at `positions`."""
        batch, length, width = tokens.shape
        heads = (batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = jnp.unstack(self.qkv(tokens).reshape(heads), axis=2)
        if self.query_key_bias is not None:
            bias = self.query_key_bias[...].astype(query.dtype)
            query, key = query + bias[None, None, 0], key + bias[None, None, 1]

        def turn(x: Array) -> Array:
            return rotate(x, positions, base=self.base, interleaved=self.interleaved)

        return Heads(turn(query), turn(key), value)

    def attend(
        self,
        query: Float[Array, "batch queries heads dim"],
        keys: Float[Array, "batch keys heads dim"],
        values: Float[Array, "batch keys heads dim"],
        mask: Bool[Array, "#batch queries keys"] | None = None,
        *,
        own: Heads | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch queries width"]:
        """What the queries find; scores and softmax are float32.

        Args:
            query: who looks.
            keys: where.
            values: what is found there.
            mask: true where a query may look.
            own: of the queries' own tokens, where each looks at itself beside `keys`.
            key: drives dropout.
        """
        # cuDNN's kernel refuses what XLA accepts, and jax's function knows no dropout.
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, keys, preferred_element_type=jnp.float32)
        if mask is not None:
            scores = jnp.where(mask[:, None], scores, jnp.finfo(jnp.float32).min)
        if own is not None:
            alone = jnp.einsum("bqhd,bqhd->bhq", query, own.key, preferred_element_type=jnp.float32)
            scores = jnp.concatenate([scores, alone[..., None]], axis=-1)
        probabilities = jax.nn.softmax(scores / query.shape[-1] ** 0.5).astype(values.dtype)
        probabilities = dropout(probabilities, self.dropout, key)
        if own is None:
            mixed = jnp.einsum("bhqk,bkhd->bqhd", probabilities, values)
        else:
            mixed = jnp.einsum("bhqk,bkhd->bqhd", probabilities[..., :-1], values)
            mixed += jnp.einsum("bhq,bqhd->bqhd", probabilities[..., -1], own.value)
        batch, count, heads, dim = mixed.shape
        out: Array = self.out(mixed.reshape(batch, count, heads * dim))
        return out

    def __call__(
        self,
        tokens: Float[Array, "batch tokens width"],
        positions: Int[Array, " tokens"],
        mask: Bool[Array, "#batch tokens tokens"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch tokens width"]:
        """Mixes the tokens of each example."""
        heads = self.read(tokens, positions)
        return self.attend(*heads, mask, key=key)


def causal_mask(length: int) -> Bool[Array, "1 length length"]:
    """True where a token may look: at itself and at what came before."""
    return jnp.tri(length, dtype=bool)[None]
