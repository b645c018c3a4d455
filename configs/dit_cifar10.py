"""DiT-S/2 on CIFAR-10 pixels, as published (paper, section 5.2 and appendix E.2).

    python -m experiments.prepare_data cifar10 cifar-10-binary.tar.gz \\
        --data_dir=~/tensorflow_datasets
    python -m experiments.train --config=configs/dit_cifar10.py --workdir=runs/cifar10
    python -m experiments.train --config=configs/dit_cifar10.py:end_to_end --workdir=runs/twin

Published: 12 layers, B = 3, batch 512, 100 epochs for each block, AdamW 1e-4, label dropout 0.1,
50 Euler steps, guidance 2.0, 50,000 samples. FID train / test: blocks 30.59 / 37.20, end to end
32.84 / 39.83. The paper does not state weight decay, EMA, warm-up, augmentation or precision; here:
none, 0.9999, none, horizontal flips, bfloat16 compute.

Measured by this code: not yet; the run asks for one data-centre accelerator for some hours.
"""

from ml_collections import ConfigDict

from dbjax.build import default_config

EPOCH = 50_000 // 512


def get_config(variant: str = "blocks") -> ConfigDict:
    config = default_config("dit")
    config.model.update(size="S", patch_size=2, dtype="bfloat16")
    config.partition.num_blocks = {"blocks": 3, "end_to_end": 1}[variant]
    config.optimizer.update(learning_rate=1e-4, ema_decay=0.9999)
    config.training.update(steps=100 * EPOCH, save_every=10 * EPOCH, log_every=100)
    config.placement.update(steps_per_visit=EPOCH, steps_per_dispatch=20)
    config.sampling.update(num_steps=50, guidance=2.0, batch_size=500)
    config.data.update(name="cifar10", batch_size=512, flip=True)
    return config
