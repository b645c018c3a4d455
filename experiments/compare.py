"""Trains classifiers by several methods under one budget; writes one table and one figure.

A method is a config. Each is trained from several seeds, in ordinary run folders
WORKDIR/<method>/seed_<s>, and evaluated. Run again, it continues where it stopped. Writes
compare.json, table.md, table.csv, figure.png and figure.svg into WORKDIR.

Budgets:
  steps    each block makes as many updates as its config says, or --steps. So counts the paper:
           a block makes as many updates as the network trained end to end
  compute  all methods spend the training FLOPs of the first one; the steps of the others, which
           the table tells, follow from the FLOPs of one update of each of their blocks
"""

import argparse
import dataclasses
import json
import re
import runpy
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from dbjax.build import Setup, build
from dbjax.catalogue import FAMILIES, GENERATIVE
from dbjax.checkpoint import Checkpoints
from dbjax.config import load_config
from dbjax.data import make_stream
from dbjax.errors import SettingError, require
from dbjax.flops import prediction_flops, update_flops
from dbjax.workdir import claim, read_config
from experiments import cli, train
from experiments.compare_output import Row, text_table, write_output
from experiments.evaluate import evaluate
from experiments.provenance import provenance

BUDGETS = ("steps", "compute")


@dataclasses.dataclass(frozen=True)
class Method:
    """One line of the comparison.

    Attributes:
        name: what to call it.
        file: of its config, with the variant.
        config: with all overrides, and the first seed.
        flops: of one update of each block.
    """

    name: str
    file: str
    config: ConfigDict
    flops: Sequence[int]

    @property
    def slug(self) -> str:
        """Its name as that of a folder."""
        return _slug(self.name)

    def seeded(self, seed: int, steps: int) -> ConfigDict:
        """The config of one run: the `seed`-th, counted from 0, with so many steps."""
        config = self.config.copy_and_resolve_references()
        config.update(seed=config.seed + seed)
        config.training.steps = steps
        return config


def main(arguments: Sequence[str]) -> None:
    args, overrides = cli.parse(_parser(), arguments)
    for name, value in (("--seeds", args.seeds), ("--steps", args.steps)):
        require(value is None or value >= 1, name, value, "1 or more")
    num_noises = args.num_noises
    require(num_noises >= 1, "--num_noises", num_noises, "1 or more")
    if args.steps is not None:
        overrides = [*overrides, f"--config.training.steps={args.steps}"]
    methods = read_methods(named(args.method, args.methods), overrides, args.seeds)
    steps = budget_steps(methods, args.budget)
    runs = {
        (method.name, seed): args.workdir / method.slug / f"seed_{method.config.seed + seed}"
        for seed in range(args.seeds)
        for method in methods
    }
    configs = {
        (method.name, seed): method.seeded(seed, steps[method.name])
        for seed in range(args.seeds)
        for method in methods
    }
    for run, path in runs.items():
        _check_steps(path, configs[run].training.steps)
    for run, path in runs.items():
        claim(path, configs[run])
    for number, (run, path) in enumerate(runs.items(), start=1):
        print(f"{number} of {len(runs)}: {run[0]}, {path.name}", flush=True)
        _train(path, configs[run])
    found: dict[str, list[dict[str, Any]]] = {method.name: [] for method in methods}
    for seed in range(args.seeds):
        # Side by side are the runs of one seed: of all, there may be too many for the memory.
        setups = {runs[m.name, seed]: build(configs[m.name, seed]) for m in methods}
        print(f"evaluate seed {seed + 1} of {args.seeds}", flush=True)
        results = evaluate(setups, num_noises=num_noises)
        for method in methods:
            found[method.name].append(results[runs[method.name, seed]])
    rows = [_row(method, found[method.name]) for method in methods]
    summary = {
        "budget": args.budget,
        "data": methods[0].config.data.name,
        "rows": [dataclasses.asdict(row) for row in rows],
        "provenance": provenance(),
    }
    (args.workdir / "compare.json").write_text(json.dumps(summary, indent=2) + "\n")
    write_output(rows, args.workdir)
    print(f"\n{text_table(rows)}\n\nwrote compare.json, table and figure to {args.workdir}")


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("compare", __doc__ or "")
    parser.add_argument(
        "--method",
        metavar="[NAME=]FILE",
        action="append",
        default=[],
        help="a method: its config, FILE.py or FILE.py:variant; once for each. Default for NAME: "
        "file and variant",
    )
    parser.add_argument(
        "--methods",
        metavar="FILE",
        type=Path,
        help="Python file whose get_methods() returns {name: (config, {override: value})}",
    )
    parser.add_argument("--workdir", metavar="DIR", type=Path, required=True, help="all goes here")
    parser.add_argument(
        "--seeds",
        metavar="N",
        type=int,
        default=1,
        help="runs of each method, with the config's seed and those after it; default: 1",
    )
    parser.add_argument("--budget", choices=BUDGETS, default="steps", help="default: steps")
    parser.add_argument(
        "--steps",
        metavar="N",
        type=int,
        help="of each block; with --budget compute, of the first method's; default: the config's",
    )
    parser.add_argument(
        "--num_noises",
        metavar="N",
        type=int,
        default=1,
        help="walks from different noise that a prediction is averaged over; default: 1",
    )
    assert parser.epilog is not None
    parser.epilog += "Overrides apply to all methods, whose configs must all have them.\n"
    return parser


