"""What does a step cost where both streams of a text attend under one mask, at which length?

    python -m experiments.sweep --config=configs/ar_docs.py --sweep=configs/sweeps/passes.py \\
        --workdir=runs/passes --config.training.steps=10 --num_samples=1 \\
        --measure=train_bytes.activations --measure=train_bytes.total --measure=seconds_per_step

The results of training are the same, so that a few steps do: memory and time are what is looked at.
For autoregressive configs of blocks.
"""

from dbjax.sweeps import Point, product, sweep


def get_sweep() -> list[Point]:
    lengths = sweep("data.length", (64, 256, 512))
    return product(lengths, sweep("model.passes", ("separate", "joint")))
