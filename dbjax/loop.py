"""The loop around any placement: advance, save, and stop when asked."""

import contextlib
import signal
from collections.abc import Callable, Iterable
from types import FrameType, TracebackType

from dbjax.training import Chunk, Placement, next_stop


def train(
    placement: Placement,
    blocks: Iterable[int],
    target: int,
    *,
    save_every: int,
    save: Callable[[], None],
    watch: Callable[[Chunk], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Brings `blocks` to `target` of their own steps.

    States are saved before the next batch is taken, so states and data positions always agree.

    Args:
        placement: holds the blocks.
        blocks: their numbers.
        target: steps of each block.
        save_every: steps of each block between saves; the last step is always saved.
        save: writes what the placement holds.
        watch: is shown each chunk of work; what it raises ends training without a save.
        should_stop: asked after each chunk; True saves and returns.

    Returns:
        Whether the target was reached.
    """
    blocks = tuple(blocks)
    stop = False
    while not stop and (step := min(placement.step(b) for b in blocks)) < target:
        with contextlib.closing(placement.advance(next_stop(step, target, save_every))) as chunks:
            for chunk in chunks:
                watch(chunk)
                stop = should_stop()
                if stop:
                    break
        save()
    return not stop


class Interruption:
    """Turns Ctrl-C and SIGTERM into a question to ask; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> bool:
        return self._asked

    def __enter__(self) -> "Interruption":
        self._previous = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True
