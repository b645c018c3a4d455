"""One block on the device at a time; the others wait in host memory."""

from collections.abc import Generator, Mapping

import jax

from dbjax import keys
from dbjax.devices import to_device, to_host
from dbjax.placement.config import PlacementConfig
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


class Sequential:
    """Blocks take turns on one device.

    In each round every block is visited once, in an order drawn anew, for `steps_per_visit` steps.
    A block that is not being visited has its parameters, optimizer state and average in pinned
    host memory; gradients and activations exist for the visited block alone.
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
        self._states = {b: to_host(state) for b, state in states.items()}
        self._steps = {b: int(state.step) for b, state in states.items()}
        self._run = jax.jit(trainer.run, donate_argnums=0)
        self._average = jax.jit(average_leaves)

    def state(self, block: int) -> BlockState:
        return self._states[block]

    def step(self, block: int) -> int:
        return self._steps[block]

    def advance(self, target: int) -> Generator[Chunk, None, None]:
        shared = self._config.interface == "shared"
        every = self._config.steps_per_visit
        while (start := min(self._steps.values())) < target:
            stop = next_stop(start, target, every)
            if shared:
                stop = next_stop(start, stop, self._config.sync_every)
            yield from self._round(stop, shared and stop % self._config.sync_every == 0)

    def _round(self, stop: int, synchronise: bool) -> Generator[Chunk, None, None]:
        """One visit to every block that is behind `stop`."""
        # A visit that was broken off has left its block on the device.
        self._states = {b: to_host(state) for b, state in self._states.items()}
        behind = [b for b in self._states if self._steps[b] < stop]
        rank = jax.random.uniform(
            keys.derive(self._trainer.seed, "visit", stop), (max(self._states) + 1,)
        )
        order = sorted(behind, key=lambda b: float(rank[b]))
        fetched = None
        for block, following in zip(order, [*order[1:], None], strict=True):
            self._states[block] = to_device(self._states[block]) if fetched is None else fetched
            fetched = None
            while (step := self._steps[block]) < stop:
                num_steps = next_stop(step, stop, self._config.steps_per_dispatch) - step
                batches = to_device(self._streams[block].take(num_steps))
                self._states[block], metrics = self._run(
                    self._states[block], batches, block, self._trainer.interval(block)
                )
                self._steps[block] += num_steps
                if self._steps[block] == stop:
                    # The caller may break off at any yield: all that ends the visit comes before.
                    if following is not None and self._config.prefetch:
                        fetched = to_device(self._states[following])
                    # Dispatch runs ahead: without waiting, several blocks would be on the device.
                    self._states[block] = jax.block_until_ready(to_host(self._states[block]))
                    if following is None and synchronise:
                        self._synchronise()
                yield Chunk(num_steps, {block: metrics})

    def _synchronise(self) -> None:
        leaves = [to_device(interface_leaves(state)) for state in self._states.values()]
        mean = to_host(self._average(leaves))
        self._states = {b: with_interface(s, mean) for b, s in self._states.items()}
