"""Joins blocks that were trained in several folders, or exports some, into one new run folder.

  python -m experiments.assemble --workdir=runs/whole --from runs/a runs/b:1 runs/c:0,2
  python -m experiments.assemble --workdir=runs/block1 --from runs/a:1 --partial

The folders must hold runs of one config, seed and data set; the latest checkpoint is taken.
"""

from collections.abc import Sequence
from pathlib import Path

from dbjax.assembly import assemble, read_source
from experiments import cli


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("assemble", __doc__ or "", config=False)
    parser.add_argument("--workdir", metavar="DIR", type=Path, required=True, help="new run folder")
    parser.add_argument(
        "--from",
        dest="sources",
        metavar="DIR[:LIST]",
        nargs="+",
        required=True,
        help="run folders; all their blocks, or those listed, as runs/a:0,2",
    )
    parser.add_argument("--partial", action="store_true", help="blocks may be missing (an export)")
    args = parser.parse_args(arguments)
    sources = [read_source(text) for text in args.sources]
    print(assemble(sources, args.workdir, partial=args.partial))


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
