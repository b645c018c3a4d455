"""Speed of training and of sampling by blocks, side by side in one process on one device.

Compares a step of all blocks in one program (stacked) with a step of the uncut network of the same
layers, and a block's step under switching (sequential, visits as measured) with one without. Of
models that draw images or points it compares the samples that both draw in a second as well.
"""

import dataclasses
import functools
import itertools
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dbjax.build import Setup, build
from dbjax.catalogue import GENERATIVE
from dbjax.config import load_config
from dbjax.data import make_stream
from dbjax.metrics.speed import side_by_side
from dbjax.placement import PlacementConfig, Sequential, make_placement
from dbjax.sampling import Sampler
from dbjax.session import Model
from dbjax.training import Placement
from experiments import cli
from experiments.provenance import provenance


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("benchmark", __doc__ or "")
    parser.add_argument("--config", metavar="FILE", required=True, help="config of the blocks")
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="default: 7")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON to write")
    args, overrides = cli.parse(parser, arguments)
    blocks = build(load_config(args.config, overrides))
    uncut = ["partition.num_blocks=1", "partition.layers=None", "partition.edges=None"]
    whole = build(load_config(args.config, [*overrides, *uncut]))
    found = measure(blocks, whole, args.repeats)
    if blocks.config.family in GENERATIVE:
        found["samples_per_second"] = sampling(blocks, whole, args.repeats)
    print(describe(found))
    if args.out is not None:
        result = {**found, "config": blocks.config.to_dict(), "provenance": provenance()}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")


def measure(blocks: Setup, whole: Setup, repeats: int) -> dict[str, Any]:
    """Seconds and ratios of medians; what belongs together is timed in turn."""
    num_blocks = blocks.task.partition.num_blocks
    dispatch = blocks.placement.steps_per_dispatch
    together = side_by_side(
        {
            "end_to_end": advancing(place(whole, "stacked", [0]), dispatch),
            "stacked": advancing(place(blocks, "stacked", range(num_blocks)), dispatch),
        },
        repeats=repeats,
    )
    sequential = place(blocks, "sequential", range(num_blocks))
    assert isinstance(sequential, Sequential)
    # The first round measures steps and switches and so decides on the visits.
    first = 2 * dispatch
    list(sequential.advance(first))
    visit = sequential.steps_per_visit
    assert visit is not None
    done = visit * -(-first // visit)
    list(sequential.advance(done))
    # Alone on the device, a block never leaves it.
    alone = [place(blocks, "stacked", [b]) for b in range(num_blocks)]
    turns = side_by_side(
        {
            "switching": advancing(sequential, visit, done),
            **{b: advancing(alone[b], visit) for b in range(num_blocks)},
        },
        repeats=repeats,
    )
    unswitched = sum(turns[b] for b in range(num_blocks))
    return {
        "num_blocks": num_blocks,
        "seconds_per_step": {name: seconds / dispatch for name, seconds in together.items()},
        "stacked_over_end_to_end": together["stacked"] / together["end_to_end"],
        "steps_per_visit": visit,
        "seconds_per_switch": sequential.timing["switch"],
        "seconds_per_block_step": {
            "sequential": turns["switching"] / (visit * num_blocks),
            "without_switching": unswitched / (visit * num_blocks),
        },
        "sequential_over_without_switching": turns["switching"] / unswitched,
        "bytes_of_a_block": statistics.mean(_bytes(sequential.state(b)) for b in range(num_blocks)),
    }


def sampling(blocks: Setup, whole: Setup, repeats: int) -> dict[str, float]:
    """A batch of each, drawn in turn from fresh weights, whose speed is that of trained ones."""
    size = blocks.sampling.batch_size
    programs = {}
    for name, setup in (("end_to_end", whole), ("blocks", blocks)):
        init = jax.jit(setup.trainer.init, static_argnums=0)
        weights = {b: init(b).weights for b in range(setup.task.partition.num_blocks)}
        classes = setup.dataset.info.num_classes
        programs[name] = functools.partial(
            Model(setup.task, weights, {}).sample,
            size,
            label=np.arange(size) % classes if classes else None,
            sampler=Sampler(setup.task, setup.sampling),
        )
    return {
        name: size / seconds for name, seconds in side_by_side(programs, repeats=repeats).items()
    }


def place(setup: Setup, name: str, blocks: Sequence[int]) -> Placement:
    """A placement of fresh blocks."""
    config: PlacementConfig = dataclasses.replace(
        setup.placement, name=name, interface="owned", steps_per_visit=None
    )
    seed = setup.trainer.seed
    states = {b: jax.jit(setup.trainer.init, static_argnums=0)(b) for b in blocks}
    streams = {b: make_stream(setup.dataset, setup.data, seed=seed, block=b) for b in blocks}
    return make_placement(config, setup.trainer, states, streams)


def advancing(placement: Placement, steps: int, done: int = 0) -> Callable[[], Any]:
    """A program that advances every block by `steps` and returns their last metrics."""

    targets = itertools.count(done + steps, steps)

    def advance() -> Any:
        return list(placement.advance(next(targets)))[-1].metrics

    return advance


def describe(found: dict[str, Any]) -> str:
    """A line or two for each comparison."""
    step, block_step = found["seconds_per_step"], found["seconds_per_block_step"]
    switch, drawn = found["seconds_per_switch"], found.get("samples_per_second")
    lines = [
        f"a step of all {found['num_blocks']} blocks in one program: {_ms(step['stacked'])}",
        f"a step of the uncut network:             {_ms(step['end_to_end'])} "
        f"(ratio {found['stacked_over_end_to_end']:.3f})",
        f"a block's step with switching every {found['steps_per_visit']} steps: "
        f"{_ms(block_step['sequential'])}, without: {_ms(block_step['without_switching'])} "
        f"(ratio {found['sequential_over_without_switching']:.3f})",
        f"a switch: {_ms(switch)} for {found['bytes_of_a_block'] / 2**20:.2f} MiB",
    ]
    if drawn:
        lines.append(
            f"samples of the blocks: {drawn['blocks']:.4g} in a second, of the uncut network: "
            f"{drawn['end_to_end']:.4g} (ratio {drawn['blocks'] / drawn['end_to_end']:.3f})"
        )
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms"


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
