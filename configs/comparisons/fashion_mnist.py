"""ViT by blocks and end to end on Fashion-MNIST, with Forward-Forward and NoProp beside them.

    python -m experiments.prepare_data fashion_mnist *-ubyte.gz --data_dir=DIR
    python -m experiments.compare --methods=configs/comparisons/fashion_mnist.py \\
        --workdir=runs/compare_fashion --config.data.data_dir=DIR

NoProp's CNN has an eighth of the published channels and width. Each method trains for minutes on
two CPU cores.
"""

import runpy
from pathlib import Path
from typing import Any

VIT, FORWARD_FORWARD = "configs/vit_fashion_mnist.py", "configs/ff_digits.py"
FASHION = {"data.name": "fashion_mnist", "data.batch_size": 128}
MNIST = runpy.run_path(str(Path(__file__).with_name("mnist.py")))


def get_methods() -> dict[str, tuple[str, dict[str, Any]]]:
    """Config file and overrides of each method, by its name."""
    noprop = {**MNIST["SMALL"], **FASHION}
    return {
        "DiffusionBlocks": (f"{VIT}:blocks", {}),
        "end to end": (f"{VIT}:end_to_end", {}),
        "Forward-Forward": (
            f"{FORWARD_FORWARD}:forward_forward",
            {**FASHION, "model.patch_size": 7, "training.steps": 2000, "sampling.batch_size": 500},
        ),
        "NoProp-DT": ("configs/noprop_mnist.py:dt", noprop),
        "NoProp-CT": ("configs/noprop_mnist.py:ct", {**noprop, **MNIST["FEWER"]}),
        "NoProp-FM": ("configs/noprop_mnist.py:fm", {**noprop, **MNIST["FEWER"]}),
    }
