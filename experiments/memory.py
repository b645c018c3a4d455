"""Memory of one training step of DiT, cut into blocks, from compiled programs that are never run.

Measures the four combinations of the paper's appendix G, end to end and in blocks, each with and
without remat, beside the paper's formula; or, with --optimizers, what the state of a block takes
under each optimizer. Prints Markdown tables and writes JSON. With --docs it measures nothing and
renders the tables of a guide anew from the JSON files they name.
"""

import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
PARTS = ("parameters", "gradients", "optimizer", "average", "activations", "total")
ROOT = Path(__file__).parents[1]
_TABLE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("memory", __doc__ or "", config=False)
    parser.add_argument("--size", default="S", choices=SIZES, help="of the DiT; default: S")
    parser.add_argument("--image_shape", type=int, nargs=3, default=(32, 32, 3), metavar="N")
    parser.add_argument("--batch_size", type=int, default=512, metavar="N")
    parser.add_argument("--num_blocks", type=int, nargs="+", default=[1, 2, 3, 4, 6], metavar="B")
    parser.add_argument(
        "--remat_batch_sizes", type=int, nargs="+", default=[], metavar="N",
        help="further batch sizes, with remat only",
    )  # fmt: skip
    parser.add_argument(
        "--optimizers", action="store_true",
        help="instead: the state of a block (of the last of --num_blocks) under each optimizer",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON to write")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="instead: Markdown to renew")
    args = parser.parse_args(arguments)
    if args.docs is not None:
        args.docs.write_text(renewed(args.docs.read_text()))
        return
    measure = optimizer_states if args.optimizers else steps
    result = measure(DiTConfig(args.size), args) | {"provenance": provenance()}
    print(render(result))
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")


def steps(model: DiTConfig, args: Any) -> dict[str, Any]:
    """One step of one block for each number of blocks, batch size and choice of remat."""
    cases = [
        (args.batch_size, False),
        *((n, True) for n in [args.batch_size, *args.remat_batch_sizes]),
    ]
    rows = []
    for (batch_size, remat), b in tqdm(
        list(itertools.product(cases, args.num_blocks)), desc="compile", leave=False
    ):
        found = dit_memory(model, tuple(args.image_shape), batch_size, b, remat=remat)
        about = {"batch_size": batch_size, "num_blocks": b, "remat": remat}
        rows.append(about | dataclasses.asdict(found))
    return {**_described(model, args), "batch_size": args.batch_size, "rows": rows}


def optimizer_states(model: DiTConfig, args: Any) -> dict[str, Any]:
    """Bytes of one block between steps, from shapes alone."""
    num_blocks = args.num_blocks[-1]
    rows = []
    for name, dtype, decay in itertools.product(
        ("adamw", "lion", "adafactor"), ("float32", "bfloat16"), (0.999, 0.0)
    ):
        # adafactor keeps no moment whose type could be chosen.
        if (name, dtype) == ("adafactor", "bfloat16"):
            continue
        config = OptimizerConfig(name=name, moment_dtype=dtype, ema_decay=decay)
        trainer = _trainer(model, tuple(args.image_shape), num_blocks, config)
        state = jax.eval_shape(functools.partial(trainer.init, 0))
        parts = {"parameters": state.params, "optimizer": state.opt_state, "average": state.ema}
        size = {
            part: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
            for part, tree in parts.items()
        }
        rows.append({"name": name, "moment_dtype": dtype, "averaged": decay > 0, **size})
    return {**_described(model, args), "num_blocks": num_blocks, "optimizers": rows}


def dit_memory(
    model: DiTConfig,
    image_shape: tuple[int, int, int],
    batch_size: int,
    num_blocks: int,
    *,
    remat: bool = False,
) -> StepMemory:
    """Memory of one AdamW step, with averaged weights, of the noisiest of `num_blocks` blocks."""
    trainer = _trainer(model, image_shape, num_blocks, OptimizerConfig(), remat=remat)
    batch = {
        "image": jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    }
    return step_memory(trainer, 0, batch)


def formula(whole: dict[str, Any], depth: int, num_blocks: int, *, remat: bool) -> float:
    """Bytes by the paper's appendix G, with as many copies of the parameters as there are here.

    The paper writes (4P + A)L end to end, 4PL + A with remat, (4P + A)L/B in blocks and 4PL/B + A
    in blocks with remat: L layers, each with parameters P (four times: Adam's two moments and the
    gradient beside them) and activations A. An average makes it 5P.

    Args:
        whole: row of the end-to-end step without remat; P and A are a layer's share of it, so that
            the formula is exact there, the interface counted among the layers.
        depth: L.
        num_blocks: B.
        remat: whether only one layer's activations exist at a time.
    """
    state = whole["total"] - whole["activations"]
    activations = whole["activations"]
    return state / num_blocks + activations / (depth if remat else num_blocks)


def render(result: dict[str, Any]) -> str:
    """The Markdown tables of what `steps` or `optimizer_states` returned, in GiB."""
    if "optimizers" in result:
        return _render_optimizers(result)
    rows, depth = result["rows"], result["depth"]
    own = [row for row in rows if row["batch_size"] == result["batch_size"]]
    whole = next(row for row in own if row["num_blocks"] == 1 and not row["remat"])
    header = ["remat", "B", *PARTS, "times less", "of B", "formula", "times less"]
    table = []
    for row in own:
        b, remat = row["num_blocks"], row["remat"]
        less = _end_to_end(rows, row)["total"] / row["total"]
        said = formula(whole, depth, b, remat=remat)
        table.append([
            "all" if remat else "none", b, *(_gib(row[part]) for part in PARTS),
            f"{less:.2f}", f"{less / b:.2f}", _gib(said),
            f"{formula(whole, depth, 1, remat=remat) / said:.2f}",
        ])  # fmt: skip
    p, a = whole["parameters"] / depth / 2**20, whole["activations"] / depth / 2**20
    text = f"A layer's share: P = {p:.1f} MiB, A = {a:.1f} MiB.\n\n{_markdown(header, table)}"
    small = [row for row in rows if row["remat"]]
    sizes = sorted({row["batch_size"] for row in small})
    if len(sizes) == 1:
        return text
    counts = sorted({row["num_blocks"] for row in small if row["num_blocks"] > 1})
    table = []
    for size in sizes:
        at = {row["num_blocks"]: row for row in small if row["batch_size"] == size}
        less = {b: at[1]["total"] / at[b]["total"] for b in counts}
        cells = [f"{less[b]:.2f} ({less[b] / b:.2f})" for b in counts]
        table.append([size, _gib(at[1]["total"]), *cells])
    header = ["batch", "end to end", *(f"B = {b}" for b in counts)]
    return f"{text}\n\nTimes less (and that of B), with remat:\n\n{_markdown(header, table)}"


def renewed(text: str) -> str:
    """`text` with what lies between `<!-- table: FILE -->` and `<!-- end -->` rendered anew."""

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}\n{render(json.loads((ROOT / match[2]).read_text()))}\n\n{match[3]}"

    return _TABLE.sub(table, text)


