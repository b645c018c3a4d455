"""All that is measured of samples from one pass through a network of features."""

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Float

from dbjax.errors import SettingError
from dbjax.metrics.frechet import GaussianStatistics, frechet_distance
from dbjax.metrics.image_features import Summary
from dbjax.metrics.neighbours import precision_and_recall

KEPT = 10_000
"""Real images among which neighbours are sought, as in ADM's suite."""
SPLIT = 5_000
"""Samples that an Inception score is of, as in ADM's suite."""


@dataclasses.dataclass(frozen=True)
class ImageQuality:
    """Samples held against real images.

    Attributes:
        features: name of the network.
        num_samples: samples.
        num_real: real images.
        frechet_distance: between the vectors; with the Inception network, FID.
        spatial_frechet_distance: between the maps; with the Inception network, sFID.
        class_score: see `inception_score`, which it is with the Inception network; None without
            logits.
        precision: see `precision_and_recall`.
        recall: see `precision_and_recall`; of at most `KEPT` real images.
    """

    features: str
    num_samples: int
    num_real: int
    frechet_distance: float
    spatial_frechet_distance: float | None
    class_score: float | None
    precision: float
    recall: float

    @property
    def settings(self) -> Mapping[str, object]:
        """All that must be equal for two to compare; see `dbjax.metrics.require_comparable`."""
        return {name: getattr(self, name) for name in ("features", "num_samples", "num_real")}


def image_quality(samples: Summary, real: Summary) -> ImageQuality:
    """Compares summaries.

    Args:
        samples: with all vectors and logits kept.
        real: with `KEPT` vectors kept.

    Raises:
        SettingError: they are of different features, or a set is too small.
    """
    if samples.features != real.features:
        raise SettingError(
            f"samples in features {samples.features!r} and real images in {real.features!r} do not "
            "compare; measure both with the same"
        )
    maps = None
    if samples.maps is not None and real.maps is not None:
        maps = frechet_distance(samples.maps, real.maps)
    precision, recall = precision_and_recall(samples.kept, real.kept)
    return ImageQuality(
        samples.features,
        samples.count,
        real.count,
        frechet_distance(samples.vectors, real.vectors),
        maps,
        None if samples.logits is None else inception_score(samples.logits),
        precision,
        recall,
    )


def inception_score(logits: Float[np.ndarray, "samples classes"], *, split: int = SPLIT) -> float:
    """exp of the mean KL(p(class | sample) || mean p), averaged over splits of the samples.

    Salimans et al. 2016 (arXiv 1606.03498), section 4. 1 is the least, the number of classes the
    most: each sample of one class, and all classes as often.
    """
    scores = []
    for start in range(0, len(logits), split):
        p = scipy.special.softmax(logits[start : start + split].astype(np.float64), axis=1)
        divergence = scipy.special.rel_entr(p, p.mean(axis=0, keepdims=True)).sum(axis=1)
        scores.append(np.exp(divergence.mean()))
    return float(np.mean(scores))


# --- summaries in files ---------------------------------------------------------------------------


def write_summary(file: Path, summary: Summary, about: Mapping[str, object]) -> None:
    """Writes a summary of real images, without logits, with what it is of.

    Args:
        file: .npz; its folder is made if need be.
        summary: of real images.
        about: what must be equal where it is read.
    """
    arrays: dict[str, Any] = {
        "mean": summary.vectors.mean,
        "covariance": summary.vectors.covariance,
    }
    if summary.maps is not None:
        arrays |= {"maps_mean": summary.maps.mean, "maps_covariance": summary.maps.covariance}
    facts = {**about, "features": summary.features, "count": summary.count}
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.tmp")
    with temporary.open("wb") as opened:
        np.savez(opened, facts=json.dumps(facts, sort_keys=True), kept=summary.kept, **arrays)
    temporary.replace(file)


def read_summary(file: Path, features: str, count: int, about: Mapping[str, object]) -> Summary:
    """Reads what `write_summary` wrote.

    Args:
        file: .npz.
        features: name of the network it must be of.
        count: images it must be of.
        about: what else must be equal.

    Raises:
        SettingError: it cannot be read, or is of something else.
    """
    wanted = {**about, "features": features, "count": count}
    try:
        with file.open("rb") as opened, np.load(opened) as arrays:
            facts = json.loads(str(arrays["facts"]))
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SettingError(
            f"{file} cannot be read ({error}); allowed: to remove it, for it is made again"
        ) from error
    for name in sorted({*facts, *wanted}):
        if facts.get(name) != wanted.get(name):
            raise SettingError(
                f"{file} holds statistics of {name} {facts.get(name)!r}, and not of "
                f"{wanted.get(name)!r}; allowed: to remove it, for it is made again"
            )
    vectors = GaussianStatistics(found["mean"], found["covariance"], count)
    maps = None
    if "maps_mean" in found:
        maps = GaussianStatistics(found["maps_mean"], found["maps_covariance"], count)
    return Summary(features, count, vectors, maps, found["kept"])
