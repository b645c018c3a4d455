"""The transformer's position-wise network."""

from collections.abc import Callable

import jax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from dbjax.nn.dropout import dropout
from dbjax.nn.linear import xavier_linear


class MLP(nnx.Module):
    """Two affine maps with a GELU between them: its tanh approximation, or exactly x Phi(x).

    Dropout, off by default, acts on the output.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        linear: Callable[..., nnx.Linear] = xavier_linear,
        approximate: bool = True,
        dropout: float = 0.0,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        self.approximate = approximate
        self.dropout = dropout
        self.expand = linear(width, hidden, dtype=dtype, rngs=rngs)
        self.contract = linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(
        self, tokens: Float[Array, "*batch width"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "*batch width"]:
        """Map each token by itself. `key` drives dropout."""
        hidden = jax.nn.gelu(self.expand(tokens), approximate=self.approximate)
        return dropout(self.contract(hidden), self.dropout, key)
