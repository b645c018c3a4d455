"""Evaluates trained runs side by side: quality, memory, speed, loss over the noise.

Writes evaluation.json into each run folder, with samples/ of models that generate, and with
predictions.npz (probabilities and label of each test image) of those that classify. Several folders
are timed in turn, so that their speeds compare.
"""

import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm.auto import tqdm

from dbjax import session
from dbjax.build import Setup, build
from dbjax.catalogue import GENERATIVE
from dbjax.classification import LabelDenoiser
from dbjax.data import load_dataset, make_stream
from dbjax.devices import to_device
from dbjax.diagnostics import diagnose, predict
from dbjax.errors import require
from dbjax.memory import step_memory
from dbjax.metrics import (
    GaussianStatistics,
    LabelClassifier,
    frechet_distance,
    pixel_features,
    quantise,
)
from dbjax.metrics.classification import (
    accuracy,
    calibration_error,
    confusion_matrix,
    negative_log_likelihood,
)
from dbjax.metrics.noise import loss_over_noise
from dbjax.metrics.speed import side_by_side
from dbjax.pictures import draw_samples, pixels
from dbjax.sampling import Sampler
from dbjax.task import Batch
from experiments import cli
from experiments.provenance import provenance
from experiments.sample import draw_walk

CLASSIFIED = 1_000_000
"""Values in a data set beyond which a support vector classifier takes too long to fit."""
READ_TOGETHER = 10_000
SHOWN = 2_000
DIAGNOSED = 2_000
"""Test images, drawn at random, that a classifier is diagnosed on; all, where there are fewer."""
MISTAKES = 24
"""Mistaken images that are kept to be shown, the most confident first."""


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("evaluate", __doc__ or "")
    parser.add_argument("--config", metavar="FILE", help="config; default: the workdir's own")
    parser.add_argument(
        "--workdir", metavar="DIR", type=Path, required=True, nargs="+", help="run folders"
    )
    parser.add_argument(
        "--num_samples", type=int, metavar="N", help="samples to draw; default: as many as data"
    )
    parser.add_argument(
        "--num_noises",
        type=int,
        metavar="N",
        help="walks from different noise that a prediction is averaged over; default: 1",
    )
    args, overrides = cli.parse(parser, arguments)
    configs = {path: cli.run_config(args.config, path, overrides) for path in args.workdir}
    _check(configs, args.num_samples, args.num_noises)
    setups = {path: build(config) for path, config in configs.items()}
    for path, results in evaluate(setups, args.num_samples, args.num_noises or 1).items():
        print(f"{path}: " + ", ".join(f"{k} {v:.4g}" for k, v in results.items() if _is_number(v)))


def evaluate(
    setups: Mapping[Path, Setup],
    num_samples: int | None = None,
    num_noises: int = 1,
    *,
    quality_only: bool = False,
) -> dict[Path, dict[str, Any]]:
    """Results of each run, also written to its folder.

    Args:
        setups: of the runs, by their folders.
        num_samples: to draw from models that generate; None is as many as there are data.
        num_noises: walks that a prediction of models that classify is averaged over.
        quality_only: leave out what other seeds of a method have alike (speed and memory) and what
            explains (losses, diagnostics); most of the time goes there.
    """
    models = {
        path: session.load(setup.trainer, path, shared=setup.placement.interface == "shared")
        for path, setup in setups.items()
    }
    seconds = {} if quality_only else _seconds_per_step(setups)
    results = {}
    for path, setup in setups.items():
        task, model = setup.task, models[path]
        classifies = setup.config.family not in GENERATIVE
        if classifies:
            found = _answers(setup, model, num_noises, path, explain=not quality_only)
        else:
            found = _quality(setup, model, num_samples or setup.dataset.info.size, path)
        # The loss of a classifier that does not walk knows no noise.
        if not quality_only:
            if isinstance(task, LabelDenoiser) or not classifies:
                found["loss_over_noise"] = loss_over_noise(task, model.blocks, _probe(setup))
            found["train_bytes"] = _train_bytes(setup)
            found["seconds_per_step"] = seconds[path]
        results[path] = {
            **found,
            "layer_evaluations_per_sample": (
                found.get("num_noises", 1) * Sampler(task, setup.sampling).layer_evaluations
            ),
            "steps": {str(b): step for b, step in model.steps.items()},
            "layers": [len(own) for own in task.partition.layers],
            "edges_sigma": [float(task.noise.level(u)) for u in task.partition.edges],
            "provenance": provenance(),
        }
        (path / "evaluation.json").write_text(json.dumps(results[path], indent=2) + "\n")
    return results


