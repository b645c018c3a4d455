"""The config section `data` and the data sets it can name."""

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, overload

import numpy as np

from dbjax.data import augment
from dbjax.data.dataset import Dataset, DatasetInfo, Info
from dbjax.data.drawn import DRAWN, load_drawn
from dbjax.data.embedded import load_digits, load_spiral
from dbjax.data.image_sets import IMAGE_SETS
from dbjax.data.latents import LATENT_SCALE, LATENT_SHAPE, load_imagenet256_latents
from dbjax.data.text import TextConfig, TextInfo, describe_text, load_text
from dbjax.errors import require


@dataclasses.dataclass(frozen=True)
class DatasetEntry:
    """How to load a data set.

    Attributes:
      load: takes `(data_dir, split)`, both as in `load_dataset`.
      flippable: whether examples can be mirrored and shifted. Latents cannot: the encoder does not
        commute with that, so mirrored images have to be encoded too.
      splits: parts that can be loaded.
      known: what is known without the files of a data set that is stored in files.
    """

    load: Callable[[str | None, str], Dataset[DatasetInfo]]
    flippable: bool
    splits: tuple[str, ...] = ("train", "test")
    known: "Description[DatasetInfo] | None" = None


@dataclasses.dataclass(frozen=True)
class Description(Generic[Info]):
    """What a network and its memory depend on.

    Attributes:
      info: facts; where no file was read, size is 0 and the fingerprint empty.
      dtype: of the images or tokens in a batch.
    """

    info: Info
    dtype: np.dtype


def _without_files(dtype: str, **facts: Any) -> Description[DatasetInfo]:
    return Description(DatasetInfo(**facts, size=0, fingerprint=""), np.dtype(dtype))


def _drawn(name: str) -> Callable[[str | None, str], Dataset[DatasetInfo]]:
    return lambda data_dir, split: load_drawn(name, split)


DATASETS = {
    "digits": DatasetEntry(load_digits, flippable=True, splits=("train", "test", "all")),
    "spiral": DatasetEntry(load_spiral, flippable=False),
    **{name: DatasetEntry(_drawn(name), flippable=True) for name in DRAWN},
    **{
        name: DatasetEntry(
            image_set.load,
            flippable=True,
            known=_without_files("uint8", image_shape=image_set.image_shape, **image_set.facts),
        )
        for name, image_set in IMAGE_SETS.items()
    },
    "imagenet256_latents": DatasetEntry(
        load_imagenet256_latents,
        flippable=False,
        known=_without_files(
            "float16",
            name="imagenet256_latents",
            image_shape=LATENT_SHAPE,
            num_classes=1000,
            mean=0.0,
            std=1 / LATENT_SCALE,
            max_value=None,
        ),
    ),
}


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The config section `data` of families that learn images or points.

    Attributes:
      name: a key of `DATASETS`.
      batch_size: examples per step of one block.
      data_dir: the directory of a data set that is stored in files: what tensorflow-datasets
        prepared (None: its default) or a folder of array_record files.
      flip: mirror each training image left to right with probability one half.
      crop: shift each training image by up to this many pixels in each direction, as by padding
        with zeros and cropping at random.
      rand_augment: operations of RandAugment on each training image, 0 for none; 2 are usual.
      rand_augment_magnitude: of the operations, 0 to 30.
      split: the part that is trained on; `all` of the digits is their 1,797 images.
      views: 2 gives each image twice, augmented independently, for contrastive learning.

    Raises:
      SettingError: a value is not allowed.
    """

    name: str = "digits"
    batch_size: int = 128
    data_dir: str | None = None
    flip: bool = False
    crop: int = 0
    rand_augment: int = 0
    rand_augment_magnitude: int = 9
    split: str = "train"
    views: int = 1

    def __post_init__(self) -> None:
        require(self.name in DATASETS, "data.name", self.name, ", ".join(DATASETS))
        require(self.batch_size >= 1, "data.batch_size", self.batch_size, "1 or more")
        pictures = [name for name, entry in DATASETS.items() if entry.flippable]
        for key, names, allowed in (
            ("flip", pictures, "False, or True"),
            ("crop", pictures, "0, or 1 or more pixels"),
            ("rand_augment", list(IMAGE_SETS), "0, or 1 or more operations"),
        ):
            value = getattr(self, key)
            require(
                not value or (value > 0 and self.name in names),
                f"data.{key}",
                value,
                f"{allowed} where data.name is {' or '.join(names)}",
            )
        magnitude, most = self.rand_augment_magnitude, augment.BINS - 1
        require(0 <= magnitude <= most, "data.rand_augment_magnitude", magnitude, f"0 to {most}")
        splits = DATASETS[self.name].splits
        require(self.split in splits, "data.split", self.split, ", ".join(splits))
        require(self.views in (1, 2), "data.views", self.views, "1 or 2")


@overload
def load_dataset(config: DataConfig) -> Dataset[DatasetInfo]: ...
@overload
def load_dataset(config: TextConfig) -> Dataset[TextInfo]: ...
def load_dataset(config: DataConfig | TextConfig) -> Dataset[Any]:
    """Loads the configured split of the configured data set; nothing is downloaded.

    Args:
      config: which data set, which part, and where its files are.

    Raises:
      SettingError: the data set has not been prepared; the message says where it was looked for
        and how to prepare it. For text, see `load_text`.
    """
    if isinstance(config, TextConfig):
        return load_text(config)
    return DATASETS[config.name].load(config.data_dir, config.split)


@overload
def describe_dataset(config: DataConfig) -> Description[DatasetInfo]: ...
@overload
def describe_dataset(config: TextConfig) -> Description[TextInfo]: ...
def describe_dataset(config: DataConfig | TextConfig) -> Description[Any]:
    """What networks and memory depend on, without the files of a data set that is stored in files.

    Args:
      config: which data set; its files need not be there, but for some texts (`describe_text`).
    """
    if isinstance(config, TextConfig):
        return Description(describe_text(config), np.dtype(np.int32))
    entry = DATASETS[config.name]
    if entry.known is not None:
        return entry.known
    dataset = load_dataset(config)
    return Description(dataset.info, dataset.source[0]["image"].dtype)
