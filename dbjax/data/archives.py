"""Reads published archives of labelled images into arrays; nothing is unpacked to disk or run."""

import contextlib
import dataclasses
import gzip
import io
import lzma
import pathlib
import pickle
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image
from tqdm.auto import tqdm

from dbjax.data.image_sets import IMAGE_SETS, ImageSet
from dbjax.data.packed import unpack
from dbjax.errors import SettingError

FORMATS = (
    "IDX files (as they are, .gz or .xz), CIFAR's binary or python .tar.gz, packed CIFAR .npz, "
    "or a folder with a sub-folder of images for each class"
)
_OPEN: Mapping[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
_BROKEN = (
    *(OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile),
    *(pickle.UnpicklingError, KeyError, ValueError, IndexError, TypeError, OverflowError),
)
_IDX_NAME = re.compile(r"(train|t10k)[-_.](images|labels)[-_.]idx[13]")
_CIFAR10_PARTS = {"train": [f"data_batch_{n}" for n in range(1, 6)], "test": ["test_batch"]}
_CIFAR100_PARTS = {"train": ["train"], "test": ["test"]}
_TAR_FOLDERS = {
    "cifar-10-batches-bin": ("cifar10", ".bin", _CIFAR10_PARTS),
    "cifar-10-batches-py": ("cifar10", "", _CIFAR10_PARTS),
    "cifar-100-binary": ("cifar100", ".bin", _CIFAR100_PARTS),
    "cifar-100-python": ("cifar100", "", _CIFAR100_PARTS),
}
_PICTURES = {".png", ".jpg", ".jpeg"}


@dataclasses.dataclass(frozen=True)
class Part:
    """Images of one split, in the order of the file.

    Attributes:
      split: `train` or `test`.
      images: in RGB or grey.
      labels: class of each.
      class_names: of the labels, where the archive gives them.
      note: what a user of the data has to know.
    """

    split: str
    images: UInt8[np.ndarray, "size height width channels"]
    labels: Integer[np.ndarray, "_"]
    class_names: tuple[str, ...] | None = None
    note: str = ""


def read_archives(image_set: ImageSet, files: Sequence[pathlib.Path]) -> list[Part]:
    """Reads files that hold `image_set`, in their order, all into memory.

    Raises:
      SettingError: a file is missing, broken, or of another format or data set.
    """
    parts = []
    for path in (path for path in files if not _IDX_NAME.search(path.name)):
        with _named(path):
            parts += list(_read(image_set, path))
    return parts + _read_idx_pairs([path for path in files if _IDX_NAME.search(path.name)])


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    """Turns whatever reading a broken file raises into one sentence that names the file."""
    try:
        yield
    except _BROKEN as error:
        text = " ".join(str(error).split())
        reason = f"lacks {text}" if isinstance(error, KeyError) else f"cannot be read: {text}"
        raise SettingError(f"{path} {reason}; allowed: {FORMATS}, complete") from error


def _read(image_set: ImageSet, path: pathlib.Path) -> Iterator[Part]:
    if path.is_dir():
        return _read_folder(image_set, path)
    if path.suffix == ".npz":
        return _read_packed(path)
    if re.search(r"\.(tar|tgz|tar\.\w+)$", path.name):
        return _read_tar(image_set, path)
    path.stat()
    raise ValueError("its name is that of no format known here")


# --- IDX ------------------------------------------------------------------------------------------


def _read_idx_pairs(files: Sequence[pathlib.Path]) -> list[Part]:
    found: dict[tuple[str, str], np.ndarray] = {}
    for path in files:
        match = _IDX_NAME.search(path.name)
        assert match is not None
        with _named(path):
            found[match[1], match[2]] = _read_idx(path)
    parts = []
    for name, split in (("train", "train"), ("t10k", "test")):
        images, labels = found.get((name, "images")), found.get((name, "labels"))
        if (images is None) != (labels is None):
            raise SettingError(
                f"of {name} there is only the {'labels' if images is None else 'images'} file; "
                "allowed: images and labels together"
            )
        if images is not None and labels is not None:
            parts.append(Part(split, images[..., np.newaxis], labels))
    return parts


def _read_idx(path: pathlib.Path) -> np.ndarray:
    with _OPEN.get(path.suffix, open)(path, "rb") as file:
        raw = file.read()
    if raw[:3] != b"\0\0\x08":
        raise ValueError(f"it begins with {raw[:3]!r}, an IDX file of bytes with 00 00 08")
    ndim = raw[3]
    shape = np.frombuffer(raw, ">u4", ndim, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim).reshape(shape)


# --- CIFAR ----------------------------------------------------------------------------------------


def _read_tar(image_set: ImageSet, path: pathlib.Path) -> Iterator[Part]:
    with tarfile.open(path) as tar:
        folders = {name.split("/")[0] for name in tar.getnames()} & _TAR_FOLDERS.keys()
        # The checksum stands at the end, which tarfile does not read.
        while tar.fileobj is not None and tar.fileobj.read(1 << 20):
            pass
        if len(folders) != 1:
            raise ValueError(f"it does not hold one of the folders {', '.join(_TAR_FOLDERS)}")
        [folder] = folders
        name, suffix, parts = _TAR_FOLDERS[folder]
        if name != image_set.name:
            raise ValueError(f"it is {IMAGE_SETS[name].title}, not {image_set.title}")
        for split, stems in parts.items():
            for stem in stems:
                file = tar.extractfile(f"{folder}/{stem}{suffix}")
                if file is None:
                    raise ValueError(f"{folder}/{stem}{suffix} in it is no file")
                read = _read_binary if suffix else _read_pickle
                pixels, labels = read(image_set, file.read())
                images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
                yield Part(split, images, labels)


def _read_binary(image_set: ImageSet, raw: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Records of labels, the coarse one first where there are two, and pixels."""
    num_labels = 1 if image_set.coarse is None else 2
    records = np.frombuffer(raw, np.uint8).reshape(-1, num_labels + 3 * 32 * 32)
    return records[:, num_labels:], records[:, num_labels - 1]


def _read_pickle(image_set: ImageSet, raw: bytes) -> tuple[np.ndarray, np.ndarray]:
    batch = _ArraysOnly(io.BytesIO(raw), encoding="latin1").load()
    labels = batch["labels" if image_set.coarse is None else "fine_labels"]
    return np.asarray(batch["data"], np.uint8), np.asarray(labels, np.int64)


class _ArraysOnly(pickle.Unpickler):
    """Loads plain values and arrays of numbers; a pickle could call any other function."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return _empty_array
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return _number_type
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only arrays are allowed")


def _empty_array(kind: type, shape: tuple[int, ...], typecode: object) -> np.ndarray:
    """What numpy's own function returns: an array that its pickled state then fills."""
    del kind, shape, typecode
    return np.ndarray((0,), np.uint8)


def _number_type(name: str, *options: Any) -> np.dtype:
    found = np.dtype(name, *options)
    if found.kind not in "iu":
        raise pickle.UnpicklingError(f"it holds an array of {found}, and only integers are allowed")
    return found


def _read_packed(path: pathlib.Path) -> Iterator[Part]:
    match = re.search("train|test", path.name)
    if match is None:
        raise ValueError("its name tells neither train nor test")
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no zip file, or cut short")
    with np.load(path) as arrays:
        noisy = "labels_noisy" in arrays
        labels = arrays["labels_noisy" if noisy else "labels"]
        names = tuple(map(str, arrays["label_names"]))
        note = f"The labels of {path.name} are noisy: a part of them is wrong." if noisy else ""
        yield Part(match[0], unpack(arrays), labels, names, note)


# --- folders --------------------------------------------------------------------------------------


def _read_folder(image_set: ImageSet, folder: pathlib.Path) -> Iterator[Part]:
    """`train` and `test` (or `val`), each with a sub-folder of images for each class."""
    names = tuple(sorted(path.name for path in (folder / "train").iterdir() if path.is_dir()))
    if image_set.class_names is not None and set(names) == set(image_set.class_names):
        names = image_set.class_names
    annotations = folder / "val" / "val_annotations.txt"
    yield _pictures(image_set, "train", _by_class(folder / "train"), names)
    if annotations.exists():
        # Tiny-ImageNet's images for testing are not labelled; those for validation are all in one
        # folder, with a table of their classes.
        rows = [line.split("\t") for line in annotations.read_text().splitlines()]
        test = [(folder / "val" / "images" / row[0], row[1]) for row in rows]
    else:
        test = _by_class(folder / ("test" if (folder / "test").is_dir() else "val"))
    yield _pictures(image_set, "test", test, names)


def _by_class(folder: pathlib.Path) -> list[tuple[pathlib.Path, str]]:
    """Every image below `folder`, and the sub-folder it is in."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PICTURES)
    return [(path, path.relative_to(folder).parts[0]) for path in paths]


def _pictures(
    image_set: ImageSet, split: str, files: list[tuple[pathlib.Path, str]], names: tuple[str, ...]
) -> Part:
    images = np.empty((len(files), *image_set.image_shape), np.uint8)
    mode = "L" if image_set.image_shape[-1] == 1 else "RGB"
    for row, (path, _) in enumerate(tqdm(files, desc=split, leave=False, disable=None)):
        with Image.open(path) as picture:
            if picture.size != image_set.image_shape[1::-1]:
                raise ValueError(f"{path.name} in it is of size {picture.size}")
            images[row] = np.asarray(picture.convert(mode)).reshape(image_set.image_shape)
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.array([numbers[name] for _, name in files], np.int32)
    return Part(split, images, labels, names)
