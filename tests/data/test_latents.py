import numpy as np
import pytest

from dbjax.data import (
    ArraySource,
    DataConfig,
    Dataset,
    load_dataset,
    make_stream,
    write_latents,
)
from dbjax.errors import SettingError


@pytest.fixture
def latents():
    rng = np.random.default_rng(0)
    return rng.standard_normal((10, 32, 32, 4)).astype(np.float16), rng.integers(1000, size=10)


def write(folder, latents, labels):
    """Two files of unequal length, as a job on several machines would leave."""
    write_latents(folder / "train-00000-of-00002.array_record", latents[:7], labels[:7])
    write_latents(folder / "train-00001-of-00002.array_record", latents[7:], labels[7:])


def load(folder, split="train", **settings):
    config = DataConfig(name="imagenet256_latents", data_dir=str(folder), split=split, **settings)
    return load_dataset(config)


def test_what_is_written_is_read(tmp_path, latents):
    write(tmp_path / "new", *latents)
    dataset = load(tmp_path / "new")
    assert dataset.info.size == 10
    assert dataset.info.image_shape == (32, 32, 4)
    assert 1 / dataset.info.std == pytest.approx(0.18215)
    batch = dataset.source.read(np.array([9, 0, 7]))
    assert batch["image"].dtype == np.float16
    assert batch["label"].dtype == np.int32
    assert (batch["image"] == latents[0][[9, 0, 7]]).all()
    assert (batch["label"] == latents[1][[9, 0, 7]]).all()


def test_streams_from_disk_and_from_memory_agree(tmp_path, latents):
    write(tmp_path, *latents)
    dataset = load(tmp_path)
    config = DataConfig(name="imagenet256_latents", batch_size=4)
    from_disk = make_stream(dataset, config, seed=1, block=2)
    in_memory = Dataset(dataset.info, ArraySource(*latents))
    from_memory = make_stream(in_memory, config, seed=1, block=2)
    for _ in range(12):
        left, right = next(from_disk), next(from_memory)
        assert (left["image"] == right["image"]).all()
        assert (left["label"] == right["label"]).all()


def test_other_content_has_another_fingerprint(tmp_path, latents):
    write(tmp_path / "a", *latents)
    write(tmp_path / "b", latents[0] * np.float16(2), latents[1])
    assert load(tmp_path / "a").info.fingerprint != load(tmp_path / "b").info.fingerprint


@pytest.mark.parametrize("data_dir", [None, "absent"])
def test_missing_files_are_refused_in_one_sentence(tmp_path, data_dir):
    folder = data_dir and str(tmp_path / data_dir)
    with pytest.raises(SettingError, match="imagenet256_latents") as caught:
        load_dataset(DataConfig(name="imagenet256_latents", data_dir=folder, split="test"))
    message = str(caught.value)
    assert repr(folder) in message
    assert "test*.array_record" in message
    assert "write_latents" in message
    assert "\n" not in message
