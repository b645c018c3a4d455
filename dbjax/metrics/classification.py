"""How good predicted probabilities are, over all examples (none dropped)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from dbjax.errors import require


def accuracy(
    probabilities: Float[np.ndarray, "size classes"], label: Int[np.ndarray, " size"]
) -> float:
    """Share of examples whose likeliest class is theirs."""
    return float(np.mean(np.argmax(probabilities, axis=1) == label))


def negative_log_likelihood(
    probabilities: Float[np.ndarray, "size classes"], label: Int[np.ndarray, " size"]
) -> float:
    """Mean of -ln p(label), in nats; infinite where a label was ruled out."""
    with np.errstate(divide="ignore"):
        return float(-np.mean(np.log(probabilities[np.arange(len(label)), label])))


class Reliability(NamedTuple):
    """How often predictions of one confidence are right, in bins of equal width from 0 to 1.

    Confidence is the probability of the likeliest class. Empty bins hold zeros.

    Attributes:
        share: of all examples.
        confidence: mean.
        accuracy: share of right predictions.
    """

    share: Float[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]


def reliability(
    probabilities: Float[np.ndarray, "size classes"],
    label: Int[np.ndarray, " size"],
    *,
    num_bins: int = 15,
) -> Reliability:
    """Accuracy by confidence.

    Raises:
        SettingError: if there is no bin.
    """
    require(num_bins >= 1, "num_bins", num_bins, "1 or more")
    confidence = probabilities.max(axis=1)
    right = np.argmax(probabilities, axis=1) == label
    # Bins are (low, high], so that a confidence of 1 belongs to the last.
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    count, sure, true = (
        np.bincount(bins, weights=x, minlength=num_bins) for x in (None, confidence, right)
    )
    some = np.maximum(count, 1)
    return Reliability(count / len(label), sure / some, true / some)


def calibration_error(
    probabilities: Float[np.ndarray, "size classes"],
    label: Int[np.ndarray, " size"],
    *,
    num_bins: int = 15,
) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3).

    Mean distance between confidence and accuracy over the bins of `reliability`, each with the
    weight of its examples.

    Raises:
        SettingError: if there is no bin.
    """
    bins = reliability(probabilities, label, num_bins=num_bins)
    return float(np.sum(bins.share * np.abs(bins.confidence - bins.accuracy)))


def confusion_matrix(
    probabilities: Float[np.ndarray, "size classes"], label: Int[np.ndarray, " size"]
) -> Int[np.ndarray, "classes classes"]:
    """Numbers of examples by their class (row) and their likeliest class (column)."""
    num_classes = probabilities.shape[1]
    pairs = label * num_classes + np.argmax(probabilities, axis=1)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
