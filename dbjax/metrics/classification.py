"""How good predicted probabilities are, over all examples (none dropped)."""

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


def calibration_error(
    probabilities: Float[np.ndarray, "size classes"],
    label: Int[np.ndarray, " size"],
    *,
    num_bins: int = 15,
) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3).

    Mean distance between confidence, the probability of the likeliest class, and accuracy, over
    bins of equal width, each with the weight of its examples.

    Raises:
        SettingError: if there is no bin.
    """
    require(num_bins >= 1, "num_bins", num_bins, "1 or more")
    confidence = probabilities.max(axis=1)
    right = np.argmax(probabilities, axis=1) == label
    # Bins are (low, high], so that a confidence of 1 belongs to the last.
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    gap = np.bincount(bins, weights=confidence - right, minlength=num_bins)
    return float(np.abs(gap).sum() / len(label))
