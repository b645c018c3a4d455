import numpy as np
import pytest

from dbjax.data import DataConfig, load_dataset
from dbjax.metrics import LabelClassifier


@pytest.fixture(scope="module")
def digits():
    dataset = load_dataset(DataConfig())
    return dataset.source.read(np.arange(dataset.info.size))


@pytest.fixture(scope="module")
def classifier(digits):
    return LabelClassifier(digits["image"], digits["label"], max_value=16.0)


def test_it_knows_digits_it_has_not_seen(classifier):
    dataset = load_dataset(DataConfig(split="test"))
    unseen = dataset.source.read(np.arange(dataset.info.size))
    accuracy = classifier.label_accuracy(unseen["image"], unseen["label"])
    assert accuracy > 0.97
    assert classifier.held_out_accuracy == pytest.approx(accuracy, abs=0.02)


def test_wrong_labels_are_wrong(classifier, digits):
    wrong = (digits["label"] + 1) % 10
    assert classifier.label_accuracy(digits["image"], wrong) < 0.02


def test_noise_is_not_recognised(classifier):
    rng = np.random.default_rng(0)
    noise = rng.integers(17, size=(300, 8, 8, 1), dtype=np.uint8)
    assert classifier.label_accuracy(noise, np.arange(300) % 10) < 0.3
