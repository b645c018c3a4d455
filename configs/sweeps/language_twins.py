"""Masked and recurrent language models, trained block by block beside their end-to-end twins.

    python -m experiments.sweep --config=configs/mdm_docs.py \\
        --sweep=configs/sweeps/language_twins.py --workdir=runs/language_twins

The masked models make as many layer evaluations as each other. A training step of the recurrent one
costs 1/8.7 of its twin's in layers; it is trained three times as long, as published, and for as
much computing as the twin.
"""

from dbjax.sweeps import Point

RECURRENT = "configs/huginn_docs.py"
HEAD = {"autoregressive.readout": "head"}
"""As published."""


def get_sweep() -> list[Point]:
    return [
        {"name": "masked, 3 blocks"},
        {"name": "masked, end to end", "config": "configs/mdm_docs.py:end_to_end"},
        {"name": "recurrent, Huginn", "config": f"{RECURRENT}:end_to_end"},
        {"name": "recurrent, one pass", "config": RECURRENT, **HEAD},
        {
            "name": "recurrent, one pass, as much computing",
            "config": RECURRENT,
            "training.steps": 8700,
            **HEAD,
        },
        {"name": "recurrent, one pass, read-out by Bayes' rule", "config": RECURRENT},
    ]
