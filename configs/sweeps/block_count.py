"""How many blocks can a network be cut into, and what does that cost?

    python -m experiments.sweep --config=configs/dit_digits.py \\
        --sweep=configs/sweeps/block_count.py --workdir=runs/block_count --seeds=3

All numbers of blocks of equal depth, from 1: the whole network, trained end to end as a denoiser.
For every config whose network can be cut. (Twins of classifiers and of autoregressive models are
plain networks with a config of their own, which a point can name as `config`.)
"""

from dbjax.build import Setup
from dbjax.sweeps import Point, sweep


def get_sweep(setup: Setup) -> list[Point]:
    depth = setup.task.partition.num_layers
    return sweep("partition.num_blocks", [b for b in range(1, depth + 1) if depth % b == 0])
