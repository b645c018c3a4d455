"""NoProp's methods and DiffusionBlocks on NoProp's CNN, MNIST, small enough for two CPU cores.

    python -m experiments.prepare_data mnist *-ubyte.gz --data_dir=DIR
    python -m experiments.compare --methods=configs/comparisons/mnist.py \\
        --workdir=runs/compare_mnist --config.data.data_dir=DIR

An eighth of the published channels and width, and two epochs for each network in place of 100.
"""

from typing import Any

EPOCH = 60_000 // 128
SMALL = {
    "model.channels": (4, 8, 16),
    "model.width": 32,
    "optimizer.learning_rate": 1e-3,
    "optimizer.schedule": "cosine",
    "training.steps": 2 * EPOCH,
    "training.save_every": EPOCH,
    # XLA's convolutions are several times slower within a loop on CPUs.
    "placement.steps_per_dispatch": 1,
}
# Inference in 1,000 steps over 10,000 images takes a CPU longer than training.
FEWER = {"sampling.num_steps": 30}


def get_methods() -> dict[str, tuple[str, dict[str, Any]]]:
    """Config file and overrides of each method, by its name."""
    noprop = "configs/noprop_mnist.py"
    return {
        "DiffusionBlocks": (f"{noprop}:blocks", {**SMALL, **FEWER}),
        "end to end": (f"{noprop}:backprop", SMALL),
        "NoProp-DT": (f"{noprop}:dt", SMALL),
        "NoProp-CT": (f"{noprop}:ct", {**SMALL, **FEWER}),
        "NoProp-FM": (f"{noprop}:fm", {**SMALL, **FEWER}),
    }
