"""Data sets that need no network and no files: handwritten digits and a plane of spirals."""

import numpy as np

from dbjax.data.dataset import Dataset, in_memory_dataset

_DIGITS_TEST_SIZE = 360

_SPIRAL_SEED = 0
_SPIRAL_SIZES = {"train": 20_000, "test": 4_000}
_SPIRAL_ARMS = 3


def load_digits(data_dir: str | None, split: str) -> Dataset:
    """Loads scikit-learn's handwritten digits, uint8 `[8, 8, 1]` from 0 to 16, ten classes.

    The 1,797 images are divided once and for all, with equal shares of every class, into 1,437
    for training and 360 for testing; mean and std are those of the training images in any split.

    Args:
      data_dir: not used, the images come with scikit-learn.
      split: `train`, `test`, or `all` of them.
    """
    del data_dir
    # scikit-learn takes a second to import, which other data sets should not pay for.
    from sklearn.datasets import load_digits as load_bundled_digits
    from sklearn.model_selection import train_test_split

    bundled = load_bundled_digits()
    images = bundled.images.astype(np.uint8)[..., np.newaxis]
    train, test = train_test_split(
        np.arange(len(images)),
        test_size=_DIGITS_TEST_SIZE,
        stratify=bundled.target,
        random_state=0,
    )
    rows = np.sort({"train": train, "test": test, "all": np.arange(len(images))}[split])
    return in_memory_dataset(
        "digits",
        images[rows],
        bundled.target[rows],
        num_classes=10,
        mean=float(images[train].mean()),
        std=float(images[train].std()),
        max_value=16.0,
    )


def load_spiral(data_dir: str | None, split: str) -> Dataset:
    """Generates points on three interleaved spiral arms, float32 `[2]`, labelled by arm.

    The plane is scaled to mean 0 and standard deviation 1 over both coordinates together.

    Args:
      data_dir: not used, the points are generated.
      split: `train` (20,000 points) or `test` (4,000 others).
    """
    del data_dir
    rng = np.random.default_rng(_SPIRAL_SEED)
    size = sum(_SPIRAL_SIZES.values())
    labels = rng.integers(_SPIRAL_ARMS, size=size)
    radius = rng.uniform(0.2, 1.0, size)
    angle = 2 * np.pi * (labels / _SPIRAL_ARMS + 0.8 * radius)
    points = radius[:, np.newaxis] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    points += 0.02 * rng.standard_normal(points.shape)
    points = (points - points.mean(axis=0)) / points.std()

    train_size = _SPIRAL_SIZES["train"]
    rows = {"train": slice(train_size), "test": slice(train_size, None)}[split]
    return in_memory_dataset(
        "spiral",
        points[rows].astype(np.float32),
        labels[rows],
        num_classes=_SPIRAL_ARMS,
        mean=0.0,
        std=1.0,
        max_value=None,
    )