def named(
    texts: Iterable[str], file: Path | None
) -> list[tuple[str, tuple[str, Mapping[str, Any]]]]:
    """Name, config file and own overrides of the methods of a command line.

    Args:
        texts: of --method.
        file: of --methods, if there is one.

    Raises:
        SettingError: if there are none, or two are called the same.
    """
    methods: list[tuple[str, tuple[str, Mapping[str, Any]]]] = []
    if file is not None:
        methods += _read_file(file).items()
    for text in texts:
        name, equals, config = text.partition("=")
        if not equals:
            path, _, variant = text.partition(".py:")
            name, config = f"{Path(path).stem} {variant}".strip(), text
        methods.append((name.strip(), (config, {})))
    require(bool(methods), "number of methods", 0, "1 or more, from --method or --methods")
    slugs = [_slug(name) for name, _ in methods]
    for slug, (name, _) in zip(slugs, methods, strict=True):
        require(bool(slug), "name of a method", name, "one with letters or digits")
        require(slugs.count(slug) == 1, "name of a method", name, "names that differ in letters")
    return methods


def read_methods(
    methods: Iterable[tuple[str, tuple[str, Mapping[str, Any]]]],
    overrides: Sequence[str],
    num_seeds: int = 1,
) -> list[Method]:
    """The methods, all built once to see that they can be.

    Args:
        methods: as from `named`.
        overrides: of all configs, as on the command line.
        num_seeds: runs of each.

    Raises:
        SettingError: for a config that cannot be used, or one that does not compare.
    """
    result = []
    for name, (file, own) in methods:
        given = [*(f"{key}={value}" for key, value in own.items()), *overrides]
        try:
            config = load_config(file, given)
            setup = build(config)
            _check(setup, num_seeds)
        except SettingError as error:
            raise SettingError(f"method {name!r}: {error}") from error
        result.append(Method(name, file, config, update_flops(setup.trainer, _batch(setup))))
    check_alike(result)
    return result


def check_alike(methods: Iterable[Method]) -> None:
    """Refuses methods whose accuracies are of different images.

    Raises:
        SettingError: if they are.
    """
    data = sorted({method.config.data.name for method in methods})
    require(len(data) == 1, "data.name of the methods", data, "the same data for all")


def budget_steps(methods: Sequence[Method], budget: str) -> dict[str, int]:
    """Steps of each block, by the method's name.

    Args:
        methods: of which the first sets the FLOPs of all, with `compute`.
        budget: `steps` or `compute`.
    """
    first = methods[0]
    steps = {method.name: method.config.training.steps for method in methods}
    if budget == "steps":
        return steps
    total = steps[first.name] * sum(first.flops)
    return {method.name: max(round(total / sum(method.flops)), 1) for method in methods}


