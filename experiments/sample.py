"""Draws samples from a trained run: a picture, the arrays, and how they came to be.

Steps, grid, solver and guidance are free, as in
  --config.sampling.num_steps=20 --config.sampling.solver=heun
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from dbjax import session
from dbjax.build import Setup, build
from dbjax.catalogue import GENERATIVE
from dbjax.errors import require
from dbjax.metrics import quantise
from dbjax.pictures import draw_paths, draw_samples
from dbjax.sampling import Sampler
from dbjax.session import Model
from experiments import cli


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("sample", __doc__ or "")
    parser.add_argument("--config", metavar="FILE", help="config; default: the workdir's own")
    parser.add_argument("--workdir", metavar="DIR", type=Path, required=True, help="run folder")
    parser.add_argument("--num_samples", type=int, default=100, metavar="N", help="default: 100")
    parser.add_argument("--label", type=int, metavar="K", help="class; default: all in turn")
    parser.add_argument("--seed", type=int, default=0, help="of the starting noise; default: 0")
    parser.add_argument(
        "--name", default="samples", help="of the files in DIR/samples; default: samples"
    )
    args, overrides = cli.parse(parser, arguments)
    require(args.num_samples >= 1, "--num_samples", args.num_samples, "1 or more")
    config = cli.run_config(args.config, args.workdir, overrides)
    require(config.family in GENERATIVE, "family", config.family, f"{' or '.join(GENERATIVE)}")
    setup = build(config)
    info = setup.dataset.info
    label = None
    if args.label is not None:
        classes = f"classes 0 to {info.num_classes - 1}" if info.num_classes else "none to give"
        require(0 <= args.label < info.num_classes, "--label", args.label, classes)
        label = np.full(args.num_samples, args.label, np.int32)
    elif info.num_classes:
        label = np.arange(args.num_samples, dtype=np.int32) % info.num_classes
    model = session.load(setup.trainer, args.workdir, shared=setup.placement.interface == "shared")
    with tqdm(total=args.num_samples, desc="sample", unit="sample") as bar:
        samples = model.sample(
            args.num_samples,
            label=label,
            sampler=Sampler(setup.task, setup.sampling),
            seed=args.seed,
            progress=bar.update,
        )
    samples = quantise(samples, info.max_value)
    folder = args.workdir / "samples"
    folder.mkdir(exist_ok=True)
    arrays = {"image": samples} if label is None else {"image": samples, "label": label}
    np.savez_compressed(folder / f"{args.name}.npz", **arrays)
    draw_samples(samples, label, info, folder / f"{args.name}.png")
    draw_walk(model, setup, folder / f"{args.name}_path.png", label, args.seed)
    print(f"{folder / args.name}.png, .npz and _path.png")


def draw_walk(
    model: Model, setup: Setup, file: Path, label: np.ndarray | None = None, seed: int = 0
) -> None:
    """A picture of how a few samples came to be: 8 images, or as many points as show the shape."""
    info = setup.dataset.info
    count = 8 if len(info.image_shape) == 3 else 400
    if info.num_classes:
        label = np.resize(np.arange(info.num_classes) if label is None else label, count)
    sampler = Sampler(setup.task, setup.sampling)
    draw_paths(model.path(count, label=label, sampler=sampler, seed=seed), sampler.grid, info, file)


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
