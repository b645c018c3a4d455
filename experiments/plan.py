"""What fits: the memory of a config's training under every way to cut and place it.

Compiles each combination of number of blocks, remat, placement and batch size from shapes alone,
prints what a device needs for it, and recommends a command. Data stored in files need not be there.
Exit status 1 if nothing fits.
"""

import argparse
import dataclasses
import functools
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import jax
from jax.extend.backend import clear_backends
from tqdm.auto import tqdm

from dbjax.errors import require
from dbjax.memory import parse_bytes
from dbjax.planning import MOST_BLOCKS, Choice, Plan, Row
from experiments import cli
from experiments.provenance import provenance

PARTS = {
    "params": "parameters",
    "grads": "gradients",
    "optim": "optimizer",
    "average": "average",
    "activ": "activations",
    "peak": "total",
}
"""Columns of the table, and the fields of `StepMemory` in them."""


def main(arguments: Sequence[str]) -> None:
    args, overrides = cli.parse(_parser(), arguments)
    memory = parse_bytes(args.memory, "--memory")
    simulated = _see_devices(args.devices, args.measure)
    plan = Plan(
        args.config,
        overrides,
        memory=memory,
        devices=args.devices or jax.device_count(),
        batch_sizes=args.batch_sizes,
        num_blocks=args.num_blocks,
    )
    print(_heading(args.config, plan, simulated), flush=True)
    bar = functools.partial(tqdm, leave=False)
    rows = plan.rows(functools.partial(bar, desc="compile"))
    if args.measure:
        # From small to large, since devices tell their highest peak so far.
        rows.sort(key=lambda row: row.memory.total)
        fitting = [plan.measure(row) for row in bar(list(filter(plan.fits, rows)), desc="measure")]
        rows = fitting + rows[len(fitting) :]
    best = plan.best(rows)
    print(table(rows, plan, best))
    if args.out is not None:
        found = [dataclasses.asdict(row) | {"fits": plan.fits(row)} for row in rows]
        result = {"memory": memory, "rows": found, "provenance": provenance()}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")
    if best is None:
        print(_closest(rows, plan))
        raise SystemExit(1)
    print(_recommendation(args.config, overrides, best, plan))


