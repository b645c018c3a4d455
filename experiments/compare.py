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
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from dbjax.build import build
from dbjax.errors import require
from dbjax.flops import prediction_flops
from dbjax.workdir import claim
from experiments import cli, train
from experiments.compare_methods import BUDGETS, Method, budget_steps, named, read_methods
from experiments.compare_output import Row, text_table, write_output
from experiments.evaluate import evaluate
from experiments.many_runs import check_steps, finished
from experiments.provenance import provenance


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
    # All methods of a seed before the next seed: what is there after a stop compares.
    runs = {
        (method.name, seed): _run(args.workdir, method, seed, steps[method.name])
        for seed in range(args.seeds)
        for method in methods
    }
    for path, config in runs.values():
        check_steps(path, config.training.steps)
    for path, config in runs.values():
        claim(path, config)
    for number, ((name, _), (path, config)) in enumerate(runs.items(), start=1):
        print(f"{number} of {len(runs)}: {name}, {path.name}", flush=True)
        _train(path, config)
    found: dict[str, list[dict[str, Any]]] = {method.name: [] for method in methods}
    for seed in range(args.seeds):
        print(f"evaluate seed {seed + 1} of {args.seeds}", flush=True)
        # Side by side are the runs of one seed: of all, there may be too many for the memory.
        of_seed = {method.name: runs[method.name, seed] for method in methods}
        results = evaluate(
            {path: build(config) for path, config in of_seed.values()},
            num_noises=num_noises,
            quality_only=seed > 0,
        )
        for name, (path, _) in of_seed.items():
            found[name].append(results[path])
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


def _run(workdir: Path, method: Method, seed: int, steps: int) -> tuple[Path, ConfigDict]:
    """Folder and config of one run."""
    config = method.seeded(seed, steps)
    return workdir / method.slug / f"seed_{config.seed}", config


def _train(path: Path, config: ConfigDict) -> None:
    """Trains a run to its end, unless it is there."""
    if finished(path, config):
        return
    train.main([f"--workdir={path}"])
    if not finished(path, config):
        raise KeyboardInterrupt


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
        seconds_per_round=len(steps) * results[0]["seconds_per_step"],
        train_bytes=results[0]["train_bytes"]["total"],
    )


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
