"""Trains and evaluates a config at many settings; writes one table and one figure.

A sweep file names the points: what each sets differently. Each is an ordinary run folder,
WORKDIR/runs/<point>/seed_<s>, trained and evaluated by processes of its own, so that one that fails
is no more than that. Points that differ in how they are sampled only share a run. All points are
checked before the first is run.

Run again, it continues: what is done is left alone, what has failed is tried again. Writes
sweep.json, table.csv, table.md, table.html, figure.png and figure.svg into WORKDIR.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax

from dbjax.errors import require
from dbjax.loop import Interruption
from experiments import cli
from experiments.sweep_output import DONE, describe, make_table, text_table, write_output
from experiments.sweep_points import config_name, kind_of, make_trials, read_points
from experiments.sweep_run import Runner, evaluation, share_of


def main(arguments: Sequence[str]) -> None:
    args, overrides = cli.parse(_parser(), arguments)
    counts = {name: getattr(args, name) for name in ("num_samples", "num_noises")}
    options = {name: value for name, value in counts.items() if value is not None}
    given = {"seeds": args.seeds, "processes": args.processes, **options}
    for name, value in given.items():
        require(value >= 1, f"--{name}", value, "1 or more")
    # On an accelerator this process would take the memory that the others need.
    jax.config.update("jax_platforms", "cpu")
    points = read_points(args.sweep, args.config, overrides)
    kind = kind_of(points[0].config.family)
    for name, refused in (("num_samples", ["classifies"]), ("num_noises", ["draws", "writes"])):
        allowed = f"nothing for a model that {kind}"
        require(kind not in refused or name not in options, f"--{name}", options.get(name), allowed)
    workdir = args.workdir
    trials = make_trials(points, workdir, args.seeds)
    mine = trials if args.shard is None else share_of(trials, args.shard)
    stopped = False
    if not args.table_only:
        print(describe(points), flush=True)
        with Interruption() as stop:
            Runner(
                mine,
                options=options,
                processes=args.processes,
                compiled=workdir / "compiled",
                stop=stop,
            ).run()
            stopped = stop()
    done = sum(evaluation(trial, options) is not None for trial in mine)
    # Others of an array job may be writing the same.
    if args.shard is None or args.table_only:
        table = make_table(points, trials, args.measure, options, workdir)
        facts = {
            "config": args.config,
            "sweep": str(args.sweep),
            "overrides": overrides,
            "seeds": args.seeds,
            **options,
        }
        title = f"{config_name(str(args.sweep))} of {config_name(args.config)}"
        write_output(table, workdir, title.replace("_", " "), facts)
        print(f"\n{text_table(table)}\n\nwrote sweep.json, tables and figure to {workdir}")
    else:
        print("the same command with --table_only in place of --shard writes the table")
    if stopped:
        print(f"stopped with {done} of {len(mine)} {DONE}; the same command continues", flush=True)
        raise KeyboardInterrupt
    if done < len(mine) and not args.table_only:
        print(f"{done} of {len(mine)} are {DONE}; the same command tries the others again")
        raise SystemExit(1)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("sweep", __doc__ or "")
    parser.add_argument(
        "--config", metavar="FILE", required=True, help="what is swept: FILE.py or FILE.py:variant"
    )
    parser.add_argument(
        "--sweep",
        metavar="FILE",
        type=Path,
        required=True,
        help="Python file whose get_sweep() returns the points, such as configs/sweeps/overlap.py",
    )
    parser.add_argument("--workdir", metavar="DIR", type=Path, required=True, help="all goes here")
    parser.add_argument(
        "--seeds",
        metavar="N",
        type=int,
        default=1,
        help="runs of each point, with the config's seed and those after it; default: 1",
    )
    parser.add_argument(
        "--processes",
        metavar="N",
        type=int,
        default=1,
        help="runs at once on this machine, each on an accelerator of its own where there are "
        "some; what they print goes to WORKDIR/logs; default: 1",
    )
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="only part I of N, counted from 1, as 3/16: for array jobs, which see one WORKDIR",
    )
    parser.add_argument(
        "--table_only", action="store_true", help="run nothing: table and figure of what is there"
    )
    parser.add_argument(
        "--measure",
        metavar="KEY",
        action="append",
        default=[],
        help="a number of evaluation.json, with dots between levels, as generated.perplexity; the "
        "first is drawn; once for each; default: what is usual for the family",
    )
    parser.add_argument("--num_samples", metavar="N", type=int, help="as of experiments.evaluate")
    parser.add_argument("--num_noises", metavar="N", type=int, help="as of experiments.evaluate")
    assert parser.epilog is not None
    parser.epilog += "Overrides apply to all points, whose configs must all have them.\n"
    return parser


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
