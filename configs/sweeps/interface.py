"""Need blocks exchange anything? An interface of their own, or one that is averaged ever so often.

    python -m experiments.sweep --config=configs/dit_digits.py \\
        --sweep=configs/sweeps/interface.py --workdir=runs/interface --seeds=3

For every config of two or more blocks.
"""

from dbjax.sweeps import Point, chain, product, sweep


def get_sweep() -> list[Point]:
    shared = product(
        sweep("placement.interface", ["shared"]),
        sweep("placement.sync_every", (1, 10, 100, 1000)),
    )
    return chain(sweep("placement.interface", ["owned"]), shared)
