import pathlib
import sys

import numpy as np
import pytest

from dbjax.data import DATASETS, DataConfig, load_dataset, make_stream
from dbjax.data.image_sets import IMAGE_SETS
from dbjax.data.prepare import prepare
from dbjax.data.registry import describe_dataset
from dbjax.errors import SettingError
from tests.data import archives


@pytest.fixture(scope="module")
def data():
    return archives.random_set("cifar10", np.random.default_rng(0))


@pytest.fixture(scope="module")
def data_dir(data, tmp_path_factory):
    files = archives.binary_files("cifar10", data)
    archive = archives.write_tar(tmp_path_factory.mktemp("download") / "archive.tar.gz", files)
    path = tmp_path_factory.mktemp("tfds")
    prepare("cifar10", [archive], path, partial=True)
    return str(path)


def load(data_dir, split="train", name="cifar10"):
    return load_dataset(DataConfig(name=name, data_dir=data_dir, split=split))


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_image_arrives_with_its_label_and_channels_last(data_dir, data, split):
    dataset = load(data_dir, split)
    images, labels = data[split]
    assert dataset.info.size == len(labels)
    assert dataset.info.image_shape == (32, 32, 3)
    loaded = dataset.source.read(np.arange(dataset.info.size))
    assert loaded["image"].dtype == np.uint8
    found = zip(loaded["label"].tolist(), map(np.ndarray.tobytes, loaded["image"]), strict=True)
    expected = zip(labels.tolist(), map(np.ndarray.tobytes, images), strict=True)
    assert sorted(found) == sorted(expected)


def test_splits_differ_in_their_fingerprint(data_dir):
    assert load(data_dir).info.fingerprint != load(data_dir, "test").info.fingerprint


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_planning_needs_no_files(name):
    known = describe_dataset(DataConfig(name=name))
    assert known.dtype == np.uint8
    assert known.info.size == 0
    info = known.info
    assert ((0 - info.mean) / info.std * 0.5, (255 - info.mean) / info.std * 0.5) == (-1, 1)


def test_what_is_known_is_what_is_loaded(data_dir):
    loaded, known = vars(load(data_dir).info), vars(DATASETS["cifar10"].known.info)
    same = ("name", "image_shape", "num_classes", "mean", "std", "max_value")
    assert all(loaded[key] == known[key] for key in same)


@pytest.mark.parametrize("image_set", IMAGE_SETS.values(), ids=IMAGE_SETS)
def test_the_facts_agree_with_each_other(image_set):
    classes = image_set.facts["num_classes"]
    assert [len(counts) for counts in image_set.per_class.values()] == [classes, classes]
    sizes = {split: sum(counts) for split, counts in image_set.per_class.items()}
    expected = {"cifar": (50_000, 10_000), "mnist": (60_000, 10_000), "imagenet": (100_000, 10_000)}
    assert any(part in image_set.name and sizes == dict(zip(sizes, two, strict=True))
               for part, two in expected.items())  # fmt: skip
    if image_set.class_names is not None:
        assert len(set(image_set.class_names)) == classes
    if image_set.coarse is not None:
        assert np.bincount(image_set.coarse).tolist() == [5] * 20


def test_tensorflow_datasets_reads_the_directory_as_its_own(data_dir):
    import tensorflow_datasets as tfds

    examples = tfds.data_source("cifar10", split="test", data_dir=data_dir, download=False)
    assert len(examples) == 8
    assert "tensorflow" not in sys.modules


def test_it_streams(data_dir):
    config = DataConfig(
        name="cifar10", data_dir=data_dir, batch_size=6, flip=True, crop=4, rand_augment=2
    )
    batch = next(make_stream(load_dataset(config), config, seed=0, block=0))
    assert batch["image"].shape == (6, 32, 32, 3)
    assert batch["image"].dtype == np.uint8


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_a_missing_data_set_is_refused_in_one_sentence(tmp_path, name):
    with pytest.raises(SettingError) as caught:
        load(str(tmp_path), name=name)
    message = str(caught.value)
    assert f"data.name {name!r}" in message
    assert str(tmp_path / name) in message
    archive = IMAGE_SETS[name].archive
    assert f"python -m experiments.prepare_data {name} {archive} --data_dir={tmp_path}" in message
    assert "\n" not in message


def copy_metadata(data_dir, target, old="", new=""):
    """A data set's metadata without its examples, and with one text in place of another."""
    target.mkdir(parents=True)
    for name in ("dataset_info.json", "features.json", "label.labels.txt"):
        text = (pathlib.Path(data_dir) / "cifar10" / "3.0.2" / name).read_text()
        (target / name).write_text(text.replace(old, new) if old else text)


def test_a_data_set_without_random_access_is_refused(data_dir, tmp_path):
    copy_metadata(data_dir, tmp_path / "cifar10" / "3.0.2", '"array_record"', '"tfrecord"')
    with pytest.raises(SettingError, match="stored as tfrecord"):
        load(str(tmp_path))


def test_the_folder_of_another_data_set_is_refused(data_dir, tmp_path):
    copy_metadata(data_dir, tmp_path / "cifar100" / "3.0.2")
    with pytest.raises(SettingError, match=r"\(32, 32, 3\) in 10 classes.*in 100 classes"):
        load(str(tmp_path), name="cifar100")


def test_a_folder_that_was_never_finished_is_not_seen(data_dir, tmp_path):
    copy_metadata(data_dir, tmp_path / "cifar10" / "incomplete.AB_3.0.2")
    with pytest.raises(SettingError, match="holds none"):
        load(str(tmp_path))
