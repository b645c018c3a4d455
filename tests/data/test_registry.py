import ml_collections
import pytest

from dbjax.data import DATASETS, DataConfig
from dbjax.errors import SettingError


def test_defaults_come_from_an_empty_section():
    assert DataConfig(**ml_collections.ConfigDict()) == DataConfig(name="digits", batch_size=128)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"name": "emnist"}, "data.name is 'emnist'"),
        ({"batch_size": 0}, "data.batch_size is 0"),
        ({"name": "spiral", "flip": True}, "data.flip is True"),
        ({"name": "imagenet256_latents", "flip": True}, "data.flip is True"),
        ({"name": "imagenet256_latents", "crop": 1}, "data.crop is 1; allowed: 0, or 1 or more"),
        ({"crop": -1}, "data.crop is -1"),
        ({"rand_augment": 2}, "data.rand_augment is 2; allowed: 0.*mnist or .*tiny_imagenet"),
        ({"name": "cifar10", "rand_augment": -1}, "data.rand_augment is -1"),
        ({"views": 3}, "data.views is 3; allowed: 1 or 2"),
        ({"views": 0}, "data.views is 0; allowed: 1 or 2"),
        ({"rand_augment_magnitude": 31}, "data.rand_augment_magnitude is 31; allowed: 0 to 30"),
    ],
)
def test_impossible_settings_are_refused(settings, key):
    with pytest.raises(SettingError, match=key):
        DataConfig(**settings)


@pytest.mark.parametrize(
    "settings",
    [{"crop": 1, "flip": True}, {"name": "mnist", "crop": 2, "rand_augment": 2}],
)
def test_augmentations_that_suit_the_data_are_allowed(settings):
    assert DataConfig(**settings).crop == settings["crop"]


def test_the_refusal_of_a_name_lists_the_names():
    with pytest.raises(SettingError) as caught:
        DataConfig(name="")
    assert all(name in str(caught.value) for name in DATASETS)


def test_unknown_keys_are_refused():
    with pytest.raises(TypeError, match="shuffle"):
        DataConfig(shuffle=True)


def test_unknown_splits_are_refused():
    with pytest.raises(SettingError, match=r"data\.split is 'validation'; allowed: train"):
        DataConfig(split="validation")
