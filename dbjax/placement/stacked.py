"""All blocks in one program on one device."""

from collections.abc import Generator, Mapping
from typing import Any

import jax
from jaxtyping import Array

from dbjax.devices import device_memory
from dbjax.placement.config import PlacementConfig
from dbjax.task import Batch, Metrics
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

States = tuple[BlockState, ...]


class Stacked:
    """Every dispatch advances all blocks together.

    Needs the memory of all blocks at once, and in return switches nothing and, with a shared
    interface, averages inside the compiled program. Blocks may differ in their number of layers.
    """

    def __init__(
        self,
        config: PlacementConfig,
        trainer: Trainer,
        states: Mapping[int, BlockState],
        streams: Mapping[int, Stream],
    ) -> None:
        self._config = config
        self._trainer = trainer
        self._streams = streams
        self._blocks = tuple(states)
        # Copies, since each dispatch consumes the arrays it is given.
        self._states = {
            b: jax.device_put(states[b], device_memory(), may_alias=False) for b in self._blocks
        }
        self._steps = {b: int(states[b].step) for b in self._blocks}
        self._run = jax.jit(self._run_blocks, static_argnums=2, donate_argnums=0)
        self._average = jax.jit(self._synchronise, donate_argnums=0)

    def state(self, block: int) -> BlockState:
        return self._states[block]

    def step(self, block: int) -> int:
        return self._steps[block]

    def advance(self, target: int) -> Generator[Chunk, None, None]:
        while (start := min(self._steps.values())) < target:
            # Blocks that come from an interrupted run of another placement may be at different
            # steps: those behind catch up first.
            behind = tuple(b for b in self._blocks if self._steps[b] == start)
            ahead = [s for s in self._steps.values() if s > start]
            stop = next_stop(start, min([target, *ahead]), self._config.steps_per_dispatch)
            batches = tuple(self._streams[b].take(stop - start) for b in behind)
            states, metrics = self._run(tuple(self._states[b] for b in behind), batches, behind)
            self._states |= dict(zip(behind, states, strict=True))
            self._steps |= dict.fromkeys(behind, stop)
            if behind != self._blocks and set(self._steps.values()) == {stop}:
                # An average the interrupted run still owed, now that all have caught up.
                states = self._average(tuple(self._states.values()))
                self._states = dict(zip(self._blocks, states, strict=True))
            yield Chunk(stop - start, dict(zip(behind, metrics, strict=True)))

    def _run_blocks(
        self, states: States, batches: tuple[Batch, ...], blocks: tuple[int, ...]
    ) -> tuple[States, tuple[Metrics, ...]]:
        """Scan over steps of the update of every block."""

        def body(carry: States, batch: tuple[Batch, ...]) -> tuple[States, tuple[Metrics, ...]]:
            done = [
                self._trainer.update(state, b, block, self._trainer.interval(block))
                for state, b, block in zip(carry, batch, blocks, strict=True)
            ]
            states, metrics = zip(*done, strict=True)
            if blocks == self._blocks:
                states = self._synchronise(states)
            return states, metrics

        return jax.lax.scan(body, states, batches)

    def _synchronise(self, states: States) -> States:
        """Averages a shared interface whenever its turn has come."""
        if self._config.interface == "owned":
            return states

        def average(leaves: list[list[Array]]) -> list[list[Array]]:
            return [average_leaves(leaves)] * len(leaves)

        def keep(leaves: list[list[Array]]) -> list[list[Array]]:
            return leaves

        leaves: Any = jax.lax.cond(
            states[0].step % self._config.sync_every == 0,
            average,
            keep,
            [interface_leaves(state) for state in states],
        )
        return tuple(with_interface(s, new) for s, new in zip(states, leaves, strict=True))
