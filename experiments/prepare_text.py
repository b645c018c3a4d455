"""Turns a large text into a folder of tokens, for data.name 'tokens'.

  python -m experiments.prepare_text news.txt.gz --tokenizer=tokenizer.json --out=DIR
  python -m experiments.prepare_text books/*.txt --documents=file --tokenizer=bytes --out=DIR
  python -m experiments.prepare_text --tfds=lm1b --tokenizer=tokenizer.json --out=DIR

Reads UTF-8 text (as it is, .gz or .xz), or a set of tensorflow-datasets with a feature `text`.
Where it was killed, the same command goes on.
"""

from collections.abc import Sequence
from pathlib import Path

from dbjax.data.corpora import SPLITS
from dbjax.data.documents import SEPARATIONS, file_documents, tfds_documents
from dbjax.data.prepare_text import prepare_text
from dbjax.data.shards import Index
from dbjax.errors import SettingError
from experiments import cli


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("prepare_text", __doc__ or "", config=False)
    parser.add_argument("files", metavar="FILE", type=Path, nargs="*", help="text, .gz or .xz")
    parser.add_argument("--tfds", metavar="NAME", help="a set of tensorflow-datasets, as lm1b")
    parser.add_argument("--data_dir", metavar="DIR", help="where that was prepared")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="data.data_dir later"
    )
    parser.add_argument(
        "--tokenizer", metavar="FILE", required=True, help="a tokenizer.json, or `bytes`"
    )
    parser.add_argument(
        "--documents",
        metavar="HOW",
        default="line",
        help=f"what a document of a FILE is: {', '.join(SEPARATIONS)} (line)",
    )
    parser.add_argument(
        "--end_token", metavar="TOKEN", help="after each document (</s>, or else a new line)"
    )
    for split in ("validation", "test"):
        parser.add_argument(
            f"--{split}", metavar="SHARE", type=float, default=0.05, help="of documents (0.05)"
        )
    parser.add_argument(
        "--shard_megabytes", metavar="MB", type=int, default=128, help="of text in a file (128)"
    )
    args = parser.parse_args(arguments)
    if bool(args.files) == (args.tfds is not None):
        raise SettingError(
            f"there are {len(args.files)} files and --tfds is {args.tfds!r}; allowed: files, or a "
            "set of tensorflow-datasets"
        )
    if args.tfds is None:
        documents = file_documents(args.files, args.documents)
    else:
        documents = tfds_documents(args.tfds, args.data_dir)
    index = prepare_text(
        documents,
        args.out.expanduser(),
        tokenizer=args.tokenizer,
        settings={"documents": args.documents if args.tfds is None else args.tfds},
        end_token=args.end_token,
        validation=args.validation,
        test=args.test,
        shard_bytes=args.shard_megabytes << 20,
    )
    print(describe(index, args.out))


def describe(index: Index, folder: Path) -> str:
    """A table of the splits, and the folder."""
    rows: list[tuple[str, ...]] = [("split", "documents", "tokens", "files")]
    for split in SPLITS:
        shards = index.of(split)
        numbers = (sum(s.documents for s in shards), sum(s.tokens for s in shards), len(shards))
        rows.append((split, *(f"{number:,}" for number in numbers)))
    lines = ["  ".join(cell.rjust(12) for cell in row) for row in rows]
    end = repr(index.settings["end_token"])
    return "\n".join([*lines, f"{end} ends each document", f"written to {folder}"])


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
