"""How many steps does a sample need, and by which solver?

    python -m experiments.sweep --config=configs/dit_digits.py --sweep=configs/sweeps/sampling.py \\
        --workdir=runs/sampling

Trains once and evaluates at each point. For configs that draw images or points. Heun asks the
network twice a step, on the Karras grid, which it needs; the table has the layers run for a sample.
"""

from dbjax.sweeps import Point, chain, product, sweep


def get_sweep() -> list[Point]:
    steps = sweep("sampling.num_steps", (5, 10, 20, 50, 100))
    euler = product(sweep("sampling.solver", ["euler"]), steps)
    heun = product(sweep("sampling.solver", ["heun"]), sweep("sampling.grid", ["karras"]), steps)
    ancestral = product(sweep("sampling.solver", ["ancestral"]), steps)
    return chain(euler, heun, ancestral)
