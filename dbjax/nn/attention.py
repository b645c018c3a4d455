"""Multi-head self-attention."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dbjax.nn.linear import xavier_linear


class SelfAttention(nnx.Module):
    """Bidirectional multi-head self-attention (Vaswani et al. 2017, section 3.2), no dropout.

    Query, key and value come from one fused map, in this order, each split into heads.
    """

    def __init__(self, width: int, num_heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.num_heads = num_heads
        self.qkv = xavier_linear(width, 3 * width, dtype=dtype, rngs=rngs)
        self.out = xavier_linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(
        self, tokens: Float[Array, "batch tokens width"]
    ) -> Float[Array, "batch tokens width"]:
        """Mix the tokens of each example; the softmax runs in float32."""
        batch, length, width = tokens.shape
        heads = (batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = jnp.unstack(self.qkv(tokens).reshape(heads), axis=2)
        # cuDNN's kernel refuses what XLA accepts (float32 among others) and exists on GPUs only.
        mixed = jax.nn.dot_product_attention(query, key, value, implementation="xla")
        return self.out(mixed.reshape(batch, length, width))
