"""From a config to the objects of a run: data, network, task, trainer."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from dbjax import keys
from dbjax.baselines.contrastive import ContrastiveForwardForwardTask, ContrastiveViT
from dbjax.baselines.forward_forward import (
    ForwardForwardConfig,
    ForwardForwardTask,
    ForwardForwardViT,
    label_codes,
)
from dbjax.baselines.noprop import (
    CosineNoise,
    FlowNoise,
    GeometricNoise,
    NoPropBackprop,
    NoPropCT,
    NoPropDT,
    NoPropFM,
    NoPropObjective,
    Schedule,
    Shares,
)
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
from dbjax.families.noprop import NoPropConfig, NoPropNetwork, SingleNetworkConfig, prototypes
from dbjax.families.vit import PlainViT, ViT, ViTConfig
from dbjax.noise import LogNormalNoise
from dbjax.optimizer import OptimizerConfig, make_optimizer
from dbjax.partition import Partition, PartitionConfig, make_partition, parse_blocks
from dbjax.placement import PlacementConfig
from dbjax.sampling import SamplingConfig
from dbjax.task import DenoisingTask, Network
from dbjax.training import Trainer

PROTOTYPES_AMONG = 10_000
"""Images among which each class's prototype is sought."""


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
    """A config with every section read and checked, and nothing made of it yet.

    Attributes beside the sections:
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
    sampling: SamplingConfig
    data: DataConfig
    classification: ClassificationConfig | None = None
    forward_forward: ForwardForwardConfig | None = None
    noprop: NoPropObjective | None = None
    prototypes: Any = None


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
    family = FAMILIES[settings.family]
    views, allowed = settings.data.views, f"{family.views} with family {settings.family!r}"
    require(views == family.views, "data.views", views, allowed)
    task = family.task(settings, info)
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
    if getattr(settings.model, "embedding", None) == "prototype":
        settings = dataclasses.replace(settings, prototypes=_prototypes(dataset))
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


def _prototypes(dataset: Dataset) -> Any:
    """Of the first images of the data, which are enough to choose from."""
    info, source = dataset.info, dataset.source
    first = source.read(np.arange(min(len(source), PROTOTYPES_AMONG)))
    images = (first["image"].astype(np.float32) - info.mean) / info.std
    return prototypes(images, first["label"], info.num_classes)


@dataclasses.dataclass(frozen=True)
class Family:
    """How to read the `model` section, and how to make the task.

    Attributes:
        config: the `model` section.
        task: makes the task of settings for data of which the facts are known.
        sections: further sections of the config that only this family has.
        views: of each image in a batch.
    """

    config: type
    task: Callable[[Settings, DatasetInfo], Any]
    sections: Mapping[str, type] = dataclasses.field(default_factory=dict)
    views: int = 1


def _dit(settings: Settings, info: DatasetInfo) -> DenoisingTask:
    return _denoising(settings, info, DiT(settings.model, _image(settings, info), info.num_classes))


def _mlp(settings: Settings, info: DatasetInfo) -> DenoisingTask:
    network = make_mlp(settings.model, info.image_shape, info.num_classes, settings.seed)
    return _denoising(settings, info, network)


def _vit(settings: Settings, info: DatasetInfo) -> LabelDenoisingTask:
    network = ViT(settings.model, _image(settings, info), _classes(info))
    return _label_denoising(settings, info, network)


def _label_denoising(
    settings: Settings, info: DatasetInfo, network: ViT | NoPropNetwork
) -> LabelDenoisingTask:
    assert settings.classification is not None
    table = None
    if getattr(settings.model, "embedding", None) == "one_hot":
        table = jnp.eye(info.num_classes)
    elif settings.placement.interface != "shared":
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
    partition = _one_block(settings, network.depth)
    return ClassificationTask(network, settings.noise, partition, mean=info.mean, std=info.std)


def _forward_forward(settings: Settings, info: DatasetInfo) -> ForwardForwardTask:
    image_shape, num_classes = _image(settings, info), _classes(info)
    assert settings.forward_forward is not None
    if info.max_value is None:
        raise SettingError(
            f"data.name is {info.name!r}, whose values have no largest one; "
            f"allowed with family {settings.family!r}: images of whole numbers"
        )
    codes = label_codes(
        keys.derive(settings.seed, "codes"),
        num_classes,
        settings.model.patch_size,
        image_shape[-1],
        (info.max_value - info.mean) / info.std,
    )
    network = ForwardForwardViT(settings.model, image_shape, codes, settings.forward_forward)
    partition = _one_block(settings, network.depth)
    return ForwardForwardTask(network, settings.noise, partition, mean=info.mean, std=info.std)


def _contrastive(settings: Settings, info: DatasetInfo) -> ContrastiveForwardForwardTask:
    image_shape, num_classes = _image(settings, info), _classes(info)
    assert settings.forward_forward is not None
    network = ContrastiveViT(settings.model, image_shape, num_classes, settings.forward_forward)
    partition = _one_block(settings, network.depth)
    return ContrastiveForwardForwardTask(
        network, settings.noise, partition, mean=info.mean, std=info.std
    )


def _one_block(settings: Settings, depth: int) -> Partition:
    """All layers in the only block there may be."""
    allowed = f"1 with family {settings.family!r}"
    num_blocks = settings.partition.num_blocks
    require(num_blocks == 1, "partition.num_blocks", num_blocks, allowed)
    return make_partition(settings.partition, settings.noise, depth)


def _noprop_blocks(settings: Settings, info: DatasetInfo) -> LabelDenoisingTask:
    network = _noprop_network(settings, info, timed=True)
    _check_one_network_each(settings)
    return _label_denoising(settings, info, network)


def _noprop_dt(settings: Settings, info: DatasetInfo) -> NoPropDT:
    network = _noprop_network(settings, info, head=True)
    _check_one_network_each(settings)
    overlap = settings.partition.overlap
    require(overlap == 0, "partition.overlap", overlap, "0 with family 'noprop_dt'")
    _check_embedding(settings)
    return NoPropDT(network, *_noprop_parts(settings, info))


def _noprop_ct(settings: Settings, info: DatasetInfo) -> NoPropCT:
    schedule = functools.partial(Schedule, settings.noise)
    network = _noprop_network(settings, info, timed=True, head=True, schedule=schedule)
    _check_single(settings)
    return NoPropCT(network, *_noprop_parts(settings, info))


def _noprop_fm(settings: Settings, info: DatasetInfo) -> NoPropFM:
    learned = settings.model.embedding != "one_hot"
    network = _noprop_network(settings, info, timed=True, head=learned)
    _check_single(settings)
    return NoPropFM(network, *_noprop_parts(settings, info))


def _noprop_backprop(settings: Settings, info: DatasetInfo) -> NoPropBackprop:
    shares = functools.partial(Shares, settings.model.depth)
    network = _noprop_network(settings, info, head=True, shares=shares)
    _check_blocks(settings, 1)
    return NoPropBackprop(network, *_noprop_parts(settings, info))


def _noprop_network(
    settings: Settings, info: DatasetInfo, *, timed: bool = False, head: bool = False, **extra: Any
) -> NoPropNetwork:
    """NoProp's CNN; with `head`, its interface reads classes off embeddings."""
    model, shape, num_classes = settings.model, _image(settings, info), _classes(info)
    if head:
        width = model.code_width(shape, num_classes)
        extra["head"] = functools.partial(nnx.Linear, width, num_classes)
    return NoPropNetwork(
        model, shape, num_classes, timed=timed, prototypes=settings.prototypes, extra=extra
    )