def _render_optimizers(result: dict[str, Any]) -> str:
    header = ["optimizer", "moments", "average kept", "parameters", "optimizer state", "average"]
    table = []
    for row in result["optimizers"]:
        sizes = [row[part] for part in ("parameters", "optimizer", "average")]
        copies = f"{sum(sizes) / row['parameters']:.2f}"
        moments = "none" if row["name"] == "adafactor" else row["moment_dtype"]
        kept = "yes" if row["averaged"] else "no"
        table.append([row["name"], moments, kept, *map(_gib, [*sizes, sum(sizes)]), copies])
    return _markdown([*header, "total", "copies"], table)


def _end_to_end(rows: Sequence[dict[str, Any]], of: dict[str, Any]) -> dict[str, Any]:
    """The row of the uncut network with the batch size and remat of another row."""
    same = [r for r in rows if all(r[key] == of[key] for key in ("batch_size", "remat"))]
    return next(row for row in same if row["num_blocks"] == 1)


def _described(model: DiTConfig, args: Any) -> dict[str, Any]:
    return {
        "model": f"DiT-{model.size}/{model.patch_size}",
        "depth": model.dimensions.depth,
        "image_shape": list(args.image_shape),
    }


def _trainer(
    model: DiTConfig,
    image_shape: tuple[int, int, int],
    num_blocks: int,
    optimizer: OptimizerConfig,
    *,
    remat: bool = False,
) -> Trainer:
    network = DiT(model, image_shape, NUM_CLASSES)
    noise = LogNormalNoise()
    partition = make_partition(PartitionConfig(num_blocks), noise, network.depth)
    return Trainer(
        DenoisingTask(network, noise, partition, image_shape, NUM_CLASSES),
        make_optimizer(optimizer, 1000),
        optimizer.ema_decay,
        remat=range(num_blocks) if remat else (),
    )


def _markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---:"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}"


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
