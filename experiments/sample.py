"""Draws samples from a trained run: a picture, the arrays, and how they came to be; or texts.

Steps, grid, solver and guidance are free, as in
  --config.sampling.num_steps=20 --config.sampling.solver=heun
Texts of masked models can be filled in, a gap for each token that is left open:
  --prompt="The ____ statement" --show_steps
Autoregressive models continue a prompt, and the first text is shown as it is written:
  --prompt="The import statement" --config.sampling.temperature=0.8
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from dbjax import session
from dbjax.adaptive import adapt
from dbjax.build import Setup, build
from dbjax.catalogue import GENERATIVE, TEXT
from dbjax.errors import require
from dbjax.families.masked_lm import MaskedTask
from dbjax.metrics import quantise
from dbjax.pictures import draw_paths, draw_samples
from dbjax.sampling import Sampler
from dbjax.session import Model
from experiments import cli
from experiments.image_features import add_autoencoder, open_autoencoder
from experiments.sample_text import TextRequest, prompt_of, sample_texts, start_of

NUM_SAMPLES, NUM_TEXTS = 100, 8


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("sample", __doc__ or "")
    parser.add_argument("--config", metavar="FILE", help="config; default: the workdir's own")
    parser.add_argument("--workdir", metavar="DIR", type=Path, required=True, help="run folder")
    parser.add_argument(
        "--num_samples",
        type=int,
        metavar="N",
        help=f"default: {NUM_SAMPLES}, or {NUM_TEXTS} texts",
    )
    parser.add_argument("--label", type=int, metavar="K", help="class; default: all in turn")
    parser.add_argument("--seed", type=int, default=0, help="of the starting noise; default: 0")
    parser.add_argument(
        "--name", default="samples", help="of the files in DIR/samples; default: samples"
    )
    add_autoencoder(parser.add_argument_group("models that draw images"))
    text = parser.add_argument_group("models that write text")
    text.add_argument("--prompt", metavar="TEXT", help="what the texts shall say, with gaps")
    text.add_argument("--gap", metavar="TEXT", help="stands for one masked token; default: _")
    text.add_argument("--show_steps", action="store_true", help="print how one of them comes to be")
    args, overrides = cli.parse(parser, arguments)
    some = args.num_samples is None or args.num_samples >= 1
    require(some, "--num_samples", args.num_samples, "1 or more")
    config = cli.run_config(args.config, args.workdir, overrides)
    allowed = " or ".join((*GENERATIVE, *TEXT))
    require(config.family in (*GENERATIVE, *TEXT), "family", config.family, allowed)
    if config.family in TEXT:
        _write(args, build(config))
    else:
        _draw(args, build(config))


def _write(args: argparse.Namespace, setup: Setup) -> None:
    """Texts."""
    require(args.label is None, "--label", args.label, "none to give: texts have no classes")
    vae = args.autoencoder
    require(vae is None, "--autoencoder", vae, "none to give: texts are no latents")
    request = TextRequest(
        count=args.num_samples or NUM_TEXTS,
        prompt=args.prompt,
        gap="_" if args.gap is None else args.gap,
        show_steps=args.show_steps,
        seed=args.seed,
    )
    # Refused before the blocks are read.
    (start_of if isinstance(setup.task, MaskedTask) else prompt_of)(setup, request)
    sample_texts(
        setup,
        session.load(setup.trainer, args.workdir, shared=setup.placement.interface == "shared"),
        request,
        args.workdir / "samples",
        args.name,
        colour=sys.stdout.isatty(),
    )


def _draw(args: argparse.Namespace, setup: Setup) -> None:
    """Images or points."""
    for name in ("prompt", "gap", "show_steps"):
        value = getattr(args, name)
        allowed = f"nothing for family {setup.config.family!r}, which writes no text"
        require(value in (None, False), f"--{name}", value, allowed)
    info, count = setup.dataset.info, args.num_samples or NUM_SAMPLES
    label = None
    if args.label is not None:
        classes = f"classes 0 to {info.num_classes - 1}" if info.num_classes else "none to give"
        require(0 <= args.label < info.num_classes, "--label", args.label, classes)
        label = np.full(count, args.label, np.int32)
    elif info.num_classes:
        label = np.arange(count, dtype=np.int32) % info.num_classes
    autoencoder = open_autoencoder(args.autoencoder, setup.dataset)
    model = session.load(setup.trainer, args.workdir, shared=setup.placement.interface == "shared")
    sampling = adapt(setup.task, model.blocks, setup.sampling)
    setup = dataclasses.replace(setup, sampling=sampling)
    sampler = Sampler(setup.task, sampling)
    with tqdm(total=count, desc="sample", unit="sample") as bar:
        samples = model.sample(
            count,
            label=label,
            sampler=sampler,
            seed=args.seed,
            progress=bar.update,
        )
    samples = quantise(samples, info.max_value)
    folder = args.workdir / "samples"
    folder.mkdir(exist_ok=True)
    arrays = {"image": samples} if label is None else {"image": samples, "label": label}
    if autoencoder is not None:
        # The picture of the way there stays one of latents: most of what is on it is noise.
        samples = autoencoder.decode(samples)
        arrays |= {"image": samples, "latent": arrays["image"]}
        info = dataclasses.replace(info, image_shape=samples.shape[1:], max_value=255.0)
    np.savez_compressed(folder / f"{args.name}.npz", **arrays)
    draw_samples(samples, label, info, folder / f"{args.name}.png")
    draw_walk(model, setup, folder / f"{args.name}_path.png", label, args.seed)
    calls = " + ".join(map(str, sampler.calls))
    print(f"{folder / args.name}.png, .npz and _path.png; calls of each block: {calls}")


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
