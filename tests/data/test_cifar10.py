import io
import pathlib
import sys
import tarfile

import numpy as np
import pytest

from dbjax.data import DataConfig, load_dataset, make_stream, prepare
from dbjax.errors import SettingError

PER_FILE = 4


@pytest.fixture(scope="module")
def records():
    """The archive's six files: a label, then the red, green and blue planes."""
    rng = np.random.default_rng(0)
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    values = {name: rng.integers(256, size=(PER_FILE, 3073), dtype=np.uint8) for name in names}
    for value in values.values():
        value[:, 0] %= 10
    return values


@pytest.fixture(scope="module")
def archive(records, tmp_path_factory):
    path = tmp_path_factory.mktemp("download") / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, value in records.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = value.nbytes
            tar.addfile(member, io.BytesIO(value.tobytes()))
    return path


@pytest.fixture(scope="module")
def data_dir(archive, tmp_path_factory):
    path = tmp_path_factory.mktemp("tfds")
    prepare.prepare_cifar10(archive, path)
    return str(path)


def load(data_dir, split="train"):
    return load_dataset(DataConfig(name="cifar10", data_dir=data_dir, split=split))


def test_every_image_arrives_with_its_label_and_channels_last(data_dir, records):
    dataset = load(data_dir)
    assert dataset.info.size == 5 * PER_FILE
    assert dataset.info.image_shape == (32, 32, 3)
    loaded = dataset.source.read(np.arange(dataset.info.size))
    assert loaded["image"].dtype == np.uint8
    found = sorted(
        (int(label), image.transpose(2, 0, 1).tobytes())
        for image, label in zip(loaded["image"], loaded["label"], strict=True)
    )
    train = np.concatenate([value for name, value in records.items() if name != "test_batch.bin"])
    assert found == sorted((int(record[0]), record[1:].tobytes()) for record in train)


def test_the_test_split_is_its_own(data_dir):
    train, test = load(data_dir).info, load(data_dir, "test").info
    assert test.size == PER_FILE
    assert test.fingerprint != train.fingerprint


def test_the_scale_puts_clean_targets_within_one(data_dir):
    info = load(data_dir).info
    assert ((0 - info.mean) / info.std * 0.5, (255 - info.mean) / info.std * 0.5) == (-1, 1)


def test_tensorflow_datasets_reads_the_directory_as_its_own(data_dir):
    import tensorflow_datasets as tfds

    examples = tfds.data_source("cifar10", split="test", data_dir=data_dir, download=False)
    assert len(examples) == PER_FILE
    assert "tensorflow" not in sys.modules


def test_it_streams(data_dir):
    config = DataConfig(name="cifar10", data_dir=data_dir, batch_size=6, flip=True)
    batch = next(make_stream(load_dataset(config), config, seed=0, block=0))
    assert batch["image"].shape == (6, 32, 32, 3)


def test_a_missing_data_set_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(SettingError) as caught:
        load(str(tmp_path))
    message = str(caught.value)
    assert "data.name 'cifar10'" in message
    assert str(tmp_path / "cifar10") in message
    assert f"python -m dbjax.data.prepare cifar-10-binary.tar.gz --data_dir={tmp_path}" in message
    assert "\n" not in message


def test_a_data_set_without_random_access_is_refused(data_dir, tmp_path):
    version = tmp_path / "cifar10" / "3.0.2"
    version.mkdir(parents=True)
    for name in ("dataset_info.json", "features.json"):
        text = (pathlib.Path(data_dir) / "cifar10" / "3.0.2" / name).read_text()
        (version / name).write_text(text.replace('"array_record"', '"tfrecord"'))
    with pytest.raises(SettingError, match="stored as tfrecord"):
        load(str(tmp_path))


def test_a_damaged_archive_is_refused(archive, tmp_path):
    damaged = tmp_path / "cifar-10-binary.tar.gz"
    damaged.write_bytes(archive.read_bytes()[:5000])
    for path in (damaged, tmp_path / "absent.tar.gz"):
        with pytest.raises(SettingError, match="allowed: cifar-10-binary"):
            prepare.prepare_cifar10(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(archive, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prepare", str(archive), f"--data_dir={tmp_path}"])
    prepare.main()
    assert load(str(tmp_path)).info.size == 5 * PER_FILE

    monkeypatch.setattr(sys, "argv", ["prepare", "absent.tar.gz", f"--data_dir={tmp_path}"])
    with pytest.raises(SystemExit):
        prepare.main()
    assert "archive is 'absent.tar.gz'" in capsys.readouterr().err
