"""Evaluates trained runs side by side: quality, memory, speed, loss over the noise.

Writes evaluation.json into each run folder, with samples/ of models that draw or write, and with
predictions.npz (probabilities and label of each test image) of those that classify. Several folders
are timed in turn, so that their speeds compare.
"""

import dataclasses
import json
import statistics
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
from ml_collections import ConfigDict

from dbjax import session
from dbjax.adaptive import adapt
from dbjax.build import Setup, build
from dbjax.catalogue import GENERATIVE, TEXT
from dbjax.classification import LabelDenoiser
from dbjax.data import load_dataset, make_stream
from dbjax.devices import to_device
from dbjax.errors import require
from dbjax.memory import step_memory
from dbjax.metrics.noise import loss_over_noise
from dbjax.metrics.speed import side_by_side
from dbjax.sampling import Sampler
from dbjax.task import Batch, Metrics
from dbjax.training import Trainer
from dbjax.workdir import write_whole
from experiments import cli
from experiments.evaluate_classifier import answers
from experiments.evaluate_images import image_results
from experiments.evaluate_text import NUM_TEXTS, text_quality
from experiments.image_features import FeatureRequest, add_arguments, request_of
from experiments.provenance import provenance

K = TypeVar("K")


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("evaluate", __doc__ or "")
    parser.add_argument("--config", metavar="FILE", help="config; default: the workdir's own")
    parser.add_argument(
        "--workdir", metavar="DIR", type=Path, required=True, nargs="+", help="run folders"
    )
    parser.add_argument(
        "--num_samples",
        type=int,
        metavar="N",
        help=f"samples to draw; default: as many as data, or {NUM_TEXTS} texts",
    )
    parser.add_argument(
        "--num_noises",
        type=int,
        metavar="N",
        help="walks from different noise that a prediction is averaged over; default: 1",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="write there; of one run; default: the run folder"
    )
    parser.add_argument(
        "--quality_only",
        action="store_true",
        help="leave out speed, memory, losses and diagnostics, where most of the time goes",
    )
    add_arguments(parser)
    args, overrides = cli.parse(parser, arguments)
    request = request_of(args)
    require(
        args.out is None or len(args.workdir) == 1, "--out", str(args.out), "none for several runs"
    )
    configs = {path: cli.run_config(args.config, path, overrides) for path in args.workdir}
    _check(configs, args.num_samples, args.num_noises, request)
    setups = {path: build(config) for path, config in configs.items()}
    found = evaluate(
        setups,
        args.num_samples,
        args.num_noises or 1,
        quality_only=args.quality_only,
        folders={} if args.out is None else {args.workdir[0]: args.out},
        request=request,
    )
    for path, results in found.items():
        print(f"{path}: " + ", ".join(f"{k} {v:.4g}" for k, v in results.items() if _is_number(v)))


def evaluate(
    setups: Mapping[Path, Setup],
    num_samples: int | None = None,
    num_noises: int = 1,
    *,
    quality_only: bool = False,
    folders: Mapping[Path, Path] = types.MappingProxyType({}),
    request: FeatureRequest = FeatureRequest(),  # noqa: B008 (it is frozen)
) -> dict[Path, dict[str, Any]]:
    """Results of each run, also written to its folder or that of `folders`.

    Args:
        setups: of the runs, by their folders.
        num_samples: to draw from models that generate; None is as many as there are data, and of
            texts `NUM_TEXTS`.
        num_noises: walks that a prediction of models that classify is averaged over.
        quality_only: leave out what other seeds of a method have alike (speed and memory) and what
            explains (losses, diagnostics); most of the time goes there.
        folders: of runs whose results are not to be written to the run folder.
        request: features that samples of images are held against real ones in.
    """
    models = {
        path: session.load(setup.trainer, path, shared=setup.placement.interface == "shared")
        for path, setup in setups.items()
    }
    seconds = {} if quality_only else seconds_per_step(setups)
    results = {}
    for path, setup in setups.items():
        task, model, family = setup.task, models[path], setup.config.family
        classifies = family not in (*GENERATIVE, *TEXT)
        out = folders.get(path, path)
        out.mkdir(parents=True, exist_ok=True)
        if classifies:
            found = answers(setup, model, num_noises, out, explain=not quality_only)
        elif family in TEXT:
            found = text_quality(setup, model, num_samples or NUM_TEXTS, out)
        else:
            sampling = adapt(task, model.blocks, setup.sampling)
            setup = dataclasses.replace(setup, sampling=sampling)
            count = num_samples or setup.dataset.info.size
            found = image_results(setup, model, count, out, request)
        # The loss of a classifier that does not walk knows no noise.
        if not quality_only:
            if isinstance(task, LabelDenoiser) or not classifies:
                found["loss_over_noise"] = loss_over_noise(task, model.blocks, _probe(setup))
            found["train_bytes"] = train_bytes(setup)
            found["seconds_per_step"] = seconds[path]
        results[path] = {
            "layer_evaluations_per_sample": (
                found.get("num_noises", 1) * Sampler(task, setup.sampling).layer_evaluations
            ),
            **found,
            "steps": {str(b): step for b, step in model.steps.items()},
            "layers": [len(own) for own in task.partition.layers],
            f"edges_{task.noise.level_name}": [
                float(task.noise.level(u)) for u in task.partition.edges
            ],
            "asked": {"num_samples": num_samples, "num_noises": num_noises, **request.asked},
            "config": setup.config.to_dict(),
            "provenance": provenance(),
        }
        write_whole(out / "evaluation.json", json.dumps(results[path], indent=2) + "\n")
    return results


