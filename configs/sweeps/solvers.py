"""Which solver is worth its calls, on which grid?

    python -m experiments.sweep --config=configs/dit_digits.py --sweep=configs/sweeps/solvers.py \\
        --workdir=runs/solvers

Trains once and evaluates at each point; the table has the layers run for a sample. Heun asks the
network twice a step, so that it has half the steps of the others. For configs that draw images or
points.
"""

from dbjax.sweeps import Point, chain, product, sweep

GRIDS = {"euler": ("even", "adaptive"), "dpmpp_2m": ("even", "karras", "adaptive"),
         "heun": ("karras", "adaptive")}  # fmt: skip


def get_sweep() -> list[Point]:
    def of(solver: str, steps: int) -> list[Point]:
        grids = sweep("sampling.grid", GRIDS[solver])
        return product([{"sampling.solver": solver, "sampling.num_steps": steps}], grids)

    budgets = [[*of("euler", n), *of("dpmpp_2m", n), *of("heun", n // 2)] for n in (12, 24, 48)]
    return chain(*budgets)
