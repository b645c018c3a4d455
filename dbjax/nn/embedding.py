"""Sinusoidal embeddings of positions and noise levels."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dbjax.nn.linear import normal_linear

MAX_PERIOD = 10_000.0


def frequencies(dim: int) -> np.ndarray:
    """The dim / 2 angular frequencies 10000^(-2k / dim) (Vaswani et al. 2017, section 3.5)."""
    half = dim // 2
    return MAX_PERIOD ** (-np.arange(half) / half)


def position_table(rows: int, columns: int, width: int) -> Float[np.ndarray, "positions width"]:
    """Fixed sine-cosine code of a grid's positions, row by row (Peebles and Xie 2023, their code).

    The first half of the width encodes the column and the second half the row, each as
    (sines, cosines).
    """

    def code(positions: np.ndarray) -> np.ndarray:
        angles = np.outer(positions, frequencies(width // 2))
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    row, column = np.divmod(np.arange(rows * columns), columns)
    return np.concatenate([code(column), code(row)], axis=1).astype(np.float32)


def sinusoid(values: Float[Array, " batch"], dim: int) -> Float[Array, "batch dim"]:
    """(cosines, sines) of the values, used as they are: the caller scales them."""
    angles = jnp.outer(values, jnp.asarray(frequencies(dim), jnp.float32))
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class ScalarEmbedding(nnx.Module):
    """Embedding of one number for each example: a sinusoid, then a small network.

    (cosines, sines) in float32, affine, SiLU, affine; weights N(0, 0.02^2) (Peebles and Xie 2023,
    their code).
    """

    def __init__(
        self, width: int, *, features: int = 256, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        self.features = features
        self.expand = normal_linear(features, width, dtype=dtype, rngs=rngs)
        self.out = normal_linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, values: Float[Array, " batch"]) -> Float[Array, "batch width"]:
        """Embed the values, used as they are: the caller scales them."""
        return self.out(jax.nn.silu(self.expand(sinusoid(values, self.features))))
