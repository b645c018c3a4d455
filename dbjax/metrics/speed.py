"""Wall time of things measured side by side."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax

K = TypeVar("K")


def side_by_side(programs: Mapping[K, Callable[[], Any]], *, repeats: int = 7) -> dict[K, float]:
    """Median seconds of each program, run in turn so that a slow spell of the machine hits all.

    Each is called once before, so that compilation is not measured.
    """
    for program in programs.values():
        jax.block_until_ready(program())
    seconds: dict[K, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program())
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
