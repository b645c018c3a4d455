"""Accuracy, likelihood and calibration against sums made by hand."""

import numpy as np
import pytest

from dbjax.errors import SettingError
from dbjax.metrics.classification import (
    accuracy,
    calibration_error,
    confusion_matrix,
    negative_log_likelihood,
    reliability,
)

PROBABILITIES = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55]])
LABEL = np.array([0, 1, 1, 0])


def test_accuracy():
    assert accuracy(PROBABILITIES, LABEL) == 0.5


def test_negative_log_likelihood():
    expected = -np.mean(np.log([0.9, 0.2, 0.7, 0.45]))
    assert negative_log_likelihood(PROBABILITIES, LABEL) == pytest.approx(expected)
    certain = np.array([[1.0, 0.0]])
    assert negative_log_likelihood(certain, np.array([1])) == np.inf


def test_calibration_error():
    # Ten bins: 0.9 and 0.8 alone, 0.7 alone, 0.55 alone; right, wrong, right, wrong.
    expected = (0.1 + 0.8 + 0.3 + 0.55) / 4
    assert calibration_error(PROBABILITIES, LABEL, num_bins=10) == pytest.approx(expected)
    # One bin: mean confidence against mean accuracy.
    one = calibration_error(PROBABILITIES, LABEL, num_bins=1)
    assert one == pytest.approx(abs(PROBABILITIES.max(1).mean() - 0.5))


def test_calibrated_guesses_have_next_to_no_error():
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 1, 100_000)
    label = (rng.random(100_000) > sure).astype(int)
    assert calibration_error(np.stack([sure, 1 - sure], axis=1), label) < 0.01
    assert calibration_error(np.eye(2)[np.zeros(100_000, int)], label) > 0.2


def test_a_calibration_error_needs_a_bin():
    with pytest.raises(SettingError, match="num_bins is 0; allowed: 1 or more"):
        calibration_error(PROBABILITIES, LABEL, num_bins=0)


def test_reliability():
    bins = reliability(PROBABILITIES, LABEL, num_bins=2)
    np.testing.assert_allclose(bins.share, [0, 1])
    np.testing.assert_allclose(bins.confidence, [0, PROBABILITIES.max(1).mean()])
    np.testing.assert_allclose(bins.accuracy, [0, 0.5])


def test_confusion_has_a_row_for_each_class():
    np.testing.assert_array_equal(confusion_matrix(PROBABILITIES, LABEL), [[1, 1], [1, 1]])
    certain = np.eye(3)[[2, 2, 0, 2]]
    np.testing.assert_array_equal(
        confusion_matrix(certain, np.array([0, 2, 0, 0])), [[1, 0, 2], [0, 0, 0], [0, 0, 1]]
    )