def table(rows: Sequence[Row], plan: Plan, best: Row | None) -> str:
    """Aligned columns, a line for each row, and what the marks mean."""
    unit, name = _unit(max(row.memory.total for row in rows))
    peaks = any(row.measured_peak for row in rows)
    header = [" ", "B", "remat", "placement", "batch", *PARTS]
    lines = [[*header, *(["measured"] if peaks else []), f"{plan.data.info.unit}/s"]]
    for row in rows:
        choice = row.choice
        where = choice.placement
        if where == "sharded":
            where += f" {choice.groups}x{choice.devices // choice.groups}"
        mark = ">" if row is best else "+" if plan.fits(row) else " "
        line = [mark, f"{choice.num_blocks}", choice.remat, where, f"{choice.batch_size}"]
        line += [f"{getattr(row.memory, part) / unit:.2f}" for part in PARTS.values()]
        if peaks:
            line.append(f"{row.measured_peak / unit:.2f}" if row.measured_peak else "-")
        speed = row.examples_per_second
        lines.append([*line, "-" if speed is None else f"{speed:.0f}"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    # Numbers end below each other, words begin so.
    pads = [str.ljust if i in (0, 2, 3) else str.rjust for i in range(len(widths))]
    text = ["  ".join(map(lambda pad, cell, width: pad(cell, width), pads, line, widths))
            for line in lines]  # fmt: skip
    legend = [f"{name} on one device. + fits, > is recommended."]
    if all(row.examples_per_second is None for row in rows):
        legend[0] += f" For {plan.data.info.unit}/s, --measure."
    if any(row.choice.placement == "sharded" for row in rows):
        legend.append("sharded GxW: G groups of blocks, each batch shared out among W devices.")
    return "\n".join(["", *map(str.rstrip, text), "", *legend, ""])


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("plan", __doc__ or "")
    parser.add_argument("--config", metavar="FILE", required=True, help="config")
    parser.add_argument(
        "--memory", metavar="SIZE", required=True, help="of one device: 16GiB, 80GB, 1.5GiB, 500MB"
    )
    parser.add_argument("--devices", type=int, metavar="N", help="default: those here")
    parser.add_argument(
        "--batch_sizes",
        type=int,
        nargs="+",
        metavar="N",
        help="default: the config's, and halvings of it where it does not fit",
    )
    parser.add_argument(
        "--num_blocks",
        type=int,
        nargs="+",
        metavar="B",
        help=f"default: the config's, and the divisors of its depth up to {MOST_BLOCKS}",
    )
    parser.add_argument(
        "--measure", action="store_true", help="run what fits for some steps, on the devices here"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON to write")
    return parser


def _see_devices(count: int | None, measure: bool) -> bool:
    """Simulates devices on the host's CPU if more are asked for than are here."""
    if count is None:
        return False
    require(count >= 1, "--devices", count, "1 or more")
    here = jax.device_count()
    if count <= here:
        return False
    require(not measure, "--devices", count, f"at most {here} with --measure, as are here")
    # Partitioned programs can be compiled only for devices that jax sees.
    clear_backends()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    return True


def _heading(file: str, plan: Plan, simulated: bool) -> str:
    """What is planned, and where the figures come from."""
    info, backend = plan.data.info, jax.default_backend()
    devices = "one device" if plan.devices == 1 else f"each of {plan.devices} devices"
    lines = [
        f"{file}: {info.name} {cli.shape_in_words(info)}, {_amount(plan.memory)} on {devices}",
        f"compiled by XLA for {backend}, nothing allocated",
    ]
    if simulated:
        lines[-1] += f"; the {plan.devices} devices are simulated, since fewer are here"
    if backend == "cpu":
        lines.append("on the CPU XLA keeps more intermediate arrays than on a GPU or TPU")
    return "\n".join(lines)


def _closest(rows: Sequence[Row], plan: Plan) -> str:
    row = min(rows, key=lambda row: row.memory.total)
    return (
        f"Nothing fits. Closest is {_in_words(row.choice)}: it needs {_amount(row.memory.total)}, "
        f"{_amount(row.memory.total - plan.memory)} too much."
    )


def _recommendation(file: str, given: Sequence[str], best: Row, plan: Plan) -> str:
    """The row, why it, and the command that runs it."""
    choice, data, partition = best.choice, plan.settings.data, plan.settings.partition
    free = _amount(plan.memory - best.memory.total)
    if choice.batch_size == data.batch_size:
        why = ["the config's batch size"]
    else:
        why = [f"the batch size closest to the config's {data.batch_size} that fits"]
    if choice.num_blocks == partition.num_blocks:
        why.append("the config's number of blocks")
    else:
        why.append(f"another number of blocks than its {partition.num_blocks}, as those do not fit")
    why.append("no remat" if choice.remat == "none" else "remat, as it does not fit without")
    if choice.num_blocks > 1:
        one = "one block at a time, as together they do not fit"
        why.append(one if choice.placement == "sequential" else "all blocks at once")
    name = Path(file.partition(":")[0]).stem
    overrides = [*given, *choice.overrides(plan.config)]
    train = ["python", "-m", "experiments.train", f"--config={file}", f"--workdir=runs/{name}"]
    return (
        f"Recommended: {_in_words(choice)}; {free} stay free.\nWhy: {', '.join(why)}.\n\n"
        f"{shlex.join([*train, *overrides])}"
    )


def _in_words(choice: Choice) -> str:
    blocks = "end to end" if choice.num_blocks == 1 else f"{choice.num_blocks} blocks"
    where = choice.placement
    if where == "sharded":
        where += f" over {choice.devices} devices in groups of {choice.devices // choice.groups}"
    remat = "without remat" if choice.remat == "none" else "with remat"
    return f"{blocks}, {where}, batch size {choice.batch_size}, {remat}"


def _unit(size: int) -> tuple[int, str]:
    return (2**30, "GiB") if size >= 2**30 else (2**20, "MiB")


def _amount(size: int) -> str:
    unit, name = _unit(size)
    return f"{size / unit:.2f} {name}"


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
