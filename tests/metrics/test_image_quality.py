import dataclasses

import numpy as np
import pytest

from dbjax.errors import SettingError
from dbjax.metrics import GaussianStatistics, require_comparable
from dbjax.metrics.image_features import (
    FeatureNetwork,
    Features,
    PixelFeatures,
    ShownFeatures,
    summarise,
    to_8bit,
)
from dbjax.metrics.image_quality import (
    image_quality,
    inception_score,
    read_summary,
    write_summary,
)


class Moments:
    """A network that sees mean and spread of each channel, and tells light from dark."""

    name, size = "moments", 6

    def features(self, images):
        x = images.astype(np.float64) / 255
        vectors = np.concatenate([x.mean((1, 2)), x.std((1, 2))], axis=1)
        light = 40 * (vectors[:, 0] - 0.5)
        return Features(vectors, maps=x[:, :2, 0, 0], logits=np.stack([light, -light], axis=1))


def images(seed, count=50, low=0, high=256):
    rng = np.random.default_rng(seed)
    return rng.integers(low, high, size=(count, 4, 4, 3), dtype=np.uint8)


def both(a, b, **settings):
    samples = summarise(Moments(), [a], keep=None, logits=True)
    return image_quality(samples, summarise(Moments(), [b], keep=10_000))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (np.zeros((8, 5)), 1),  # knows nothing
        (100 * np.eye(5)[[0] * 10], 1),  # always the same
        (100 * np.eye(5)[[0, 1, 2, 3, 4] * 2], 5),  # every class
        (np.log(np.array([[0.75, 0.25], [0.25, 0.75]] * 2)), 2 * 0.75**0.75 * 0.25**0.25),
    ],
)
def test_inception_scores_of_known_answers(rows, expected):
    assert inception_score(rows) == pytest.approx(expected, rel=1e-6)


def test_an_inception_score_is_the_mean_over_splits():
    rows = 100 * np.eye(4)[[0, 0, 0, 0, 0, 1, 2, 3]]
    assert inception_score(rows, split=4) == pytest.approx((1 + 4) / 2)


def test_impossible_classes_do_no_harm():
    rows = np.array([[0.0, -np.inf], [0.0, -np.inf]])
    assert inception_score(rows) == pytest.approx(1)


def test_batches_are_summarised_as_the_whole():
    x, seen = images(0), []
    whole = summarise(Moments(), [x], keep=20, logits=True)
    parts = summarise(Moments(), [x[:7], x[7:30], x[30:]], keep=20, logits=True,
                      progress=seen.append)  # fmt: skip
    assert seen == [7, 23, 20]
    assert parts.count == whole.count == 50
    np.testing.assert_allclose(parts.vectors.covariance, whole.vectors.covariance)
    np.testing.assert_allclose(parts.maps.mean, whole.maps.mean)
    np.testing.assert_array_equal(parts.kept, whole.kept)
    assert parts.kept.shape == (20, 6)
    np.testing.assert_array_equal(parts.logits, Moments().features(x).logits)
    assert len(summarise(Moments(), [x[:7], x[7:]], keep=None).kept) == 50
    with pytest.raises(SettingError, match="number of images is 0"):
        summarise(Moments(), [])


def test_quality_of_the_real_images_themselves():
    found = both(images(0), images(0))
    assert (found.precision, found.recall) == (1, 1)
    assert found.frechet_distance == pytest.approx(0, abs=1e-9)
    assert found.spatial_frechet_distance == pytest.approx(0, abs=1e-9)
    assert found.num_samples == found.num_real == 50


def test_quality_of_darker_images():
    dark, light = images(0, high=100), images(1, low=150)
    mixed = np.concatenate([dark, light])
    found = both(dark, mixed)
    assert found.frechet_distance > 0.05
    assert found.precision > 0.9
    assert found.recall < 0.6
    assert found.class_score == pytest.approx(1, abs=1e-3)
    assert both(mixed, mixed).class_score == pytest.approx(2, abs=1e-3)


def test_figures_of_other_features_or_numbers_do_not_compare():
    found = both(images(0), images(1))
    require_comparable(found, both(images(2), images(1)))
    for change in ({"features": "proxy"}, {"num_samples": 49}, {"num_real": 10}):
        with pytest.raises(SettingError, match=f"{next(iter(change))}.* do not compare"):
            require_comparable(found, dataclasses.replace(found, **change))
    real = dataclasses.replace(summarise(Moments(), [images(1)]), features="inception")
    with pytest.raises(SettingError, match="'moments' and real images in 'inception' do not"):
        image_quality(summarise(Moments(), [images(0)], keep=None), real)


def test_statistics_come_back_from_a_file(tmp_path):
    about = {"data": "digits", "split": "train", "fingerprint": "abc"}
    written = summarise(Moments(), [images(0)], keep=20)
    write_summary(tmp_path / "new" / "real.npz", written, about)
    read = read_summary(tmp_path / "new" / "real.npz", "moments", 50, about)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["real.npz"]
    samples = summarise(Moments(), [images(1)], keep=None, logits=True)
    assert image_quality(samples, read) == image_quality(samples, written)


@pytest.mark.parametrize(
    ("features", "count", "split", "sentence"),
    [
        ("proxy", 50, "train", "of features 'moments', and not of 'proxy'"),
        ("moments", 49, "train", "of count 50, and not of 49"),
        ("moments", 50, "test", "of split 'train', and not of 'test'"),
    ],
)
def test_statistics_of_something_else_are_refused(tmp_path, features, count, split, sentence):
    file = tmp_path / "real.npz"
    write_summary(file, summarise(Moments(), [images(0)]), {"split": "train"})
    with pytest.raises(SettingError, match=sentence):
        read_summary(file, features, count, {"split": split})


def test_a_damaged_file_of_statistics_is_refused(tmp_path):
    file = tmp_path / "real.npz"
    write_summary(file, summarise(Moments(), [images(0)]), {})
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(SettingError, match=r"real\.npz cannot be read"):
        read_summary(file, "moments", 50, {})


def test_levels_become_bytes():
    assert to_8bit(np.array([0, 8, 16], np.uint8), 16.0).tolist() == [0, 128, 255]
    same = np.array([0, 7, 255], np.uint8)
    assert to_8bit(same, 255.0) is same


def test_pixels_and_shown_examples_are_networks_too():
    pixels = PixelFeatures((4, 4, 3), 255.0)
    x = images(0, 3)
    np.testing.assert_allclose(pixels.features(x).vectors, x.reshape(3, -1) / 255)
    assert (pixels.size, pixels.name) == (48, "pixels in [0, 1]")
    assert PixelFeatures((2,), None).name == "raw values"
    shown = ShownFeatures(Moments(), lambda x: 255 - x, "inverted")
    assert shown.name == "moments, inverted"
    np.testing.assert_array_equal(shown.features(x).maps, Moments().features(255 - x).maps)
    assert all(isinstance(network, FeatureNetwork) for network in (pixels, shown))


def test_frechet_of_a_shift_is_its_square():
    """Of the summaries' statistics, so that the order of batches cannot matter."""
    a = GaussianStatistics(np.zeros(6), np.eye(6), 10)
    samples = dataclasses.replace(summarise(Moments(), [images(0)], keep=None), vectors=a)
    moved = dataclasses.replace(a, mean=np.full(6, 2.0))
    real = dataclasses.replace(samples, vectors=moved)
    assert image_quality(samples, real).frechet_distance == pytest.approx(24)
