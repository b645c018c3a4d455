"""Layers of a decoder as in Llama 2, plain or modulated by a noise level, over one text or two.

In the two streams of a text (Arriola et al. 2025, BD3-LM, arXiv 2503.09573), the clean one is an
ordinary causal decoder; a token of the noisy one looks at the clean tokens up to its own position
and at itself, never at another noisy one.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dbjax.nn.dropout import dropout, split_key
from dbjax.nn.linear import normal_linear
from dbjax.nn.mlp import GatedMLP
from dbjax.nn.modulation import Modulation, modulate
from dbjax.nn.rotary import Heads, RotaryAttention, causal_mask

rms_norm = functools.partial(nnx.RMSNorm, epsilon=1e-5, dtype=jnp.float32)
"""Root-mean-square normalisation with gain, in float32, called as (features, rngs=)."""

Vectors = tuple[Any, ...]
"""Shift, scale and gate of the attention, then of the MLP."""

_PLAIN: Vectors = (None, None, 1.0, None, None, 1.0)


class Streams(NamedTuple):
    """What a layer does to two streams of a text, each [batch, tokens, width]."""

    clean: Array
    noisy: Array


class Conditions(NamedTuple):
    """The noise levels' embeddings of two streams, each [batch, 1 or tokens, width]."""

    clean: Array
    noisy: Array


class Cache(NamedTuple):
    """Keys and values of the clean tokens before, each [batch, capacity, heads, dim]."""

    key: Array
    value: Array


