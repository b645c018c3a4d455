"""Images drawn by program."""

import numpy as np
import pytest

from dbjax.data import DataConfig, load_dataset
from dbjax.data.drawn import DRAWN, KINDS, SPLITS, draw_shapes


@pytest.mark.parametrize("name", DRAWN)
def test_sets_are_drawn_the_same_every_time_and_splits_differ(name):
    config = DataConfig(name=name, split="test")
    dataset, again = load_dataset(config), load_dataset(config)
    assert dataset.info == again.info
    assert dataset.info.image_shape == (16, 16, 3) and dataset.info.num_classes == KINDS
    rows = dataset.source.read(np.arange(dataset.info.size))
    assert rows["image"].dtype == np.uint8
    assert np.bincount(rows["label"]).min() > 0.15 * dataset.info.size
    assert dataset.info.mean == pytest.approx(rows["image"].mean(), rel=0.05)
    assert dataset.info.std == pytest.approx(rows["image"].std(), rel=0.05)
    # No two alike.
    flat = rows["image"].reshape(len(rows["image"]), -1)
    assert len(np.unique(flat, axis=0)) == len(flat)


def test_scales_of_splits_agree_and_fingerprints_do_not():
    train, test = (load_dataset(DataConfig(name="shapes", split=s)).info for s in SPLITS)
    assert (train.mean, train.std) == (test.mean, test.std)
    assert train.fingerprint != test.fingerprint


def test_difficulty_rises():
    """Told by what neighbours in pixels know of the class, and by the components an image needs."""
    variances = []
    for name in DRAWN:
        images = DRAWN[name](np.random.default_rng(0), np.arange(1_000) % KINDS)
        values = np.linalg.svd(images.reshape(1_000, -1) - images.mean(), compute_uv=False) ** 2
        share = np.cumsum(values) / values.sum()
        variances.append(int(np.searchsorted(share, 0.95)))
    assert variances == sorted(variances)


def test_a_disk_covers_as_much_as_its_radius_says():
    kinds = np.zeros(500, int)
    images = draw_shapes(np.random.default_rng(1), kinds)
    corner = images[:, :1, :1]
    covered = (np.abs(images - corner).max(axis=-1) > 0.05).mean(axis=(1, 2))
    # pi r^2 of an area of 4, for r from 0.35 to 0.7, and the soft edge.
    assert np.percentile(covered, 5) > 0.08 and np.percentile(covered, 95) < 0.5
