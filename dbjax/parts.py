"""Blocks as parts: layers of a block, and where in an old network those of a new one are."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dbjax.partition import Partition
from dbjax.task import Params

# Two float64 roads to one interval differ by rounding only (see dbjax.partition).
_SAME_U = 1e-9


def split_layers(layers: Any) -> list[Any]:
    """One tree for each layer of a block's `params["layers"]` (see `dbjax.task.Params`).

    Shapes in place of arrays will do.
    """
    if isinstance(layers, tuple):
        return list(layers)
    count = jax.tree.leaves(layers)[0].shape[0]
    return [jax.tree.map(lambda x, i=i: _row(x, i), layers) for i in range(count)]


def _row(x: Any, i: int) -> Any:
    return (
        jax.ShapeDtypeStruct(x.shape[1:], x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x[i]
    )


def join_layers(layers: Sequence[Any], like: Any) -> Any:
    """The `params["layers"]` that `split_layers` would split into `layers`.

    Args:
        layers: one tree for each layer.
        like: layers of any block of the network, or their shapes; says which convention holds.
    """
    if isinstance(like, tuple):
        return tuple(layers)
    return jax.tree.map(lambda *xs: np.stack(xs), *layers)


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where the weights of one new block come from.

    Attributes:
        layers: for each layer (old block, position in it), None for a layer to be drawn anew.
        interface: the old block whose interface it gets.
        fits: whether this is one old block, whole, that was trained for the same noise.
    """

    layers: tuple[tuple[int, int] | None, ...]
    interface: int
    fits: bool

    @property
    def blocks(self) -> set[int]:
        """The old blocks that are needed."""
        return {self.interface} | {place[0] for place in self.layers if place}

    def describe(self, layers: Sequence[int]) -> str:
        """In words; `layers` are the indices of the new block's layers."""
        if self.fits:
            return f"block {self.interface}"
        sources = [None if place is None else place[0] for place in self.layers]
        groups = itertools.groupby(zip(layers, sources, strict=True), key=lambda pair: pair[1])
        parts = [
            span([layer for layer, _ in group]) + (" new" if a is None else f" of block {a}")
            for a, group in groups
        ]
        return f"layers {', '.join(parts)}; interface of block {self.interface}"


def regroup(old: Partition, new: Partition) -> tuple[Origin, ...]:
    """For each block of `new`, where in a network that is cut as `old` its weights are.

    An old block with the same training interval (to 1e-9) and number of layers fits as it is, one
    with the same layers before others; the index of its layers may differ, since a block that was
    added before it has shifted them. Every other block gets its layers by their index, and the
    interface of the old block whose range of noise overlaps most with its own.
    """
    return tuple(_origin(old, new, b) for b in range(new.num_blocks))


def _origin(old: Partition, new: Partition, block: int) -> Origin:
    own = new.layers[block]
    fitting = [
        a
        for a, layers in enumerate(old.layers)
        if len(layers) == len(own)
        and np.allclose(old.intervals[a], new.intervals[block], rtol=0, atol=_SAME_U)
    ]
    if fitting:
        a = max(fitting, key=lambda a: old.layers[a] == own)
        return Origin(tuple((a, i) for i in range(len(own))), a, fits=True)
    place = {layer: (a, i) for a, layers in enumerate(old.layers) for i, layer in enumerate(layers)}
    lower = np.maximum(old.edges[:-1], new.edges[block])
    upper = np.minimum(old.edges[1:], new.edges[block + 1])
    return Origin(tuple(map(place.get, own)), int(np.argmax(upper - lower)), fits=False)


def gather(origin: Origin, old: Mapping[int, Params], fresh: Params) -> Params:
    """Weights of a new block, on the host.

    Args:
        origin: where they are.
        old: weights of the old blocks that are needed.
        fresh: the new block as it would be drawn; its shapes will do where nothing of it is kept.
    """
    params = {"interface": graft(old[origin.interface]["interface"], fresh["interface"])}
    for name in sorted(set(fresh) - {"interface"}):
        layers = [
            graft(split_layers(old[place[0]][name])[place[1]], own) if place else own
            for place, own in zip(origin.layers, split_layers(fresh[name]), strict=True)
        ]
        params[name] = join_layers(layers, fresh[name])
    # Averages may be wider than the weights they are taken of.
    return jax.tree.map(lambda x, like: np.asarray(x, like.dtype), params, fresh)


def graft(old: Any, fresh: Any) -> Any:
    """The tree `fresh` with everything that `old` has too, by its names, taken from there."""
    if not isinstance(fresh, Mapping):
        return old
    return {name: graft(old[name], own) if name in old else own for name, own in fresh.items()}


def span(layers: Sequence[int]) -> str:
    """Consecutive indices in words: "2-4"."""
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"
