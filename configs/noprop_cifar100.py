"""NoProp's methods and DiffusionBlocks on NoProp's CNN, CIFAR-100; variants as in noprop_mnist.py.

    python -m experiments.prepare_data cifar100 cifar-100-binary.tar.gz \\
        --data_dir=~/tensorflow_datasets
    python -m experiments.train --config=configs/noprop_cifar100.py:dt --workdir=runs/noprop_dt

Published (arXiv 2503.24322, table 1; one-hot, learned, prototype): backprop 45.85 46.57 47.80,
DT 45.93 45.19 46.06, CT 33.66 33.99 21.31, FM 6.38 31.14 37.57, after 150 epochs, CT and FM 1,000.
DiffusionBlocks (table 6) 46.88 after 1,000 epochs, beside backprop 47.80, DT 46.06, CT 21.31 and
FM 37.57 from NoProp's last column; `--config.training.steps=58500` gives `blocks` DT's 150 epochs.

Measured by this code: not yet; the runs ask for one data-centre accelerator for some hours.
"""

from pathlib import Path

from ml_collections import ConfigDict

from dbjax.config import load_config

EPOCH = 50_000 // 128
EPOCHS = {"dt": 150, "ct": 1000, "fm": 1000, "backprop": 150, "blocks": 1000}


def get_config(variant: str = "blocks") -> ConfigDict:
    return load_config(
        Path(__file__).with_name(f"noprop_mnist.py:{variant}"),
        {
            "data.name": "cifar100",
            "placement.steps_per_visit": EPOCH,
            "training.steps": EPOCHS[variant] * EPOCH,
            "training.save_every": 10 * EPOCH,
            "training.log_every": EPOCH // 4,
        },
    )
