"""DiT on scikit-learn's 8 x 8 digits: the demo.

    python -m experiments.train --config=configs/dit_digits.py --workdir=runs/digits
    python -m experiments.train --config=configs/dit_digits.py:end_to_end --workdir=runs/twin
    python -m experiments.evaluate --workdir runs/digits runs/twin

`blocks` cuts 6 layers into 3 blocks; `end_to_end` is the uncut twin, which makes the same number of
layer evaluations. `ablation` has 12 narrow layers, for sweeps over who owns how many: trained for a
minute, with test images kept apart.
"""

from ml_collections import ConfigDict

from dbjax.build import default_config


def get_config(variant: str = "blocks") -> ConfigDict:
    config = default_config("dit")
    config.model.update(size="tiny", patch_size=4, depth=6, width=96, num_heads=4)
    config.partition.num_blocks = {"blocks": 3, "end_to_end": 1, "ablation": 3}[variant]
    config.optimizer.update(
        learning_rate=1e-3, warmup_steps=100, schedule="cosine", ema_decay=0.995
    )
    config.training.update(steps=4000, save_every=500)
    config.placement.update(steps_per_visit=250, steps_per_dispatch=25)
    config.sampling.update(num_steps=50, guidance=1.25, batch_size=600)
    config.data.update(name="digits", split="all", batch_size=64)
    if variant == "ablation":
        config.model.update(depth=12, width=48)
        config.training.steps = 1500
        config.data.split = "train"
    return config
