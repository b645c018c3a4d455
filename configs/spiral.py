"""Points on three spiral arms: trains in seconds, and can be drawn.

python -m experiments.train --config=configs/spiral.py --workdir=runs/spiral
python -m experiments.sample --workdir=runs/spiral --num_samples=2000
"""

from ml_collections import ConfigDict

from dbjax.build import default_config


def get_config() -> ConfigDict:
    config = default_config("mlp")
    config.model.update(depth=6, width=64)
    config.partition.num_blocks = 3
    config.optimizer.update(learning_rate=2e-3, schedule="cosine", warmup_steps=50, ema_decay=0.99)
    config.training.update(steps=1500, save_every=500)
    config.placement.update(name="stacked", steps_per_dispatch=50)
    config.sampling.update(num_steps=30, batch_size=2000)
    config.data.update(name="spiral", batch_size=512)
    return config
