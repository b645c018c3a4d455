"""How far should blocks train beyond the noise that they own? (The paper's gamma.)

    python -m experiments.sweep --config=configs/dit_digits.py --sweep=configs/sweeps/overlap.py \\
        --workdir=runs/overlap --seeds=3

For every config of blocks with log-normal or masking noise.
"""

from dbjax.sweeps import Point, sweep


def get_sweep() -> list[Point]:
    return sweep("partition.overlap", (0.0, 0.05, 0.1, 0.2))
