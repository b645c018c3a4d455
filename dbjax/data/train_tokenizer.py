"""Trains a tokenizer on text: byte-pair encoding of the bytes of UTF-8."""

import pathlib
from collections.abc import Iterator, Sequence

from tqdm.auto import tqdm

from dbjax.data.codecs import TokenizerCodec, import_tokenizers
from dbjax.data.documents import read_text
from dbjax.data.prepare_text import DEFAULT_END
from dbjax.data.shards import write_file
from dbjax.errors import SettingError, require

_SMALLEST = 256 + 1


def train_tokenizer(
    files: Sequence[pathlib.Path], out: pathlib.Path, *, vocabulary: int
) -> TokenizerCodec:
    """Trains a byte-level BPE tokenizer (Sennrich et al. 2016; Radford et al. 2019).

    Every text can be written in it, and is what its tokens decode to. `</s>` is the token for the
    end of a document, id 0.

    Args:
      files: text in UTF-8, as it is, .gz or .xz.
      out: the tokenizer.json to write.
      vocabulary: tokens at most: there are fewer where the text has no more pairs that repeat.

    Raises:
      SettingError: the vocabulary has no room for the bytes, `out` is there already or cannot be
        written, a file cannot be read, or the library tokenizers is not installed.
    """
    tokenizers = import_tokenizers()
    allowed = f"{_SMALLEST} or more, for 256 bytes and {DEFAULT_END}"
    require(vocabulary >= _SMALLEST, "--vocabulary", vocabulary, allowed)
    require(out.suffix == ".json", "--out", str(out), "the path of a tokenizer.json")
    if out.exists():
        raise SettingError(f"{out} is there already; allowed: a new file")
    total, chunks = read_text(files)
    require(total > 0, "bytes of text in --files", total, "1 or more")
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[DEFAULT_END],
        initial_alphabet=sorted(byte_level.alphabet()),
        show_progress=False,
    )
    with tqdm(total=total, unit="B", unit_scale=True, desc="count words", disable=None) as bar:

        def texts() -> Iterator[str]:
            for cost, text in chunks:
                yield text
                bar.update(cost)

        tokenizer.train_from_iterator(texts(), trainer)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_file(out, tokenizer.to_str().encode())
    except OSError as error:
        raise SettingError(
            f"--out is {str(out)!r}, which cannot be written: {error.strerror}; allowed: a file to "
            "write"
        ) from error
    return TokenizerCodec(str(out))
