"""Masked diffusion language model on the documentation that comes with Python, by characters.

    python -m experiments.train --config=configs/mdm_docs.py --workdir=runs/mdm_blocks
    python -m experiments.train --config=configs/mdm_docs.py:end_to_end --workdir=runs/mdm_twin
    python -m experiments.evaluate --workdir runs/mdm_blocks runs/mdm_twin

Some 400,000 characters of 96 kinds. `blocks` cuts 6 layers into 3 blocks; `end_to_end` trains all
of them together, which makes the same number of layer evaluations. Minutes on two CPU cores.
"""

from ml_collections import ConfigDict

from dbjax.build import default_config


def get_config(variant: str = "blocks") -> ConfigDict:
    config = default_config("masked_lm")
    config.model.update(
        depth=6, width=96, num_heads=4, mlp_hidden=256, embed_width=32, activation="silu"
    )
    config.partition.num_blocks = {"blocks": 3, "end_to_end": 1}[variant]
    config.optimizer.update(
        learning_rate=2e-3, warmup_steps=100, schedule="cosine", weight_decay=0.03, ema_decay=0.995
    )
    config.training.update(steps=2000, save_every=500)
    config.placement.update(name="stacked", steps_per_dispatch=10)
    config.sampling.update(num_steps=64, batch_size=16)
    config.data.update(name="docs", length=128, stride=32, batch_size=32)
    return config
