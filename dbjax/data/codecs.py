"""From text to token ids and back."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32, Integer

from dbjax.errors import SettingError, require

# Characters that a message can list.
_FEW = 100
# Characters that are encoded at once.
_PIECE = 1 << 18


@runtime_checkable
class Codec(Protocol):
    """What turns text into token ids, and ids into text."""

    @property
    def name(self) -> str:
        """As in the setting `data.tokenizer`."""

    @property
    def vocabulary(self) -> int:
        """Ids run from 0 to `vocabulary - 1`."""

    @property
    def identity(self) -> bytes:
        """Equal for codecs that give the same ids to the same text, on every machine."""

    def encode(self, text: str) -> Int32[np.ndarray, " length"]:
        """Returns the ids of `text`.

        Raises:
          UnknownCharacter: `text` cannot be written in this vocabulary.
        """

    def decode(self, ids: Integer[np.ndarray, " length"]) -> str:
        """Returns the text of `ids`.

        Raises:
          SettingError: an id is not in the vocabulary.
        """


class UnknownCharacter(SettingError):
    """A character that a codec has no id for.

    Attributes:
      character: the first one.
      position: of it in the text, from 0.
      allowed: which characters there are.
    """

    def __init__(self, character: str, position: int, allowed: str) -> None:
        self.character, self.position, self.allowed = character, position, allowed
        super().__init__(self.sentence(f"position {position} of the text"))

    def sentence(self, place: str) -> str:
        """The refusal, for a character that stands at `place`."""
        code = f"U+{ord(self.character):04X}"
        return f"{place} is {self.character!r} ({code}); allowed: {self.allowed}"


@dataclasses.dataclass(frozen=True)
class CharacterCodec:
    """One token for each character.

    Attributes:
      alphabet: the character of id i stands at position i.

    Raises:
      SettingError: the alphabet is empty or has a character twice.
    """

    alphabet: str
    name = "characters"

    def __post_init__(self) -> None:
        distinct = len(self.alphabet) == len(set(self.alphabet)) > 0
        require(distinct, "the alphabet", self.alphabet, "one or more characters, each once")

    @property
    def vocabulary(self) -> int:
        """The number of characters."""
        return len(self.alphabet)

    @property
    def identity(self) -> bytes:
        """See `Codec`."""
        return b"characters " + self._points.tobytes()

    def encode(self, text: str) -> Int32[np.ndarray, " length"]:
        """See `Codec`."""
        # A byte each where that is enough, for the sake of texts of 100 million characters.
        points = np.frombuffer(text.encode(), np.uint8) if text.isascii() else code_points(text)
        # The last row stands for all code points beyond the alphabet's.
        ids = self._rows.take(points, mode="clip")
        if len(ids) and ids.min() < 0:
            position = int(np.argmax(ids < 0))
            raise UnknownCharacter(text[position], position, self._allowed)
        return ids

    def decode(self, ids: Integer[np.ndarray, " length"]) -> str:
        """See `Codec`."""
        _check_ids(ids, self.vocabulary)
        return self._points[ids].tobytes().decode("utf-32-le", "surrogatepass")

    @functools.cached_property
    def _points(self) -> np.ndarray:
        return code_points(self.alphabet)

    @functools.cached_property
    def _rows(self) -> np.ndarray:
        rows = np.full(int(self._points.max()) + 2, -1, np.int32)
        rows[self._points] = np.arange(len(self.alphabet))
        return rows

    @property
    def _allowed(self) -> str:
        if len(self.alphabet) > _FEW:
            return f"the {len(self.alphabet)} characters of the training text"
        return f"the characters {self.alphabet!r}"


@dataclasses.dataclass(frozen=True)
class ByteCodec:
    """The bytes of UTF-8. Bytes that are not UTF-8 are decoded to U+FFFD."""

    name = "bytes"
    vocabulary = 256
    identity = b"bytes"

    def encode(self, text: str) -> Int32[np.ndarray, " length"]:
        """See `Codec`."""
        return np.frombuffer(_utf8(text), np.uint8).astype(np.int32)

    def decode(self, ids: Integer[np.ndarray, " length"]) -> str:
        """See `Codec`."""
        _check_ids(ids, self.vocabulary)
        return ids.astype(np.uint8).tobytes().decode(errors="replace")


@dataclasses.dataclass(frozen=True)
class TokenizerCodec:
    """A tokenizer of the library `tokenizers`.

    No token is added at beginning or end, nothing is cut or padded, and the name of a special
    token in a text is text.

    Attributes:
      file: its tokenizer.json.

    Raises:
      SettingError: the library is not installed, or the file is missing or not a tokenizer's.
    """

    file: str

    def __post_init__(self) -> None:
        _ = self._loaded

    @property
    def name(self) -> str:
        """The file."""
        return self.file

    @functools.cached_property
    def vocabulary(self) -> int:
        """One more than the largest id; some ids below may not be in use."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def identity(self) -> bytes:
        """The bytes of the file."""
        return self._loaded[0]

    def encode(self, text: str) -> Int32[np.ndarray, " length"]:
        """See `Codec`. What the tokenizer itself has no token for, it may leave out."""
        _utf8(text)
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return np.array(ids, np.int32)

    def encode_all(self, texts: Sequence[str]) -> list[Int32[np.ndarray, " _"]]:
        """See the function of this name."""
        for text in texts:
            _utf8(text)
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(each.ids, np.int32) for each in encoded]

    def decode(self, ids: Integer[np.ndarray, " length"]) -> str:
        """See `Codec`."""
        _check_ids(ids, self.vocabulary)
        return self._tokenizer.decode(ids.tolist(), skip_special_tokens=False)

    def token(self, text: str) -> int | None:
        """The id of the token that is written `text`, such as `</s>`."""
        return self._tokenizer.token_to_id(text)

    @property
    def _tokenizer(self) -> Any:
        return self._loaded[1]

    @functools.cached_property
    def _loaded(self) -> tuple[bytes, Any]:
        tokenizers = import_tokenizers()
        try:
            raw = pathlib.Path(self.file).expanduser().read_bytes()
        except OSError as error:
            raise SettingError(
                f"the tokenizer {self.file!r} cannot be read: {error.strerror}; allowed: the path "
                "of a tokenizer.json"
            ) from error
        try:
            tokenizer = tokenizers.Tokenizer.from_buffer(raw)
        except Exception as error:  # The library raises bare exceptions.
            text = " ".join(str(error).split())
            raise SettingError(
                f"the tokenizer {self.file!r} cannot be read: {text}; allowed: a tokenizer.json as "
                "the library tokenizers writes it"
            ) from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        return raw, tokenizer


