"""What a data set is: its facts and a source of examples with random access."""

import abc
import dataclasses
import hashlib
from typing import ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Int, Integer, Shaped

from dbjax.errors import require

Batch = dict[str, np.ndarray]
"""`{"image": [batch, *image_shape], "label": int32 [batch]}` or, of text,
`{"tokens": int32 [batch, length]}`, on the host."""


@runtime_checkable
class Facts(Protocol):
    """What is known of a split of any data set; see `DatasetInfo` and `TextInfo` for more."""

    @property
    def name(self) -> str:
        """The name in the config."""

    @property
    def size(self) -> int:
        """Number of examples in the split."""

    @property
    def fingerprint(self) -> str:
        """Hash of the content, so that a run is not resumed on other data."""

    @property
    def unit(self) -> str:
        """What examples are, in the plural."""

    @property
    def kind(self) -> dict[str, object]:
        """What a network is made for: equal for data that blocks can be handed on between."""


Info = TypeVar("Info", bound=Facts)


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Facts about one split of a data set of images or points.

    Attributes:
      name: the name in the registry.
      image_shape: shape of one example, `(height, width, channels)` or `(2,)` for points.
      num_classes: labels run from 0 to `num_classes - 1`.
      size: number of examples in the split.
      mean: mean in raw units, the same for every split.
      std: standard deviation in raw units, the same for every split. The clean target of a
        denoiser is `(raw - mean) / std * sigma_data`.
      max_value: raw values are the whole numbers from 0 to this; None where they are not
        quantised.
      fingerprint: hash of the content, so that a run is not resumed on other data.
    """

    name: str
    image_shape: tuple[int, ...]
    num_classes: int
    size: int
    mean: float
    std: float
    max_value: float | None
    fingerprint: str
    unit = "images"

    @property
    def kind(self) -> dict[str, object]:
        """See `Facts`."""
        return {"image_shape": self.image_shape, "num_classes": self.num_classes}


class Source(abc.ABC):
    """Examples with random access, read a batch at a time.

    A subclass supplies `__len__` and `read`. Reading whole batches is what makes small examples
    cheap: one numpy gather in place of a Python call per example.

    Attributes:
      read_threads: how many batches are worth reading at once.
    """

    read_threads: ClassVar[int]

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns the number of examples."""

    @abc.abstractmethod
    def read(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """Returns the examples at `indices` as arrays of their own, which the caller may change."""

    def __getitem__(self, index: int) -> Batch:
        """Returns one example, `{"image": [*image_shape], "label": int32 scalar}` or alike.

        Raises:
          IndexError: `index` is not in `[0, len(self))`.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return {key: column[0] for key, column in self.read(np.array([index])).items()}


class ArraySource(Source):
    """Examples held in memory."""

    # One thread is enough to hide a gather behind a training step.
    read_threads = 1

    def __init__(
        self, images: Shaped[np.ndarray, "size *shape"], labels: Integer[np.ndarray, " size"]
    ) -> None:
        self._images = images
        self._labels = labels.astype(np.int32)

    def __len__(self) -> int:
        return len(self._labels)

    def read(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        return {"image": self._images[indices], "label": self._labels[indices]}


@dataclasses.dataclass(frozen=True)
class Dataset(Generic[Info]):
    """One split of a data set: its facts and its examples."""

    info: Info
    source: Source


def in_memory_dataset(
    name: str,
    images: Shaped[np.ndarray, "size *shape"],
    labels: Integer[np.ndarray, "_"],
    *,
    num_classes: int,
    mean: float,
    std: float,
    max_value: float | None,
) -> Dataset[DatasetInfo]:
    """Makes a data set of arrays; its fingerprint covers every byte of them.

    Args:
      name: the name to report.
      images: examples in raw units and their raw dtype.
      labels: class of each example, one for each image; zeros where there are no classes.
      num_classes: see `DatasetInfo`.
      mean: see `DatasetInfo`.
      std: see `DatasetInfo`.
      max_value: see `DatasetInfo`.

    Raises:
      SettingError: there is no image, or not one label for each.
    """
    require(len(images) > 0, "number of images", len(images), "1 or more")
    require(
        len(labels) == len(images),
        "number of labels",
        len(labels),
        f"{len(images)}, one for each image",
    )
    source = ArraySource(images, labels)
    info = DatasetInfo(
        name=name,
        image_shape=images.shape[1:],
        num_classes=num_classes,
        size=len(source),
        mean=mean,
        std=std,
        max_value=max_value,
        fingerprint=fingerprint(
            f"{name} {images.shape} {images.dtype}".encode(),
            np.ascontiguousarray(images).reshape(-1).view(np.uint8).data,
            labels.astype("<i4").data,
        ),
    )
    return Dataset(info, source)


def fingerprint(*parts: bytes | memoryview) -> str:
    """Returns a hash of `parts`, 16 hexadecimal digits, equal on every machine."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
