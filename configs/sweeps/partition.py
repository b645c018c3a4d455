"""Who should own how much noise, and how many layers?

    python -m experiments.sweep --config=configs/dit_digits.py:ablation \\
        --sweep=configs/sweeps/partition.py --workdir=runs/partition --seeds=3 --processes=2 \\
        --measure=frechet_distance --measure=held_out.nats_per_value

Ranges of equal training mass (`equiprobable`) or of equal width (`uniform`), each with the paper's
splits of the layers among three blocks, scaled to the depth of the network: even, [1/4, 1/2, 1/4],
[1/2, 1/3, 1/6] and [1/6, 1/3, 1/2]. For configs of three or more layers, best of 12 or a multiple;
with fewer, splits that come out alike are tried once.
"""

from fractions import Fraction

from dbjax.build import Setup
from dbjax.sweeps import Point, product, sweep

SHARES = ((1, 1, 1), (1, 2, 1), (3, 2, 1), (1, 2, 3))


def get_sweep(setup: Setup) -> list[Point]:
    depth = setup.task.partition.num_layers
    splits = dict.fromkeys(split(depth, shares) for shares in SHARES)
    blocks = sweep("partition.num_blocks", [3])
    strategies = sweep("partition.strategy", ("equiprobable", "uniform"))
    return product(blocks, sweep("partition.layers", splits), strategies)


def split(depth: int, shares: tuple[int, ...]) -> tuple[int, ...]:
    """Layers of each block, one at least: the largest remainders get what rounding leaves."""
    exact = [Fraction(depth * share, sum(shares)) for share in shares]
    counts = [max(int(x), 1) for x in exact]
    while sum(counts) < depth:
        counts[max(range(len(counts)), key=lambda i: exact[i] - counts[i])] += 1
    while sum(counts) > depth:
        counts[counts.index(max(counts))] -= 1
    return tuple(counts)
