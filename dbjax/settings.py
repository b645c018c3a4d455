"""What a config says, read and checked."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dbjax.data import DataConfig
from dbjax.errors import require
from dbjax.noise import LogNormalNoise
from dbjax.optimizer import OptimizerConfig
from dbjax.partition import PartitionConfig, parse_blocks
from dbjax.placement import PlacementConfig
from dbjax.sampling import SamplingConfig


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The `training` section of a config. Steps are each block's own.

    Attributes:
        steps: of each block.
        log_every: steps between rows of `metrics.jsonl`.
        save_every: steps between checkpoints.
        label_dropout: probability of hiding the label, for guidance.
        remat: blocks that keep only each layer's input for the backward pass and compute the rest
            again (rematerialisation, gradient checkpointing): `none`, `all`, or numbers as `0,2`.
    """

    steps: int = 1000
    log_every: int = 50
    save_every: int = 500
    label_dropout: float = 0.1
    remat: str = "none"

    def __post_init__(self) -> None:
        for field in ("steps", "log_every", "save_every"):
            value = getattr(self, field)
            require(value >= 1, f"training.{field}", value, "1 or more")
        value = self.label_dropout
        require(0 <= value < 1, "training.label_dropout", value, "a number in [0, 1)")

    def remat_blocks(self, num_blocks: int) -> frozenset[int]:
        """The blocks that `remat` names.

        Raises:
            SettingError: if there is no such block.
        """
        if self.remat in ("none", "all"):
            return frozenset(range(num_blocks) if self.remat == "all" else ())
        return frozenset(parse_blocks(self.remat, num_blocks, "training.remat", "none", "all"))


SECTIONS = {
    "noise": LogNormalNoise,
    "partition": PartitionConfig,
    "optimizer": OptimizerConfig,
    "training": TrainingConfig,
    "placement": PlacementConfig,
    "sampling": SamplingConfig,
    "data": DataConfig,
}
"""The sections of every config besides `model`, which depends on the family."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """A config with every section read and checked, and nothing made of it yet.

    The types of `model`, `noise` and `data` depend on the family. Attributes beside the sections
    that every config has:
        own: the sections that only this family has, by name.
        prototypes: of the data, for models that start from them; None where only shapes matter.
    """

    family: str
    seed: int
    model: Any
    noise: Any
    partition: PartitionConfig
    optimizer: OptimizerConfig
    training: TrainingConfig
    placement: PlacementConfig
    sampling: Any
    data: Any
    own: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prototypes: Any = None
