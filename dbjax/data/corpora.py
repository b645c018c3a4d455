"""Texts as they are published: the documentation of Python, text8, and text files of the user."""

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import lzma
import pathlib
import string
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dbjax.errors import SettingError, require

SPLITS = ("train", "validation", "test")
_SHARES = (90, 5, 5)
OPEN: Mapping[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
_BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, KeyError)

TEXT8_SIZE = 100_000_000
# The order of ids of Shi et al. 2024 (MD4, arXiv 2406.04329).
_TEXT8_ALPHABET = string.ascii_lowercase + " "

_DOCS_ALPHABET = "\n" + "".join(map(chr, range(0x20, 0x7F)))
# Other characters than these come and go with versions of Python.
_DOCS_REPLACEMENTS = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "°": " deg", "ß": "ss"}
)
# Shorter paragraphs, such as "For example:", may stand in many topics.
_DOCS_UNIQUE = 80
# One with which the shares of topics of Python 3.11 to 3.13 come near 90, 5 and 5 % of the text.
_DOCS_SALT = 72


@dataclasses.dataclass(frozen=True)
class Passage:
    """A stretch of a file's text.

    Attributes:
      file: where it is from.
      whole: all text of the file.
      start: where the passage begins in `whole`.
      stop: where it ends, not included.
    """

    file: str
    whole: str
    start: int
    stop: int

    def place(self, position: int) -> str:
        """Says where in the file position `position` of the passage is."""
        at = self.start + position
        line = self.whole.count("\n", 0, at) + 1
        column = at - self.whole.rfind("\n", 0, at)
        return f"line {line}, column {column} of {self.file}"


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A text in three splits.

    Attributes:
      passages: those of a split, in order; they are read when asked for.
      alphabet: that is known beforehand; None stands for the characters of the training text.
    """

    passages: Callable[[str], list[Passage]]
    alphabet: str | None = None


def known_alphabet(name: str) -> str | None:
    """The alphabet of a corpus, where it is known without its files."""
    return {"docs": _DOCS_ALPHABET, "text8": _TEXT8_ALPHABET}.get(name)


def open_corpus(name: str, data_dir: str | None) -> Corpus:
    """Opens `docs`, `text8` or `files`.

    Raises:
      SettingError: there is no such file, or it is not what it should be.
    """
    if name == "docs":
        return Corpus(_docs, _DOCS_ALPHABET)
    allowed = (
        "the file text8, text8.zip, .gz or .xz, or the folder it is in; it is at "
        "http://mattmahoney.net/dc/text8.zip"
        if name == "text8"
        else "a text file (as it is, .gz or .xz), or a folder with train.txt, validation.txt and "
        "test.txt"
    )
    require(data_dir is not None, "data.data_dir", None, allowed)
    path = pathlib.Path(str(data_dir)).expanduser()
    require(path.exists(), "data.data_dir", data_dir, f"{allowed}; there is nothing at this place")
    if name == "text8":
        return Corpus(functools.partial(_by_position, _read_text8(path)), _TEXT8_ALPHABET)
    if path.is_dir():
        return Corpus(functools.partial(_read_folder, path))
    return Corpus(functools.partial(_by_position, _read_passage(path)))


def _by_position(whole: Passage, split: str) -> list[Passage]:
    shares = dict(zip(SPLITS, _SHARES, strict=True))
    before = sum(shares[name] for name in SPLITS[: SPLITS.index(split)])
    start, stop = (whole.stop * share // 100 for share in (before, before + shares[split]))
    return [dataclasses.replace(whole, start=start, stop=stop)]


def _read_folder(folder: pathlib.Path, split: str) -> list[Passage]:
    pattern = f"{split}*.txt"
    paths = sorted(path for end in ("", *OPEN) for path in folder.glob(pattern + end))
    if not paths:
        raise SettingError(
            f"data.data_dir is {str(folder)!r}, a folder without the file {split}.txt; allowed: "
            f"one with {pattern}, {pattern}.gz or {pattern}.xz, and so for the other splits"
        )
    return [_read_passage(path) for path in paths]


def _read_text8(path: pathlib.Path) -> Passage:
    if path.is_dir():
        names = [f"text8{end}" for end in ("", ".zip", *OPEN)]
        found = [path / name for name in names if (path / name).is_file()]
        allowed = f"the folder of one of the files {', '.join(names)}"
        require(bool(found), "data.data_dir", str(path), allowed)
        path = found[0]
    passage = _read_passage(path)
    if passage.stop != TEXT8_SIZE:
        raise SettingError(
            f"{path} has {passage.stop:,} characters; allowed: the {TEXT8_SIZE:,} of text8, or "
            "data.name 'files' for other text"
        )
    return passage


def _read_passage(path: pathlib.Path) -> Passage:
    with named(path):
        text = decoded(_read_bytes(path), path)
    if not text:
        raise SettingError(f"{path} is empty; allowed: a file with text")
    return Passage(str(path), text, 0, len(text))


def _read_bytes(path: pathlib.Path) -> bytes:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return archive.read(path.stem)
    with OPEN.get(path.suffix, open)(path, "rb") as file:
        return file.read()


@contextlib.contextmanager
def named(path: pathlib.Path) -> Iterator[None]:
    """Turns whatever reading a broken file raises into one sentence that names the file."""
    try:
        yield
    except _BROKEN as error:
        text = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise SettingError(
            f"{path} cannot be read: {text}; allowed: text, as it is or compressed, and complete"
        ) from error


def decoded(raw: bytes, path: pathlib.Path, before: int = 0) -> str:
    """Returns the text of bytes that stand in a file after `before` others.

    Raises:
      SettingError: they are not UTF-8.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise SettingError(
            f"{path} is not UTF-8: byte {before + error.start} is 0x{raw[error.start]:02x} "
            f"({error.reason}); allowed: text in UTF-8"
        ) from error


# --- the documentation of Python ------------------------------------------------------------------


def _docs(split: str) -> list[Passage]:
    from pydoc_data.topics import topics

    text = "\n\n".join(
        paragraphs for topic, paragraphs in _docs_topics(topics) if _docs_split(topic) == split
    )
    return [Passage("pydoc_data.topics", text, 0, len(text))]


def _docs_topics(topics: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Topics in order, without the paragraphs that an earlier one has, a fifth of all text."""
    seen: set[str] = set()
    for topic in sorted(topics):
        kept = []
        for paragraph in _plain(topics[topic]).strip().split("\n\n"):
            if len(paragraph) < _DOCS_UNIQUE or paragraph not in seen:
                kept.append(paragraph)
                seen.add(paragraph)
        yield topic, "\n\n".join(kept)


def _plain(text: str) -> str:
    text = text.translate(_DOCS_REPLACEMENTS)
    return "".join(c if c in _DOCS_ALPHABET else "?" for c in text)


def _docs_split(topic: str) -> str:
    return deal(f"{topic} {_DOCS_SALT}".encode(), {"validation": 0.05, "test": 0.05})


def deal(name: bytes, shares: Mapping[str, float]) -> str:
    """Returns the split that the hash of `name` falls to, `train` where no other has it.

    Args:
      name: what is dealt.
      shares: of other splits, in [0, 1].
    """
    number = int.from_bytes(hashlib.sha256(name).digest()[:8], "big") / 2**64
    for split, share in shares.items():
        if number < share:
            return split
        number -= share
    return "train"
