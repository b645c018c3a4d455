"""CIFAR-10 from a directory that tensorflow-datasets prepared as array_record."""

import numpy as np

from dbjax.data.dataset import Dataset, in_memory_dataset
from dbjax.errors import SettingError


def load_cifar10(data_dir: str | None, split: str) -> Dataset:
    """Loads CIFAR-10 into memory, uint8 `[32, 32, 3]`, ten classes; takes about ten seconds.

    `mean` and `std` are not the statistics of the data but the pair that puts the clean target
    into [-1, 1] for `sigma_data` = 0.5.

    Args:
      data_dir: the directory tensorflow-datasets prepared; None stands for its default, the
        environment variable `TFDS_DATA_DIR` or `~/tensorflow_datasets`.
      split: `train` or `test`.

    Raises:
      SettingError: there is no such directory, or it is in a format without random access.
    """
    # Takes most of a second to import, which other data sets should not pay for.
    import tensorflow_datasets as tfds

    root = data_dir if data_dir is not None else tfds.core.constants.DATA_DIR
    folder = tfds.core.Path(root).expanduser() / "cifar10"
    # Looked for by hand: tfds would take a builder's own metadata for a missing directory's and
    # fail later, in words about splits or file formats.
    versions = sorted(path.parent for path in folder.glob("*/dataset_info.json"))
    if not versions:
        raise SettingError(_missing(f"{folder} holds none", root))
    builder = tfds.builder_from_directory(versions[-1])
    try:
        examples = builder.as_data_source(split)
    except NotImplementedError as error:
        stored = f"the one in {folder} is stored as {builder.info.file_format.value}"
        raise SettingError(_missing(stored, "ANOTHER_DIRECTORY")) from error

    images = np.empty((len(examples), 32, 32, 3), np.uint8)
    labels = np.empty(len(examples), np.int32)
    for row, example in enumerate(examples):
        images[row] = example["image"]
        labels[row] = example["label"]
    return in_memory_dataset(
        "cifar10", images, labels, num_classes=10, mean=127.5, std=63.75, max_value=255.0
    )


def _missing(found: str, target: str) -> str:
    return (
        f"data.name 'cifar10' needs an array_record data set in data.data_dir, but {found}: "
        "download cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html and run "
        f"`python -m dbjax.data.prepare cifar-10-binary.tar.gz --data_dir={target}`."
    )
