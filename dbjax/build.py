"""From a config to the objects of a run: data, network, task, trainer."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from dbjax import keys
from dbjax.classification import (
    ClassificationConfig,
    ClassificationTask,
    LabelDenoisingTask,
    fixed_table,
)
from dbjax.config import defaults, section
from dbjax.data import DataConfig, Dataset, DatasetInfo, load_dataset
from dbjax.errors import SettingError, require
from dbjax.families.dit import DiT, DiTConfig
from dbjax.families.mlp import MLPConfig, make_mlp
from dbjax.families.vit import PlainViT, ViT, ViTConfig
from dbjax.noise import LogNormalNoise
from dbjax.optimizer import OptimizerConfig, make_optimizer
from dbjax.partition import PartitionConfig, make_partition, parse_blocks
from dbjax.placement import PlacementConfig
from dbjax.sampling import SamplingConfig
from dbjax.task import DenoisingTask, Network
from dbjax.training import Trainer


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


@dataclasses.dataclass(frozen=True)
class Setup:
    """All that a program needs of one config."""

    config: ConfigDict
    data: DataConfig
    dataset: Dataset
    task: Any
    trainer: Trainer
    training: TrainingConfig
    placement: PlacementConfig
    sampling: SamplingConfig


@dataclasses.dataclass(frozen=True)
class Settings:
    """A config with every section read and checked, and nothing made of it yet."""

    family: str
    seed: int
    model: Any
    noise: LogNormalNoise
    partition: PartitionConfig
    optimizer: OptimizerConfig
    training: TrainingConfig
    placement: PlacementConfig
    sampling: SamplingConfig
    data: DataConfig
    classification: ClassificationConfig | None = None


def read_settings(config: ConfigDict) -> Settings:
    """Reads every section.

    Raises:
        SettingError: for the first setting that is missing, unknown or impossible.
    """
    _check_top(config)
    sections = _sections(config.family)
    read: Any = {name: section(cls, config, name) for name, cls in sections.items()}
    return Settings(family=config.family, seed=config.seed, **read)


def task_and_trainer(settings: Settings, info: DatasetInfo) -> tuple[Any, Trainer]:
    """Task and trainer for data of which no more than its facts are known.

    Nothing is compiled. Size and fingerprint of the data make no difference.

    Raises:
        SettingError: if network, partition and data do not go together.
    """
    task = FAMILIES[settings.family].task(settings, info)
    optimizer, training = settings.optimizer, settings.training
    trainer = Trainer(
        task,
        make_optimizer(optimizer, training.steps),
        optimizer.ema_decay,
        settings.seed,
        freeze_interface=settings.placement.interface == "frozen",
        remat=training.remat_blocks(settings.partition.num_blocks),
    )
    return task, trainer


def build(config: ConfigDict) -> Setup:
    """Reads every section, then loads the data and puts the parts together.

    Nothing is compiled and nothing is written.

    Raises:
        SettingError: for the first setting that is missing, unknown or impossible.
    """
    settings = read_settings(config)
    dataset = load_dataset(settings.data)
    task, trainer = task_and_trainer(settings, dataset.info)
    return Setup(
        config=config,
        data=settings.data,
        dataset=dataset,
        task=task,
        trainer=trainer,
        training=settings.training,
        placement=settings.placement,
        sampling=settings.sampling,
    )


@dataclasses.dataclass(frozen=True)
class Family:
    """How to read the `model` section, and how to make the task.

    Attributes:
        config: the `model` section.
        task: makes the task of settings for data of which the facts are known.
        sections: further sections of the config that only this family has.
    """

    config: type
    task: Callable[[Settings, DatasetInfo], Any]
    sections: Mapping[str, type] = dataclasses.field(default_factory=dict)


def _dit(settings: Settings, info: DatasetInfo) -> DenoisingTask:
    return _denoising(settings, info, DiT(settings.model, _image(settings, info), info.num_classes))


def _mlp(settings: Settings, info: DatasetInfo) -> DenoisingTask:
    network = make_mlp(settings.model, info.image_shape, info.num_classes, settings.seed)
    return _denoising(settings, info, network)


def _vit(settings: Settings, info: DatasetInfo) -> LabelDenoisingTask:
    network = ViT(settings.model, _image(settings, info), _classes(info))
    assert settings.classification is not None
    table = None
    if settings.placement.interface != "shared":
        # Blocks that never meet must aim at the same embeddings.
        key = keys.derive(settings.seed, "labels")
        table = fixed_table(key, info.num_classes, network.width)
    return LabelDenoisingTask(
        network,
        settings.noise,
        make_partition(settings.partition, settings.noise, network.depth),
        settings.classification,
        table=table,
        mean=info.mean,
        std=info.std,
    )


def _plain_vit(settings: Settings, info: DatasetInfo) -> ClassificationTask:
    network = PlainViT(settings.model, _image(settings, info), _classes(info))
    num_blocks = settings.partition.num_blocks
    require(num_blocks == 1, "partition.num_blocks", num_blocks, "1 with family 'plain_vit'")
    partition = make_partition(settings.partition, settings.noise, network.depth)
    return ClassificationTask(network, settings.noise, partition, mean=info.mean, std=info.std)


def _denoising(settings: Settings, info: DatasetInfo, network: Network) -> DenoisingTask:
    return DenoisingTask(
        network=network,
        noise=settings.noise,
        partition=make_partition(settings.partition, settings.noise, network.depth),
        image_shape=info.image_shape,
        num_classes=info.num_classes,
        label_dropout=settings.training.label_dropout,
        mean=info.mean,
        std=info.std,
    )


def _image(settings: Settings, info: DatasetInfo) -> tuple[int, int, int]:
    """Height, width and channels."""
    shape = info.image_shape
    if len(shape) != 3:
        raise SettingError(
            f"data.name is {info.name!r}, whose samples have shape {shape}; "
            f"allowed with family {settings.family!r}: images [height, width, channels]"
        )
    return (shape[0], shape[1], shape[2])


def _classes(info: DatasetInfo) -> int:
    require(info.num_classes >= 2, "data.name", info.name, "data with classes to tell apart")
    return info.num_classes


FAMILIES = {
    "dit": Family(DiTConfig, _dit),
    "mlp": Family(MLPConfig, _mlp),
    "vit": Family(ViTConfig, _vit, {"classification": ClassificationConfig}),
    "plain_vit": Family(ViTConfig, _plain_vit),
}

GENERATIVE = ("dit", "mlp")
"""Families whose models are sampled from; the others answer."""

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


def _sections(family: str) -> dict[str, type]:
    """All sections of a family's configs."""
    return {"model": FAMILIES[family].config, **SECTIONS, **FAMILIES[family].sections}


def default_config(family: str) -> ConfigDict:
    """Every setting of a run of `family` at its default: what a config file starts from."""
    config = ConfigDict({"family": family, "seed": 0})
    for name, cls in _sections(family).items():
        config[name] = defaults(cls)
    return config


def _check_top(config: ConfigDict) -> None:
    for key in ("family", "seed"):
        require(key in config, key, None, "to be set at the top of the config")
    require(config.family in FAMILIES, "family", config.family, " or ".join(map(repr, FAMILIES)))
    require(isinstance(config.seed, int), "seed", config.seed, "a whole number from 0 to 2^31 - 1")
    known = {"family", "seed", *_sections(config.family)}
    for key in config:
        require(key in known, "config key", key, ", ".join(sorted(known)))