def _check(
    configs: Mapping[Path, ConfigDict],
    num_samples: int | None,
    num_noises: int | None,
    request: FeatureRequest,
) -> None:
    """Refuses what makes no sense for one of the runs.

    Raises:
        SettingError: if it does not.
    """
    for path, config in configs.items():
        if config.family in (*GENERATIVE, *TEXT):
            allowed = f"nothing for {path}, whose model generates"
            require(num_noises is None, "--num_noises", num_noises, allowed)
        else:
            allowed = f"nothing for {path}, a classifier, which is shown every test image"
            require(num_samples is None, "--num_samples", num_samples, allowed)
        if config.family not in GENERATIVE:
            for name, value in request.asked.items():
                option = "--features" if name == "kind" else f"--{name}"
                require(False, option, value, f"nothing for {path}, which draws no images")
    for name, value in (("--num_samples", num_samples), ("--num_noises", num_noises)):
        require(value is None or value >= 1, name, value, "1 or more")


def _probe(setup: Setup) -> Batch:
    """A few batches on which losses are compared, of texts some that were not trained on."""
    dataset = setup.dataset
    if setup.config.family in TEXT:
        dataset = load_dataset(dataclasses.replace(setup.data, split="test"))
    stream = make_stream(dataset, setup.data, seed=setup.trainer.seed, block=0)
    return {key: x.reshape(-1, *x.shape[2:]) for key, x in stream.take(8).items()}


def train_bytes(setup: Setup) -> dict[str, int]:
    """Memory of one step of the block that needs most, as in `StepMemory`."""
    example = make_stream(setup.dataset, setup.data, seed=0, block=0).take(1)
    batch = {k: jax.ShapeDtypeStruct(v.shape[1:], v.dtype) for k, v in example.items()}
    layers = setup.task.partition.layers
    largest = max(range(len(layers)), key=lambda block: len(layers[block]))
    return dataclasses.asdict(step_memory(setup.trainer, largest, batch))


def seconds_per_step(setups: Mapping[K, Setup]) -> dict[K, float]:
    """Median wall time of one update of one block (mean over blocks), all setups in turn."""
    programs = {}
    for name, setup in setups.items():
        stream = make_stream(setup.dataset, setup.data, seed=setup.trainer.seed, block=0)
        batches = to_device(stream.take(setup.placement.steps_per_dispatch))
        # Blocks of as many layers run one program.
        for count, block in _kinds(setup).items():
            programs[name, count] = _advancing(setup.trainer, block, batches)
    seconds = side_by_side(programs)
    return {
        name: statistics.mean(seconds[name, len(own)] for own in setup.task.partition.layers)
        / setup.placement.steps_per_dispatch
        for name, setup in setups.items()
    }


def _advancing(trainer: Trainer, block: int, batches: Batch) -> Callable[[], Metrics]:
    """Trains a fresh block further at each call.

    Program and memory are those of the sequential placement, so that what training has compiled is
    found again where compiled programs are kept.
    """
    run = jax.jit(trainer.run, static_argnames="remat", donate_argnums=0)
    state = to_device(jax.jit(trainer.init, static_argnums=0)(block))

    def advance() -> Metrics:
        nonlocal state
        remat = block in trainer.remat
        state, metrics = run(state, batches, block, trainer.interval(block), remat=remat)
        return metrics

    return advance


def _kinds(setup: Setup) -> dict[int, int]:
    """A block for each number of layers."""
    return {len(own): block for block, own in enumerate(setup.task.partition.layers)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
