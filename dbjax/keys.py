"""Random keys are derived from names, never carried.

Two runs that agree on (seed, stream, indices) agree on the draw, in any placement and after any
restart.
"""

import zlib

import jax
from jaxtyping import Array, PRNGKeyArray


def derive(seed: int, stream: str, *indices: int | Array) -> PRNGKeyArray:
    """The key of `stream` at `indices`, such as (block, step); indices may be traced."""
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))
    for index in indices:
        key = jax.random.fold_in(key, index)
    return key
