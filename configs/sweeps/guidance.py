"""How strongly should samples be drawn towards their class?

    python -m experiments.sweep --config=configs/dit_digits.py --sweep=configs/sweeps/guidance.py \\
        --workdir=runs/guidance

Trains once and evaluates at each point. For configs that draw images of given classes, and for
classifiers that were trained with classification.image_dropout.
"""

from dbjax.sweeps import Point, sweep


def get_sweep() -> list[Point]:
    return sweep("sampling.guidance", (1.0, 1.25, 1.5, 2.0, 3.0, 4.0))
