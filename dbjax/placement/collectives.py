"""What a compiled program exchanges between devices, read off its text."""

import dataclasses
import re
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Int

OPERATIONS = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "ragged-all-to-all",
    "reduce-scatter",
    "collective-broadcast",
    "collective-permute",
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between devices.

    Attributes:
        operation: one of `OPERATIONS`.
        groups: devices that exchange with each other, by their position in the program.
        line: of the program's text.
    """

    operation: str
    groups: tuple[tuple[int, ...], ...]
    line: str

    def crosses(self, where: Sequence[int]) -> bool:
        """Whether devices exchange that lie in different places, where[i] being device i's."""
        return any(len({where[device] for device in group}) > 1 for group in self.groups)


def collectives(compiled: jax.stages.Compiled) -> list[Collective]:
    """All exchanges of a compiled program, in the order of its text."""
    text = compiled.as_text()
    assert text is not None
    return parse_collectives(text)


def parse_collectives(text: str) -> list[Collective]:
    """All exchanges in the text of an HLO module.

    Raises:
        ValueError: for an exchange whose groups are written in a way that is not known here.
    """
    devices = 1
    for name in ("replica_count", "num_partitions"):
        found = re.search(rf"\b{name}=(\d+)", text)
        devices *= int(found[1]) if found else 1
    names = "|".join(OPERATIONS)
    # An asynchronous exchange is a pair, of which the first half says all.
    pattern = re.compile(rf"^.*= .* ({names})(?:-start)?\((.*)$", re.MULTILINE)
    return [
        Collective(match[1], _groups(match[2], devices), match[0].strip())
        for match in pattern.finditer(text)
    ]


def _groups(attributes: str, devices: int) -> tuple[tuple[int, ...], ...]:
    """Groups as XLA writes them: listed, as a reshaped range of devices, or by axes of a mesh."""
    listed = re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})?\}", attributes)
    if listed:
        if not listed[1]:
            return (tuple(range(devices)),)
        lists = re.findall(r"\{([\d,]*)\}", listed[1])
        return tuple(tuple(int(n) for n in numbers.split(",") if n) for numbers in lists)
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if iota:
        shape, reshape, transpose = (_numbers(part) for part in iota.groups())
        order = np.arange(np.prod(reshape)).reshape(reshape)
        return _rows(order.transpose(transpose) if len(transpose) else order, int(shape[1]))
    axes = re.search(r"replica_groups=mesh\[(('\w+'=\d+,?)+)\] \{(('\w+',?)+)\}", attributes)
    if axes:
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes[1])}
        order = np.arange(np.prod(list(sizes.values()))).reshape(list(sizes.values()))
        along = [list(sizes).index(name) for name in re.findall(r"\w+", axes[3])]
        others = [axis for axis in range(order.ndim) if axis not in along]
        size = int(np.prod([order.shape[axis] for axis in along]))
        return _rows(order.transpose([*others, *along]), size)
    raise ValueError(f"unknown replica groups: {attributes[:200]}")


def _rows(order: Int[np.ndarray, "..."], size: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(n) for n in row) for row in order.reshape(-1, size))


def _numbers(text: str | None) -> Int[np.ndarray, " n"]:
    return np.array([int(n) for n in text.split(",")] if text else [], np.int64)
