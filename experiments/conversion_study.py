"""A pretrained network, converted and trained further by blocks and end to end: what is lost?

For each seed a ViT is pretrained on digits, written as transformers writes its own, read back as
any file would be, and trained further in both ways for a sixth of the steps. `from_scratch` is the
control: the same blocks and steps from fresh weights. All are ordinary run folders,
WORKDIR/seed_<s>/<name>. Writes conversion.json into WORKDIR; run again, it continues.
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dbjax.build import build
from dbjax.errors import require
from dbjax.workdir import read_config
from experiments import cli, convert, train
from experiments.evaluate import evaluate
from experiments.provenance import provenance
from experiments.tables import aligned_table

CONFIGS = Path(__file__).parents[1] / "configs"
LAYOUT = "--layout=transformers_vit"
RUNS = ("pretrained", "end_to_end", "by_blocks", "from_scratch")
MEASURES = ("accuracy", "negative_log_likelihood")


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("conversion_study", __doc__ or "")
    parser.add_argument("--workdir", metavar="DIR", type=Path, default=Path("runs/conversion"))
    parser.add_argument("--seeds", metavar="N", type=int, default=3, help="default: 3")
    args, overrides = cli.parse(parser, arguments)
    require(args.seeds >= 1, "--seeds", args.seeds, "1 or more")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in RUNS}
    for seed in range(args.seeds):
        folder = args.workdir / f"seed_{seed}"
        _train(folder, [*overrides, f"--config.seed={seed}"])
        setups = {folder / name: build(read_config(folder / name)) for name in RUNS}
        for path, results in evaluate(setups, quality_only=True).items():
            found[path.name].append(results)
    rows = [
        {
            "name": name,
            "steps": max(results[0]["steps"].values()),
            **{key: _summary([one[key] for one in results]) for key in MEASURES},
        }
        for name, results in found.items()
    ]
    document = {"seeds": args.seeds, "rows": rows, "provenance": provenance()}
    (args.workdir / "conversion.json").write_text(json.dumps(document, indent=2) + "\n")
    print(aligned_table(["run", "steps", *MEASURES], [_cells(row) for row in rows]))


def _train(folder: Path, own: Sequence[str]) -> None:
    """All runs of a seed; what is there already is left as it is or continued."""
    plain = f"--config={CONFIGS / 'vit_digits_converted.py'}:end_to_end"
    blocks = f"--config={CONFIGS / 'vit_digits_converted.py'}"
    pretrained, exported, converted = (
        folder / name for name in ("pretrained", "exported", "converted")
    )
    first = f"--config={CONFIGS / 'vit_digits.py'}:end_to_end"
    train.main([first, f"--workdir={pretrained}", *own])
    if not exported.exists():
        convert.main([LAYOUT, f"--export={exported}", f"--workdir={pretrained}"])
    if not converted.exists():
        convert.main([str(exported), LAYOUT, plain, f"--workdir={converted}", *own])
    source = f"--from={converted}"
    train.main([plain, source, "--blocks=0", f"--workdir={folder / 'end_to_end'}", *own])
    train.main([blocks, source, f"--workdir={folder / 'by_blocks'}", *own])
    train.main([blocks, f"--workdir={folder / 'from_scratch'}", *own])


def _summary(values: Sequence[float]) -> dict[str, Any]:
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "values": list(values)}


def _cells(row: dict[str, Any]) -> list[str]:
    """Mean and, of several seeds, deviation."""
    texts = []
    for key in MEASURES:
        mean, std = row[key]["mean"], row[key]["std"]
        texts.append(f"{mean:.4f}" + ("" if std is None else f" ± {std:.4f}"))
    return [row["name"], f"{row['steps']:,}", *texts]


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
