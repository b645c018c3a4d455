"""The compiled programs that advance many blocks at once."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dbjax.errors import SettingError
from dbjax.exchange import (
    average_leaves,
    interface_leaves,
    lend,
    pool_layers,
    with_context,
    with_interface,
)
from dbjax.placement.config import PlacementConfig
from dbjax.placement.layout import data_axis, make_layout
from dbjax.task import Batch
from dbjax.training import BlockState, Trainer

Slots = tuple[Any, ...]
"""One tree for each slot of a group. Outside of `shard_map` its arrays have the groups as leading
axis; inside, where a program sees its own group only, they have not."""


class Program:
    """Updates of all blocks of a layout, by `jax.shard_map` over its mesh.

    Along the mesh's axis `block` lie the groups of blocks: what crosses it is written here and
    nowhere else, the average of a shared interface and borrowed layers; with an owned one nothing
    does. Along `data`, within a group, the compiler shares out batches and large arrays.

    Attributes:
        layout: which block lives where. Blocks in one slot must have the same shape.
        shapes: of the states of each slot's blocks, without a leading axis.
        shardings: of the states of each slot, groups leading.
        run: (states, batches, about) -> states, metrics. Batches are [groups, steps, batch, ...]
            and metrics [groups, steps]; `about` says of each block its number, its interval and
            whether it is behind. The states are consumed.
        catch_up: the same for the blocks that are behind; the others stay as they are, and
            nothing is exchanged.
        exchange: (states, about) -> states, with what is exchanged if the turn has come.
    """

    def __init__(self, config: PlacementConfig, trainer: Trainer, blocks: Sequence[int]) -> None:
        """Nothing is compiled and no array is made.

        Raises:
            SettingError: if the blocks cannot be shared out among the devices as asked.
        """
        self._config = config
        self._trainer = trainer
        self.layout = make_layout(config, blocks)
        self.shapes = tuple(_common_shape(trainer, slot) for slot in self.layout.slots)
        self.shardings = jax.tree.map(self._sharding, self.shapes)
        self.run = self._program(self._advance_group)
        self.catch_up = self._program(functools.partial(self._advance_group, catch_up=True))
        self.exchange = jax.jit(
            self._map_groups(self._exchange), donate_argnums=0, out_shardings=self.shardings
        )

    def lower(self, num_steps: int, batch: Batch) -> jax.stages.Lowered:
        """`run` of `num_steps` steps on batches shaped like `batch`, for inspection.

        Only shapes are used: compiling it allocates nothing.
        """
        groups = self.layout.mesh.shape["block"]

        def abstract(x: Any, sharding: NamedSharding, *axes: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((groups, *axes, *x.shape), x.dtype, sharding=sharding)

        along = self.layout.sharding("block")
        about = {
            "block": jax.ShapeDtypeStruct((groups,), jnp.int32, sharding=along),
            "interval": jax.ShapeDtypeStruct((groups, 2), jnp.float32, sharding=along),
            "behind": jax.ShapeDtypeStruct((groups,), jnp.bool_, sharding=along),
        }
        rows = self.layout.sharding("block", None, "data")
        batches = {name: abstract(x, rows, num_steps) for name, x in batch.items()}
        slots = len(self.layout.slots)
        states = jax.tree.map(abstract, self.shapes, self.shardings)
        return self.run.lower(states, (batches,) * slots, (about,) * slots)

    def _program(self, advance_group: Callable[..., Any]) -> Any:
        return jax.jit(
            self._map_groups(advance_group),
            donate_argnums=0,
            out_shardings=(self.shardings, self.layout.sharding("block")),
        )

    def _map_groups(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` of one group, for all groups at once; `data` is left to the compiler."""

        def of_one_group(*arguments: Any) -> Any:
            own = jax.tree.map(lambda x: x[0], arguments)
            return jax.tree.map(lambda x: x[None], function(*own))

        return jax.shard_map(
            of_one_group,
            mesh=self.layout.mesh,
            in_specs=P("block"),
            out_specs=P("block"),
            axis_names={"block"},
        )

    def _advance_group(
        self, states: Slots, batches: Slots, about: Slots, *, catch_up: bool = False
    ) -> tuple[Slots, Slots]:
        """Scans over steps of the update of every slot of one group."""

        def body(carry: Slots, batch: Slots) -> tuple[Slots, Slots]:
            done = [
                self._update(j, *of) for j, of in enumerate(zip(carry, batch, about, strict=True))
            ]
            new, metrics = zip(*done, strict=True)
            if not catch_up:
                return self._exchange(tuple(new), about), metrics
            kept = [
                jax.tree.map(functools.partial(jnp.where, a["behind"]), n, old)
                for a, n, old in zip(about, new, carry, strict=True)
            ]
            return tuple(kept), metrics

        return jax.lax.scan(body, states, batches)

    def _update(self, slot: int, state: BlockState, batch: Any, about: Any) -> Any:
        remat = self.layout.slots[slot][0] in self._trainer.remat
        return self._trainer.update(state, batch, about["block"], about["interval"], remat=remat)

    def _exchange(self, states: Slots, about: Slots) -> Slots:
        """Averages a shared interface over all blocks and lends layers, whenever the turn has come.

        One group's part of it.
        """
        if self._config.interface != "shared":
            return states
        several = self.layout.mesh.shape["block"] > 1
        interfaces = [interface_leaves(state) for state in states]
        contexts = [state.params.get("context") for state in states]

        def exchange(interfaces: Any, contexts: Any) -> tuple[Any, Any]:
            mean = average_leaves(interfaces)
            if several:
                mean = jax.lax.pcast(jax.lax.pmean(mean, "block"), "block", to="varying")
            return [mean] * len(states), self._lend(states, about) or contexts

        def keep(interfaces: Any, contexts: Any) -> tuple[Any, Any]:
            return interfaces, contexts

        turn = states[0].step % self._config.sync_every == 0
        interfaces, contexts = jax.lax.cond(turn, exchange, keep, interfaces, contexts)
        states = tuple(map(with_interface, states, interfaces))
        return states if contexts[0] is None else tuple(map(with_context, states, contexts))

    def _lend(self, states: Slots, about: Slots) -> list[Any]:
        """What each slot's block borrows, of the layers as they are now; empty if nothing."""
        partition = self._trainer.task.partition
        if not partition.borrows:
            return []
        lent = [state.params["layers"] for state in states]
        if self.layout.mesh.shape["block"] > 1:
            lent = [jax.lax.all_gather(layers, "block") for layers in lent]
        else:
            lent = [jax.tree.map(lambda x: x[None], layers) for layers in lent]
        places = map(self.layout.find, range(partition.num_blocks))
        every = pool_layers([jax.tree.map(lambda x, g=g: x[g], lent[j]) for j, g in places])
        index, use = map(jnp.asarray, partition.borrowed())
        return [lend(every, index[a["block"]], use[a["block"]]) for a in about]

    def _sharding(self, shape: jax.ShapeDtypeStruct) -> NamedSharding:
        """Where an array of a block goes, once the groups are its leading axis."""
        axis = data_axis(shape.shape, self.layout.ways, self._config.shard_above)
        spec = [None if i != axis else "data" for i in range(len(shape.shape))]
        return self.layout.sharding("block", *spec)


def _common_shape(trainer: Trainer, slot: Sequence[int]) -> BlockState:
    """The shape of all blocks of a slot.

    Raises:
        SettingError: if they differ.
    """
    shapes: list[Any] = [jax.eval_shape(functools.partial(trainer.init, b)) for b in slot]
    first = jax.tree.flatten(shapes[0])
    for block, shape in zip(slot, shapes, strict=True):
        same = jax.tree.flatten(shape) == first
        if not same or (block in trainer.remat) != (slot[0] in trainer.remat):
            raise SettingError(
                f"placement.name is 'sharded', which runs one program for blocks {slot[0]} and "
                f"{block}, but they differ in layers or in training.remat; allowed: blocks of one "
                "shape, fewer placement.groups, or another placement"
            )
    return shapes[0]
