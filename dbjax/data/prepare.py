"""Prepares image data sets for tensorflow-datasets from files at hand, without its network.

tensorflow-datasets' own builders download the archives and encode images with TensorFlow. The
directories written here have the same names, versions and features where there is such a builder,
so `tfds.data_source("cifar10", data_dir=DIR)` reads them as its own.
"""

import dataclasses
import io
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int
from PIL import Image

from dbjax.data.archives import Part, read_archives
from dbjax.data.image_sets import IMAGE_SETS, ImageSet
from dbjax.errors import SettingError, require

Examples = Iterator[tuple[int, dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What was written.

    Attributes:
      folder: the directory of the data set's version, below `data_dir`.
      image_shape: `(height, width, channels)`.
      per_class: for each split, the number of images of each class.
      notes: what a user of the data has to know; also in the folder's description.
    """

    folder: pathlib.Path
    image_shape: tuple[int, ...]
    per_class: Mapping[str, Int[np.ndarray, " classes"]]
    notes: tuple[str, ...]


def prepare(
    name: str,
    files: Sequence[str | os.PathLike[str]],
    data_dir: str | os.PathLike[str],
    *,
    partial: bool = False,
) -> Prepared:
    """Writes `data_dir/<name>/<version>` in array_record format.

    All is read and checked before anything is written, and the folder gets its name when it is
    complete.

    Args:
      name: a key of `IMAGE_SETS`.
      files: archives or folders as `dbjax.data.archives` reads them, which hold both splits.
      data_dir: the directory for `data.data_dir` and tensorflow-datasets.
      partial: take a set whose numbers of images differ from the published ones.

    Raises:
      SettingError: a file cannot be read or holds another data set, images are missing and
        `partial` is not set, or the folder is there already or cannot be made.
    """
    require(name in IMAGE_SETS, "the data set", name, ", ".join(IMAGE_SETS))
    image_set = IMAGE_SETS[name]
    folder = pathlib.Path(data_dir).expanduser() / name / image_set.version
    if folder.exists():
        raise SettingError(f"{folder} is there already; allowed: a data_dir without it")
    parts = read_archives(image_set, [pathlib.Path(file).expanduser() for file in files])
    splits = {split: _joined(image_set, split, parts, partial) for split in image_set.per_class}
    per_class = {
        split: np.bincount(part.labels, minlength=len(image_set.per_class[split]))
        for split, part in splits.items()
    }
    notes = tuple(part.note for part in parts if part.note)
    for split, published in image_set.per_class.items():
        if tuple(per_class[split]) != published:
            notes += (
                f"Of {split}, {len(splits[split].labels):,} images are here; "
                f"{sum(published):,} are published, and the numbers of each class differ.",
            )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(
            f"data_dir is {os.fspath(data_dir)!r}, which cannot be written: {error.strerror}; "
            "allowed: a folder to write to"
        ) from error
    builder = _Builder(image_set, splits, notes, data_dir=folder.parents[1])
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return Prepared(folder, image_set.image_shape, per_class, notes)


def _joined(image_set: ImageSet, split: str, parts: Sequence[Part], partial: bool) -> Part:
    """All of a split, once it is what was published."""
    of_split = [part for part in parts if part.split == split]
    published = image_set.per_class[split]
    title = f"the {split} split of {image_set.title}"
    if not of_split:
        raise SettingError(f"the files hold no images of {title}; allowed: files of both splits")
    names = image_set.class_names or of_split[0].class_names or ()
    last = len(published) - 1
    for part in of_split:
        shape, (count, found) = part.images.shape[1:], map(len, (part.labels, part.images))
        allowed = image_set.image_shape
        require(shape == allowed, f"the shape of images of {title}", shape, str(allowed))
        require(count == found, f"the number of labels of {title}", count, f"{found}, as of images")
        for label in map(int, (part.labels.min(initial=0), part.labels.max(initial=0))):
            require(0 <= label <= last, f"a label of {title}", label, f"0 to {last}")
        if part.class_names not in (None, names) or len(names) != len(published):
            named = len(part.class_names or ())
            raise SettingError(
                f"the files name {named} classes, which are not those of {title}; allowed: its "
                f"{len(published)}"
            )
    images = np.concatenate([part.images for part in of_split])
    labels = np.concatenate([part.labels for part in of_split])
    per_class = np.bincount(labels, minlength=len(published))
    odd = np.flatnonzero(per_class != published)
    if len(odd) and not partial:
        first = odd[0]
        raise SettingError(
            f"{title} has {len(labels):,} images, {per_class[first]:,} of them of class {first}; "
            f"allowed: {sum(published):,} with {published[first]:,} of that class, or what there "
            "is with --partial"
        )
    require(len(labels) > 0, f"{title}: number of images", 0, "1 or more")
    return Part(split, images, labels, names)


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The published builder's name, version and features, fed from arrays."""

    VERSION = tfds.core.Version("0.0.0")

    def __init__(
        self,
        image_set: ImageSet,
        splits: Mapping[str, Part],
        notes: Sequence[str],
        *,
        data_dir: pathlib.Path,
    ) -> None:
        self._image_set, self._splits, self._notes = image_set, splits, notes
        self.name = image_set.name
        self.VERSION = tfds.core.Version(image_set.version)
        super().__init__(data_dir=os.fspath(data_dir), file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        image_set = self._image_set
        features = {
            "image": tfds.features.Image(shape=image_set.image_shape),
            "label": tfds.features.ClassLabel(names=self._splits["train"].class_names),
        }
        if image_set.numbered:
            features["id"] = tfds.features.Text()
        if image_set.coarse is not None:
            features["coarse_label"] = tfds.features.ClassLabel(
                num_classes=max(image_set.coarse) + 1
            )
        return tfds.core.DatasetInfo(
            builder=self,
            description=" ".join([f"{image_set.title}.", *self._notes]),
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage=image_set.homepage,
        )

    def _split_generators(self, dl_manager: object) -> dict[str, Examples]:
        del dl_manager
        return {split: self._generate_examples(split) for split in self._splits}

    def _generate_examples(self, split: str) -> Examples:
        part, image_set = self._splits[split], self._image_set
        for index, (image, label) in enumerate(zip(part.images, part.labels, strict=True)):
            # An array would be encoded by TensorFlow; a file is stored as it is.
            example = {"image": _png(image), "label": int(label)}
            if image_set.numbered:
                example["id"] = f"{split}_{index:05d}"
            if image_set.coarse is not None:
                example["coarse_label"] = image_set.coarse[label]
            yield index, example


def _png(pixels: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    picture = pixels[..., 0] if pixels.shape[-1] == 1 else np.ascontiguousarray(pixels)
    Image.fromarray(picture).save(file, format="png")
    file.seek(0)
    return file
