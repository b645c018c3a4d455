"""Evaluates a classifier on every test image, and says where its answers come from."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from dbjax import session
from dbjax.build import Setup
from dbjax.classification import LabelDenoiser
from dbjax.data import load_dataset
from dbjax.diagnostics import diagnose, predict
from dbjax.metrics.classification import (
    accuracy,
    calibration_error,
    confusion_matrix,
    negative_log_likelihood,
)
from dbjax.pictures import pixels
from dbjax.sampling import Sampler

DIAGNOSED = 2_000
"""Test images, drawn at random, that a classifier is diagnosed on; all, where there are fewer."""
MISTAKES = 24
"""Mistaken images that are kept to be shown, the most confident first."""


def answers(
    setup: Setup, model: session.Model, num_noises: int, path: Path, *, explain: bool
) -> dict[str, Any]:
    """Accuracy, likelihood and calibration on every test image; of a walk, where they come from."""
    task = setup.task
    walks = isinstance(task, LabelDenoiser)
    num_noises = num_noises if walks else 1
    data = load_dataset(dataclasses.replace(setup.data, split="test"))
    size = len(data.source)
    test = data.source.read(np.arange(size))
    image, label = test["image"], test["label"]
    sampler = Sampler(task, setup.sampling)
    # Once unseen, so that the speed does not contain compilation.
    predict(sampler, model.blocks, image[: sampler.batch_size])
    with tqdm(total=size, desc=f"classify {path.name}", unit="image") as bar:
        start = time.perf_counter()
        walked = predict(sampler, model.blocks, image, num_noises=num_noises, progress=bar.update)
        seconds = time.perf_counter() - start
    found = walked.mean(axis=0)
    results: dict[str, Any] = {
        "num_samples": size,
        "num_classes": data.info.num_classes,
        "num_noises": num_noises,
        "accuracy": accuracy(found, label),
        "negative_log_likelihood": negative_log_likelihood(found, label),
        "calibration_error": calibration_error(found, label),
        "samples_per_second": size / seconds,
    }
    if num_noises > 1:
        each = [accuracy(one, label) for one in walked]
        results["accuracy_of_one_walk"] = {"mean": np.mean(each), "std": np.std(each, ddof=1)}
    if walks and explain:
        chosen = np.random.default_rng(0).permutation(size)[:DIAGNOSED]
        with tqdm(desc=f"diagnose {path.name}", unit="image") as bar:
            results["diagnostics"] = diagnose(
                task, setup.sampling, model.blocks, image[chosen], label[chosen],
                progress=bar.update,
            )  # fmt: skip
    mistaken = np.flatnonzero(found.argmax(axis=1) != label)
    shown = mistaken[np.argsort(-found[mistaken].max(axis=1), kind="stable")][:MISTAKES]
    np.savez_compressed(
        path / "predictions.npz",
        probabilities=found,
        label=label,
        confusion=confusion_matrix(found, label),
        mistakes=shown,
        mistakes_shown=pixels(image[shown], data.info),
    )
    return results
