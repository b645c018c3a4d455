"""Facts of the published sets of small labelled images, and how to load one that was prepared."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from dbjax.data.dataset import Dataset, in_memory_dataset
from dbjax.errors import SettingError


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """What is known of a published set of 8-bit images with two splits.

    Attributes:
      name: in the registry, and of tensorflow-datasets' builder where it has one.
      title: its published name.
      version: of tensorflow-datasets' builder.
      homepage: where the files can be had.
      archive: the files to name to `experiments.prepare_data`.
      image_shape: `(height, width, channels)`.
      per_class: for each split, the number of images of each class.
      class_names: in the order of the labels; None where folders name them.
      coarse: the superclass of each class, where there are any.
      numbered: whether tensorflow-datasets gives each image an `id`.
    """

    name: str
    title: str
    version: str
    homepage: str
    archive: str
    image_shape: tuple[int, int, int]
    per_class: Mapping[str, tuple[int, ...]]
    class_names: tuple[str, ...] | None = None
    coarse: tuple[int, ...] | None = None
    numbered: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """What `in_memory_dataset` needs besides the arrays.

        `mean` and `std` are not the statistics of the data but the pair that puts the clean target
        into [-1, 1] for `sigma_data` = 0.5.
        """
        return {
            "name": self.name,
            "num_classes": len(self.per_class["train"]),
            "mean": 127.5,
            "std": 63.75,
            "max_value": 255.0,
        }

    def load(self, data_dir: str | None, split: str) -> Dataset:
        """Loads a split into memory, uint8; takes some 15 seconds for 60,000 images.

        Args:
          data_dir: the directory tensorflow-datasets or `experiments.prepare_data` prepared; None
            stands for the former's default, `TFDS_DATA_DIR` or `~/tensorflow_datasets`.
          split: `train` or `test`.

        Raises:
          SettingError: there is no such directory, it is in a format without random access, or it
            holds other images.
        """
        # Takes most of a second to import, which other data sets should not pay for.
        import tensorflow_datasets as tfds

        root = data_dir if data_dir is not None else tfds.core.constants.DATA_DIR
        folder = tfds.core.Path(root).expanduser() / self.name
        # Looked for by hand: tfds would take a builder's own metadata for a missing directory's
        # and fail later, in words about splits or file formats. A version begins with a digit; a
        # folder that tfds was killed in does not.
        versions = sorted(path.parent for path in folder.glob("[0-9]*/dataset_info.json"))
        if not versions:
            raise SettingError(self._missing(f"{folder} holds none", root))
        builder = tfds.builder_from_directory(versions[-1])
        features, splits = builder.info.features, sorted(builder.info.splits)
        stored = (features["image"].shape, features["label"].num_classes, split in splits)
        if stored != (self.image_shape, self.facts["num_classes"], True):
            raise SettingError(
                f"{versions[-1]} holds images of shape {stored[0]} in {stored[1]} classes and the "
                f"splits {', '.join(splits)}; allowed for data.name {self.name!r} and its split "
                f"{split!r}: {self.image_shape} in {self.facts['num_classes']} classes"
            )
        try:
            examples = builder.as_data_source(split)
        except NotImplementedError as error:
            found = f"the one in {folder} is stored as {builder.info.file_format.value}"
            raise SettingError(self._missing(found, "ANOTHER_DIRECTORY")) from error

        images = np.empty((len(examples), *self.image_shape), np.uint8)
        labels = np.empty(len(examples), np.int32)
        for row, example in enumerate(examples):
            images[row] = example["image"]
            labels[row] = example["label"]
        return in_memory_dataset(images=images, labels=labels, **self.facts)

    def _missing(self, found: str, target: str) -> str:
        return (
            f"data.name {self.name!r} needs an array_record data set in data.data_dir, but "
            f"{found}: get {self.archive} from {self.homepage} and run "
            f"`python -m experiments.prepare_data {self.name} {self.archive} --data_dir={target}`."
        )


_IDX_FILES = " ".join(
    f"{split}-{content}-ubyte.gz"
    for split in ("train", "t10k")
    for content in ("images-idx3", "labels-idx1")
)
_CIFAR = "https://www.cs.toronto.edu/~kriz/cifar.html"
_CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_CIFAR100_COARSE = """
4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 6 13 15 3 15 0 11 1 10 12 14 16 9 11 5 5
19 8 8 15 13 14 17 18 10 16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16 12 9 13 15
13 16 19 2 4 6 19 5 5 8 19 18 1 2 15 6 0 17 8 14 13
"""

_ALL = (
    ImageSet(
        name="mnist",
        title="MNIST",
        version="3.0.1",
        homepage="http://yann.lecun.com/exdb/mnist/",
        archive=_IDX_FILES,
        image_shape=(28, 28, 1),
        per_class={
            "train": (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
            "test": (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
        },
        class_names=tuple("0123456789"),
    ),
    ImageSet(
        name="fashion_mnist",
        title="Fashion-MNIST",
        version="3.0.1",
        homepage="https://github.com/zalandoresearch/fashion-mnist",
        archive=_IDX_FILES,
        image_shape=(28, 28, 1),
        per_class={"train": (6000,) * 10, "test": (1000,) * 10},
        class_names=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
    ),
    ImageSet(
        name="cifar10",
        title="CIFAR-10",
        version="3.0.2",
        homepage=_CIFAR,
        archive="cifar-10-binary.tar.gz",
        image_shape=(32, 32, 3),
        per_class={"train": (5000,) * 10, "test": (1000,) * 10},
        class_names=(
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ),
        numbered=True,
    ),
    ImageSet(
        name="cifar100",
        title="CIFAR-100",
        version="3.0.2",
        homepage=_CIFAR,
        archive="cifar-100-binary.tar.gz",
        image_shape=(32, 32, 3),
        per_class={"train": (500,) * 100, "test": (100,) * 100},
        class_names=tuple(_CIFAR100_CLASSES.split()),
        coarse=tuple(map(int, _CIFAR100_COARSE.split())),
        numbered=True,
    ),
    ImageSet(
        name="tiny_imagenet",
        title="Tiny-ImageNet",
        version="1.0.0",
        homepage="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        archive="tiny-imagenet-200",
        image_shape=(64, 64, 3),
        per_class={"train": (500,) * 200, "test": (50,) * 200},
    ),
)

IMAGE_SETS = {image_set.name: image_set for image_set in _ALL}
