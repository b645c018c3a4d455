"""The transformer's position-wise network."""

import jax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dbjax.nn.linear import xavier_linear


class MLP(nnx.Module):
    """Two affine maps with a GELU (tanh approximation) between them, no dropout."""

    def __init__(self, width: int, hidden: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.expand = xavier_linear(width, hidden, dtype=dtype, rngs=rngs)
        self.contract = xavier_linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """Map each token by itself."""
        return self.contract(jax.nn.gelu(self.expand(tokens), approximate=True))
