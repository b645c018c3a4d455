"""One block on the device at a time; the others wait in host memory."""

import math
import time
from collections.abc import Generator, Mapping

import jax

from dbjax import keys
from dbjax.devices import to_device, to_host
from dbjax.exchange import (
    average_leaves,
    interface_leaves,
    lend,
    pool_layers,
    with_context,
    with_interface,
)
from dbjax.placement.config import PlacementConfig
from dbjax.task import Metrics
from dbjax.training import BlockState, Chunk, Stream, Trainer, next_stop

# With `steps_per_visit=None`: what fetching and putting back a block may cost beside its visit,
# were nothing of it hidden, and the longest visit, after which other blocks should have a turn.
_SWITCH_SHARE = 0.05
_LONGEST_VISIT = 1000


class Sequential:
    """Blocks take turns on one device.

    In each round every block is visited once, in an order drawn anew, for `steps_per_visit` steps.
    A block that is not being visited has its parameters, optimizer state and average in pinned
    host memory; gradients and activations exist for the visited block alone.

    Attributes:
        timing: what was measured to choose the visits: seconds of a "step" and of a "switch", in
            which a block goes to the host and comes back.
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
        # By way of numpy, since states may come from the several devices of another placement.
        self._states = {b: to_host(jax.device_get(state)) for b, state in states.items()}
        self._steps = {b: int(state.step) for b, state in states.items()}
        self._visit = config.steps_per_visit
        self.timing: dict[str, float] = {}
        self._run = jax.jit(trainer.run, static_argnames="remat", donate_argnums=0)
        self._average = jax.jit(average_leaves)
        self._lend = jax.jit(lend)

    @property
    def steps_per_visit(self) -> int | None:
        """As configured or measured; None as long as it has not been measured."""
        return self._visit

    def state(self, block: int) -> BlockState:
        return self._states[block]

    def step(self, block: int) -> int:
        return self._steps[block]

    def advance(self, target: int) -> Generator[Chunk, None, None]:
        shared = self._config.interface == "shared"
        alone = len(self._states) == 1
        while (start := min(self._steps.values())) < target:
            # Long enough to time a dispatch that need not compile.
            visit = target if alone else self._visit or 2 * self._config.steps_per_dispatch
            stop = next_stop(start, target, visit)
            if shared:
                stop = next_stop(start, stop, self._config.sync_every)
            yield from self._round(stop, shared and stop % self._config.sync_every == 0)
            if self._visit is None and not alone:
                self._visit = self._choose_visit()

    def _round(self, stop: int, synchronise: bool) -> Generator[Chunk, None, None]:
        """One visit to every block that is behind `stop`."""
        # A visit that was broken off has left its block on the device.
        self._states = {b: to_host(state) for b, state in self._states.items()}
        behind = [b for b in self._states if self._steps[b] < stop]
        rank = jax.random.uniform(
            keys.derive(self._trainer.seed, "visit", stop), (max(self._states) + 1,)
        )
        order = sorted(behind, key=lambda b: float(rank[b]))
        fetched = leaving = None
        for block, following in zip(order, [*order[1:], None], strict=True):
            self._states[block] = to_device(self._states[block]) if fetched is None else fetched
            fetched = None
            while (step := self._steps[block]) < stop:
                num_steps = next_stop(step, stop, self._config.steps_per_dispatch) - step
                begin = time.perf_counter()
                batches = to_device(self._streams[block].take(num_steps))
                self._states[block], metrics = self._run(
                    self._states[block],
                    batches,
                    block,
                    self._trainer.interval(block),
                    remat=block in self._trainer.remat,
                )
                self._steps[block] += num_steps
                # Dispatch runs ahead: without waiting, several blocks would be on the device.
                leaving = jax.block_until_ready(leaving) and None
                if self._visit is None and len(self._states) > 1:
                    self._time(begin, block, num_steps, metrics)
                if self._steps[block] == stop:
                    # The caller may break off at any yield: all that ends the visit comes before.
                    if following is not None and self._config.prefetch:
                        fetched = to_device(self._states[following])
                    self._states[block] = leaving = to_host(self._states[block])
                    if fetched is None:
                        leaving = jax.block_until_ready(leaving) and None
                    if following is None and synchronise:
                        self._synchronise()
                yield Chunk(num_steps, {block: metrics})

    def _time(self, begin: float, block: int, num_steps: int, metrics: Metrics) -> None:
        """Measures a step and, after it, bringing the block back and forth once more."""
        jax.block_until_ready(metrics)
        end = time.perf_counter()
        # Compiling makes the first dispatch of each length the slowest.
        step = (end - begin) / num_steps
        self.timing["step"] = min(step, self.timing.get("step", math.inf))
        self._states[block] = jax.block_until_ready(to_device(to_host(self._states[block])))
        self.timing["switch"] = time.perf_counter() - end

    def _choose_visit(self) -> int:
        """The shortest visit, in whole dispatches, beside which a switch costs little."""
        dispatch = self._config.steps_per_dispatch
        steps = self.timing["switch"] / (_SWITCH_SHARE * self.timing["step"])
        longest = max(_LONGEST_VISIT // dispatch, 1)
        return dispatch * min(max(math.ceil(steps / dispatch), 1), longest)

    def _synchronise(self) -> None:
        leaves = [to_device(interface_leaves(state)) for state in self._states.values()]
        mean = to_host(self._average(leaves))
        self._states = {b: with_interface(s, mean) for b, s in self._states.items()}
        partition = self._trainer.task.partition
        if partition.borrows:
            every = pool_layers([to_device(self._states[b].params["layers"]) for b in self._states])
            for b, index, use in zip(self._states, *partition.borrowed(), strict=True):
                context = to_host(self._lend(every, index, use))
                self._states[b] = with_context(self._states[b], context)
