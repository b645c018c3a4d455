"""Prepares CIFAR-10 for tensorflow-datasets from its archive, without network or TensorFlow.

    python -m dbjax.data.prepare cifar-10-binary.tar.gz --data_dir=DIR

tensorflow-datasets' own builder of CIFAR-10 reads the archive and encodes the images with
TensorFlow. The directory written here has the same name, version and features, so
`tfds.data_source("cifar10", data_dir=DIR)` reads it as its own.
"""

import argparse
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from dbjax.errors import SettingError

Examples = Iterator[tuple[int, dict[str, Any]]]

_FOLDER = "cifar-10-batches-bin"
_FILES = {
    "train": [f"{_FOLDER}/data_batch_{number}.bin" for number in range(1, 6)],
    "test": [f"{_FOLDER}/test_batch.bin"],
}
_LABELS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
_RECORD_BYTES = 1 + 3 * 32 * 32


def prepare_cifar10(archive: str | os.PathLike[str], data_dir: str | os.PathLike[str]) -> None:
    """Writes `data_dir/cifar10/3.0.2` in array_record format.

    Args:
      archive: `cifar-10-binary.tar.gz` as published.
      data_dir: the directory for `data.data_dir` and tensorflow-datasets.

    Raises:
      SettingError: `archive` is not that file.
    """
    try:
        records = _read_records(archive)
    except (OSError, EOFError, zlib.error, tarfile.TarError, KeyError, ValueError) as error:
        raise SettingError(
            f"archive is {os.fspath(archive)!r}; allowed: cifar-10-binary.tar.gz, complete; {error}"
        ) from error
    builder = _Cifar10(records, data_dir=os.fspath(data_dir), file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )


def _read_records(archive: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads `[count, 3073]` bytes per split: the label, then the pixels channel by channel."""
    with tarfile.open(archive) as tar:
        return {
            split: np.concatenate([_read_file(tar, name) for name in names])
            for split, names in _FILES.items()
        }


def _read_file(tar: tarfile.TarFile, name: str) -> np.ndarray:
    file = tar.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is not a file")
    return np.frombuffer(file.read(), np.uint8).reshape(-1, _RECORD_BYTES)


class _Cifar10(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The published builder's name, version and features, fed from arrays of records."""

    name = "cifar10"
    VERSION = tfds.core.Version("3.0.2")

    def __init__(self, records: dict[str, np.ndarray], **kwargs: Any) -> None:
        self._records = records
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="CIFAR-10: 60,000 colour images of 32 x 32 pixels in 10 classes.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(32, 32, 3)),
                    "label": tfds.features.ClassLabel(names=_LABELS),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        )

    def _split_generators(self, dl_manager: object) -> dict[str, Examples]:
        del dl_manager
        return {split: self._generate_examples(split) for split in self._records}

    def _generate_examples(self, split: str) -> Examples:
        for index, record in enumerate(self._records[split]):
            pixels = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
            example = {
                "id": f"{split}_{index:05d}",
                # An array would be encoded by TensorFlow; a file is stored as it is.
                "image": _png(np.ascontiguousarray(pixels)),
                "label": int(record[0]),
            }
            yield index, example


def _png(pixels: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png")
    file.seek(0)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description="Prepare CIFAR-10 from its published archive.")
    parser.add_argument("archive", help="cifar-10-binary.tar.gz")
    parser.add_argument("--data_dir", required=True, help="directory to write; data.data_dir later")
    arguments = parser.parse_args()
    try:
        prepare_cifar10(arguments.archive, arguments.data_dir)
    except SettingError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
