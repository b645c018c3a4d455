"""Text as sequences of tokens: the config section `data` of text families, and loading it."""

import bisect
import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Integer
from tqdm.auto import tqdm

from dbjax.data.codecs import (
    ByteCodec,
    CharacterCodec,
    Codec,
    TokenizerCodec,
    UnknownCharacter,
    pieces,
    token_dtype,
)
from dbjax.data.corpora import SPLITS, Corpus, Passage, known_alphabet, open_corpus
from dbjax.data.dataset import Batch, Dataset, Source, fingerprint
from dbjax.data.shards import complete_index, open_shards
from dbjax.errors import SettingError, require

TEXTS = ("docs", "text8", "files", "tokens")
"""What `data.name` can be in text families."""


@dataclasses.dataclass(frozen=True)
class TextInfo:
    """Facts about one split of a text.

    Attributes:
      name: one of `TEXTS`.
      vocabulary: tokens run from 0 to `vocabulary - 1`.
      length: tokens of a sequence.
      size: number of sequences in the split; 0 where no file was read.
      fingerprint: hash of tokens, codec, length and stride, so that a run is not resumed on other
        data; empty where no file was read.
      codec: makes text of tokens, and tokens of text.
    """

    name: str
    vocabulary: int
    length: int
    size: int
    fingerprint: str
    codec: Codec
    unit = "sequences"

    @property
    def kind(self) -> dict[str, object]:
        """See `Facts`. Other characters or another tokenizer give the same ids other meanings."""
        return {
            "vocabulary": self.vocabulary,
            "length": self.length,
            "codec": f"{self.codec.name} {fingerprint(self.codec.identity)[:8]}",
        }


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The config section `data` of families that learn text.

    Attributes:
      name: `docs`, the documentation that comes with Python, needs no file; `text8` and `files`
        read text; `tokens` reads what `experiments.prepare_text` wrote.
      data_dir: the file or folder, for all but `docs`.
      tokenizer: `characters`, `bytes`, or the path of a tokenizer.json; a folder of `tokens` has
        its own.
      length: tokens of a sequence.
      stride: tokens from the start of one training sequence to the start of the next. None stands
        for `length`: each token is in one sequence. With 1, sequences start everywhere, as in Shi
        et al. 2024 (MD4, arXiv 2406.04329). The other splits are always cut once, and what is left
        over at their end is left out.
      batch_size: sequences per step of one block.
      split: `train`, `validation` or `test`.

    Raises:
      SettingError: a value is not allowed.
    """

    name: str = "docs"
    data_dir: str | None = None
    tokenizer: str = "characters"
    length: int = 256
    stride: int | None = None
    batch_size: int = 128
    split: str = "train"

    def __post_init__(self) -> None:
        require(self.name in TEXTS, "data.name", self.name, ", ".join(TEXTS))
        known = self.tokenizer in ("characters", "bytes") or self.tokenizer.endswith(".json")
        allowed = "characters, bytes, or the path of a tokenizer.json"
        require(known, "data.tokenizer", self.tokenizer, allowed)
        require(
            self.name != "tokens" or self.tokenizer == TextConfig.tokenizer,
            "data.tokenizer",
            self.tokenizer,
            "to leave it out where data.name is 'tokens', whose folder has its own",
        )
        require(self.length >= 1, "data.length", self.length, "1 or more")
        allowed = f"None, or 1 to {self.length}, which is data.length"
        fits = self.stride is None or 1 <= self.stride <= self.length
        require(fits, "data.stride", self.stride, allowed)
        require(self.batch_size >= 1, "data.batch_size", self.batch_size, "1 or more")
        require(self.split in SPLITS, "data.split", self.split, ", ".join(SPLITS))


class TextSource(Source):
    """Sequences cut out of tokens, which may lie in several arrays one after another.

    Example i is the tokens from `i * stride` on. Arrays may be mapped from files.
    """

    # One thread is enough to hide copies behind a training step.
    read_threads = 1

    def __init__(
        self, tokens: Sequence[Integer[np.ndarray, " _"]], *, length: int, stride: int
    ) -> None:
        """Cuts `tokens` into sequences of `length`; there has to be one at least."""
        self._tokens = tokens
        self._ends = np.cumsum([len(each) for each in tokens]).tolist()
        self._length, self._stride = length, stride

    def __len__(self) -> int:
        return (self._ends[-1] - self._length) // self._stride + 1

    def read(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """Returns `{"tokens": int32 [batch, length]}`, which the caller may change."""
        rows = np.empty((len(indices), self._length), np.int32)
        for row, index in zip(rows, indices.tolist(), strict=True):
            start, filled = index * self._stride, 0
            number = bisect.bisect_right(self._ends, start)
            while filled < self._length:
                tokens = self._tokens[number]
                first = start + filled - (self._ends[number] - len(tokens))
                piece = tokens[first : first + self._length - filled]
                row[filled : filled + len(piece)] = piece
                filled += len(piece)
                number += 1
        return {"tokens": rows}


def load_text(config: TextConfig) -> Dataset[TextInfo]:
    """Loads the configured split; nothing is downloaded.

    Text is read into memory, 100 million characters in some seconds; `tokens` stay in their files.
    A tokenizer is given a long text in pieces, cut before white space.

    Args:
      config: which text and part, and how it is cut.

    Raises:
      SettingError: a file is missing or is not what it should be, the text has a character that
        the training text has not, or the split is shorter than one sequence.
    """
    if config.name == "tokens":
        folder = _folder(config)
        index, shards = open_shards(folder, config.split)
        codec = index.codec(folder)
        content: list[bytes | memoryview] = [
            shard.checksum.encode() for shard in index.of(config.split)
        ]
    else:
        corpus = open_corpus(config.name, config.data_dir)
        codec = _codec(config, corpus)
        shards = [_encode(codec, corpus.passages(config.split))]
        content = [shards[0].data]
    count = sum(map(len, shards))
    place = "" if config.data_dir is None else f" of {config.data_dir}"
    if count < config.length:
        raise SettingError(
            f"the {config.split} text{place} has {count} tokens; allowed: at least data.length, "
            f"which is {config.length}"
        )
    stride = config.length
    if config.split == "train" and config.stride is not None:
        stride = config.stride
    source = TextSource(shards, length=config.length, stride=stride)
    windows = f"{config.name} {codec.vocabulary} {config.length} {stride}"
    info = dataclasses.replace(
        _facts(config, codec),
        size=len(source),
        fingerprint=fingerprint(windows.encode(), codec.identity, *content),
    )
    return Dataset(info, source)


def describe_text(config: TextConfig) -> TextInfo:
    """What a network depends on; text is read only where its characters are the vocabulary.

    Args:
      config: which text; the files of `text8`, and of `files` in bytes or with a tokenizer, need
        not be there.

    Raises:
      SettingError: a file that is needed is missing.
    """
    if config.name == "tokens":
        folder = _folder(config)
        return _facts(config, complete_index(folder).codec(folder))
    alphabet = known_alphabet(config.name)
    if config.name == "docs" or (config.tokenizer == "characters" and alphabet is None):
        return load_text(config).info
    return _facts(config, _codec(config, Corpus(lambda split: [], alphabet)))


def _facts(config: TextConfig, codec: Codec) -> TextInfo:
    return TextInfo(config.name, codec.vocabulary, config.length, 0, "", codec)


def _folder(config: TextConfig) -> pathlib.Path:
    allowed = "a folder that `python -m experiments.prepare_text` has written"
    require(config.data_dir is not None, "data.data_dir", None, allowed)
    return pathlib.Path(str(config.data_dir)).expanduser()


def _codec(config: TextConfig, corpus: Corpus) -> Codec:
    if config.tokenizer == "bytes":
        return ByteCodec()
    if config.tokenizer != "characters":
        return TokenizerCodec(config.tokenizer)
    if corpus.alphabet is not None:
        return CharacterCodec(corpus.alphabet)
    training = corpus.passages("train")
    characters = set().union(*(each.whole[each.start : each.stop] for each in training))
    return CharacterCodec("".join(sorted(characters)))


def _encode(codec: Codec, passages: Sequence[Passage]) -> Integer[np.ndarray, " size"]:
    """Encodes passages one after another, piece by piece, in the smallest dtype."""
    dtype, encoded = token_dtype(codec.vocabulary), []
    total = sum(each.stop - each.start for each in passages)
    with tqdm(total=total, desc="encode", unit="chars", leave=False, disable=None) as bar:
        for passage in passages:
            text = passage.whole[passage.start : passage.stop]
            for start, stop in pieces(text):
                try:
                    encoded.append(codec.encode(text[start:stop]).astype(dtype))
                except UnknownCharacter as error:
                    place = passage.place(start + error.position)
                    raise SettingError(error.sentence(place)) from error
                bar.update(stop - start)
    return np.concatenate(encoded) if encoded else np.empty(0, dtype)
