import numpy as np
import pytest

from dbjax.data import fingerprint, in_memory_dataset
from dbjax.errors import SettingError


def make(images, labels):
    return in_memory_dataset(
        "mine", images, labels, num_classes=2, mean=0.0, std=1.0, max_value=None
    )


def test_facts_are_those_of_the_arrays():
    dataset = make(np.zeros((3, 4, 5, 1), np.float32), np.array([0, 1, 1], np.uint8))
    assert dataset.info.image_shape == (4, 5, 1)
    assert dataset.info.size == len(dataset.source) == 3
    assert dataset.source[1]["label"].dtype == np.int32


def test_iteration_ends():
    assert len(list(make(np.zeros((3, 2), np.float32), np.zeros(3, int)).source)) == 3


@pytest.mark.parametrize("count", [0, 2, 4])
def test_every_image_needs_a_label(count):
    with pytest.raises(SettingError, match=f"labels is {count}; allowed: 3"):
        make(np.zeros((3, 2), np.float32), np.zeros(count, int))


def test_no_images_are_refused():
    with pytest.raises(SettingError, match="number of images is 0"):
        make(np.zeros((0, 2), np.float32), np.zeros(0, int))


def test_the_fingerprint_is_of_the_content():
    images, labels = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([0, 1, 0])
    found = make(images, labels).info.fingerprint
    assert make(np.asfortranarray(images), labels.astype(np.uint8)).info.fingerprint == found
    assert make(images + 1, labels).info.fingerprint != found
    assert make(images, 1 - labels).info.fingerprint != found
    assert make(images.reshape(3, 2, 1), labels).info.fingerprint != found


def test_the_fingerprint_is_sixteen_digits():
    assert fingerprint(b"a", b"b") == fingerprint(b"ab") == "fb8e20fc2e4c3f24"