def _check(
    configs: Mapping[Path, ConfigDict], num_samples: int | None, num_noises: int | None
) -> None:
    """Refuses what makes no sense for one of the runs.

    Raises:
        SettingError: if it does not.
    """
    for path, config in configs.items():
        if config.family in GENERATIVE:
            allowed = f"nothing for {path}, whose model generates"
            require(num_noises is None, "--num_noises", num_noises, allowed)
        else:
            allowed = f"nothing for {path}, a classifier, which is shown every test image"
            require(num_samples is None, "--num_samples", num_samples, allowed)
    for name, value in (("--num_samples", num_samples), ("--num_noises", num_noises)):
        require(value is None or value >= 1, name, value, "1 or more")


def _answers(
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


def _quality(setup: Setup, model: session.Model, count: int, path: Path) -> dict[str, Any]:
    """Fréchet distance and label accuracy of `count` samples, with the classes of the data."""
    info, source = setup.dataset.info, setup.dataset.source
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
    folder = path / "samples"
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / "samples.npz", image=samples, **_named(label=label))
    draw_samples(samples, label, info, folder / "samples.png")
    shown = source.read(np.arange(min(len(source), SHOWN)))
    draw_samples(
        shown["image"], shown["label"] if info.num_classes else None, info, folder / "real.png"
    )
    draw_walk(model, setup, folder / "path.png")
    scale = info.max_value or 1.0
    results: dict[str, Any] = {
        "num_samples": count,
        "frechet_distance": frechet_distance(
            GaussianStatistics.from_features(pixel_features(samples / scale)),
            _statistics(setup, scale),
        ),
        "frechet_features": "pixels in [0, 1]" if info.max_value else "raw values",
        "samples_per_second": count / seconds,
    }
    if info.max_value and label is not None and samples[0].size * len(source) <= CLASSIFIED:
        real = source.read(np.arange(len(source)))
        classifier = LabelClassifier(real["image"], real["label"], max_value=info.max_value)
        results["label_accuracy"] = classifier.label_accuracy(samples, label)
        results["label_accuracy_of_real"] = classifier.held_out_accuracy
    return results


def _statistics(setup: Setup, scale: float) -> GaussianStatistics:
    """Of all real data, read in parts."""
    source = setup.dataset.source
    parts = np.array_split(np.arange(len(source)), -(-len(source) // READ_TOGETHER))
    statistics = (
        GaussianStatistics.from_features(pixel_features(source.read(part)["image"] / scale))
        for part in parts
    )
    return functools.reduce(GaussianStatistics.merge, statistics)


def _probe(setup: Setup) -> Batch:
    """A few batches of data on which losses are compared."""
    stream = make_stream(setup.dataset, setup.data, seed=setup.trainer.seed, block=0)
    return {key: x.reshape(-1, *x.shape[2:]) for key, x in stream.take(8).items()}


def _train_bytes(setup: Setup) -> dict[str, int]:
    """Memory of one step of the block that needs most."""
    example = make_stream(setup.dataset, setup.data, seed=0, block=0).take(1)
    batch = {k: jax.ShapeDtypeStruct(v.shape[1:], v.dtype) for k, v in example.items()}
    layers = setup.task.partition.layers
    largest = max(range(len(layers)), key=lambda block: len(layers[block]))
    return dataclasses.asdict(step_memory(setup.trainer, largest, batch))


def _seconds_per_step(setups: Mapping[Path, Setup]) -> dict[Path, float]:
    """Median wall time of one update of one block (mean over blocks), all runs in turn."""
    programs = {}
    for path, setup in setups.items():
        trainer, num_steps = setup.trainer, setup.placement.steps_per_dispatch
        stream = make_stream(setup.dataset, setup.data, seed=trainer.seed, block=0)
        batches = to_device(stream.take(num_steps))
        init, run = jax.jit(trainer.init, static_argnums=0), jax.jit(trainer.run)
        # Blocks of as many layers run one program.
        for count, block in _kinds(setup).items():
            state, interval = init(block), trainer.interval(block)
            programs[path, count] = functools.partial(run, state, batches, block, interval)
    seconds = side_by_side(programs)
    return {
        path: statistics.mean(seconds[path, len(own)] for own in setup.task.partition.layers)
        / setup.placement.steps_per_dispatch
        for path, setup in setups.items()
    }


def _kinds(setup: Setup) -> dict[int, int]:
    """A block for each number of layers."""
    return {len(own): block for block, own in enumerate(setup.task.partition.layers)}


def _named(**arrays: Any) -> dict[str, Any]:
    return {name: array for name, array in arrays.items() if array is not None}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
