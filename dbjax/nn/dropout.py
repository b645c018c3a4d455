"""Dropout with an explicit key."""

from collections.abc import Sequence

import jax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray


def dropout(
    x: Float[Array, "*shape"],
    rate: float,
    key: PRNGKeyArray | None,
    *,
    together: Sequence[int] = (),
) -> Float[Array, "*shape"]:
    """Each number zero with probability `rate`, else x / (1 - rate) (Srivastava et al. 2014).

    Without a key, which is evaluation, `x` itself. Numbers that differ in their place on the axes
    `together` only are dropped together.
    """
    drop = nnx.Dropout(rate, broadcast_dims=together)
    return drop(x, deterministic=key is None, rngs=key)


def split_key(key: PRNGKeyArray | None, num: int) -> list[PRNGKeyArray | None]:
    """`num` keys from one; without a key, `num` times none."""
    return [None] * num if key is None else list(jax.random.split(key, num))
