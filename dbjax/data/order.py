"""A random order of very many examples that is computed where it is needed, not stored."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt64

_ROUNDS = 6


def shuffled(
    positions: Int[np.ndarray, " count"], size: int, seed: Sequence[int]
) -> Int[np.ndarray, " count"]:
    """Returns which of `size` examples come at `positions` of a random order.

    A Feistel network (Luby and Rackoff 1988) permutes the numbers of an even count of bits; one
    that leads out of `[0, size)` is permuted again until it is inside.

    Args:
      positions: from 0 to `size - 1`.
      size: of the order, below 2^62.
      seed: names the order.
    """
    bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    keys = np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64)
    found = _permuted(positions.astype(np.uint64), bits, keys)
    while len(outside := np.flatnonzero(found >= size)):
        found[outside] = _permuted(found[outside], bits, keys)
    return found.astype(np.int64)


def _permuted(
    numbers: UInt64[np.ndarray, " count"], bits: np.uint64, keys: UInt64[np.ndarray, " rounds"]
) -> UInt64[np.ndarray, " count"]:
    """A permutation of the numbers below 4^bits."""
    mask = (np.uint64(1) << bits) - np.uint64(1)
    left, right = numbers >> bits, numbers & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return left << bits | right


def _mixed(x: UInt64[np.ndarray, " count"]) -> UInt64[np.ndarray, " count"]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
