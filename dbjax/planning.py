"""The ways to cut and place a config's training, what each needs, and which to prefer."""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from dbjax.build import read_settings, task_and_trainer
from dbjax.config import load_config
from dbjax.data import TextInfo
from dbjax.data.registry import describe_dataset
from dbjax.errors import SettingError
from dbjax.memory import StepMemory, placement_memory
from dbjax.placement import PlacementConfig, make_placement
from dbjax.settings import Settings
from dbjax.task import Batch
from dbjax.training import Placement, Trainer

MOST_BLOCKS = 8
"""Numbers of blocks that are tried unasked go up to this."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """One way to train a config.

    Attributes:
        num_blocks: B.
        remat: `none` or `all` blocks.
        batch_size: of each block.
        placement: `sequential`, `stacked` or `sharded`.
        devices: in use.
        groups: of devices, see `dbjax.placement.PlacementConfig`.
    """

    num_blocks: int
    remat: str
    batch_size: int
    placement: str = "sequential"
    devices: int = 1
    groups: int = 1

    def overrides(self, config: ConfigDict) -> list[str]:
        """The command-line overrides that turn `config` into this choice."""
        values: dict[str, Any] = {"partition.num_blocks": self.num_blocks}
        if self.num_blocks != config.partition.num_blocks:
            # They were made for another number of blocks.
            values |= {"partition.layers": None, "partition.edges": None}
        values |= {"training.remat": self.remat, "data.batch_size": self.batch_size}
        values["placement.name"] = self.placement
        if self.placement == "sharded":
            values |= {"placement.devices": self.devices, "placement.groups": self.groups}
        sections = {key: key.split(".") for key in values}
        return [
            f"--config.{key}={values[key]}"
            for key, (section, name) in sections.items()
            if config[section][name] != values[key]
        ]


@dataclasses.dataclass(frozen=True)
class Row:
    """A choice and what is known of it.

    Attributes:
        choice: the way to train.
        memory: as compiled, bytes on one device.
        examples_per_second: as measured, over all blocks, as the progress bar of training counts.
        measured_peak: bytes, where devices report them.
    """

    choice: Choice
    memory: StepMemory
    examples_per_second: float | None = None
    measured_peak: int | None = None


class Plan:
    """A config, what it shall fit into, and the choices there are."""

    def __init__(
        self,
        file: str,
        overrides: Sequence[str],
        *,
        memory: int,
        devices: int = 1,
        batch_sizes: Sequence[int] | None = None,
        num_blocks: Sequence[int] | None = None,
    ) -> None:
        """Reads the config. Nothing is compiled, and data stored in files need not be there.

        Args:
            file: the config's.
            overrides: of the config, from the command line.
            memory: of one device, bytes.
            devices: that may be used.
            batch_sizes: to try; None is the config's, and halvings of it where it does not fit.
            num_blocks: to try; None is the config's and small divisors of its depth, as far as the
                family can have so many.

        Raises:
            SettingError: if the config, a batch size or a number of blocks is impossible.
        """
        self.config = load_config(file, overrides)
        self.settings = read_settings(self.config)
        self.data = describe_dataset(self.settings.data)
        self.memory = memory
        self.devices = devices
        self._file, self._given, self._batch_sizes = file, overrides, batch_sizes
        task, _ = task_and_trainer(self.settings, self.data.info)
        own, depth = self.settings.partition.num_blocks, task.network.depth
        divisors = [b for b in range(1, MOST_BLOCKS + 1) if depth % b == 0 and b != own]
        if num_blocks is None:
            num_blocks = [own, *filter(self._possible, divisors)]
        self._num_blocks = num_blocks
        for b in num_blocks:
            self._build(Choice(b, "none", self.settings.data.batch_size))
        for size in batch_sizes or ():
            dataclasses.replace(self.settings.data, batch_size=size)

    def _possible(self, num_blocks: int) -> bool:
        """Whether the family can have so many; some have one only."""
        try:
            self._build(Choice(num_blocks, "none", self.settings.data.batch_size))
        except SettingError:
            return False
        return True

    def rows(self, progress: Callable[[list[Choice]], Iterable[Choice]] = iter) -> list[Row]:
        """Every choice with its memory. `progress` is handed what is going to be compiled."""
        size = self.settings.data.batch_size
        choices = [
            Choice(b, remat, size, *where)
            for b, remat in itertools.product(self._num_blocks, ("none", "all"))
            for where in self._placements(b)
        ]
        return [row for choice in progress(choices) for row in self._sizes(choice)]

    def fits(self, row: Row) -> bool:
        """Whether it does on each device."""
        return row.memory.total <= self.memory

    def measure(self, row: Row) -> Row:
        """Runs it for some steps. Devices tell their highest peak so far, not that of this row."""
        settings, trainer, batch = self._build(row.choice)
        speed = measure_speed(settings.placement, trainer, batch)
        peaks = [(d.memory_stats() or {}).get("peak_bytes_in_use", 0) for d in jax.local_devices()]
        return dataclasses.replace(row, examples_per_second=speed, measured_peak=max(peaks) or None)

    def best(self, rows: Iterable[Row]) -> Row | None:
        """Of those that fit: what changes least of the config's result, then what is fastest."""
        return min(filter(self.fits, rows), key=self._preference, default=None)

    def _preference(self, row: Row) -> tuple[Any, ...]:
        """Smaller is better. Batch size and number of blocks change the result, the rest does not;
        groups of blocks never wait for one another, while the devices of a group do."""
        choice, own = row.choice, self.settings
        return (
            abs(math.log(choice.batch_size / own.data.batch_size)),
            choice.num_blocks != own.partition.num_blocks,
            choice.remat != "none",
            ("sharded", "stacked", "sequential").index(choice.placement),
            -choice.groups,
            choice.num_blocks,
        )

    def _placements(self, num_blocks: int) -> Iterator[tuple[str, int, int]]:
        """Name, devices, groups. A block alone is one program, `sequential` or `stacked`."""
        yield "sequential", 1, 1
        if num_blocks > 1:
            yield "stacked", 1, 1
        for groups in range(1, min(num_blocks, self.devices) + 1):
            if self.devices > 1 and num_blocks % groups == 0:
                yield "sharded", self.devices, groups

    def _sizes(self, choice: Choice) -> Iterator[Row]:
        """The batch sizes asked for; unasked, as few halvings as it takes to fit."""
        ways = choice.devices // choice.groups
        if self._batch_sizes is not None:
            for size in self._batch_sizes:
                if size % ways == 0:
                    yield self._row(dataclasses.replace(choice, batch_size=size))
            return
        while choice.batch_size >= 1 and choice.batch_size % ways == 0:
            row = self._row(choice)
            yield row
            room = self.memory - row.memory.state
            if self.fits(row) or room <= 0:
                return
            # At best activations shrink in proportion: what is skipped cannot fit.
            halvings = math.ceil(math.log2(row.memory.activations / room))
            choice = dataclasses.replace(choice, batch_size=choice.batch_size >> max(halvings, 1))

    def _row(self, choice: Choice) -> Row:
        settings, trainer, batch = self._build(choice)
        return Row(choice, placement_memory(settings.placement, trainer, batch))

    def _build(self, choice: Choice) -> tuple[Settings, Trainer, Batch]:
        """What a choice trains, and the shape of a batch."""
        overrides = choice.overrides(self.config)
        settings = read_settings(load_config(self._file, [*self._given, *overrides]))
        _, trainer = task_and_trainer(settings, self.data.info)
        size, info = choice.batch_size, self.data.info
        if isinstance(info, TextInfo):
            tokens = jax.ShapeDtypeStruct((size, info.length), self.data.dtype)
            return settings, trainer, {"tokens": tokens}
        views = settings.data.views
        shape = (*((views,) if views > 1 else ()), *info.image_shape)
        batch = {
            "image": jax.ShapeDtypeStruct((size, *shape), self.data.dtype),
            "label": jax.ShapeDtypeStruct((size,), np.int32),
        }
        return settings, trainer, batch


