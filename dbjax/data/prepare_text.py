"""Turns documents into a folder of tokens, in rounds that a killed process need not repeat."""

import contextlib
import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from jaxtyping import Int32
from tqdm.auto import tqdm

from dbjax.data import shards
from dbjax.data.codecs import (
    ByteCodec,
    Codec,
    TokenizerCodec,
    encode_all,
    pieces,
    token_dtype,
)
from dbjax.data.corpora import deal
from dbjax.data.documents import Document, Documents
from dbjax.errors import SettingError, require

DEFAULT_END = "</s>"
_LOCK = "tokens.lock"
# Characters that are tokenised at once, on all processors.
_BATCH = 1 << 22

Dealt = tuple[str, Document]
"""A document, and before it the split that it belongs to."""


def prepare_text(
    documents: Documents,
    folder: pathlib.Path,
    *,
    tokenizer: str,
    settings: Mapping[str, Any],
    end_token: str | None = None,
    validation: float = 0.05,
    test: float = 0.05,
    shard_bytes: int = 1 << 27,
) -> shards.Index:
    """Writes `folder`, or goes on where another process was killed.

    Each document belongs to one split, as published or else by a hash of its text, so that equal
    documents are never in two. After it comes the end-of-document token.

    Args:
      documents: all of them; read from the first on in any case, but not tokenised again.
      folder: made if need be.
      tokenizer: `bytes`, or the path of a tokenizer.json.
      settings: what else the documents depend on; written down with the tokens.
      end_token: the token after each document; None stands for `</s>`, or a new line where the
        tokenizer has no such token.
      validation: share of the documents, where none are published as validation.
      test: share of the documents, where none are published as test.
      shard_bytes: of text that go into one round. A document is never divided, so that a round has
        one document at least.

    Returns:
      What the folder holds.

    Raises:
      SettingError: a setting is impossible, there is no document, or the folder cannot be written,
        holds something else or the tokens of other text or settings, or is being written.
    """
    require(0 <= validation < 1, "--validation", validation, "a number in [0, 1)")
    allowed = f"a number in [0, {1 - validation:g}), which leaves some for training"
    require(0 <= test < 1 - validation, "--test", test, allowed)
    require(shard_bytes >= 1, "bytes of text in a shard", shard_bytes, "1 or more")
    known = tokenizer == "bytes" or tokenizer.endswith(".json")
    require(known, "--tokenizer", tokenizer, "bytes, or the path of a tokenizer.json")
    codec = ByteCodec() if tokenizer == "bytes" else TokenizerCodec(tokenizer)
    end, end_ids = _end(codec, end_token)
    given = {"validation": validation, "test": test}
    shares = {split: share for split, share in given.items() if split not in documents.splits}
    index = shards.Index(
        "bytes" if isinstance(codec, ByteCodec) else shards.TOKENIZER,
        {
            "tokenizer_checksum": shards.checksum(codec.identity),
            "end_token": end,
            "shares": shares,
            "shard_bytes": shard_bytes,
            **settings,
        },
    )
    rounds = _rounds(documents.read(), shares, shard_bytes)
    first = next(rounds, None)
    require(first is not None, "the number of documents", 0, "1 or more")
    count = 0
    with _held(folder, index) as index:
        if isinstance(codec, TokenizerCodec):
            shards.write_file(folder / shards.TOKENIZER, codec.identity)
        bar = tqdm(total=documents.total, unit=documents.unit, unit_scale=True, disable=None)
        with bar:
            bar.set_description("tokenise")
            for each in itertools.chain([first or []], rounds):
                checksum = _checksum(each)
                if _is_done(folder, index, count, checksum):
                    bar.update(sum(document.cost for _, document in each))
                else:
                    tokens = _tokenised(codec, end_ids, each, bar.update)
                    done = shards.Round(checksum, _written(folder, count, tokens))
                    before, after = index.rounds[:count], index.rounds[count + 1 :]
                    index = dataclasses.replace(index, rounds=(*before, done, *after))
                    shards.write_index(folder, index)
                count += 1
        if count < len(index.rounds):
            raise _other_text(folder)
        index = dataclasses.replace(index, complete=True)
        shards.write_index(folder, index)
    return index


def _end(codec: Codec, end_token: str | None) -> tuple[str, Int32[np.ndarray, " count"]]:
    """The text and the ids of what comes after each document."""
    if isinstance(codec, TokenizerCodec):
        name = DEFAULT_END if end_token is None else end_token
        found = codec.token(name)
        if found is not None:
            return name, np.array([found], np.int32)
    allowed = "a token of the tokenizer, or to leave it out"
    require(end_token is None, "--end_token", end_token, allowed)
    return "\n", codec.encode("\n")


