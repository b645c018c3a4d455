"""Documents read one at a time, out of text files and of sets of tensorflow-datasets."""

import dataclasses
import io
import pathlib
from collections.abc import Callable, Iterator, Sequence

from dbjax.data.corpora import OPEN, SPLITS, decoded, named
from dbjax.errors import SettingError, require

SEPARATIONS = ("line", "blank", "file")
# Bytes of text that `read_text` hands out at once.
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Document:
    """A text that stands by itself.

    Attributes:
      text: never empty.
      split: that it is published in; None where it is to be dealt out.
      cost: what was read for it, in the unit of `Documents`.
    """

    text: str
    split: str | None
    cost: int


@dataclasses.dataclass(frozen=True)
class Documents:
    """Where documents come from.

    Attributes:
      read: reads them from the first on.
      total: what is read in all.
      unit: of it, `B` or `documents`.
      splits: those that documents come with.
    """

    read: Callable[[], Iterator[Document]]
    total: int
    unit: str
    splits: tuple[str, ...] = ()


def file_documents(files: Sequence[pathlib.Path], separation: str) -> Documents:
    """Documents of UTF-8 text files, as they are, .gz or .xz.

    Args:
      files: in the order to read them in.
      separation: a document is each `line`, each run of lines between `blank` ones, or each `file`.
        Ends of documents are not part of them.

    Raises:
      SettingError: a file is missing; when it is read: it is broken, or not UTF-8.
    """
    require(separation in SEPARATIONS, "--documents", separation, ", ".join(SEPARATIONS))
    total = _size(files)
    return Documents(lambda: _of_files(files, separation), total, "B")


def read_text(files: Sequence[pathlib.Path]) -> tuple[int, Iterator[tuple[int, str]]]:
    """Reads all text of files, some lines at a time.

    Returns:
      The bytes there are to read, and an iterator of how many were read and their text.

    Raises:
      SettingError: as `file_documents`.
    """
    return _size(files), _chunks(files)


def tfds_documents(name: str, data_dir: str | None) -> Documents:
    """Documents of a set of tensorflow-datasets in array_record format, their feature `text`.

    Args:
      name: such as `lm1b`.
      data_dir: the directory it was prepared in; None stands for that of tensorflow-datasets.

    Raises:
      SettingError: it is not there, in another format, or has no feature `text` or split `train`.
    """
    import tensorflow_datasets as tfds

    root = data_dir if data_dir is not None else tfds.core.constants.DATA_DIR
    folder = tfds.core.Path(root).expanduser() / name
    versions = sorted(path.parent for path in folder.glob("[0-9]*/dataset_info.json"))
    prepare = (
        "one that tensorflow-datasets has prepared with file_format='array_record', in the folder "
        "--data_dir"
    )
    if not versions:
        raise SettingError(
            f"--tfds is {name!r}, and {folder} holds no such set; allowed: {prepare}"
        )
    builder = tfds.builder_from_directory(versions[-1])
    features, splits = builder.info.features, builder.info.splits
    for what, found, needed in (("features", features, "text"), ("splits", splits, "train")):
        if needed not in found:
            raise SettingError(
                f"--tfds is {name!r}, whose {what} are {', '.join(sorted(found))}; allowed: a set "
                f"with {needed} among them"
            )
    names = tuple(split for split in SPLITS if split in splits)
    try:
        sources = {split: builder.as_data_source(split) for split in names}
    except NotImplementedError as error:
        raise SettingError(
            f"{versions[-1]} is stored as {builder.info.file_format.value}; allowed: {prepare}"
        ) from error

    def read() -> Iterator[Document]:
        for split, source in sources.items():
            for example in source:
                text = decoded(example["text"], pathlib.Path(versions[-1]))
                if text:
                    yield Document(text, None if split == "train" else split, 1)

    own = tuple(split for split in names if split != "train")
    return Documents(read, sum(map(len, sources.values())), "documents", own)


def _size(files: Sequence[pathlib.Path]) -> int:
    total = 0
    for path in files:
        with named(path):
            total += path.stat().st_size
    return total


def _of_files(files: Sequence[pathlib.Path], separation: str) -> Iterator[Document]:
    for path in files:
        with named(path), path.open("rb") as raw:
            stream = OPEN[path.suffix](raw) if path.suffix in OPEN else raw
            position, cost = 0, 0
            for part in _parts(stream, separation):
                text = decoded(part, path, position).rstrip("\r\n")
                position += len(part)
                if text.strip():
                    # What was read on disk, where compressed text takes less.
                    before, cost = cost, raw.tell()
                    yield Document(text, None, cost - before)


def _parts(stream: io.BufferedIOBase, separation: str) -> Iterator[bytes]:
    """All bytes of a file, in parts that are a document, or blank."""
    if separation == "line":
        yield from stream
    elif separation == "file":
        yield stream.read()
    else:
        lines: list[bytes] = []
        for line in stream:
            if line.strip():
                lines.append(line)
            else:
                yield b"".join(lines)
                yield line
                lines = []
        yield b"".join(lines)


def _chunks(files: Sequence[pathlib.Path]) -> Iterator[tuple[int, str]]:
    for path in files:
        with named(path), path.open("rb") as raw:
            stream = OPEN[path.suffix](raw) if path.suffix in OPEN else raw
            position, cost = 0, 0
            while lines := stream.readlines(_CHUNK):
                part = b"".join(lines)
                before, cost = cost, raw.tell()
                yield cost - before, decoded(part, path, position)
                position += len(part)
