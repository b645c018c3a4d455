"""Features of images, in which samples are held against real images."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from dbjax.errors import require
from dbjax.metrics.frechet import GaussianStatistics, pixel_features


class Features(NamedTuple):
    """What a network sees in some images.

    Attributes:
        vectors: one for each image.
        maps: what it sees where, flattened; None of networks without such.
        logits: of the classes it knows; None of networks that know none.
    """

    vectors: Float[np.ndarray, "images size"]
    maps: Float[np.ndarray, "images _"] | None = None
    logits: Float[np.ndarray, "images classes"] | None = None


@runtime_checkable
class FeatureNetwork(Protocol):
    """A map from images to vectors.

    Attributes:
        name: all that the vectors depend on; figures of networks with different names do not
            compare.
        size: of a vector.
    """

    name: str
    size: int

    def features(self, images: Any) -> Features:
        """What it sees in any number of images, uint8 [images, height, width, channels]."""


class PixelFeatures:
    """The images themselves, in the levels of the data, or points, or latents.

    Attributes:
        name: "pixels in [0, 1]", or "raw values" of what has no levels.
        size: values of an example.
    """

    def __init__(self, shape: tuple[int, ...], max_value: float | None) -> None:
        self.name = "pixels in [0, 1]" if max_value else "raw values"
        self.size = int(np.prod(shape))
        self._scale = max_value or 1.0

    def features(self, images: Shaped[np.ndarray, "images *shape"]) -> Features:
        """Examples in raw units, flattened, in float64."""
        return Features(pixel_features(images / self._scale))


class ShownFeatures:
    """A network of pictures of 8 bits that is given examples of a data set as they are.

    Attributes:
        name: that of the network, and how examples become pictures where they are none.
        size: of a vector.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        show: Callable[[np.ndarray], UInt8[np.ndarray, "images height width channels"]],
        how: str = "",
    ) -> None:
        """Puts `show`, from examples in raw units to pictures, before a network.

        Args:
            network: that looks at pictures.
            show: makes them.
            how: they are made, if figures depend on it.
        """
        self.name = f"{network.name}, {how}" if how else network.name
        self.size = network.size
        self._network, self._show = network, show

    def features(self, images: Shaped[np.ndarray, "images *shape"]) -> Features:
        """Of examples in raw units."""
        return self._network.features(self._show(images))


@dataclasses.dataclass(frozen=True)
class Summary:
    """What measures need to know of a set of images.

    Attributes:
        features: name of the network.
        count: images.
        vectors: mean and covariance.
        maps: the same of the maps, if there are any.
        kept: vectors of the first images, for measures of neighbours.
        logits: of all, where they were to be kept and there are any.
    """

    features: str
    count: int
    vectors: GaussianStatistics
    maps: GaussianStatistics | None
    kept: Float[np.ndarray, "kept size"]
    logits: Float[np.ndarray, "images classes"] | None = None


def summarise(
    network: FeatureNetwork,
    batches: Iterable[np.ndarray],
    *,
    keep: int | None = 0,
    logits: bool = False,
    progress: Callable[[int], object] = lambda count: None,
) -> Summary:
    """Reads images batch by batch, so that there may be more than the memory holds.

    Args:
        network: that looks at them.
        batches: [images, ...], as the network wants them; at least one.
        keep: vectors to keep, of the first images; None is all.
        logits: whether to keep them.
        progress: told the number of images after each batch.
    """
    vectors: GaussianStatistics | None = None
    maps: GaussianStatistics | None = None
    kept: list[np.ndarray] = []
    answers: list[np.ndarray] = []
    for images in batches:
        found = network.features(images)
        before = 0 if vectors is None else vectors.count
        vectors = _merged(vectors, found.vectors)
        if found.maps is not None:
            maps = _merged(maps, found.maps)
        some = found.vectors if keep is None else found.vectors[: max(keep - before, 0)]
        kept.append(some.astype(np.float32))
        if logits and found.logits is not None:
            answers.append(found.logits)
        progress(len(images))
    require(vectors is not None, "the number of images", 0, "1 or more")
    assert vectors is not None
    return Summary(
        network.name,
        vectors.count,
        vectors,
        maps,
        np.concatenate(kept),
        np.concatenate(answers) if answers else None,
    )


def _merged(
    before: GaussianStatistics | None, values: Float[np.ndarray, "images size"]
) -> GaussianStatistics:
    statistics = GaussianStatistics.from_features(values)
    return statistics if before is None else before.merge(statistics)


def to_8bit(images: Shaped[np.ndarray, "*shape"], max_value: float) -> UInt8[np.ndarray, "*shape"]:
    """Levels 0 to `max_value` as levels 0 to 255, rounded, as saving to a file would."""
    if max_value == 255 and images.dtype == np.uint8:
        return images
    return np.rint(images.astype(np.float64) * (255 / max_value)).astype(np.uint8)
