"""Which noise should be trained on most? The centre and the width of the density of ln sigma.

    python -m experiments.sweep --config=configs/dit_digits.py \\
        --sweep=configs/sweeps/noise_density.py --workdir=runs/noise_density

For configs with log-normal noise. Equal shares of this density are also what blocks own, so that
their ranges move with it.
"""

from dbjax.build import Setup
from dbjax.sweeps import Point, product, sweep


def get_sweep(setup: Setup) -> list[Point]:
    noise = setup.config.noise
    means = [round(noise.p_mean + shift, 3) for shift in (-0.8, -0.4, 0.0, 0.4, 0.8)]
    widths = [round(noise.p_std * factor, 3) for factor in (0.75, 1.0, 1.33)]
    return product(sweep("noise.p_std", widths), sweep("noise.p_mean", means))
