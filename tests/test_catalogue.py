"""What families refuse before anything is made of a config."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dbjax.build import build, read_settings, task_and_trainer
from dbjax.config import load_config
from dbjax.data.registry import describe_dataset
from dbjax.errors import SettingError

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize(
    ("name", "overrides", "sentence"),
    [
        (
            "noprop_digits.py:dt",
            {"partition.num_blocks": 5},
            "partition.num_blocks is 5; allowed: 10 with family 'noprop_dt', one for each of "
            "model.depth networks",
        ),
        (
            "noprop_digits.py:dt",
            {"partition.overlap": 0.1},
            "partition.overlap is 0.1; allowed: 0 with family 'noprop_dt'",
        ),
        (
            "noprop_digits.py:dt",
            {"model.embedding": "learned"},
            "placement.interface is 'owned'; allowed: 'shared' where model.embedding is 'learned'",
        ),
        (
            "noprop_digits.py:ct",
            {"model.depth": 2},
            "model.depth is 2; allowed: 1 with family 'noprop_ct'",
        ),
        (
            "noprop_digits.py:backprop",
            {"partition.num_blocks": 2},
            "partition.num_blocks is 2; allowed: 1 with family 'noprop_backprop'",
        ),
        (
            "vit_digits.py:end_to_end",
            {"partition.num_blocks": 3},
            "partition.num_blocks is 3; allowed: 1 with family 'plain_vit'",
        ),
        (
            "vit_digits.py:blocks",
            {"data.views": 2, "data.crop": 1},
            "data.views is 2; allowed: 1 with family 'vit'",
        ),
        (
            "vit_digits.py:blocks",
            {"data.name": "spiral"},
            "data.name is 'spiral', whose samples have shape (2,); allowed with family 'vit': "
            "images [height, width, channels]",
        ),
    ],
)
def test_refusals(name: str, overrides: dict[str, Any], sentence: str) -> None:
    settings = read_settings(load_config(CONFIGS / name, overrides))
    with pytest.raises(SettingError) as error:
        task_and_trainer(settings, describe_dataset(settings.data).info)
    assert str(error.value) == sentence


def test_learned_embeddings_may_start_from_images_of_the_data() -> None:
    setup = build(
        load_config(
            CONFIGS / "noprop_digits.py:ct", {"model.embedding": "prototype", "model.width": 4}
        )
    )
    table = np.asarray(setup.task.network.label_table(setup.trainer.init(0).params))
    images = setup.dataset.source.read(np.arange(len(setup.dataset.source)))
    own = (images["image"].reshape(-1, 64) - setup.dataset.info.mean) / setup.dataset.info.std
    for c in range(10):
        nearest = np.abs(own - table[c]).max(axis=1).argmin()
        np.testing.assert_allclose(own[nearest], table[c], atol=1e-5)
        assert images["label"][nearest] == c