def _rounds(
    documents: Iterable[Document], shares: Mapping[str, float], shard_bytes: int
) -> Iterator[list[Dealt]]:
    """Documents with their splits, in lists that have some `shard_bytes` of text."""
    dealt: list[Dealt] = []
    size = 0
    for document in documents:
        raw = document.text.encode()
        if dealt and size + len(raw) > shard_bytes:
            yield dealt
            dealt, size = [], 0
        dealt.append((document.split or deal(raw, shares), document))
        size += len(raw)
    if dealt:
        yield dealt


def _checksum(documents: Sequence[Dealt]) -> str:
    return shards.checksum(*(f"{split}\0{doc.text}\0".encode() for split, doc in documents))


def _tokenised(
    codec: Codec,
    end_ids: Int32[np.ndarray, " count"],
    documents: Sequence[Dealt],
    advance: Callable[[int], object],
) -> dict[str, tuple[int, np.ndarray]]:
    """For each split that has any, the number of documents and their tokens."""
    dtype = token_dtype(codec.vocabulary)
    found: dict[str, list[np.ndarray]] = {}
    counts: dict[str, int] = {}
    texts = [[doc.text[a:b] for a, b in pieces(doc.text)] for _, doc in documents]
    encoded = _encoded(codec, itertools.chain(*texts))
    for (split, document), parts in zip(documents, texts, strict=True):
        ids = [next(encoded) for _ in parts]
        found.setdefault(split, []).append(np.concatenate([*ids, end_ids]).astype(dtype))
        counts[split] = counts.get(split, 0) + 1
        advance(document.cost)
    return {split: (counts[split], np.concatenate(ids)) for split, ids in found.items()}


def _encoded(codec: Codec, texts: Iterable[str]) -> Iterator[Int32[np.ndarray, " _"]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH:
            yield from encode_all(codec, batch)
            batch, size = [], 0
    yield from encode_all(codec, batch)


def _written(
    folder: pathlib.Path, number: int, tokens: Mapping[str, tuple[int, np.ndarray]]
) -> dict[str, shards.Shard]:
    return {
        split: shards.write_shard(folder, f"{split}-{number:05d}.npy", *found)
        for split, found in tokens.items()
    }


def _is_done(folder: pathlib.Path, index: shards.Index, number: int, checksum: str) -> bool:
    """Whether a round need not be repeated."""
    if number >= len(index.rounds):
        return False
    if index.rounds[number].checksum != checksum:
        raise _other_text(folder)
    return all(shards.is_whole(folder, each) for each in index.rounds[number].shards.values())


def _other_text(folder: pathlib.Path) -> SettingError:
    return SettingError(
        f"{folder} holds the tokens of other text; allowed: the same documents in the same order, "
        "or a new folder"
    )


@contextlib.contextmanager
def _held(folder: pathlib.Path, index: shards.Index) -> Iterator[shards.Index]:
    """Keeps other processes out of the folder, and gives the index to go on with."""
    try:
        if folder.exists() and shards.read_index(folder) is None:
            own = (_LOCK, shards.INDEX)
            others = (path.name for path in folder.iterdir() if not path.name.startswith(own))
            foreign = min(others, default=None)
            if foreign is not None:
                raise SettingError(
                    f"{folder} holds {foreign}, which is not of these tokens; allowed: an empty or "
                    "new folder"
                )
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / _LOCK, timeout=0):
            there = shards.read_index(folder)
            if there is None:
                shards.write_index(folder, index)
            else:
                _check_same(folder, there, index)
            yield there or index
    except Timeout as error:
        raise SettingError(
            f"{folder} is being written by another process; allowed: waiting for it"
        ) from error
    except OSError as error:
        raise SettingError(
            f"{folder} cannot be written: {error.strerror}; allowed: a folder to write to"
        ) from error


def _check_same(folder: pathlib.Path, there: shards.Index, here: shards.Index) -> None:
    keys = sorted(there.settings.keys() | here.settings.keys())
    different = [key for key in keys if there.settings.get(key) != here.settings.get(key)]
    if "tokenizer_checksum" in different:
        raise SettingError(
            f"{folder} holds the tokens of another tokenizer; allowed: that one, or a new folder"
        )
    for key in different:
        found, wanted = there.settings.get(key), here.settings.get(key)
        raise SettingError(
            f"{folder} holds tokens made with {key} {found!r}, here it is {wanted!r}; allowed: the "
            "same, or a new folder"
        )
