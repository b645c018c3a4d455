"""Which optimizer, and how large a step? Their state is most of what a block keeps in memory.

    python -m experiments.sweep --config=configs/dit_digits.py \\
        --sweep=configs/sweeps/optimizer.py --workdir=runs/optimizer

For every config. Steps are multiples of the config's learning rate, which is taken to be AdamW's;
Lion wants a smaller one, and Adafactor's is relative to the size of the weights.
"""

from dbjax.build import Setup
from dbjax.sweeps import Point, chain, product, sweep

FACTORS = {"adamw": (0.3, 1.0, 3.0), "lion": (0.03, 0.1, 0.3), "adafactor": (1.0, 3.0, 10.0)}


def get_sweep(setup: Setup) -> list[Point]:
    base = setup.config.optimizer.learning_rate
    return chain(
        *(
            product(
                sweep("optimizer.name", [name]),
                sweep("optimizer.learning_rate", [float(f"{base * f:.3g}") for f in factors]),
            )
            for name, factors in FACTORS.items()
        )
    )
