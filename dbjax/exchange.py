"""What blocks that are not independent exchange: the average of their interfaces, and layers.

Both happen every `placement.sync_every` steps, after the step, and nothing else crosses from block
to block while they train.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dbjax.training import BlockState


def interface_leaves(state: BlockState) -> list[Array]:
    """All that belongs to the interface: its weights, optimizer moments and average."""
    return [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state) if _interface(path)]


def with_interface(state: BlockState, leaves: list[Array]) -> BlockState:
    """`state` with `interface_leaves` replaced."""
    new = iter(leaves)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: next(new) if _interface(path) else leaf, state
    )


def with_context(state: BlockState, context: Any) -> BlockState:
    """`state` with other borrowed layers."""
    return dataclasses.replace(state, params={**state.params, "context": context})


def average_leaves(blocks: list[list[Array]]) -> list[Array]:
    """Mean over blocks, leaf by leaf: the whole communication of a shared interface."""
    return [sum(leaves[1:], start=leaves[0]) / len(leaves) for leaves in zip(*blocks, strict=True)]


def pool_layers(blocks: Sequence[Any]) -> Any:
    """The layers of all blocks, in order, as one tree whose leading axis is the whole network's."""
    return jax.tree.map(lambda *layers: jnp.concatenate(layers), *blocks)


def lend(every: Any, index: Int[Array, " capacity"], use: Float[Array, " capacity"]) -> Any:
    """A block's `params["context"]`: the layers it borrows out of `pool_layers`."""
    return {"layers": jax.tree.map(lambda x: x[index], every), "use": use}


def _interface(path: tuple[Any, ...]) -> bool:
    """Whether a path turns to the interface where a block's tree forks; deeper names are free."""
    fork = (e.key for e in path if getattr(e, "key", None) in ("interface", "layers"))
    return next(fork, None) == "interface"
