"""What a classifier predicts, and what its steps and blocks have to do with it.

Trained blocks are only looked at, through `Sampler` and `denoise`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from dbjax import keys
from dbjax.classification import LabelDenoiser
from dbjax.devices import to_device
from dbjax.sampling import Sampler, Samples, SamplingConfig
from dbjax.task import Batch, Params

NOISES = (1, 2, 4, 8)
"""Numbers of walks whose probabilities are averaged, to see what that is worth."""
WALKS = 4_000
"""Walks behind each of the other accuracies: few of many images, or more of few images."""
RECORDED = 2**16
"""Steps times images that are recorded together: the record holds two embeddings of each."""

Progress = Callable[[int], object]


def predict(
    sampler: Sampler,
    blocks: Mapping[int, Params],
    images: Shaped[np.ndarray, "size height width channels"],
    *,
    num_noises: int = 1,
    seed: int = 0,
    progress: Progress = lambda count: None,
) -> Float[np.ndarray, "noises size classes"]:
    """Probabilities of the classes at the end of each walk; their mean is a prediction too.

    Args:
        sampler: of a classifier; its number of steps may differ from the number of blocks.
        blocks: weights of every block.
        images: in raw units; none is left out.
        num_noises: walks of each image, from different noise.
        seed: of the noise.
        progress: told the number of images after each batch.
    """

    def walk(batch: Batch, key: PRNGKeyArray) -> Array:
        return _probabilities(sampler(blocks, key, len(batch["image"]), batch["image"]))

    batches = _Batches({"image": images}, seed, progress)
    found: np.ndarray = batches.map(walk, sampler.batch_size, num_noises)
    return found


def diagnose(
    task: LabelDenoiser,
    config: SamplingConfig,
    blocks: Mapping[int, Params],
    images: Shaped[np.ndarray, "size height width channels"],
    label: Int[np.ndarray, " size"],
    *,
    seed: int = 0,
    progress: Progress = lambda count: None,
) -> dict[str, Any]:
    """Accuracies that tell where a walk's answer comes from, all on the same images.

    Args:
        task: a classifier that walks.
        config: of the walk: grid, steps, solver, guidance.
        blocks: weights of every block.
        images: in raw units.
        label: the true class of each.
        seed: of the noise.
        progress: told the number of images after each batch, pass after pass.

    Returns:
        `num_images`, `num_noises` (behind each accuracy; those of whole walks of the configured
        steps have 8), and four lists of rows with an "accuracy".

        - `walk`: after each step, with its number from 1, its "sigma" and its "block". Besides, of
          the same block at the same noise: "oracle", with z around the embedding of the true label,
          as if the steps before had been perfect; and "image_only", with z around no label at all.
        - `without_block`: of walks that leave out all steps of a "block".
        - `by_num_steps`: of walks of fewer and more steps, with "layer_evaluations" per image.
        - `by_num_noises`: of predictions averaged over so many walks, with the same.
    """
    num_noises = int(np.clip(WALKS // len(images), 2, max(NOISES)))
    data = _Batches({"image": images, "label": label}, seed, progress)
    sampler = Sampler(task, config)
    named, probabilities = _follow(sampler, blocks, data)
    after = (named == label[:, None]).mean(axis=(0, 1))
    oracle, image_only = _read(task, sampler, blocks, config, data, num_noises)

    def accuracy(other: Sampler) -> float:
        found = predict(other, blocks, images, num_noises=num_noises, seed=seed, progress=progress)
        return _accuracy(found, label)

    levels, owners = sampler.grid.levels, sampler.grid.blocks
    walk = [
        {
            "step": i + 1,
            "sigma": levels[i],
            "block": owners[i],
            "accuracy": float(after[i]),
            "oracle": float(oracle[i]),
            "image_only": float(image_only[i]),
        }
        for i in range(len(levels))
    ]
    without = [
        {"block": block, "accuracy": accuracy(Sampler(task, config, without=(block,)))}
        for block in sorted(set(owners))
        if len(set(owners)) > 1
    ]
    num_blocks = task.partition.num_blocks
    steps = []
    for count in sorted({1, num_blocks, 2 * num_blocks, 4 * num_blocks, config.num_steps}):
        known = count == config.num_steps
        fewer = dataclasses.replace(config, num_steps=count, levels=None)
        other = sampler if known else Sampler(task, fewer)
        right = _accuracy(probabilities, label) if known else accuracy(other)
        cost = other.layer_evaluations
        steps.append({"num_steps": count, "accuracy": right, "layer_evaluations": cost})
    noises = []
    for count in NOISES:
        groups = probabilities.reshape(-1, count, *probabilities.shape[1:]).mean(axis=1)
        cost = count * sampler.layer_evaluations
        found = _accuracy(groups, label)
        noises.append({"num_noises": count, "accuracy": found, "layer_evaluations": cost})
    return {
        "num_images": len(images),
        "num_noises": num_noises,
        "walk": walk,
        "without_block": without,
        "by_num_steps": steps,
        "by_num_noises": noises,
    }


@dataclasses.dataclass(frozen=True)
class _Batches:
    """Examples, [size, ...] each, to be looked at under several noises."""

    data: Mapping[str, np.ndarray]
    seed: int
    progress: Progress

    def map(
        self, look: Callable[[Batch, PRNGKeyArray], Any], batch_size: int, num_noises: int
    ) -> Any:
        """What `look` says of examples, arrays [batch, ...], as arrays [noises, size, ...]."""
        size = len(self.data["image"])
        batch_size = min(batch_size, size)
        parts = []
        for start in range(0, size, batch_size):
            # Every batch has the full size, so that one compiled program serves them all.
            index = np.arange(start, start + batch_size) % size
            batch = {name: jnp.asarray(x[index]) for name, x in self.data.items()}
            count = min(batch_size, size - start)
            noises = [
                jax.tree.map(np.asarray, look(batch, keys.derive(self.seed, "noise", start, n)))
                for n in range(num_noises)
            ]
            parts.append(jax.tree.map(lambda *x, count=count: np.stack(x)[:, :count], *noises))
            self.progress(count)
        return jax.tree.map(lambda *x: np.concatenate(x, axis=1), *parts)


def _follow(
    sampler: Sampler, blocks: Mapping[int, Params], data: _Batches
) -> tuple[Int[np.ndarray, "noises size steps"], Float[np.ndarray, "noises size classes"]]:
    """The class that each step names, and the probabilities that the walk ends with."""

    def walk(batch: Batch, key: PRNGKeyArray) -> Any:
        walked = sampler(blocks, key, len(batch["image"]), batch["image"], record=True)
        assert walked.path is not None and walked.path.logits is not None
        return jnp.argmax(walked.path.logits, -1).T, _probabilities(walked)

    batch_size = min(sampler.batch_size, max(1, RECORDED // len(sampler.grid.levels)))
    named, probabilities = data.map(walk, batch_size, max(NOISES))
    return named, probabilities


def _read(
    task: LabelDenoiser,
    sampler: Sampler,
    blocks: Mapping[int, Params],
    config: SamplingConfig,
    data: _Batches,
    num_noises: int,
) -> Float[np.ndarray, "2 steps"]:
    """Accuracy at each step when z is noise around the true label's embedding, and around none."""

    @jax.jit
    def right(params: Params, level: Array, batch: Batch, key: PRNGKeyArray) -> Array:
        label = batch["label"]
        clean = task.embed_label(params, label)
        levels = jnp.full(label.shape, level)
        found = []
        for centre in (clean, jnp.zeros_like(clean)):
            z = task.noise.corrupt(key, centre, levels)
            estimate = task.denoise(params, z, levels, batch["image"], guidance=config.guidance)
            assert estimate.logits is not None
            found.append(jnp.argmax(estimate.logits, -1) == label)
        return jnp.stack(found, axis=1)

    steps = []
    for level, block in zip(sampler.grid.levels, sampler.grid.blocks, strict=True):
        look = functools.partial(right, to_device(blocks[block]), jnp.float32(level))
        found: Bool[np.ndarray, "noises size 2"] = data.map(look, config.batch_size, num_noises)
        steps.append(found.mean(axis=(0, 1)))
    return np.stack(steps, axis=1)


def _probabilities(walked: Samples) -> Float[Array, "batch classes"]:
    logits = walked.estimate.logits
    assert logits is not None
    return jax.nn.softmax(logits.astype(jnp.float32))


def _accuracy(
    probabilities: Float[np.ndarray, "noises size classes"], label: Int[np.ndarray, " size"]
) -> float:
    """Share of right answers, over all noises."""
    return float(np.mean(probabilities.argmax(-1) == label))
