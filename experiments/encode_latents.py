"""Encodes a folder of pictures for data.name 'imagenet256_latents'.

  python -m experiments.encode_latents IMAGENET --autoencoder=stabilityai/sd-vae-ft-ema --out=DIR

IMAGENET holds train/class/picture and test/class/picture (or val). Pictures are cut to 256x256 as
ADM and DiT do it. Where it was killed, the same command goes on. Needs the extra `latents`.
"""

from collections.abc import Sequence
from pathlib import Path

from dbjax.data.autoencoder import DiffusersAutoencoder
from dbjax.data.encode import encode_folder
from experiments import cli
from experiments.tables import aligned_table


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("encode_latents", __doc__ or "", config=False)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="of pictures")
    parser.add_argument(
        "--autoencoder",
        metavar="VAE",
        required=True,
        help="an AutoencoderKL of diffusers: a folder, or a name on the Hugging Face hub",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="data.data_dir later"
    )
    parser.add_argument(
        "--shard_size", metavar="N", type=int, default=10_000, help="pictures of a file (10000)"
    )
    parser.add_argument(
        "--batch_size", metavar="N", type=int, default=16, help="pictures encoded at once (16)"
    )
    parser.add_argument("--device", metavar="NAME", help="of torch; default: a GPU if it has one")
    args = parser.parse_args(arguments)
    encoder = DiffusersAutoencoder(args.autoencoder, device=args.device, batch_size=args.batch_size)
    out = args.out.expanduser()
    counts = encode_folder(args.folder.expanduser(), out, encoder, shard_size=args.shard_size)
    print(aligned_table(("split", "pictures"), [(k, f"{n:,}") for k, n in counts.items()]))
    print(f"latents of {encoder.name}, written to {out}")


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
