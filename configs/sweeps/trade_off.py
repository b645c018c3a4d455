"""How many blocks may I use? Quality, memory and time from 1 to 16 blocks, on data of rising
difficulty.

    python -m experiments.sweep --config=configs/dit_drawn.py --sweep=configs/sweeps/trade_off.py \\
        --workdir=runs/trade_off --num_samples=2000 --measure=held_out.nats_per_value \\
        --measure=frechet_distance

All points have one network and one budget: every block takes `training.steps` steps of its own, so
that each layer is updated as often and runs on as many examples whatever the number of blocks, and
schedules, which count a block's own steps, are the same. For configs of 16 layers on images of 16
x 16 in colour.
"""

from dbjax.sweeps import Point, product, sweep


def get_sweep() -> list[Point]:
    return product(
        sweep("data.name", ("shapes", "compositions", "textures")),
        sweep("partition.num_blocks", (1, 2, 4, 8, 16)),
    )
