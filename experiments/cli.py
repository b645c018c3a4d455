"""What all programs share: arguments, refusals, a description of the run."""

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from dbjax.build import Setup
from dbjax.config import load_config
from dbjax.data import DatasetInfo, TextInfo
from dbjax.errors import SettingError
from dbjax.monitor import Diverged
from dbjax.noise import MaskingNoise
from dbjax.workdir import read_config

OVERRIDES = """
Any value of the config can be set from the command line, for example
  --config.partition.num_blocks=4 --config.optimizer.learning_rate=3e-4
"""


def program(main: Callable[[Sequence[str]], None]) -> int:
    """Runs `main` on the command line; a refusal is one sentence and exit status 2."""
    try:
        main(sys.argv[1:])
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def parser(name: str, description: str, *, config: bool = True) -> argparse.ArgumentParser:
    """A parser of a program's arguments; with `config`, its help tells of overrides."""
    return argparse.ArgumentParser(
        prog=f"python -m experiments.{name}",
        description=description,
        epilog=OVERRIDES if config else None,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
    """Arguments, and the overrides of the config among them.

    Raises:
        SettingError: for an argument that is neither.
    """
    known, rest = parser.parse_known_args(arguments)
    for text in rest:
        if not text.startswith("--config."):
            raise SettingError(
                f"argument {text!r} is unknown; allowed: --config.section.key=value, "
                f"or see {parser.prog} --help"
            )
    return known, rest


def run_config(config: str | None, workdir: Path, overrides: Sequence[str]) -> ConfigDict:
    """The config file's if one is named, else that of the run in `workdir`; then overrides."""
    if config is not None:
        return load_config(config, overrides)
    read_config(workdir)
    return load_config(workdir / "config.json", overrides)


def describe(setup: Setup) -> str:
    """Two lines on what is about to be trained."""
    task, info = setup.task, setup.dataset.info
    partition = task.partition
    shapes = [
        jax.eval_shape(lambda b=b: setup.trainer.init(b)).params  # type: ignore[misc]
        for b in range(partition.num_blocks)
    ]
    millions = [sum(x.size for x in jax.tree.leaves(s)) / 1e6 for s in shapes]
    masks = isinstance(task.noise, MaskingNoise)
    # u of masks is the share that is not masked.
    ends = [f"{1 - u if masks else task.noise.level(u):.3g}" for u in partition.edges]
    ranges = " | ".join(f"{clean}-{noisy}" for noisy, clean in itertools.pairwise(ends))
    level = "masked share" if masks else f"noise {task.noise.level_name}"
    layers = "+".join(str(len(own)) for own in partition.layers)
    sizes = "+".join(f"{m:.2f}" for m in millions)
    return (
        f"{setup.config.family} on {info.name} ({info.size} samples of {shape_in_words(info)}), "
        f"{layers} layers, {sizes} M parameters, {jax.default_backend()}\n"
        f"{level} by block: {ranges}; placement {setup.placement.name}, "
        f"{setup.placement.interface} interface"
    )


def shape_in_words(info: DatasetInfo | TextInfo) -> str:
    """Of one example: 32x32x3, or 256 tokens of 27 kinds."""
    if isinstance(info, TextInfo):
        return f"{info.length} tokens of {info.vocabulary} kinds"
    return "x".join(map(str, info.image_shape))
