import numpy as np
import pytest

from dbjax.errors import SettingError
from dbjax.metrics import neighbours
from dbjax.metrics.neighbours import precision_and_recall


def cloud(seed, count=60, middle=0.0, dim=5):
    rng = np.random.default_rng(seed)
    return (middle + rng.normal(size=(count, dim))).astype(np.float32)


def brute_force(samples, real, k=3):
    def share(points, centres):
        inside = []
        for point in points:
            found = False
            for centre in centres:
                ways = sorted(np.linalg.norm(centres - centre, axis=1))
                found |= bool(np.linalg.norm(point - centre) <= ways[k])
            inside.append(found)
        return np.mean(inside)

    return share(samples, real), share(real, samples)


def test_it_is_what_its_definition_says(monkeypatch):
    samples, real = 0.9 * cloud(0, 50) + 0.6, cloud(1, 40)
    expected = brute_force(samples.astype(np.float64), real.astype(np.float64))
    assert 0 < expected[0] < 1
    assert 0 < expected[1] < 1
    assert precision_and_recall(samples, real) == pytest.approx(expected)
    # Distances of a few rows at a time are the same.
    monkeypatch.setattr(neighbours, "_ROWS", 16)
    assert precision_and_recall(samples, real) == pytest.approx(expected)


def test_equal_sets_and_sets_apart():
    assert precision_and_recall(cloud(0), cloud(0)) == (1, 1)
    assert precision_and_recall(cloud(0), cloud(1, middle=1000.0)) == (0, 0)


def test_a_mode_that_is_left_out_lowers_recall_alone():
    real = np.concatenate([cloud(0), cloud(1, middle=50.0)])
    precision, recall = precision_and_recall(real[:60], real)
    assert precision == 1
    assert recall == 0.5


def test_samples_beside_the_data_lower_precision_alone():
    real = cloud(0)
    samples = np.concatenate([real, cloud(1, middle=50.0)])
    assert precision_and_recall(samples, real) == (0.5, 1)


def test_sets_without_neighbours_are_refused():
    with pytest.raises(SettingError, match="vectors of a set is 3; allowed: 4 or more"):
        precision_and_recall(cloud(0), cloud(1, 3))
