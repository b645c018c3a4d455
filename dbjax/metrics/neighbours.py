"""How many samples lie among real images, and how many real images among samples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dbjax.errors import require

NEIGHBOURS = 3
_ROWS = 1000  # whose distances to all others are in memory together


def precision_and_recall(
    samples: Float[np.ndarray, "samples size"],
    real: Float[np.ndarray, "real size"],
    *,
    neighbours: int = NEIGHBOURS,
) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991).

    Each vector has a ball as wide as the way to the third nearest of its own set. Precision is the
    share of samples in a ball of a real image, recall the share of real images in a ball of a
    sample. Both grow with the number of vectors, so only equal numbers compare.

    As in ADM's suite, but for its distances of 16 bits.

    Args:
        samples: vectors of samples.
        real: vectors of real images, by the same network.
        neighbours: which nearest the balls reach to.

    Raises:
        SettingError: a side has no more vectors than `neighbours`.
    """
    fewest = min(len(samples), len(real))
    allowed = f"{neighbours + 1} or more, for the {neighbours} nearest others of each"
    require(fewest > neighbours, "the number of vectors of a set", fewest, allowed)
    # Distances are differences of squares, which are small where the vectors are.
    middle = real.mean(axis=0, keepdims=True)
    sides = [jnp.asarray(vectors - middle, jnp.float32) for vectors in (samples, real)]
    of_samples, of_real = (_radii(side, neighbours) for side in sides)
    return (
        _share_inside(sides[0], sides[1], of_real),
        _share_inside(sides[1], sides[0], of_samples),
    )


def _radii(vectors: Float[Array, "n size"], neighbours: int) -> Float[Array, " n"]:
    """Squared distances to the k-th nearest other."""
    return jnp.concatenate([_nearest(rows, vectors, neighbours) for rows in _parts(vectors)])


def _share_inside(
    points: Float[Array, "points size"],
    centres: Float[Array, "centres size"],
    radii: Float[Array, " centres"],
) -> float:
    found = [np.asarray(_inside(rows, centres, radii)) for rows in _parts(points)]
    return float(np.concatenate(found).mean())


def _parts(vectors: Array) -> list[Array]:
    return [vectors[start : start + _ROWS] for start in range(0, len(vectors), _ROWS)]


@functools.partial(jax.jit, static_argnames="neighbours")
def _nearest(
    rows: Float[Array, "rows size"], vectors: Float[Array, "n size"], neighbours: int
) -> Float[Array, " rows"]:
    # The nearest of all is the vector itself.
    return -jax.lax.top_k(-_squared_distances(rows, vectors), neighbours + 1)[0][:, -1]


@jax.jit
def _inside(
    points: Float[Array, "points size"],
    centres: Float[Array, "centres size"],
    radii: Float[Array, " centres"],
) -> Bool[Array, " points"]:
    return jnp.any(_squared_distances(points, centres) <= radii[jnp.newaxis], axis=1)


def _squared_distances(a: Float[Array, "a size"], b: Float[Array, "b size"]) -> Float[Array, "a b"]:
    products = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
    lengths = jnp.sum(a**2, axis=1)[:, jnp.newaxis] + jnp.sum(b**2, axis=1)[jnp.newaxis]
    return jnp.maximum(lengths - 2 * products, 0)
