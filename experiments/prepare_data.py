"""Prepares a data set of images from files at hand, for data.data_dir and tensorflow-datasets.

  python -m experiments.prepare_data cifar10 cifar-10-binary.tar.gz --data_dir=DIR
  python -m experiments.prepare_data mnist *-ubyte.gz --data_dir=DIR
  python -m experiments.prepare_data tiny_imagenet tiny-imagenet-200 --data_dir=DIR

Reads IDX files (as they are, .gz or .xz), CIFAR's binary and python archives, packed CIFAR .npz
files, and folders with a sub-folder of PNG or JPEG images for each class.
"""

from collections.abc import Sequence
from pathlib import Path

from dbjax.data.image_sets import IMAGE_SETS
from dbjax.data.prepare import Prepared, prepare
from experiments import cli


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("prepare_data", __doc__ or "", config=False)
    parser.add_argument("name", metavar="NAME", help=", ".join(IMAGE_SETS))
    parser.add_argument("files", metavar="FILE", type=Path, nargs="+", help="archives, or a folder")
    parser.add_argument(
        "--data_dir", metavar="DIR", type=Path, required=True, help="folder; data.data_dir later"
    )
    parser.add_argument(
        "--partial", action="store_true", help="take other numbers of images than the published"
    )
    args = parser.parse_args(arguments)
    print(describe(prepare(args.name, args.files, args.data_dir, partial=args.partial)))


def describe(prepared: Prepared) -> str:
    """A table of the splits, the notes, and the folder."""
    shape = "x".join(map(str, prepared.image_shape))
    rows = [("split", "images", "shape", "classes", "fewest", "most of a class")]
    for split, counts in prepared.per_class.items():
        numbers = (counts.sum(), len(counts), counts.min(), counts.max())
        images, classes, fewest, most = (f"{number:,}" for number in numbers)
        rows.append((split, images, shape, classes, fewest, most))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join([*lines, *prepared.notes, f"written to {prepared.folder}"])


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
