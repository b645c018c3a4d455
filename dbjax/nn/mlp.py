"""The transformer's position-wise network."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from dbjax.nn.dropout import dropout
from dbjax.nn.linear import xavier_linear


@jax.custom_jvp
def exact_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x Phi(x), Phi the normal distribution function (Hendrycks & Gimpel 2016).

    The derivative is given here: that of erf is refused within `jax.shard_map` by jax 0.12.
    """
    return x * _distribution(x)


@exact_gelu.defjvp
def _exact_gelu_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (tangent,) = primals, tangents
    distribution = _distribution(x)
    density = jnp.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return x * distribution, tangent * (distribution + x * density)


def _distribution(x: Array) -> Array:
    return (1 + jax.lax.erf(x / math.sqrt(2))) / 2


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
        gelu = jax.nn.gelu if self.approximate else exact_gelu
        hidden = gelu(self.expand(tokens))
        return dropout(self.contract(hidden), self.dropout, key)


class GatedMLP(nnx.Module):
    """W_2 (activation(W_1 x) * (W_3 x)), without biases (Shazeer 2020, arXiv 2002.05202).

    W_1 and W_3 are one map, in this order. With SiLU it is SwiGLU, with the sigmoid GLU.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        linear: Callable[..., nnx.Linear],
        out: Callable[..., nnx.Linear] | None = None,
        activation: Callable[[Array], Array] = jax.nn.silu,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        """Makes the maps: W_2 by `out`, or `linear` where that is None; neither with a bias."""
        self.activation = activation
        settings = {"use_bias": False, "dtype": dtype, "rngs": rngs}
        self.expand = linear(width, 2 * hidden, **settings)
        self.contract = (out or linear)(hidden, width, **settings)

    def __call__(self, tokens: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """Map each token by itself."""
        gate, value = jnp.split(self.expand(tokens), 2, axis=-1)
        mapped: Array = self.contract(self.activation(gate) * value)
        return mapped