class DecoderLayer(nnx.Module):
    """Pre-normalised rotary attention and SwiGLU (Touvron et al. 2023, arXiv 2307.09288)."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_hidden: int,
        *,
        condition_width: int | None = None,
        gates: int = 0,
        dropout: float = 0.0,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        """Makes the maps.

        Args:
            width: features of a token.
            num_heads: attention heads.
            mlp_hidden: hidden features of the MLP.
            condition_width: features of the noise level's embedding; None is a plain layer.
            gates: what the gates of a modulated layer start at, 0 or 1.
            dropout: rate on both updates.
            dtype: what matrices are multiplied in.
            rngs: of the weights.
        """
        settings: dict[str, Any] = {"linear": normal_linear, "dtype": dtype, "rngs": rngs}
        self.gates, self.dropout = gates, dropout
        self.attention_norm = rms_norm(width, rngs=rngs)
        self.attention = RotaryAttention(width, num_heads, **settings)
        self.mlp_norm = rms_norm(width, rngs=rngs)
        self.mlp = GatedMLP(width, mlp_hidden, **settings)
        self.modulation = (
            Modulation(width, 6, condition_width=condition_width, dtype=dtype, rngs=rngs)
            if condition_width
            else None
        )

    def __call__(
        self,
        tokens: Float[Array, "batch tokens width"],
        condition: Float[Array, "#batch #tokens condition"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch tokens width"]:
        """One layer over one clean text."""
        vectors = self.vectors(condition)
        heads = self.read(tokens, jnp.arange(tokens.shape[1]), vectors)
        return self.finish(tokens, self.look(heads, heads), vectors, key)

    def over_streams(
        self, streams: Streams, conditions: Conditions, key: PRNGKeyArray | None = None
    ) -> Streams:
        """One modulated layer over both, attending apart: half the scores of one mask for both."""
        clean_key, noisy_key = split_key(key, 2)
        positions = jnp.arange(streams.clean.shape[1])
        vectors = [self.vectors(condition) for condition in conditions]
        clean, noisy = (
            self.read(tokens, positions, v) for tokens, v in zip(streams, vectors, strict=True)
        )
        return Streams(
            self.finish(streams.clean, self.look(clean, clean), vectors[0], clean_key),
            self.finish(streams.noisy, self.look(noisy, clean, own=noisy), vectors[1], noisy_key),
        )

    def over_joined(
        self, streams: Streams, conditions: Conditions, key: PRNGKeyArray | None = None
    ) -> Streams:
        """The same as one text of twice the length under one mask (BD3-LM); dropout differs."""
        batch, length, _ = streams.clean.shape
        tokens = jnp.concatenate(streams, axis=1)
        full = [
            jnp.broadcast_to(condition, (batch, length, condition.shape[-1]))
            for condition in conditions
        ]
        vectors = self.vectors(jnp.concatenate(full, axis=1))
        causal = causal_mask(length)
        nothing = jnp.zeros_like(causal)
        itself = jnp.eye(length, dtype=bool)[None]
        mask = jnp.block([[causal, nothing], [causal, itself]])
        heads = self.read(tokens, jnp.tile(jnp.arange(length), 2), vectors)
        tokens = self.finish(tokens, self.attention.attend(*heads, mask), vectors, key)
        return Streams(*jnp.split(tokens, 2, axis=1))

    def step(
        self,
        tokens: Float[Array, "batch tokens width"],
        condition: Float[Array, "#batch tokens condition"] | None,
        position: Int[Array, ""],
        cache: Cache,
        *,
        clean: bool,
        noisy: bool,
        last: bool = False,
    ) -> tuple[Float[Array, "batch left width"], Cache]:
        """One position of a text whose earlier positions are in the cache.

        Args:
            tokens: the clean token, the noisy one, or both in this order.
            condition: of each of them; None in a plain layer.
            position: theirs.
            cache: of the clean tokens before.
            clean: whether a clean token is among them; the cache is then extended by it.
            noisy: whether a noisy one is.
            last: whether no layer follows this modulated one: then a clean token beside a noisy one
                is needed for its keys and values alone, and goes no further.
        """
        vectors = self.vectors(condition)
        heads = self.read(tokens, jnp.full(tokens.shape[1], position), vectors)
        if clean:
            cache = Cache(
                *(
                    jax.lax.dynamic_update_slice_in_dim(old, new[:, :1], position, axis=1)
                    for old, new in zip(cache, (heads.key, heads.value), strict=True)
                )
            )
        if last:
            tokens, vectors = tokens[:, -1:], tuple(vector[:, -1:] for vector in vectors)
            heads = heads._replace(query=heads.query[:, -1:])
        keys, values = cache
        known = jnp.arange(keys.shape[1]) <= position
        mask = jnp.broadcast_to(known[None, None], (1, tokens.shape[1], len(known)))
        if noisy:
            # The noisy token itself is one more key, for it alone.
            keys = jnp.concatenate([keys, heads.key[:, -1:]], axis=1)
            values = jnp.concatenate([values, heads.value[:, -1:]], axis=1)
            own = (jnp.arange(tokens.shape[1]) == tokens.shape[1] - 1)[None, :, None]
            mask = jnp.concatenate([mask, own], axis=2)
        update = self.attention.attend(heads.query, keys, values, mask)
        return self.finish(tokens, update, vectors, None), cache

    def prefill(
        self, tokens: Float[Array, "batch tokens width"], condition: Array | None, capacity: int
    ) -> tuple[Float[Array, "batch tokens width"], Cache]:
        """Clean tokens from position 0 on, and a cache of `capacity` with what later ones read."""
        vectors = self.vectors(condition)
        length = tokens.shape[1]
        heads = self.read(tokens, jnp.arange(length), vectors)
        room = ((0, 0), (0, capacity - length), (0, 0), (0, 0))
        cache = Cache(jnp.pad(heads.key, room), jnp.pad(heads.value, room))
        return self.finish(tokens, self.look(heads, heads), vectors, None), cache

    def vectors(self, condition: Float[Array, "batch tokens condition"] | None) -> Vectors:
        """Shifts, scales and gates at a noise level; none of a plain layer, without one."""
        if condition is None:
            return _PLAIN
        assert self.modulation is not None
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)
        return shift_a, scale_a, self.gates + gate_a, shift_m, scale_m, self.gates + gate_m

    def read(self, tokens: Array, positions: Int[Array, " tokens"], vectors: Vectors) -> Heads:
        """What the attention reads of tokens."""
        return self.attention.read(_modulated(self.attention_norm(tokens), *vectors[:2]), positions)

    def look(self, heads: Heads, clean: Heads, own: Heads | None = None) -> Array:
        """What tokens find among clean ones up to their own position, and in themselves."""
        mask = causal_mask(heads.query.shape[1])
        return self.attention.attend(heads.query, clean.key, clean.value, mask, own=own)

    def finish(
        self, tokens: Array, update: Array, vectors: Vectors, key: PRNGKeyArray | None
    ) -> Array:
        """The tokens with the attention's update, and then the MLP's."""
        attention_key, mlp_key = split_key(key, 2)
        _, _, gate_a, shift_m, scale_m, gate_m = vectors
        tokens = tokens + gate_a * dropout(update, self.dropout, attention_key)
        update = self.mlp(_modulated(self.mlp_norm(tokens), shift_m, scale_m))
        return tokens + gate_m * dropout(update, self.dropout, mlp_key)


def _modulated(tokens: Array, shift: Array | None, scale: Array | None) -> Array:
    return tokens if shift is None or scale is None else modulate(tokens, shift, scale)
