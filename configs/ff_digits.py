"""Forward-Forward on scikit-learn's digits, contrastive and not, and the same ViT end to end.

    python -m experiments.train --config=configs/ff_digits.py --workdir=runs/ff
    python -m experiments.train --config=configs/ff_digits.py:contrastive --workdir=runs/cff
    python -m experiments.train --config=configs/ff_digits.py:end_to_end --workdir=runs/ff_twin
    python -m experiments.evaluate --workdir runs/ff runs/cff runs/ff_twin

Each takes one to four minutes on one core. Accuracy is measured on the 360 test digits: of one run,
Forward-Forward 0.964, contrastive 0.983, end to end 0.981.

Patches of 4 x 4 pixels, since a label is told by which fifth of a patch is lit and 2 x 2 pixels
cannot tell ten. Shifted images slow Forward-Forward down: 0.897 after 4,000 steps with
`data.crop` 1. They change little for the others: contrastive 0.983 without, end to end 0.983 with.
"""

from ml_collections import ConfigDict

from dbjax.build import default_config

FAMILIES = {
    "forward_forward": "forward_forward",
    "contrastive": "contrastive_forward_forward",
    "end_to_end": "plain_vit",
}


def get_config(variant: str = "forward_forward") -> ConfigDict:
    config = default_config(FAMILIES[variant])
    config.model.update(patch_size=4, depth=6, width=64, num_heads=4, mlp_hidden=128, dropout=0.0)
    config.partition.num_blocks = 1
    steps, learning_rate = {"forward_forward": (3000, 4e-3)}.get(variant, (1500, 1e-3))
    # Clipping the norm of all layers' gradients would tie the layers to one another.
    config.optimizer.update(
        learning_rate=learning_rate,
        warmup_steps=100,
        schedule="cosine",
        weight_decay=0.01,
        ema_decay=0.995,
        clip_norm=None,
    )
    config.training.update(steps=steps, save_every=500)
    config.placement.update(name="stacked", steps_per_dispatch=25)
    config.sampling.update(num_steps=1, batch_size=360)
    config.data.update(name="digits", split="train", batch_size=64)
    if variant == "contrastive":
        # Without a shift the two views would be one.
        config.data.update(views=2, crop=1)
    return config
