"""Multi-head self-attention."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from dbjax.nn.dropout import dropout, split_key
from dbjax.nn.linear import xavier_linear


class SelfAttention(nnx.Module):
    """Bidirectional multi-head self-attention (Vaswani et al. 2017, section 3.2).

    Query, key and value come from one fused map, in this order, each split into heads. Dropout, off
    by default, acts on the attention probabilities and on the output.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        linear: Callable[..., nnx.Linear] = xavier_linear,
        dropout: float = 0.0,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = linear(width, 3 * width, dtype=dtype, rngs=rngs)
        self.out = linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(
        self, tokens: Float[Array, "batch tokens width"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "batch tokens width"]:
        """Mix the tokens of each example; the softmax runs in float32. `key` drives dropout."""
        batch, length, width = tokens.shape
        heads = (batch, length, 3, self.num_heads, width // self.num_heads)
        query, keys, value = jnp.unstack(self.qkv(tokens).reshape(heads), axis=2)
        probability_key, out_key = split_key(key, 2)
        if probability_key is None or self.dropout == 0:
            # cuDNN's kernel refuses what XLA accepts (float32 for one) and exists on GPUs only.
            mixed = jax.nn.dot_product_attention(query, keys, value, implementation="xla")
        else:
            # jax's function has no dropout, and flax's takes the softmax in bfloat16.
            scores = jnp.einsum("bqhd,bkhd->bhqk", query, keys, preferred_element_type=jnp.float32)
            probabilities = jax.nn.softmax(scores / heads[-1] ** 0.5).astype(value.dtype)
            probabilities = dropout(probabilities, self.dropout, probability_key)
            mixed = jnp.einsum("bhqk,bkhd->bqhd", probabilities, value)
        return dropout(self.out(mixed.reshape(batch, length, width)), self.dropout, out_key)
