"""Endless, reproducible batches of one block, with a position that can be saved and restored."""

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np
from jaxtyping import Int

from dbjax.data import augment
from dbjax.data.dataset import Batch, Dataset, Source
from dbjax.data.order import shuffled
from dbjax.data.registry import DataConfig
from dbjax.data.text import TextConfig
from dbjax.errors import require

# Batches read ahead of the consumer per reading thread.
_READ_AHEAD = 2
# Examples up to which an epoch's order is kept in memory, 8 bytes each.
_MOST_LISTED = 1 << 22


def make_stream(
    dataset: Dataset, config: DataConfig | TextConfig, *, seed: int, block: int
) -> "Stream":
    """Makes the stream of block `block`.

    Args:
      dataset: the examples.
      config: batch size and, of images, augmentation.
      seed: the run's seed, from 0.
      block: the block that reads the stream, from 0; every block sees an order of its own.
    """
    return Stream(dataset, config, seed=seed, block=block)


class Stream(Iterator[Batch]):
    """Endless batches `{"image": [batch, *image_shape], "label": int32 [batch]}` on the host.

    Those of text are `{"tokens": int32 [batch, length]}`. Batch i depends on (data set, batch size,
    augmentation, seed, block, i) alone: not on what was read before, on threads, or on where the
    stream was restored. Every epoch takes each example once, in an order of its own; a batch may
    run across the end of an epoch, so none is cut short.
    Images keep the raw units and dtype of the data set. With two views they are
    [batch, 2, *image_shape], each view augmented by itself.
    """

    def __init__(
        self, dataset: Dataset, config: DataConfig | TextConfig, *, seed: int, block: int
    ) -> None:
        self._identity = {
            "fingerprint": dataset.info.fingerprint,
            "batch_size": config.batch_size,
            "seed": seed,
            "block": block,
        }
        batches = grain.MapDataset.source(
            _BatchSource(dataset.source, config.batch_size, seed=seed, block=block)
        )
        if isinstance(config, DataConfig):
            batches = _augmented(batches, config, seed=seed, block=block)
        threads = dataset.source.read_threads
        self._iterator = iter(
            batches.to_iter_dataset(
                grain.ReadOptions(num_threads=threads, prefetch_buffer_size=_READ_AHEAD * threads)
            )
        )

    def __next__(self) -> Batch:
        return next(self._iterator)

    def take(self, count: int) -> Batch:
        """Returns the next `count` batches stacked, `[count, batch, ...]`."""
        batches = [next(self) for _ in range(count)]
        return {key: np.stack([batch[key] for batch in batches]) for key in batches[0]}

    def state(self) -> dict[str, Any]:
        """Returns the position as JSON-able values; batches read ahead do not count."""
        return {"position": self._iterator.get_state()["next_index"], **self._identity}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues where `state` was taken.

        Raises:
          SettingError: `state` is that of another stream: of other data, or of another batch
            size, seed or block.
        """
        for key, value in self._identity.items():
            require(
                state.get(key) == value,
                f"{key} of the saved data stream",
                state.get(key),
                f"{value!r}, as in this run",
            )
        self._iterator.set_state({"next_index": state["position"]})


class _BatchSource:
    """Random access to the endless sequence of batches.

    grain's own `shuffle().repeat().batch()` calls Python several times per example, some 25
    microseconds each, which costs more than a training step on small images. Here an epoch's
    order is one permutation and a batch is one read. Of very many examples, such as all places
    that a sequence can begin at, the permutation is not kept but computed for each batch.
    """

    def __init__(self, source: Source, batch_size: int, *, seed: int, block: int) -> None:
        self._source = source
        self._batch_size = batch_size
        self._seed = seed
        self._block = block
        # Two epochs, because reading threads straddle the end of one.
        self._order = functools.lru_cache(maxsize=2)(self._shuffle)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> Batch:
        first = index * self._batch_size
        epochs, offsets = np.divmod(np.arange(first, first + self._batch_size), len(self._source))
        indices = [
            self._examples(epoch, offsets[epochs == epoch])
            for epoch in range(int(epochs[0]), int(epochs[-1]) + 1)
        ]
        return self._source.read(np.concatenate(indices))

    def _examples(
        self, epoch: int, offsets: Int[np.ndarray, " count"]
    ) -> Int[np.ndarray, " count"]:
        size = len(self._source)
        if size <= _MOST_LISTED:
            return self._order(epoch)[offsets]
        return shuffled(offsets, size, (self._seed, self._block, epoch))

    def _shuffle(self, epoch: int) -> Int[np.ndarray, " size"]:
        rng = np.random.default_rng((self._seed, self._block, epoch))
        return rng.permutation(len(self._source))


def _augmented(
    batches: grain.MapDataset, config: DataConfig, *, seed: int, block: int
) -> grain.MapDataset:
    """Batches of images with all that is done to them."""
    if config.views > 1:
        batches = batches.map(functools.partial(_repeat_images, config.views))
    for number, change in _augmentations(config):
        change_seed = np.random.SeedSequence((seed, block)).generate_state(number + 1)[number]
        batches = batches.random_map(functools.partial(_on_images, change), seed=int(change_seed))
    if config.views > 1:
        batches = batches.map(functools.partial(_gather_views, config.views))
    return batches


def _augmentations(config: DataConfig) -> Iterator[tuple[int, Callable[..., np.ndarray]]]:
    """What is done to images, in turn, and the number of its seed, which no other setting moves."""
    if config.crop:
        yield 1, functools.partial(augment.crop, padding=config.crop)
    if config.flip:
        yield 0, augment.flip
    if config.rand_augment:
        yield (
            2,
            functools.partial(
                augment.rand_augment,
                num_ops=config.rand_augment,
                magnitude=config.rand_augment_magnitude,
            ),
        )


def _on_images(change: Callable[..., np.ndarray], batch: Batch, rng: np.random.Generator) -> Batch:
    return {**batch, "image": change(batch["image"], rng)}


def _repeat_images(views: int, batch: Batch) -> Batch:
    """Copies side by side, so that what is done to images is done to each by itself."""
    return {**batch, "image": np.repeat(batch["image"], views, axis=0)}


def _gather_views(views: int, batch: Batch) -> Batch:
    image = batch["image"]
    return {**batch, "image": image.reshape(-1, views, *image.shape[1:])}
