"""Trains the blocks of a config; the same command again continues where it stopped."""

from collections.abc import Sequence
from pathlib import Path

from dbjax import session
from dbjax.build import build
from dbjax.loop import Interruption
from dbjax.workdir import claim
from experiments import cli


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("train", __doc__ or "")
    parser.add_argument("--config", metavar="FILE", help="config; default: the workdir's own")
    parser.add_argument("--workdir", metavar="DIR", type=Path, required=True, help="run folder")
    args, overrides = cli.parse(parser, arguments)
    config = cli.run_config(args.config, args.workdir, overrides)
    setup = build(config)
    workdir = claim(args.workdir, config)
    print(cli.describe(setup), flush=True)
    with Interruption() as interrupted:
        model = session.run(
            setup.trainer,
            setup.dataset,
            setup.data,
            setup.placement,
            steps=setup.training.steps,
            log_every=setup.training.log_every,
            save_every=setup.training.save_every,
            workdir=workdir,
            title=workdir.name,
            should_stop=interrupted,
        )
    if interrupted():
        steps = ", ".join(f"block {b} at {step}" for b, step in model.steps.items())
        print(f"stopped and saved ({steps}); the same command continues")


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
