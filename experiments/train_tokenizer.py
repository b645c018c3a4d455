"""Trains a byte-level BPE tokenizer on text, for data.tokenizer and experiments.prepare_text.

  python -m experiments.train_tokenizer --files news.txt.gz --vocabulary=8000 --out=tokenizer.json

Reads UTF-8 text, as it is, .gz or .xz; of a very large one, some 100 MB are enough.
"""

from collections.abc import Sequence
from pathlib import Path

from dbjax.data.train_tokenizer import train_tokenizer
from experiments import cli


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("train_tokenizer", __doc__ or "", config=False)
    parser.add_argument("--files", metavar="FILE", type=Path, nargs="+", required=True, help="text")
    parser.add_argument(
        "--vocabulary", metavar="N", type=int, required=True, help="tokens at most, </s> among them"
    )
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="tokenizer.json")
    args = parser.parse_args(arguments)
    codec = train_tokenizer(args.files, args.out.expanduser(), vocabulary=args.vocabulary)
    fewer = codec.vocabulary < args.vocabulary
    print(
        f"{codec.vocabulary:,} tokens{', since no more pairs repeat' if fewer else ''}; "
        f"written to {codec.name}"
    )


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