def measure_speed(config: PlacementConfig, trainer: Trainer, batch: Batch) -> float:
    """Trains all blocks for two dispatches on zeros, the first to compile.

    Args:
        config: where blocks live; in `sequential` each visit is one dispatch.
        trainer: what updates them.
        batch: the shape of one batch of one block.

    Returns:
        Examples per second in the second dispatch, over all blocks.
    """
    num_steps = config.steps_per_dispatch
    config = dataclasses.replace(config, steps_per_visit=num_steps)
    blocks = range(trainer.task.partition.num_blocks)
    init = jax.jit(trainer.init, static_argnums=0)
    # On the host at once: the device shall not hold more than the placement puts there.
    states = {b: jax.device_get(init(b)) for b in blocks}
    placement = make_placement(config, trainer, states, dict.fromkeys(blocks, _Zeros(batch)))
    _advance(placement, num_steps)
    start = time.perf_counter()
    _advance(placement, 2 * num_steps)
    seconds = time.perf_counter() - start
    return len(blocks) * num_steps * jax.tree.leaves(batch)[0].shape[0] / seconds


def _advance(placement: Placement, target: int) -> None:
    """As in training: each chunk is waited for when the next one has been dispatched."""
    metrics = None
    for chunk in placement.advance(target):
        jax.block_until_ready(metrics)
        metrics = chunk.metrics
    jax.block_until_ready(metrics)


@dataclasses.dataclass(frozen=True)
class _Zeros:
    """A stream without data."""

    batch: Batch

    def take(self, count: int) -> Batch:
        return {key: np.zeros((count, *x.shape), x.dtype) for key, x in self.batch.items()}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass
