import ml_collections
import pytest

from dbjax.data import DATASETS, DataConfig
from dbjax.errors import SettingError


def test_defaults_come_from_an_empty_section():
    assert DataConfig(**ml_collections.ConfigDict()) == DataConfig(name="digits", batch_size=128)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"name": "mnist"}, "data.name is 'mnist'"),
        ({"batch_size": 0}, "data.batch_size is 0"),
        ({"name": "spiral", "flip": True}, "data.flip is True"),
        ({"name": "imagenet256_latents", "flip": True}, "data.flip is True"),
    ],
)
def test_impossible_settings_are_refused(settings, key):
    with pytest.raises(SettingError, match=key):
        DataConfig(**settings)


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
