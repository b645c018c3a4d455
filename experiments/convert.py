"""Begins a run with a pretrained network of another library, or writes a run's network for one.

  python -m experiments.convert model.safetensors --layout=transformers_vit --workdir=runs/base \\
      --config=configs/vit_digits.py:end_to_end
  python -m experiments.convert --export=exported --layout=transformers_vit --workdir=runs/base

The run is at step 0. Blocks begin with it by `experiments.train --from=runs/base`.
"""

from collections.abc import Sequence
from pathlib import Path

from dbjax.build import build
from dbjax.config import load_config
from dbjax.conversion.convert import export, plan_conversion
from dbjax.conversion.layouts import LAYOUTS
from dbjax.errors import SettingError, require
from dbjax.workdir import check_empty
from experiments import cli


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("convert", __doc__ or "")
    parser.add_argument(
        "weights",
        metavar="WEIGHTS",
        type=Path,
        nargs="?",
        help="model.safetensors, the index of its shards, or a folder with either",
    )
    parser.add_argument("--layout", required=True, metavar="NAME", help=", ".join(LAYOUTS))
    parser.add_argument("--workdir", metavar="DIR", type=Path, required=True, help="run folder")
    parser.add_argument("--config", metavar="FILE", help="config of the run that begins")
    parser.add_argument(
        "--new_head", action="store_true", help="draw the head of a classifier, for other classes"
    )
    parser.add_argument(
        "--bos",
        metavar="TOKEN",
        type=int,
        help="the token that begins a text; default: what config.json beside WEIGHTS says",
    )
    parser.add_argument(
        "--export", metavar="DIR", type=Path, help="write the network of the run to a new folder"
    )
    args, overrides = cli.parse(parser, arguments)
    if args.export is not None:
        given = {
            "WEIGHTS": args.weights, "--config": args.config, "--new_head": args.new_head or None,
            "--bos": args.bos, "--config.section.key": overrides or None,
        }  # fmt: skip
        for name, value in given.items():
            require(value is None, name, value, "not with --export, which takes the run as it is")
        print(export(args.workdir, args.layout, args.export))
        return
    if args.weights is None or args.config is None:
        raise SettingError(
            f"WEIGHTS is {args.weights} and --config is {args.config}; allowed: both, or --export"
        )
    check_empty(args.workdir)
    setup = build(load_config(args.config, overrides))
    conversion = plan_conversion(
        setup, args.weights, args.layout, new_head=args.new_head, beginning=args.bos
    )
    print(conversion.table(), flush=True)
    conversion.begin(args.workdir)
    print(f"written to {args.workdir}, step 0")


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