def import_tokenizers() -> Any:
    """Returns the library `tokenizers`, which only some users need.

    Raises:
      SettingError: it is not installed.
    """
    try:
        import tokenizers
    except ModuleNotFoundError as error:
        raise SettingError(
            "the package tokenizers is not installed, which a tokenizer.json needs; allowed: "
            "characters or bytes without it, or `pip install 'dbjax[text]'`"
        ) from error
    return tokenizers


def pieces(text: str) -> Iterator[tuple[int, int]]:
    """Returns begins and ends of the pieces in which a long text is encoded.

    White space begins a token of the usual tokenizers and never follows other characters inside
    one, so that a cut before it leaves the tokens as they are.
    """
    start = 0
    while start < len(text):
        stop = min(start + _PIECE, len(text))
        if stop < len(text):
            cuts = range(stop, start, -1)
            white = (c for c in cuts if text[c].isspace() and not text[c - 1].isspace())
            stop = next(white, stop)
        yield start, stop
        start = stop


def encode_all(codec: Codec, texts: Sequence[str]) -> list[Int32[np.ndarray, " _"]]:
    """Encodes many texts, on all processors where a tokenizer has work for them.

    Raises:
      UnknownCharacter: a text cannot be written in the codec's vocabulary.
    """
    if isinstance(codec, TokenizerCodec):
        return codec.encode_all(texts)
    return [codec.encode(text) for text in texts]


def token_dtype(vocabulary: int) -> np.dtype:
    """The smallest of uint8, uint16 and uint32 that holds ids below `vocabulary`."""
    return np.min_scalar_type(vocabulary - 1)


def code_points(text: str) -> np.ndarray:
    """The code point of each character, uint32 `[len(text)]`."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        allowed = "characters that UTF-8 can hold"
        raise UnknownCharacter(text[error.start], error.start, allowed) from error


def _check_ids(ids: np.ndarray, vocabulary: int) -> None:
    for found in (int(ids.min(initial=0)), int(ids.max(initial=0))):
        require(0 <= found < vocabulary, "a token", found, f"0 to {vocabulary - 1}")
