"""ViT on Tiny-ImageNet by label-embedding diffusion (paper, appendix E.1; row 2 of the results).

    python -m experiments.prepare_data tiny_imagenet tiny-imagenet-200 \\
        --data_dir=~/tensorflow_datasets
    python -m experiments.train --config=configs/vit_tiny_imagenet.py --workdir=runs/vit_tiny
    python -m experiments.train --config=configs/vit_tiny_imagenet.py:end_to_end --workdir=runs/twin
    python -m experiments.evaluate --workdir runs/vit_tiny runs/twin

Published accuracy: end to end 35.32, blocks (B = 2) 36.16. 12 layers of width 768, 12 heads, batch
256, AdamW 1e-4, 100 epochs for each block.

Here unlike there: shifts by up to 8 pixels in place of random resized crops, and what
vit_cifar100.py says of the bridge and the weight.

Measured by this code: not yet; each run asks for one data-centre accelerator for about a day.
"""

from pathlib import Path

from ml_collections import ConfigDict

from dbjax.config import load_config

EPOCH = 100_000 // 256


def get_config(variant: str = "blocks") -> ConfigDict:
    config = load_config(
        Path(__file__).with_name(f"vit_cifar100.py:{variant}"),
        {
            "model.width": 768,
            "model.num_heads": 12,
            "model.dtype": "bfloat16",
            "optimizer.learning_rate": 1e-4,
            "optimizer.warmup_steps": 0,
            "optimizer.schedule": "constant",
            "training.steps": 100 * EPOCH,
            "data.name": "tiny_imagenet",
            "data.batch_size": 256,
            "data.crop": 8,
            "data.rand_augment": 0,
            "sampling.batch_size": 500,
        },
    )
    if variant == "blocks":
        config.partition.num_blocks = 2
    return config