def _noprop_parts(settings: Settings, info: DatasetInfo) -> tuple[Any, ...]:
    """What NoProp's tasks want besides the network."""
    partition = make_partition(settings.partition, settings.noise, settings.model.depth)
    eta = 0.0 if settings.noprop is None else settings.noprop.eta
    return settings.noise, partition, eta, info.mean, info.std


def _check_blocks(settings: Settings, wanted: int) -> None:
    found = settings.partition.num_blocks
    allowed = f"{wanted} with family {settings.family!r}"
    require(found == wanted, "partition.num_blocks", found, allowed)


def _check_one_network_each(settings: Settings) -> None:
    found, depth = settings.partition.num_blocks, settings.model.depth
    allowed = f"{depth} with family {settings.family!r}, one for each of model.depth networks"
    require(found == depth, "partition.num_blocks", found, allowed)


def _check_single(settings: Settings) -> None:
    _check_blocks(settings, 1)
    depth = settings.model.depth
    require(depth == 1, "model.depth", depth, f"1 with family {settings.family!r}")


def _check_embedding(settings: Settings) -> None:
    """Blocks that never meet cannot learn what they aim at together."""
    interface, embedding = settings.placement.interface, settings.model.embedding
    require(
        embedding == "one_hot" or interface == "shared",
        "placement.interface",
        interface,
        f"'shared' where model.embedding is {embedding!r}",
    )


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
    "noprop_blocks": Family(NoPropConfig, _noprop_blocks, {"classification": ClassificationConfig}),
    "noprop_dt": Family(
        NoPropConfig,
        _noprop_dt,
        {"noise": CosineNoise, "noprop": NoPropObjective},
    ),
    "noprop_ct": Family(
        SingleNetworkConfig,
        _noprop_ct,
        {"noise": GeometricNoise, "noprop": NoPropObjective},
    ),
    "noprop_fm": Family(SingleNetworkConfig, _noprop_fm, {"noise": FlowNoise}),
    "noprop_backprop": Family(NoPropConfig, _noprop_backprop),
    "forward_forward": Family(
        ViTConfig, _forward_forward, {"forward_forward": ForwardForwardConfig}
    ),
    "contrastive_forward_forward": Family(
        ViTConfig, _contrastive, {"forward_forward": ForwardForwardConfig}, views=2
    ),
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
