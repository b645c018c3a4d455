"""From a config to the objects of a run: data, network, task, trainer."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dbjax.catalogue import FAMILIES
from dbjax.config import defaults, section
from dbjax.data import DataConfig, Dataset, DatasetInfo, TextInfo, load_dataset
from dbjax.errors import require
from dbjax.families.noprop import prototypes
from dbjax.optimizer import make_optimizer
from dbjax.placement import PlacementConfig
from dbjax.settings import SECTIONS, Settings, TrainingConfig
from dbjax.training import Trainer

PROTOTYPES_AMONG = 10_000
"""Images among which each class's prototype is sought."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """All that a program needs of one config."""

    config: ConfigDict
    data: Any
    dataset: Dataset
    task: Any
    trainer: Trainer
    training: TrainingConfig
    placement: PlacementConfig
    sampling: Any


def read_settings(config: ConfigDict) -> Settings:
    """Reads every section.

    Raises:
        SettingError: for the first setting that is missing, unknown or impossible.
    """
    _check_top(config)
    sections = _sections(config.family)
    read: Any = {name: section(cls, config, name) for name, cls in sections.items()}
    own = {name: read.pop(name) for name in list(read) if name not in ("model", *SECTIONS)}
    return Settings(family=config.family, seed=config.seed, own=own, **read)


def task_and_trainer(settings: Settings, info: DatasetInfo | TextInfo) -> tuple[Any, Trainer]:
    """Task and trainer for data of which no more than its facts are known.

    Nothing is compiled. Size and fingerprint of the data make no difference.

    Raises:
        SettingError: if network, partition and data do not go together.
    """
    family = FAMILIES[settings.family]
    if isinstance(settings.data, DataConfig):
        views, allowed = settings.data.views, f"{family.views} with family {settings.family!r}"
        require(views == family.views, "data.views", views, allowed)
    context, interface = settings.partition.context, settings.placement.interface
    allowed = f"'own' with family {settings.family!r}"
    require(context == "own" or family.lends, "partition.context", context, allowed)
    allowed = f"'shared' where partition.context is {context!r}, which blocks exchange as often"
    require(context == "own" or interface == "shared", "placement.interface", interface, allowed)
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
    return jnp.asarray(prototypes(images, first["label"], info.num_classes))


def _sections(family: str) -> dict[str, type]:
    """All sections of a family's configs."""
    return {"model": FAMILIES[family].config, **SECTIONS, **FAMILIES[family].sections}


def default_config(family: str) -> ConfigDict:
    """Every setting of a run of `family` at its default: what a config file starts from."""
    config = ConfigDict({"family": family, "seed": 0})
    for name, cls in _sections(family).items():
        config[name] = defaults(cls)
    return config


def complete(config: ConfigDict) -> ConfigDict:
    """A config with every setting that it lacks at its default, as `read_settings` would read it.

    So runs go on that were begun before a setting existed.
    """
    if config.get("family") not in FAMILIES:
        return config
    full = default_config(config.family)
    # Whatever it holds is kept: a file knows lists where defaults are tuples.
    with full.ignore_type():
        for name, values in config.items():
            if isinstance(values, ConfigDict) and isinstance(full.get(name), ConfigDict):
                full[name].update(values)
            else:
                full[name] = values
    return full


def _check_top(config: ConfigDict) -> None:
    for key in ("family", "seed"):
        require(key in config, key, None, "to be set at the top of the config")
    require(config.family in FAMILIES, "family", config.family, " or ".join(map(repr, FAMILIES)))
    require(isinstance(config.seed, int), "seed", config.seed, "a whole number from 0 to 2^31 - 1")
    known = {"family", "seed", *_sections(config.family)}
    for key in config:
        require(key in known, "config key", key, ", ".join(sorted(known)))
