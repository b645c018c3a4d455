"""Evaluates a model that draws images or points, by samples held against its training data."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from dbjax import session
from dbjax.build import Setup
from dbjax.data import load_dataset
from dbjax.errors import SettingError
from dbjax.metrics import LabelClassifier, frechet_distance, quantise
from dbjax.metrics.denoising import DenoisingLoss, denoising_loss
from dbjax.metrics.image_features import PixelFeatures
from dbjax.metrics.image_quality import image_quality
from dbjax.pictures import draw_samples
from dbjax.sampling import Sampler
from dbjax.task import Batch
from experiments.image_features import (
    FeatureRequest,
    open_network,
    real_summary,
    sample_summary,
)
from experiments.sample import draw_walk

CLASSIFIED = 1_000_000
"""Values in a data set beyond which a support vector classifier takes too long to fit."""
HELD_OUT = 512
"""Images of the test split whose denoising loss is measured."""
SHOWN = 2_000


def image_results(
    setup: Setup, model: session.Model, count: int, path: Path, request: FeatureRequest
) -> dict[str, Any]:
    """Fréchet distance and label accuracy of `count` samples, with the classes of the data."""
    info, source = setup.dataset.info, setup.dataset.source
    # What cannot be measured is refused before anything is drawn.
    network = open_network(request, setup)
    real = real_summary(network, setup, request)
    label = None
    if info.num_classes:
        label = source.read(np.arange(count) % len(source))["label"]
    # Drawn once unseen, so that the speed does not contain compilation.
    first = None if label is None else np.resize(label, setup.sampling.batch_size)
    sampler = Sampler(setup.task, setup.sampling)
    model.sample(setup.sampling.batch_size, label=first, sampler=sampler)
    with tqdm(total=count, desc=f"sample {path.name}", unit="sample") as bar:
        start = time.perf_counter()
        samples = model.sample(count, label=label, sampler=sampler, progress=bar.update)
        seconds = time.perf_counter() - start
    samples = quantise(samples, info.max_value)
    batch = held_out(setup, HELD_OUT)
    folder = path / "samples"
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / "samples.npz", image=samples, **_named(label=label))
    draw_samples(samples, label, info, folder / "samples.png")
    shown = source.read(np.arange(min(len(source), SHOWN)))
    draw_samples(
        shown["image"], shown["label"] if info.num_classes else None, info, folder / "real.png"
    )
    draw_walk(model, setup, folder / "path.png")
    drawn = sample_summary(network, samples)
    results: dict[str, Any] = {
        "num_samples": count,
        "calls_of_blocks": sampler.calls,
        f"walk_{setup.task.noise.level_name}": sampler.grid.levels,
        "num_real": real.count,
        "frechet_distance": frechet_distance(drawn.vectors, real.vectors),
        "frechet_features": network.name,
        "samples_per_second": count / seconds,
        **({} if batch is None else {"held_out": _in_words(setup, model, batch)}),
    }
    # Neighbours in pixels say little, and take long to find where there are many images.
    if not isinstance(network, PixelFeatures):
        results["image_quality"] = dataclasses.asdict(image_quality(drawn, real))
    if info.max_value and label is not None and samples[0].size * len(source) <= CLASSIFIED:
        every = source.read(np.arange(len(source)))
        classifier = LabelClassifier(every["image"], every["label"], max_value=info.max_value)
        results["label_accuracy"] = classifier.label_accuracy(samples, label)
        results["label_accuracy_of_real"] = classifier.held_out_accuracy
    return results


def held_out(setup: Setup, count: int) -> Batch | None:
    """The first examples of the test split; None where it was trained on or is not there."""
    if setup.data.split != "train":
        return None
    try:
        source = load_dataset(dataclasses.replace(setup.data, split="test")).source
    except SettingError:
        return None
    return source.read(np.arange(min(count, len(source))))


def held_out_loss(setup: Setup, model: session.Model, batch: Batch) -> DenoisingLoss:
    """Down to one step of the values of images, or to the lowest noise."""
    info, noise = setup.dataset.info, setup.task.noise
    step = noise.sigma_data / info.std if info.max_value else 0.0
    return denoising_loss(setup.task, model.blocks, batch, lowest=step)


def _in_words(setup: Setup, model: session.Model, batch: Batch) -> dict[str, Any]:
    """The denoising loss of examples that were not trained on, in all and at each level."""
    found = held_out_loss(setup, model, batch)
    levels = zip(found.u, found.sigma, found.nats.mean(axis=0), strict=True)
    return {
        "nats_per_value": found.total,
        "standard_error": found.error,
        "groups": found.nats.sum(axis=1).tolist(),
        "levels": [{"u": float(u), "sigma": float(s), "nats": float(n)} for u, s, n in levels],
    }


def _named(**arrays: Any) -> dict[str, Any]:
    return {name: array for name, array in arrays.items() if array is not None}
