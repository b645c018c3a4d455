"""NoProp's methods and DiffusionBlocks on NoProp's CNN, made small, on scikit-learn's digits.

    python -m experiments.train --config=configs/noprop_digits.py:dt --workdir=runs/noprop_dt

Variants as in noprop_mnist.py. Minutes on two cores. Accuracy is measured on the 360 test digits.
"""

from pathlib import Path

from ml_collections import ConfigDict

from dbjax.config import load_config


def get_config(variant: str = "blocks") -> ConfigDict:
    config = load_config(
        Path(__file__).with_name(f"noprop_mnist.py:{variant}"),
        {
            "model.channels": (16, 32, 64),
            "model.width": 64,
            "optimizer.learning_rate": 1e-3,
            "optimizer.schedule": "cosine",
            "data.name": "digits",
            "data.batch_size": 64,
            "placement.steps_per_visit": 100,
            # XLA's convolutions are several times slower within a loop on CPUs.
            "placement.steps_per_dispatch": 1,
            "training.steps": 1500,
            "training.save_every": 500,
            "training.log_every": 50,
            "sampling.batch_size": 360,
        },
    )
    if config.sampling.num_steps > 100:
        config.sampling.num_steps = 100
    return config
