import functools

import numpy as np
import pytest
import scipy.linalg

from dbjax.metrics import GaussianStatistics, frechet_distance, pixel_features


def features(seed: int, count: int = 200, dim: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, dim)) @ rng.standard_normal((dim, dim)) + rng.random(dim)


def statistics(seed: int, **shape: int) -> GaussianStatistics:
    return GaussianStatistics.from_features(features(seed, **shape))


def test_statistics_are_numpys():
    values = features(0).astype(np.float32)
    found = GaussianStatistics.from_features(values)
    assert found.count == 200
    assert found.mean.dtype == found.covariance.dtype == np.float64
    np.testing.assert_allclose(found.mean, values.astype(np.float64).mean(axis=0))
    np.testing.assert_allclose(found.covariance, np.cov(values.astype(np.float64), rowvar=False))


@pytest.mark.parametrize("splits", [[100], [1, 2, 150], [199]])
def test_batches_merge_to_the_whole(splits):
    values = features(0) + 1e4
    whole = GaussianStatistics.from_features(values)
    batches = map(GaussianStatistics.from_features, np.split(values, splits))
    merged = functools.reduce(GaussianStatistics.merge, batches)
    assert merged.count == whole.count
    np.testing.assert_allclose(merged.mean, whole.mean)
    np.testing.assert_allclose(merged.covariance, whole.covariance, rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_distance_is_the_one_by_the_square_root_of_the_product(seed):
    a, b = statistics(seed), statistics(seed + 10)
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    expected = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_distance_of_independent_coordinates_is_a_sum():
    def gaussian(mean, std):
        return GaussianStatistics(np.array(mean), np.diag(np.square(std)), 1000)

    a, b = gaussian([0.0, 1.0, 2.0], [1.0, 2.0, 3.0]), gaussian([1.0, 1.0, 0.0], [4.0, 2.0, 2.5])
    assert frechet_distance(a, b) == pytest.approx((1 + 9) + 0 + (4 + 0.25))


def test_the_same_data_are_at_no_distance():
    assert frechet_distance(statistics(0), statistics(0)) == pytest.approx(0, abs=1e-10)


def test_singular_covariances_are_fine():
    a, b = statistics(0, count=4, dim=30), statistics(1, count=4, dim=30)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(a, b) > 0


def test_what_does_not_compare_is_refused():
    with pytest.raises(ValueError, match="two samples"):
        frechet_distance(statistics(0), statistics(0, count=1))
    with pytest.raises(ValueError, match="sizes"):
        frechet_distance(statistics(0), statistics(0, dim=7))
    with pytest.raises(ValueError, match="shape"):
        GaussianStatistics.from_features(np.zeros((0, 3)))


def test_pixels_are_flattened():
    images = np.random.default_rng(0).random((5, 2, 3, 1), np.float32)
    assert pixel_features(images).shape == (5, 6)
    assert pixel_features(images).dtype == np.float64
