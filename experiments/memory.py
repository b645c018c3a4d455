"""Memory of one training step of DiT, cut into blocks, from compiled programs that are never run.

Prints a table and writes it as JSON, such as results/memory_dit_s2.json.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from tqdm.auto import tqdm

from dbjax.families.dit import SIZES, DiT, DiTConfig
from dbjax.memory import StepMemory, step_memory
from dbjax.noise import LogNormalNoise
from dbjax.optimizer import OptimizerConfig, make_optimizer
from dbjax.partition import PartitionConfig, make_partition
from dbjax.task import DenoisingTask
from dbjax.training import Trainer
from experiments import cli
from experiments.provenance import provenance

NUM_CLASSES = 1000


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("memory", __doc__ or "", config=False)
    parser.add_argument("--size", default="S", choices=SIZES, help="of the DiT; default: S")
    parser.add_argument("--image_shape", type=int, nargs=3, default=(32, 32, 3), metavar="N")
    parser.add_argument("--batch_size", type=int, default=512, metavar="N")
    parser.add_argument("--num_blocks", type=int, nargs="+", default=[1, 2, 3, 4, 6], metavar="B")
    parser.add_argument("--remat", action="store_true", help="recompute each layer's inside")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON to write")
    args = parser.parse_args(arguments)
    model = DiTConfig(args.size)
    memory = {
        b: dit_memory(model, tuple(args.image_shape), args.batch_size, b)
        for b in tqdm(args.num_blocks, desc="compile")
    }
    print(table(memory))
    if args.out is not None:
        rows = {str(b): dataclasses.asdict(found) for b, found in memory.items()}
        result = {"bytes_by_num_blocks": rows, "provenance": provenance()}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")


def dit_memory(
    model: DiTConfig, image_shape: tuple[int, int, int], batch_size: int, num_blocks: int
) -> StepMemory:
    """Memory of one AdamW step, with averaged weights, of the noisiest of `num_blocks` blocks."""
    network = DiT(model, image_shape, NUM_CLASSES)
    noise = LogNormalNoise()
    partition = make_partition(PartitionConfig(num_blocks), noise, network.depth)
    task = DenoisingTask(network, noise, partition, image_shape, NUM_CLASSES)
    trainer = Trainer(task, make_optimizer(OptimizerConfig(), 1000), ema_decay=0.999)
    batch = {
        "image": jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    }
    return step_memory(trainer, 0, batch)


def table(memory: dict[int, StepMemory]) -> str:
    """Markdown, in GiB, each total beside its ratio to the first row's."""
    names = [field.name for field in dataclasses.fields(StepMemory)]
    whole = next(iter(memory.values())).total
    lines = [
        f"| blocks | {' | '.join(names)} | ratio |",
        f"| --- | {'---: | ' * len(names)}---: |",
    ]
    for b, found in memory.items():
        cells = " | ".join(f"{getattr(found, name) / 2**30:.2f}" for name in names)
        lines.append(f"| {b} | {cells} | {found.total / whole:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
