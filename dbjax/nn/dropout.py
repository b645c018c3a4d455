"""Dropout with an explicit key."""

import jax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray


def dropout(
    x: Float[Array, "*shape"], rate: float, key: PRNGKeyArray | None
) -> Float[Array, "*shape"]:
    """Each number zero with probability `rate`, else x / (1 - rate) (Srivastava et al. 2014).

    Without a key, which is evaluation, `x` itself.
    """
    return nnx.Dropout(rate)(x, deterministic=key is None, rngs=key)


def split_key(key: PRNGKeyArray | None, num: int) -> list[PRNGKeyArray | None]:
    """`num` keys from one; without a key, `num` times none."""
    return [None] * num if key is None else list(jax.random.split(key, num))
