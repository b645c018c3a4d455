"""Folders of tokens: numpy files of ids, and an index that says what they are.

    tokens.json  [tokenizer.json]  train-00000.npy  validation-00000.npy  test-00000.npy  ...

Documents are taken in rounds of bounded size, and a round gives each split one file at most. The
index is replaced after every round, so that what a killed process leaves behind can be continued.
"""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Integer

from dbjax.data.codecs import ByteCodec, Codec, TokenizerCodec
from dbjax.errors import SettingError

INDEX = "tokens.json"
TOKENIZER = "tokenizer.json"
_VERSION = 1
_PREPARE = "a folder that `python -m experiments.prepare_text` has written to its end"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of tokens.

    Attributes:
      file: its name in the folder.
      documents: how many it holds.
      tokens: how many it holds.
      checksum: of the file, sha256.
    """

    file: str
    documents: int
    tokens: int
    checksum: str


@dataclasses.dataclass(frozen=True)
class Round:
    """What became of some documents.

    Attributes:
      checksum: of the documents and their splits, sha256.
      shards: for each split that got any, its file.
    """

    checksum: str
    shards: Mapping[str, Shard]


@dataclasses.dataclass(frozen=True)
class Index:
    """What a folder of tokens holds.

    Attributes:
      tokenizer: `bytes`, or the name of the tokenizer's file in the folder.
      settings: everything else that tokens depend on; folders are not mixed if these differ.
      rounds: those that are done.
      complete: whether there are no more to come.
    """

    tokenizer: str
    settings: Mapping[str, Any]
    rounds: tuple[Round, ...] = ()
    complete: bool = False

    def of(self, split: str) -> list[Shard]:
        """The files of a split, in order."""
        return [each.shards[split] for each in self.rounds if split in each.shards]

    def codec(self, folder: pathlib.Path) -> Codec:
        """The codec that made the tokens.

        Raises:
          SettingError: its file is missing or another one, or its library is not installed.
        """
        if self.tokenizer == "bytes":
            return ByteCodec()
        codec = TokenizerCodec(str(folder / self.tokenizer))
        if checksum(codec.identity) != self.settings["tokenizer_checksum"]:
            raise SettingError(
                f"{codec.file} is not the tokenizer that the tokens beside it were made with; "
                f"allowed: {_PREPARE}"
            )
        return codec


def checksum(*parts: bytes | memoryview) -> str:
    """Returns the sha256 of `parts`, in hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def read_index(folder: pathlib.Path) -> Index | None:
    """Reads the index of a folder; None where there is none.

    Raises:
      SettingError: there is one that cannot be read.
    """
    path = folder / INDEX
    try:
        values = json.loads(path.read_text())
        found = values.pop("version")
        if found != _VERSION:
            raise ValueError(f"it is of version {found}, not {_VERSION}")
        rounds = [
            Round(**{**each, "shards": {s: Shard(**v) for s, v in each["shards"].items()}})
            for each in values.pop("rounds")
        ]
        return Index(**values, rounds=tuple(rounds))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        text = " ".join(str(error).split())
        raise SettingError(f"{path} cannot be read: {text}; allowed: {_PREPARE}") from error


def write_index(folder: pathlib.Path, index: Index) -> None:
    """Replaces the index of a folder."""
    text = json.dumps({"version": _VERSION, **dataclasses.asdict(index)}, indent=1) + "\n"
    write_file(folder / INDEX, text.encode())


def write_shard(
    folder: pathlib.Path, name: str, documents: int, tokens: Integer[np.ndarray, " size"]
) -> Shard:
    """Writes one file of tokens, in the dtype they have."""
    content = io.BytesIO()
    np.save(content, tokens)
    write_file(folder / name, content.getvalue())
    return Shard(name, documents, len(tokens), checksum(content.getbuffer()))


def write_file(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that is there whole or not at all, whatever happens meanwhile."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def is_whole(folder: pathlib.Path, shard: Shard) -> bool:
    """Whether a file of tokens is there as it was written."""
    path = folder / shard.file
    return path.is_file() and file_checksum(path) == shard.checksum


def file_checksum(path: pathlib.Path) -> str:
    """Returns the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_shards(
    folder: pathlib.Path, split: str
) -> tuple[Index, list[Integer[np.ndarray, " size"]]]:
    """Maps the tokens of a split to memory; they are read from disk as they are used.

    Raises:
      SettingError: the folder was not written to its end, or a file of the split is missing or of
        another size.
    """
    index = complete_index(folder)
    shards = []
    for shard in index.of(split):
        path = folder / shard.file
        try:
            tokens = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            text = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise SettingError(f"{path} cannot be read: {text}; allowed: {_PREPARE}") from error
        if len(tokens) != shard.tokens:
            raise SettingError(
                f"{path} holds {len(tokens):,} tokens; allowed: {shard.tokens:,}, as in {INDEX}"
            )
        shards.append(tokens)
    return index, shards


def complete_index(folder: pathlib.Path) -> Index:
    """Reads the index of a folder that was written to its end.

    Raises:
      SettingError: there is none, or it is not complete.
    """
    index = read_index(folder)
    if index is None:
        raise SettingError(
            f"data.data_dir is {str(folder)!r}, which has no {INDEX}; allowed: {_PREPARE}"
        )
    if not index.complete:
        raise SettingError(
            f"data.data_dir is {str(folder)!r}, whose tokens are not complete; allowed: {_PREPARE},"
            " which the same command does where it is run again"
        )
    return index
