"""NoProp's methods and DiffusionBlocks on NoProp's CNN, CIFAR-10; variants as in noprop_mnist.py.

    python -m experiments.prepare_data cifar10 cifar-10-binary.tar.gz \\
        --data_dir=~/tensorflow_datasets
    python -m experiments.train --config=configs/noprop_cifar10.py:dt --workdir=runs/noprop_dt

Published (arXiv 2503.24322, table 1; one-hot, learned, prototype): backprop 79.92 79.30 79.58,
DT 79.25 79.12 80.54, CT 73.35 71.77 66.54, FM 73.14 73.50 75.18, after 150 epochs, CT and FM 500.

Measured by this code: not yet; the runs ask for one data-centre accelerator for some hours.
"""

from pathlib import Path

from ml_collections import ConfigDict

from dbjax.config import load_config

EPOCH = 50_000 // 128
EPOCHS = {"dt": 150, "ct": 500, "fm": 500, "backprop": 150, "blocks": 150}


def get_config(variant: str = "blocks") -> ConfigDict:
    return load_config(
        Path(__file__).with_name(f"noprop_mnist.py:{variant}"),
        {
            "data.name": "cifar10",
            "placement.steps_per_visit": EPOCH,
            "training.steps": EPOCHS[variant] * EPOCH,
            "training.save_every": 10 * EPOCH,
            "training.log_every": EPOCH // 4,
        },
    )
