"""The demo: digits by blocks beside their end-to-end twin, sampled, evaluated, reported.

Minutes on two cores. Run again, it continues where it stopped.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from dbjax.build import build
from dbjax.workdir import read_config
from experiments import cli, report, train
from experiments.evaluate import evaluate

CONFIG = Path(__file__).parents[1] / "configs" / "dit_digits.py"
RUNS = ("blocks", "end_to_end")
SUMMARY = (
    "frechet_distance",
    "label_accuracy",
    "train_bytes",
    "layer_evaluations_per_sample",
    "seconds_per_step",
    "samples_per_second",
    "num_samples",
    "steps",
)


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("demo", __doc__ or "")
    parser.add_argument("--workdir", metavar="DIR", type=Path, default=Path("runs/demo"))
    args, overrides = cli.parse(parser, arguments)
    start = time.perf_counter()
    for name in RUNS:
        run = f"--workdir={args.workdir / name}"
        train.main([f"--config={CONFIG}:{name}", run, *overrides])
    trained = time.perf_counter() - start
    setups = {args.workdir / name: build(read_config(args.workdir / name)) for name in RUNS}
    results = evaluate(setups, None)
    summary = {
        path.name: {key: found[key] for key in SUMMARY if key in found}
        for path, found in results.items()
    }
    summary["provenance"] = next(iter(results.values()))["provenance"]
    (args.workdir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    report.write_report(list(setups), args.workdir / "report.html", "Digits, block by block")
    print(f"trained in {trained:.0f} s; {args.workdir / 'summary.json'} holds the figures")


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
