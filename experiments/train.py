"""Trains the blocks of a config; the same command again continues where it stopped."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax

from dbjax import distributed, session
from dbjax.build import build
from dbjax.config import section
from dbjax.errors import require
from dbjax.loop import Interruption
from dbjax.partition import parse_blocks
from dbjax.placement import PlacementConfig
from dbjax.transfer import plan
from dbjax.workdir import claim
from experiments import cli, isolated


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("train", __doc__ or "")
    parser.add_argument("--config", metavar="FILE", help="config; default: the workdir's own")
    parser.add_argument("--workdir", metavar="DIR", type=Path, required=True, help="run folder")
    parser.add_argument(
        "--blocks",
        metavar="LIST",
        help="train these blocks only, as 0,2; default: all. Other processes, here or on other "
        "machines, may train the others at the same time",
    )
    parser.add_argument(
        "--from",
        dest="source",
        metavar="DIR",
        type=Path,
        help="begin with the blocks of this run: those of --blocks are trained from its weights, "
        "the others kept as they are; default for --blocks: those that do not fit as they are",
    )
    parser.add_argument("--quiet", action="store_true", help="draw no progress bar")
    parser.add_argument(
        "--processes",
        metavar="N",
        type=int,
        help="with placement.name=isolated: at most so many on this machine; default: one for each "
        "block or accelerator",
    )
    several = parser.add_argument_group(
        "several machines as one (placement.name=sharded); start the same command on each"
    )
    several.add_argument(
        "--distributed", action="store_true", help="join the processes of a TPU pod, Slurm, ..."
    )
    several.add_argument("--coordinator_address", metavar="HOST:PORT", help="elsewhere: process 0")
    several.add_argument("--num_processes", metavar="N", type=int, help="elsewhere: how many")
    several.add_argument("--process_id", metavar="I", type=int, help="elsewhere: this one, from 0")
    args, overrides = cli.parse(parser, arguments)
    config = cli.run_config(args.config, args.workdir, overrides)
    joined = _join(args)
    placement = section(PlacementConfig, config, "placement").name
    if placement == "isolated" and args.blocks is None and args.source is None and not joined:
        raise SystemExit(isolated.launch(config, args.workdir, args.processes))
    require(
        args.processes is None,
        "--processes",
        args.processes,
        "none, or placement.name 'isolated' without --blocks",
    )
    setup = build(config)
    blocks = None
    if args.blocks is not None:
        blocks = parse_blocks(args.blocks, setup.task.partition.num_blocks, "--blocks")
    transfer = plan(setup, args.workdir, args.source, blocks)
    if jax.process_index() == 0:
        claim(args.workdir, config)
    distributed.wait_for_all_processes("claim")
    workdir = claim(args.workdir, config)
    if jax.process_index() == 0:
        print(cli.describe(setup), flush=True)
    start = None
    if transfer is not None:
        print(transfer.table(), flush=True)
        blocks, start = transfer.trained, transfer.begin(workdir)
    with distributed.Preemption() if joined else Interruption() as interrupted:
        model = session.run(
            setup.trainer,
            setup.dataset,
            setup.data,
            setup.placement,
            steps=setup.training.steps,
            blocks=blocks,
            start=start,
            log_every=setup.training.log_every,
            save_every=setup.training.save_every,
            workdir=workdir,
            title=workdir.name,
            show=not args.quiet,
            should_stop=interrupted,
        )
    if interrupted():
        steps = ", ".join(f"block {b} at {step}" for b, step in model.steps.items())
        print(f"stopped and saved ({steps}); the same command continues")


def _join(args: argparse.Namespace) -> bool:
    """Joins other processes if that is asked for."""
    address = (args.coordinator_address, args.num_processes, args.process_id)
    if not args.distributed and address == (None, None, None):
        return False
    distributed.initialize(*address)
    return True


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
