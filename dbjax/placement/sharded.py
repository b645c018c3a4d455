"""Blocks spread over devices, advanced together by one program."""

import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from dbjax.errors import SettingError, require
from dbjax.placement.config import PlacementConfig
from dbjax.placement.layout import data_axis, make_layout
from dbjax.training import (
    BlockState,
    Chunk,
    Stream,
    Trainer,
    average_leaves,
    interface_leaves,
    next_stop,
    with_interface,
)

Slots = tuple[Any, ...]
"""One tree for each slot of a group. Outside of `shard_map` its arrays have the groups as leading
axis; inside, where a program sees its own group only, they have not."""


class Sharded:
    """Every dispatch advances all blocks together, by `jax.shard_map` over a mesh.

    The mesh has the axes `block` and `data`. Along `block` lie the groups of blocks: what crosses
    it is written here and nowhere else, the average of a shared interface; with an owned one
    nothing does. Along `data`, within a group, the compiler shares out batches and large arrays.

    On a mesh of one device this is the placement `stacked`. Blocks in the same slot of their
    groups must have the same shape; with one group they may all differ.
    """

    def __init__(
        self,
        config: PlacementConfig,
        trainer: Trainer,
        steps: Mapping[int, int],
        states: Mapping[int, BlockState],
        streams: Mapping[int, Stream],
    ) -> None:
        """Takes copies of the states of the blocks that this process holds.

        Args:
            config: where blocks shall live.
            trainer: what updates them.
            steps: of every block of the run, held by this process or not.
            states: of the blocks whose group has a device of this process.
            streams: theirs.

        Raises:
            SettingError: if the blocks cannot be shared out among the devices as asked.
        """
        self._config = config
        self._trainer = trainer
        self._streams = streams
        self._steps = dict(steps)
        self._held = frozenset(states)
        self.layout = make_layout(config, tuple(steps))
        shapes = tuple(_common_shape(trainer, slot) for slot in self.layout.slots)
        self._shardings = jax.tree.map(self._sharding, shapes)
        # Copies, since each dispatch consumes the arrays it is given.
        self._states = tuple(
            _join_groups(slot, states, shardings)
            for slot, shardings in zip(self.layout.slots, self._shardings, strict=True)
        )
        self._run = self._program(self._advance_group)
        self._catch_up = self._program(functools.partial(self._advance_group, catch_up=True))
        self._average = jax.jit(
            self._map_groups(self._average_group),
            donate_argnums=0,
            out_shardings=self._shardings,
        )

    def step(self, block: int) -> int:
        return self._steps[block]

    def state(self, block: int) -> BlockState:
        """A copy of the block's state, on the devices of its group."""
        slot, group = self.layout.find(block)
        mesh = self.layout.group_mesh(group)
        leaves, structure = jax.tree.flatten(self._states[slot])
        shardings = jax.tree.leaves(self._shardings[slot])
        parts = zip(*(_of_group(leaf, group) for leaf in leaves), strict=True)
        on_devices = zip(*(_squeeze(list(part)) for part in parts), strict=True)
        return jax.tree.unflatten(
            structure,
            [
                jax.make_array_from_single_device_arrays(
                    leaf.shape[1:], NamedSharding(mesh, P(*sharding.spec[1:])), list(shards)
                )
                for leaf, sharding, shards in zip(leaves, shardings, on_devices, strict=True)
            ],
        )

    def advance(self, target: int) -> Generator[Chunk, None, None]:
        while (start := min(self._steps.values())) < target:
            # Blocks that come from an interrupted run of another placement may be at different
            # steps: those behind catch up first.
            behind = [b for b, step in self._steps.items() if step == start]
            ahead = [step for step in self._steps.values() if step > start]
            stop = next_stop(start, min([target, *ahead]), self._config.steps_per_dispatch)
            run = self._catch_up if ahead else self._run
            batches = self._read(stop - start, behind)
            self._states, metrics = run(self._states, batches, self._about(tuple(behind)))
            self._steps |= dict.fromkeys(behind, stop)
            if ahead and set(self._steps.values()) == {stop}:
                # An average the interrupted run still owed, now that all have caught up.
                self._states = self._average(self._states)
            yield Chunk(stop - start, {b: self._own(metrics, b) for b in behind if b in self._held})

    def _own(self, metrics: Slots, block: int) -> dict[str, Array]:
        """The metrics of one block, still on a device of its group."""
        slot, group = self.layout.find(block)
        return _squeeze({name: _of_group(x, group)[0] for name, x in metrics[slot].items()})

    # --- programs ---------------------------------------------------------------------------------

    def lower(self, num_steps: int, batch: Any) -> jax.stages.Lowered:
        """The program of `num_steps` steps for batches shaped like `batch`, for inspection."""
        groups = self.layout.mesh.shape["block"]
        sharding = self.layout.sharding("block", None, "data")
        shape = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                (groups, num_steps, *x.shape), x.dtype, sharding=sharding
            ),
            batch,
        )
        batches = (shape,) * len(self.layout.slots)
        return self._run.lower(self._states, batches, self._about(tuple(self._steps)))

    def _program(self, advance_group: Callable[..., Any]) -> Any:
        return jax.jit(
            self._map_groups(advance_group),
            donate_argnums=0,
            out_shardings=(self._shardings, self.layout.sharding("block")),
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
                return self._average_group(new), metrics
            kept = [
                jax.tree.map(functools.partial(jnp.where, a["behind"]), n, old)
                for a, n, old in zip(about, new, carry, strict=True)
            ]
            return tuple(kept), metrics

        return jax.lax.scan(body, states, batches)

    def _update(self, slot: int, state: BlockState, batch: Any, about: Any) -> Any:
        remat = self.layout.slots[slot][0] in self._trainer.remat
        return self._trainer.update(state, batch, about["block"], about["interval"], remat=remat)

    def _average_group(self, states: Slots) -> Slots:
        """Averages a shared interface over all blocks, whenever its turn has come."""
        if self._config.interface != "shared":
            return states

        def average(leaves: list[list[Array]]) -> list[list[Array]]:
            mean = jax.lax.pmean(average_leaves(leaves), "block")
            return [jax.lax.pcast(mean, "block", to="varying")] * len(leaves)

        def keep(leaves: list[list[Array]]) -> list[list[Array]]:
            return leaves

        leaves: Any = jax.lax.cond(
            states[0].step % self._config.sync_every == 0,
            average,
            keep,
            [interface_leaves(state) for state in states],
        )
        return tuple(with_interface(s, new) for s, new in zip(states, leaves, strict=True))

    # --- arrays -----------------------------------------------------------------------------------

    def _sharding(self, shape: jax.ShapeDtypeStruct) -> NamedSharding:
        """Where an array of a block goes, once the groups are its leading axis."""
        axis = data_axis(shape.shape, self.layout.ways, self._config.shard_above)
        spec = [None if i != axis else "data" for i in range(len(shape.shape))]
        return self.layout.sharding("block", *spec)

    def _read(self, count: int, behind: Sequence[int]) -> Slots:
        """The next batches, [groups, count, batch, ...]; blocks that are not behind only look."""
        taken = {}
        for b in sorted(self._held):
            position = self._streams[b].state()
            taken[b] = self._streams[b].take(count)
            batch_size = jax.tree.leaves(taken[b])[0].shape[1]
            require(
                batch_size % self.layout.ways == 0,
                "data.batch_size",
                batch_size,
                f"a multiple of {self.layout.ways}, the devices that share out a batch "
                f"({self.layout.describe()})",
            )
            if b not in behind:
                self._streams[b].restore(position)
        sharding = self.layout.sharding("block", None, "data")
        return tuple(_join_groups(slot, taken, sharding) for slot in self.layout.slots)

    def _about(self, behind: Sequence[int]) -> Slots:
        """What a program has to know of each block: number, interval, whether it takes part."""
        about = {
            b: {
                "block": np.int32(b),
                "interval": np.asarray(self._trainer.interval(b)),
                "behind": np.bool_(b in behind),
            }
            for b in self._steps
        }
        sharding = self.layout.sharding("block")
        return tuple(_join_groups(slot, about, sharding) for slot in self.layout.slots)


def _join_groups(slot: Sequence[int], trees: Mapping[int, Any], shardings: Any) -> Any:
    """Host copies of the trees of a slot's blocks as one tree whose leading axis is the groups.

    Args:
        slot: a block for each group.
        trees: of the blocks that this process holds.
        shardings: one for all arrays, or a tree of them.
    """
    held = [b for b in slot if b in trees]

    def join(sharding: NamedSharding, *leaves: Any) -> Array:
        own = dict(zip(held, map(np.asarray, leaves), strict=True))
        shape = leaves[0].shape

        def shard(index: Any) -> np.ndarray:
            return np.array(own[slot[index[0].start or 0]][index[1:]])[None]

        return jax.make_array_from_callback((len(slot), *shape), sharding, shard)

    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, trees[held[0]])
    return jax.tree.map(join, shardings, *(trees[b] for b in held))


def _of_group(leaf: Array, group: int) -> list[Array]:
    """The parts of an array that lie on this process's devices of one group, [1, ...] each."""
    return [s.data for s in leaf.addressable_shards if (s.index[0].start or 0) == group]


@jax.jit
def _squeeze(tree: Any) -> Any:
    """`tree` without the leading axes of size 1; runs where its arrays are."""
    return jax.tree.map(lambda x: x[0], tree)


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
