"""How many blocks may this config have? Answered by a short probe, before the long training.

Trains the uncut network and each cut for a share of the config's steps, with schedules shortened as
much, and compares their denoising losses on test data: same examples, same noise. Names the largest
number of blocks whose excess is within the tolerance, with memory and training time of each, and
how layers might be shared out better. Prints a table; writes choice.json, figure.png and figure.svg
into --out. Exit status 1 where the noise at hand leaves it undecided. For models that draw images
or points.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from tqdm.auto import tqdm

from dbjax import session
from dbjax.build import Setup, build
from dbjax.catalogue import GENERATIVE
from dbjax.choosing import (
    CERTAIN,
    UNDECIDED,
    Candidate,
    Losses,
    Split,
    judge,
    largest,
    suggest_split,
)
from dbjax.config import load_config
from dbjax.errors import SettingError, require
from dbjax.metrics.denoising import DenoisingLoss
from dbjax.planning import MOST_BLOCKS
from experiments import cli
from experiments.choice_figure import choice_figure
from experiments.evaluate import seconds_per_step, train_bytes
from experiments.evaluate_images import HELD_OUT, held_out, held_out_loss
from experiments.provenance import provenance
from experiments.report import show_bytes
from experiments.tables import aligned_table, save_figure


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a number of blocks costs in training.

    Attributes:
        train_bytes: memory of one step of the block that needs most.
        seconds_per_round: one step of every block, one after the other.
    """

    train_bytes: int
    seconds_per_round: float


def main(arguments: Sequence[str]) -> None:
    args, overrides = cli.parse(_parser(), arguments)
    require(args.tolerance > 0, "--tolerance", args.tolerance, "a number above 0")
    require(0 < args.share <= 1, "--share", args.share, "a number in (0, 1]")
    require(args.seeds >= 1, "--seeds", args.seeds, "1 or more")
    base = load_config(args.config, overrides)
    require(base.family in GENERATIVE, "family", base.family, " or ".join(map(repr, GENERATIVE)))
    setups = make_setups(base, args.blocks, args.share)
    batch = held_out(setups[1], HELD_OUT)
    if batch is None:
        raise SettingError(
            f"data.split is {base.data.split!r}; allowed: 'train', of data that have a test split"
        )
    steps = setups[1].training.steps
    counts = ", ".join(map(str, setups))
    print(
        f"{cli.describe(setups[1])}\nprobe: {steps} steps of each block, B = {counts}", flush=True
    )
    found: dict[int, list[DenoisingLoss]] = {b: [] for b in setups}
    todo = [(seed, b) for seed in range(args.seeds) for b in setups]
    for seed, b in tqdm(todo, desc="probe", leave=False):
        setup = setups[b] if seed == 0 else build(_seeded(setups[b].config, seed))
        model = session.run(
            setup.trainer, setup.dataset, setup.data, setup.placement, steps=steps, show=False
        )
        found[b].append(held_out_loss(setup, model, batch))
    losses = {b: np.stack([one.nats for one in own]) for b, own in found.items()}
    candidates = judge(losses, args.tolerance)
    costs = measure(setups)
    chosen = largest(candidates)
    split = None if chosen is None else _split(setups[chosen], losses, found[1][0])
    print(f"\n{table(candidates, costs)}\n\n{verdict(candidates, args)}")
    if chosen is not None and chosen > 1:
        print(of_split(split))
    if args.out is not None:
        _write(args.out, args, setups, found, candidates, costs, chosen, split)
    if chosen is None:
        raise SystemExit(1)


def make_setups(base: ConfigDict, counts: Sequence[int] | None, share: float) -> dict[int, Setup]:
    """The probe of each number of blocks, the uncut network always among them.

    Raises:
        SettingError: if the layers cannot be shared out evenly, or the config says how.
    """
    for name in ("layers", "edges"):
        allowed = "None: blocks of a probe are alike"
        require(base.partition[name] is None, f"partition.{name}", base.partition[name], allowed)
    uncut = _probe(base, 1, share)
    depth = uncut.task.network.depth
    if counts is None:
        counts = [b for b in range(2, MOST_BLOCKS + 1) if depth % b == 0]
    require(any(b > 1 for b in counts), "--blocks", list(counts), "a number above 1, or several")
    return {1: uncut, **{b: _probe(base, b, share) for b in sorted({*counts} - {1})}}


def measure(setups: Mapping[int, Setup]) -> dict[int, Cost]:
    """Memory and time of each number of blocks; times are taken in turn."""
    seconds = seconds_per_step(setups)
    return {b: Cost(train_bytes(setup)["total"], b * seconds[b]) for b, setup in setups.items()}


def table(candidates: Sequence[Candidate], costs: Mapping[int, Cost]) -> str:
    """A line for each number of blocks."""
    lines = [
        [
            str(one.num_blocks),
            f"{one.excess:+.4f}" if one.num_blocks > 1 else "–",
            f"{one.error:.4f}" if one.num_blocks > 1 else "–",
            one.verdict if one.num_blocks > 1 else "uncut",
            show_bytes(costs[one.num_blocks].train_bytes),
            f"{costs[one.num_blocks].train_bytes / costs[1].train_bytes:.2f}",
            f"{costs[one.num_blocks].seconds_per_round / costs[1].seconds_per_round:.2f}",
        ]
        for one in candidates
    ]
    header = [
        "B",
        "excess loss",
        "± error",
        "tolerance",
        "training memory",
        "of B = 1",
        "time of B = 1",
    ]
    return aligned_table(header, lines)


