"""Noise fitted to how cross entropy falls."""

import numpy as np
import pytest
import scipy.special

from dbjax.metrics.noise import equal_loss_edges, fit_log_normal


def test_a_log_normal_fall_is_found_again():
    sigma = np.geomspace(20, 0.05, 30)
    entropy = 2.5 * scipy.special.ndtr((np.log(sigma) - 0.3) / 0.6)
    mean, std, error = fit_log_normal(sigma, entropy)
    assert (mean, std) == pytest.approx((0.3, 0.6), abs=1e-3)
    assert error < 1e-3


def test_another_fall_is_met_as_far_as_told():
    sigma = np.geomspace(20, 0.05, 30)
    entropy = np.clip(np.log(sigma / 0.2), 0, 2)
    mean, std, error = fit_log_normal(sigma, entropy)
    mass = scipy.special.ndtr((np.log(sigma) - mean) / std)
    assert np.abs(mass - entropy / 2).max() == pytest.approx(error)
    assert 0.01 < error < 0.15


@pytest.mark.parametrize("num_blocks", [1, 3])
def test_blocks_get_equal_shares_of_the_loss(num_blocks):
    u = (np.arange(100) + 0.5) / 100
    entropy = 2 * (1 - u)
    edges = equal_loss_edges(u, entropy, num_blocks)
    assert edges[0] == 0 and edges[-1] == 1
    # The sum up to u is 2u - u^2.
    np.testing.assert_allclose(
        2 * edges - edges**2, np.arange(num_blocks + 1) / num_blocks, atol=1e-3
    )
