import numpy as np
import pytest

from dbjax.metrics import quantise


def test_samples_land_on_the_levels_of_the_data():
    samples = np.array([[-3.0, 0.4, 0.6, 15.9, 16.2, 400.0]], np.float32)
    found = quantise(samples, 16.0)
    assert found.dtype == np.uint8
    assert found.tolist() == [[0, 0, 1, 16, 16, 16]]


def test_stored_images_stay_as_they_are():
    images = np.arange(256, dtype=np.uint8)[:, np.newaxis]
    np.testing.assert_array_equal(quantise(images.astype(np.float32), 255.0), images)


def test_points_have_no_levels():
    points = np.array([[-1.5, 2.25]], np.float32)
    assert quantise(points, None) is points


@pytest.mark.parametrize("max_value", [16.0, None])
def test_diverged_samples_are_refused(max_value):
    with pytest.raises(ValueError, match="not finite"):
        quantise(np.array([[1.0, np.nan]]), max_value)