def verdict(candidates: Sequence[Candidate], args: argparse.Namespace) -> str:
    """The answer in words, and what it does not know."""
    chosen = largest(candidates)
    if chosen is None:
        answer = "Undecided: no cut is surely within the tolerance, and not all are beyond."
    elif chosen == 1:
        answer = "Leave it uncut: every cut tried costs more than the tolerance."
    else:
        answer = f"Up to {chosen} blocks: the largest number whose excess is within the tolerance."
    open_ones = [one for one in candidates if one.verdict == UNDECIDED]
    lines = [answer]
    if open_ones:
        names = ", ".join(f"B = {one.num_blocks}" for one in open_ones)
        lines.append(f"Not decided by the noise at hand: {names}; more --seeds or --share may.")
    if chosen == candidates[-1].num_blocks:
        lines.append("More blocks than that were not tried.")
    seeds = ", which know nothing of other seeds" if args.seeds == 1 else f", {args.seeds} seeds"
    lines.append(
        f"Loss in nats per value, tolerance {args.tolerance:g}, decided at {CERTAIN:g} standard "
        f"errors{seeds}."
    )
    if args.share < 1 and chosen != 1:
        lines.append(
            f"After {args.share:g} of the steps: cuts may be ahead early and behind at the end, as "
            "they were in docs/guides/blocks_count.md; a larger --share knows more."
        )
    return "\n".join(lines)


def of_split(split: Split | None) -> str:
    """What the probe says on the layers of each block."""
    if split is None:
        return "Layers: even; to judge other splits, add more blocks than chosen to --blocks."
    layers, even = ",".join(map(str, split.layers)), len(set(split.layers)) == 1
    if even or not split.supported:
        said = "even" if even else f"even; [{layers}] would be better by"
        amount = "" if even else f" {split.gain:.4f} ± {split.error:.4f}, which may be chance"
        return f"Layers: {said}{amount}."
    return (
        f"Layers: --config.partition.layers={layers} should be better by {split.gain:.4f} ± "
        f"{split.error:.4f} (predicted from blocks of other depths, not trained)."
    )


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("choose_blocks", __doc__ or "")
    parser.add_argument("--config", metavar="FILE", required=True, help="config")
    parser.add_argument(
        "--blocks",
        type=int,
        nargs="+",
        metavar="B",
        help=f"numbers of blocks to try; default: divisors of the depth up to {MOST_BLOCKS}",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.01,
        metavar="NATS",
        help="excess loss that is accepted, in nats per value; default: 0.01",
    )
    parser.add_argument(
        "--share",
        type=float,
        default=0.5,
        metavar="S",
        help="of the config's steps, which every number of blocks is given; default: 0.5",
    )
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="trainings of each; default: 1"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder to write")
    return parser


def _probe(base: ConfigDict, num_blocks: int, share: float) -> Setup:
    config = base.copy_and_resolve_references()
    config.partition.num_blocks = num_blocks
    config.training.steps = max(round(share * base.training.steps), 1)
    config.optimizer.warmup_steps = round(share * base.optimizer.warmup_steps)
    return build(config)


def _seeded(config: ConfigDict, number: int) -> ConfigDict:
    other = config.copy_and_resolve_references()
    other.seed += number
    return other


def _split(setup: Setup, losses: Losses, at: DenoisingLoss) -> Split | None:
    partition = setup.task.partition
    owner = np.array([partition.block_of(float(u)) for u in at.u])
    return suggest_split(losses, partition.num_blocks, partition.num_layers, owner)


def _write(
    folder: Path,
    args: argparse.Namespace,
    setups: Mapping[int, Setup],
    found: Mapping[int, Sequence[DenoisingLoss]],
    candidates: Sequence[Candidate],
    costs: Mapping[int, Cost],
    chosen: int | None,
    split: Split | None,
) -> None:
    """choice.json and the figure."""
    first = found[1][0]
    nats = {b: np.mean([one.nats.mean(axis=0) for one in own], axis=0) for b, own in found.items()}
    result: dict[str, Any] = {
        "config": args.config,
        "data": setups[1].dataset.info.name,
        "steps": setups[1].training.steps,
        "share": args.share,
        "seeds": args.seeds,
        "tolerance": args.tolerance,
        "uncut": first.total,
        "num_blocks": chosen,
        "candidates": [
            dataclasses.asdict(one) | dataclasses.asdict(costs[one.num_blocks])
            for one in candidates
        ],
        "split": split and dataclasses.asdict(split),
        "levels": [
            {"sigma": float(s), **{f"B = {b}": float(own[k]) for b, own in nats.items()}}
            for k, s in enumerate(first.sigma)
        ],
        "provenance": provenance(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "choice.json").write_text(json.dumps(result, indent=2) + "\n")
    save_figure(choice_figure(result), folder)
    print(f"wrote choice.json and figure to {folder}")


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
