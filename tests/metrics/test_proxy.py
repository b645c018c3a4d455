"""The proxy: named so, trained once, the same for the same data."""

import numpy as np
import pytest

from dbjax import session
from dbjax.data import DataConfig, load_dataset
from dbjax.errors import SettingError
from dbjax.metrics.image_features import FeatureNetwork, to_8bit
from dbjax.metrics.proxy import load_proxy

pytestmark = pytest.mark.usefixtures("quick_compilation")

DIGITS = DataConfig(name="digits", split="test")


@pytest.fixture(scope="module")
def dataset():
    return load_dataset(DIGITS)


def test_it_is_trained_once_and_kept(dataset, tmp_path, monkeypatch):
    images = to_8bit(dataset.source.read(np.arange(7))["image"], 16.0)
    first = load_proxy(dataset, DIGITS, tmp_path, steps=2)
    found = first.features(images)
    assert found.vectors.shape == (7, first.size)
    assert found.logits.shape == (7, 10)
    assert found.maps is None
    assert isinstance(first, FeatureNetwork)
    assert first.name.startswith(f"proxy (digits test {dataset.info.fingerprint[:8]}, weights ")
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]
    monkeypatch.setattr(session, "run", None)
    again = load_proxy(dataset, DIGITS, tmp_path, steps=2)
    assert again.name == first.name
    np.testing.assert_array_equal(again.features(images).vectors, found.vectors)
    with pytest.raises(TypeError):  # another recipe is trained anew
        load_proxy(dataset, DIGITS, tmp_path, steps=3)


def test_data_without_levels_or_labels_are_refused(tmp_path):
    spiral = DataConfig(name="spiral", split="test")
    with pytest.raises(SettingError, match=r"--features is 'proxy'; allowed: pixels for.*'spiral'"):
        load_proxy(load_dataset(spiral), spiral, tmp_path)


@pytest.mark.slow
def test_it_knows_digits_that_it_has_not_seen(dataset, tmp_path):
    data = DataConfig(name="digits")
    proxy = load_proxy(load_dataset(data), data, tmp_path)
    test = dataset.source.read(np.arange(dataset.info.size))
    logits = proxy.features(to_8bit(test["image"], 16.0)).logits
    assert np.mean(logits.argmax(axis=1) == test["label"]) > 0.95
