"""Data sets and the endless batches that blocks read from them."""

from dbjax.data.codecs import ByteCodec, CharacterCodec, Codec, TokenizerCodec, UnknownCharacter
from dbjax.data.dataset import (
    ArraySource,
    Batch,
    Dataset,
    DatasetInfo,
    Source,
    fingerprint,
    in_memory_dataset,
)
from dbjax.data.latents import write_latents
from dbjax.data.registry import DATASETS, DataConfig, DatasetEntry, load_dataset
from dbjax.data.stream import Stream, make_stream
from dbjax.data.text import TEXTS, TextConfig, TextInfo, TextSource, load_text

__all__ = [
    "DATASETS",
    "TEXTS",
    "ArraySource",
    "Batch",
    "ByteCodec",
    "CharacterCodec",
    "Codec",
    "DataConfig",
    "Dataset",
    "DatasetEntry",
    "DatasetInfo",
    "Source",
    "Stream",
    "TextConfig",
    "TextInfo",
    "TextSource",
    "TokenizerCodec",
    "UnknownCharacter",
    "fingerprint",
    "in_memory_dataset",
    "load_dataset",
    "load_text",
    "make_stream",
    "write_latents",
]
