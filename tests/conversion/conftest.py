"""Setups that are as small as what `published` draws."""

from pathlib import Path

import numpy as np
import pytest

from dbjax.build import Setup, build
from dbjax.config import load_config
from dbjax.data import in_memory_dataset, registry
from tests.conversion.published import DEPTH, HEADS, HIDDEN, WIDTH
from tests.data.texts import VERSE, write

MODEL = {
    "model.depth": DEPTH,
    "model.width": WIDTH,
    "model.num_heads": HEADS,
    "data.batch_size": 4,
    "training.steps": 2,
    "training.log_every": 1,
    "placement.steps_per_dispatch": 1,
}


@pytest.fixture(scope="module")
def colours():
    """A stand-in for CIFAR-10 with fewer pixels, in three colours and five classes."""
    rng = np.random.default_rng(0)
    dataset = in_memory_dataset(
        "cifar10", rng.integers(0, 256, (16, 4, 4, 3), np.uint8), np.arange(16) % 5,
        num_classes=5, mean=127.5, std=63.75, max_value=255.0,
    )  # fmt: skip
    entry = registry.DatasetEntry(lambda data_dir, split: dataset, flippable=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.DATASETS, "cifar10", entry)
        yield


@pytest.fixture(scope="session")
def verse(tmp_path_factory) -> Path:
    """A short text."""
    return write(tmp_path_factory.mktemp("text") / "verse.txt", VERSE * 10)


@pytest.fixture(scope="module")
def settings(colours, verse):
    """What to set in the shipped configs."""
    pictures = {"data.name": "cifar10", "data.split": "train", "model.patch_size": 2}
    return {
        "vit": {**MODEL, **pictures, "model.mlp_hidden": HIDDEN},
        "dit": {**MODEL, **pictures, "model.mlp_ratio": HIDDEN / WIDTH},
        "ar": {
            **MODEL,
            "data.name": "files",
            "data.data_dir": str(verse),
            "data.length": 6,
            "data.stride": None,
            "model.mlp_hidden": HIDDEN,
        },
    }


CONFIGS = {"vit": "vit_digits", "dit": "dit_digits", "ar": "ar_docs"}


@pytest.fixture(scope="module")
def make(settings):
    """Builds a setup, "vit:end_to_end" for example, with further overrides."""

    def make(name: str, **more: object) -> Setup:
        kind, variant = name.split(":")
        overrides = settings[kind] | {key.replace("__", "."): x for key, x in more.items()}
        return build(load_config(f"configs/{CONFIGS[kind]}.py:{variant}", overrides))

    return make
