"""Stands in for experiments.train and experiments.evaluate where a sweep's bookkeeping is tested.

sweep_stub.py train --workdir=RUN        writes each step to RUN/journal.txt, then a checkpoint
sweep_stub.py evaluate --workdir=RUN --out=DIR --config.key=value ...
"""

import json
import os
import sys
import time
from pathlib import Path

program, *arguments = sys.argv[1:]
options = dict(text.partition("=")[::2] for text in arguments)
run = Path(options["--workdir"])
config = json.loads((run / "config.json").read_text())
steps, blocks = config["training"]["steps"], range(config["partition"]["num_blocks"])

if program == "train":
    with (run / "journal.txt").open("a+") as journal:
        journal.seek(0)
        for step in range(len(journal.read().split()) + 1, steps + 1):
            journal.write(f"{step}\n")
            journal.flush()
            time.sleep(float(os.environ.get("STUB_SECONDS", "0")))
            if os.environ.get("STUB_FAILS", "nothing") in str(run):
                sys.exit("a long story\nRESOURCE_EXHAUSTED: out of memory")
    for block in blocks:
        (run / "checkpoints" / f"block_{block:02d}" / str(steps)).mkdir(parents=True)
else:
    for key, value in options.items():
        if key.startswith("--config."):
            *parents, last = key.removeprefix("--config.").split(".")
            holder = config
            for name in parents:
                holder = holder[name]
            holder[last] = type(holder[last])(value)
    out = Path(options["--out"])
    out.mkdir(parents=True, exist_ok=True)
    with (out / "evaluated.txt").open("a") as journal:
        journal.write(" ".join(arguments) + "\n")
    found = {
        "frechet_distance": config["partition"]["num_blocks"] + config["seed"],
        "layer_evaluations_per_sample": config["sampling"]["num_steps"],
        "steps": {str(block): steps for block in blocks},
        "config": config,
        "provenance": {"commit": "abc"},
        "compiled": os.environ["JAX_COMPILATION_CACHE_DIR"],
        "asked": {"num_samples": None, "num_noises": 1},
    }
    if "--quality_only" not in options:
        found |= {"train_bytes": {"total": 2**20}, "seconds_per_step": 0.25}
    (out / "evaluation.json").write_text(json.dumps(found))
