"""Evaluates trained runs side by side: quality, memory, speed, loss over the noise.

Writes evaluation.json and samples/ into each run folder. Several folders are timed in turn, so
that their speeds compare.
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
from tqdm.auto import tqdm

from dbjax import session
from dbjax.build import Setup, build
from dbjax.classification import ClassificationTask, LabelDenoisingTask, predict
from dbjax.data import load_dataset, make_stream
from dbjax.devices import to_device
from dbjax.memory import step_memory
from dbjax.metrics import (
    GaussianStatistics,
    LabelClassifier,
    frechet_distance,
    pixel_features,
    quantise,
)
from dbjax.metrics.classification import accuracy, calibration_error, negative_log_likelihood
from dbjax.metrics.noise import loss_over_noise
from dbjax.metrics.speed import side_by_side
from dbjax.pictures import draw_samples
from dbjax.sampling import Sampler
from dbjax.task import Batch
from experiments import cli
from experiments.provenance import provenance
from experiments.sample import draw_walk

CLASSIFIED = 1_000_000
"""Values in a data set beyond which a support vector classifier takes too long to fit."""
READ_TOGETHER = 10_000
SHOWN = 2_000


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("evaluate", __doc__ or "")
    parser.add_argument("--config", metavar="FILE", help="config; default: the workdir's own")
    parser.add_argument(
        "--workdir", metavar="DIR", type=Path, required=True, nargs="+", help="run folders"
    )
    parser.add_argument(
        "--num_samples", type=int, metavar="N", help="samples to draw; default: as many as data"
    )
    args, overrides = cli.parse(parser, arguments)
    setups = {path: build(cli.run_config(args.config, path, overrides)) for path in args.workdir}
    for path, results in evaluate(setups, args.num_samples).items():
        print(f"{path}: " + ", ".join(f"{k} {v:.4g}" for k, v in results.items() if _is_number(v)))


def evaluate(setups: Mapping[Path, Setup], num_samples: int | None) -> dict[Path, dict[str, Any]]:
    """Results of each run, also written to its folder."""
    models = {
        path: session.load(setup.trainer, path, shared=setup.placement.interface == "shared")
        for path, setup in setups.items()
    }
    seconds = _seconds_per_step(setups)
    results = {}
    for path, setup in setups.items():
        task, model = setup.task, models[path]
        results[path] = {
            **_measured(setup, model, num_samples, path),
            "train_bytes": _train_bytes(setup),
            "layer_evaluations_per_sample": Sampler(task, setup.sampling).layer_evaluations,
            "seconds_per_step": seconds[path],
            "loss_over_noise": loss_over_noise(task, model.blocks, _probe(setup)),
            "steps": {str(b): step for b, step in model.steps.items()},
            "layers": [len(own) for own in task.partition.layers],
            "edges_sigma": [float(task.noise.level(u)) for u in task.partition.edges],
            "provenance": provenance(),
        }
        (path / "evaluation.json").write_text(json.dumps(results[path], indent=2) + "\n")
    return results


def _measured(setup: Setup, model: session.Model, count: int | None, path: Path) -> dict[str, Any]:
    """What the task is about: samples, or answers."""
    if isinstance(setup.task, LabelDenoisingTask | ClassificationTask):
        return _answers(setup, model, path)
    return _quality(setup, model, count or setup.dataset.info.size, path)


def _answers(setup: Setup, model: session.Model, path: Path) -> dict[str, Any]:
    """Accuracy, likelihood and calibration on every image of the test split."""
    data = dataclasses.replace(setup.data, split="test")
    source = load_dataset(data).source
    test = source.read(np.arange(len(source)))
    sampler = Sampler(setup.task, setup.sampling)
    # Once unseen, so that the speed does not contain compilation.
    predict(sampler, model.blocks, test["image"][: setup.sampling.batch_size])
    with tqdm(total=len(source), desc=f"classify {path.name}", unit="image") as bar:
        start = time.perf_counter()
        found = predict(sampler, model.blocks, test["image"], progress=bar.update)
        seconds = time.perf_counter() - start
    return {
        "num_samples": len(source),
        "accuracy": accuracy(found, test["label"]),
        "negative_log_likelihood": negative_log_likelihood(found, test["label"]),
        "calibration_error": calibration_error(found, test["label"]),
        "samples_per_second": len(source) / seconds,
    }


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
