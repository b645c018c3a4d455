"""Blocks spread over devices, advanced together by one program."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from dbjax.errors import require
from dbjax.placement.config import PlacementConfig
from dbjax.placement.program import Program, Slots
from dbjax.training import BlockState, Chunk, Stream, Trainer, next_stop


class Sharded:
    """Every dispatch advances all blocks together, on the mesh of `dbjax.placement.program`.

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
        self._program = Program(config, trainer, tuple(steps))
        self.layout = self._program.layout
        # Copies, since each dispatch consumes the arrays it is given.
        self._states = tuple(
            _join_groups(slot, states, shardings)
            for slot, shardings in zip(self.layout.slots, self._program.shardings, strict=True)
        )

    def step(self, block: int) -> int:
        return self._steps[block]

    def state(self, block: int) -> BlockState:
        """A copy of the block's state, on the devices of its group."""
        slot, group = self.layout.find(block)
        mesh = self.layout.group_mesh(group)
        leaves, structure = jax.tree.flatten(self._states[slot])
        shardings = jax.tree.leaves(self._program.shardings[slot])
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
            run = self._program.catch_up if ahead else self._program.run
            batches = self._read(stop - start, behind)
            self._states, metrics = run(self._states, batches, self._about(tuple(behind)))
            self._steps |= dict.fromkeys(behind, stop)
            if ahead and set(self._steps.values()) == {stop}:
                # An exchange the interrupted run still owed, now that all have caught up.
                self._states = self._program.exchange(self._states, self._about(tuple(behind)))
            yield Chunk(stop - start, {b: self._own(metrics, b) for b in behind if b in self._held})

    def _own(self, metrics: Slots, block: int) -> dict[str, Array]:
        """The metrics of one block, still on a device of its group."""
        slot, group = self.layout.find(block)
        return _squeeze({name: _of_group(x, group)[0] for name, x in metrics[slot].items()})

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
                "interval": np.asarray(self._trainer.task.partition.intervals[b], np.float32),
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
