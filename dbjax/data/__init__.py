"""Data sets and the endless batches that blocks read from them."""

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

__all__ = [
    "DATASETS",
    "ArraySource",
    "Batch",
    "DataConfig",
    "Dataset",
    "DatasetEntry",
    "DatasetInfo",
    "Source",
    "Stream",
    "fingerprint",
    "in_memory_dataset",
    "load_dataset",
    "make_stream",
    "write_latents",
]
