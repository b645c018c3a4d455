import numpy as np
import pytest

from dbjax.data import DataConfig, load_dataset


def columns(dataset):
    return dataset.source.read(np.arange(dataset.info.size))


def test_digits_keep_their_raw_levels():
    dataset = load_dataset(DataConfig(name="digits"))
    images, labels = columns(dataset).values()
    assert images.shape == (1437, 8, 8, 1)
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 16)
    assert labels.dtype == np.int32
    assert np.unique(labels).tolist() == list(range(10))
    assert dataset.info.image_shape == (8, 8, 1)
    assert dataset.info.mean == pytest.approx(images.mean())
    assert dataset.info.std == pytest.approx(images.std())


def test_digits_splits_share_the_bundled_images_out():
    from sklearn.datasets import load_digits

    train, test = (columns(load_dataset(DataConfig(split=split))) for split in ("train", "test"))
    found = np.concatenate([train["image"], test["image"]]).reshape(-1, 64)
    bundled = load_digits().data
    assert sorted(map(tuple, found)) == sorted(map(tuple, bundled))
    assert np.bincount(test["label"]).min() >= 34


def test_splits_share_their_scale_but_not_their_fingerprint():
    train, test = (load_dataset(DataConfig(split=split)).info for split in ("train", "test"))
    assert (train.mean, train.std) == (test.mean, test.std)
    assert train.fingerprint != test.fingerprint


def test_digits_fingerprint_is_the_one_that_runs_have_saved():
    assert load_dataset(DataConfig()).info.fingerprint == "6abc6f232dace8b5"


def test_spiral_is_standardised_labelled_and_the_same_every_time():
    config = DataConfig(name="spiral")
    dataset = load_dataset(config)
    points, labels = columns(dataset).values()
    assert points.shape == (20_000, 2)
    assert points.dtype == np.float32
    assert points.mean(axis=0) == pytest.approx([0, 0], abs=0.02)
    assert points.std() == pytest.approx(1, abs=0.01)
    assert np.unique(labels).tolist() == [0, 1, 2]
    assert dataset.info.max_value is None
    assert load_dataset(config).info == dataset.info


def test_spiral_arms_are_apart():
    from sklearn.neighbors import KNeighborsClassifier

    train, test = (
        columns(load_dataset(DataConfig(name="spiral", split=split))) for split in ("train", "test")
    )
    neighbours = KNeighborsClassifier(5).fit(train["image"], train["label"])
    assert neighbours.score(test["image"], test["label"]) > 0.98


def test_single_examples():
    source = load_dataset(DataConfig()).source
    example = source[3]
    assert example["image"].shape == (8, 8, 1)
    assert isinstance(example["label"], np.int32)
    with pytest.raises(IndexError):
        source[len(source)]


def test_reading_gives_copies():
    source = load_dataset(DataConfig()).source
    before = source[0]["image"].copy()
    source.read(np.array([0]))["image"][:] = 99
    assert (source[0]["image"] == before).all()
