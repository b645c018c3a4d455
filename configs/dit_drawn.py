"""DiT of 16 layers on drawn images of 16 x 16: how many blocks may a network be cut into?

    python -m experiments.train --config=configs/dit_drawn.py:shapes --workdir=runs/shapes

Small enough to be trained in minutes on one CPU core, and deep enough to be cut into 16. Tokens are
wider than the 12 values of a patch, which have to pass through them: with 48 values in 48 channels
4 blocks drew nothing but noise. Batch and heads are as many as a core's caches hold: a step of 32
images with 4 heads takes more than three times as long as one of 16 with 2.
"""

from ml_collections import ConfigDict

from dbjax.build import default_config


def get_config(variant: str = "shapes") -> ConfigDict:
    config = default_config("dit")
    config.model.update(size="tiny", patch_size=2, depth=16, width=32, num_heads=2)
    config.partition.num_blocks = 4
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100, schedule="cosine", ema_decay=0.99)
    config.training.update(steps=3000, save_every=1000)
    config.placement.update(steps_per_visit=250, steps_per_dispatch=25)
    config.sampling.update(num_steps=32, guidance=1.0, batch_size=50)
    config.data.update(name=variant, batch_size=16)
    return config