def _read_file(file: Path) -> Mapping[str, tuple[str, Mapping[str, Any]]]:
    require(file.is_file(), "--methods", str(file), "a Python file with get_methods()")
    try:
        found = runpy.run_path(str(file))["get_methods"]()
        return {name: (config, dict(own)) for name, (config, own) in found.items()}
    except Exception as error:
        kind = type(error).__name__
        raise SettingError(
            f"{file} fails with {kind}: {error}; allowed: a file whose get_methods() returns "
            "{name: (config, {override: value})}"
        ) from error


def _check(setup: Setup, num_seeds: int) -> None:
    """Refuses what cannot be trained here or be compared."""
    family, placement = setup.config.family, setup.placement.name
    classifiers = " or ".join(repr(name) for name in FAMILIES if name not in GENERATIVE)
    require(family not in GENERATIVE, "family", family, f"a classifier: {classifiers}")
    allowed = "any other: methods are trained in this process"
    require(placement != "isolated", "placement.name", placement, allowed)
    last = setup.config.seed + num_seeds - 1
    require(last < 2**31, "the last seed", last, "a whole number from 0 to 2^31 - 1")


def _check_steps(path: Path, steps: int) -> None:
    """Refuses to go on with a run of another budget: its learning rate has fallen as for that."""
    if (path / "config.json").is_file():
        found = read_config(path).training.steps
        allowed = f"{found}, as of the run that is there, or a new folder"
        require(found == steps, f"training.steps for {path}", steps, allowed)


def _train(path: Path, config: ConfigDict) -> None:
    """Trains a run to its end, unless it is there."""
    if _finished(path, config):
        return
    train.main([f"--workdir={path}"])
    if not _finished(path, config):
        raise KeyboardInterrupt


def _finished(path: Path, config: ConfigDict) -> bool:
    blocks = list(range(config.partition.num_blocks))
    with Checkpoints(path / "checkpoints") as checkpoints:
        steps = checkpoints.resume_steps(blocks, together=config.placement.interface == "shared")
    return all(steps.get(b, 0) >= config.training.steps for b in blocks)


def _row(method: Method, results: Sequence[Mapping[str, Any]]) -> Row:
    """The results of all seeds of a method in one row."""

    def mean(key: str) -> float:
        return statistics.fmean(result[key] for result in results)

    accuracies = [result["accuracy"] for result in results]
    steps = list(results[0]["steps"].values())
    setup = build(method.config)
    size, info = setup.sampling.batch_size, setup.dataset.info
    kind = setup.dataset.source[0]["image"].dtype
    images = jax.ShapeDtypeStruct((size, *info.image_shape), kind)
    one_walk = prediction_flops(setup.task, setup.sampling, images)
    return Row(
        method=method.name,
        config=method.file,
        family=method.config.family,
        num_blocks=len(steps),
        steps=steps,
        seeds=[method.config.seed + i for i in range(len(results))],
        accuracy=statistics.fmean(accuracies),
        accuracy_std=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        accuracies=accuracies,
        negative_log_likelihood=mean("negative_log_likelihood"),
        calibration_error=mean("calibration_error"),
        training_flops=sum(n * flops for n, flops in zip(steps, method.flops, strict=True)),
        prediction_flops=results[0]["num_noises"] * one_walk,
        seconds_per_round=len(steps) * statistics.median(r["seconds_per_step"] for r in results),
        train_bytes=results[0]["train_bytes"]["total"],
    )


def _batch(setup: Setup) -> dict[str, jax.ShapeDtypeStruct]:
    """The shape of one batch of one block."""
    example = make_stream(setup.dataset, setup.data, seed=setup.trainer.seed, block=0).take(1)
    return {key: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for key, x in example.items()}


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
