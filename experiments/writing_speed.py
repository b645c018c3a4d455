"""Time per token of models that write, side by side in one process, with fresh weights.

Every config of --config is timed beside that of --twin, at each number of texts written at once.
"""

import functools
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dbjax import keys
from dbjax.autoregressive import LanguageTask
from dbjax.build import Setup, build
from dbjax.config import load_config
from dbjax.devices import to_device
from dbjax.errors import require
from dbjax.generation import Generator
from dbjax.metrics.speed import side_by_side
from experiments import cli
from experiments.provenance import provenance


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("writing_speed", __doc__ or "")
    parser.add_argument(
        "--config", metavar="FILE", required=True, action="append", help="repeat it for more"
    )
    parser.add_argument("--twin", metavar="FILE", required=True, help="what the others are beside")
    parser.add_argument(
        "--texts", metavar="N", type=int, nargs="+", default=[1, 16], help="default: 1 16"
    )
    parser.add_argument("--tokens", metavar="N", type=int, default=64, help="written; default: 64")
    parser.add_argument("--repeats", metavar="N", type=int, default=7, help="default: 7")
    parser.add_argument("--out", metavar="FILE", type=Path, help="JSON to write")
    args, overrides = cli.parse(parser, arguments)
    files = [args.twin, *args.config]
    require(len(set(files)) == len(files), "--config", args.config, "different configs")
    for name, least in (("--tokens", args.tokens), ("--repeats", args.repeats)):
        require(least >= 1, name, least, "1 or more")
    require(min(args.texts) >= 1, "--texts", args.texts, "numbers from 1")
    setups = {file: build(load_config(file, overrides)) for file in files}
    for file, setup in setups.items():
        allowed = f"a family that writes token by token ({file})"
        require(isinstance(setup.task, LanguageTask), "family", setup.config.family, allowed)
        most = setup.task.length
        require(args.tokens <= most, "--tokens", args.tokens, f"at most {most}, data.length")
    rows = measure(setups, args.twin, args.texts, args.tokens, args.repeats)
    for row in rows:
        print(
            f"{row['config']}, {row['texts']} at once: {1e3 * row['seconds_per_token']:.2f} ms a "
            f"token, {row['ratio']:.2f} times the twin's"
        )
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        found = {"tokens": args.tokens, "rows": rows, "provenance": provenance()}
        args.out.write_text(json.dumps(found, indent=2) + "\n")


def measure(
    setups: dict[str, Setup], twin: str, texts: Sequence[int], tokens: int, repeats: int
) -> list[dict[str, Any]]:
    """A row for each config and number of texts; those of one number are timed in turn."""
    rows = []
    for count in texts:
        seconds = side_by_side(
            {file: _writing(setup, count, tokens) for file, setup in setups.items()},
            repeats=repeats,
        )
        for file, setup in setups.items():
            generator = Generator(setup.task, setup.sampling)
            rows.append(
                {
                    "config": file,
                    "texts": count,
                    "layer_evaluations_per_token": generator.layer_evaluations,
                    "seconds_per_token": seconds[file] / tokens,
                    "ratio": seconds[file] / seconds[twin],
                }
            )
    return rows


def _writing(setup: Setup, count: int, tokens: int) -> Callable[[], Any]:
    """Writes texts from their beginning; nothing is compiled a second time."""
    task = setup.task
    init = jax.jit(task.init, static_argnums=1)
    blocks = {
        b: to_device(init(keys.derive(0, "init"), b)) for b in range(task.partition.num_blocks)
    }
    generator = Generator(task, setup.sampling)
    prompt = np.zeros((count, 0), np.int32)
    seeds = map(functools.partial(keys.derive, 0, "sample"), itertools.count())
    return lambda: generator(blocks, prompt, tokens, seed=next(seeds))


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
