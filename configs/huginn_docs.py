"""Language model of recurrent depth on the documentation that comes with Python, by characters.

    python -m experiments.train --config=configs/huginn_docs.py --workdir=runs/huginn_blocks
    python -m experiments.train --config=configs/huginn_docs.py:end_to_end \\
        --workdir=runs/huginn_twin
    python -m experiments.evaluate --workdir runs/huginn_blocks runs/huginn_twin
    python -m experiments.sample --workdir=runs/huginn_blocks --prompt="The import statement"

Both have a layer of prelude, two of core and one of coda. `blocks`, one block for all noise, runs
the core once in a training step; `end_to_end`, Huginn, 33 times on average, with gradients of the
last 8. As published, `blocks` is trained three times as long. Minutes on two CPU cores.
"""

from ml_collections import ConfigDict

from dbjax.build import default_config


def get_config(variant: str = "blocks") -> ConfigDict:
    config = default_config({"blocks": "recurrent_lm", "end_to_end": "huginn"}[variant])
    config.model.update(prelude=1, core=2, coda=1, width=64, num_heads=4, mlp_hidden=176)
    if variant == "blocks":
        config.model.condition_width = 32
        config.autoregressive.update(readout="posterior", bridge="draw")
        config.sampling.num_steps = 32
    else:
        config.model.update(mean_recurrence=32, backprop_depth=8)
        config.sampling.num_steps = 1
    config.partition.update(num_blocks=1, overlap=0.0)
    # As in ar_docs.py, also for read-out and bridge.
    config.noise.update(p_mean=0.5, p_std=1.0, sigma_min=0.2, sigma_max=20.0)
    config.optimizer.update(
        learning_rate=2e-3, warmup_steps=100, schedule="cosine", weight_decay=0.01, ema_decay=0.995
    )
    config.training.update(steps={"blocks": 3000, "end_to_end": 1000}[variant], save_every=500)
    config.placement.update(name="stacked", steps_per_dispatch=10)
    config.sampling.update(batch_size=16, temperature=1.0)
    config.data.update(name="docs", length=64, stride=32, batch_size=16)
    return config
