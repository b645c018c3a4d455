"""The language gap on a text of yours: the twin, the paper's setting, and what was found to help.

    python -m experiments.sweep --config=configs/ar_docs.py:plain \\
        --sweep=configs/sweeps/language_files.py --workdir=runs/language_files \\
        --config.data.name=files --config.data.data_dir=text.txt \\
        --measure=nats_per_token --measure=walk.nats_per_token \\
        --measure=generated.perplexity --measure=generated.distinct_2

The points are those of the same names in `language_gap.py`, where each is explained.
"""

import runpy
from pathlib import Path

from dbjax.sweeps import Point

CHOSEN = (
    "twin",
    "posterior, text",
    "posterior, text, deep first block",
    "plain",
    "paper",
)


def get_sweep() -> list[Point]:
    file = Path(__file__).with_name("language_gap.py")
    points: list[Point] = runpy.run_path(str(file))["get_sweep"]()
    return [point for point in points if point["name"] in CHOSEN]
