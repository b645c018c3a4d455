"""What every method of classification must hold: it stops, continues, and answers."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dbjax import session
from dbjax.build import Setup, build
from dbjax.config import load_config
from dbjax.diagnostics import predict
from dbjax.sampling import Sampler
from dbjax.session import Model
from dbjax.task import Task
from tests.helpers import distance, same

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIGS = Path(__file__).parents[2] / "configs"
VIT = {"model.depth": 3, "model.width": 12, "model.num_heads": 2, "model.mlp_hidden": 8}
CNN = {"model.channels": (2, 2, 2), "model.width": 4, "partition.num_blocks": 1}
METHODS: dict[str, dict[str, Any]] = {
    "vit_digits.py:blocks": VIT,
    "vit_digits.py:end_to_end": VIT,
    "ff_digits.py:forward_forward": VIT,
    "ff_digits.py:contrastive": VIT,
    "noprop_digits.py:blocks": {**CNN, "model.depth": 2, "partition.num_blocks": 2},
    "noprop_digits.py:dt": {**CNN, "model.depth": 2, "partition.num_blocks": 2},
    "noprop_digits.py:ct": CNN,
    "noprop_digits.py:fm": CNN,
    "noprop_digits.py:backprop": {**CNN, "model.depth": 2},
}
# Of a kind with others: run by hand.
ALIKE = {
    "vit_digits.py:end_to_end",
    "ff_digits.py:contrastive",
    "noprop_digits.py:blocks",
    "noprop_digits.py:fm",
    "noprop_digits.py:backprop",
}
EACH = [pytest.param(name, marks=[pytest.mark.slow] * (name in ALIKE)) for name in METHODS]
BRIEF = {
    "data.batch_size": 4,
    "placement.steps_per_dispatch": 1,
    "placement.steps_per_visit": 2,
    "sampling.batch_size": 8,
    "optimizer.warmup_steps": 0,
}


def method(name: str, **overrides: Any) -> Setup:
    steps = 1 if name.endswith(("end_to_end", "backprop", "contrastive", "forward")) else 2
    settings = {**BRIEF, **METHODS[name], "sampling.num_steps": steps, **overrides}
    return build(load_config(CONFIGS / name, settings))


def train(setup: Setup, steps: int, workdir: Path | None = None) -> Model:
    return session.run(
        setup.trainer,
        setup.dataset,
        setup.data,
        setup.placement,
        steps=steps,
        workdir=workdir,
        show=False,
    )


@pytest.mark.parametrize("name", EACH)
def test_resumes_exactly_and_answers_on_every_image(name: str, tmp_path: Path) -> None:
    setup = method(name)
    assert isinstance(setup.task, Task)
    at_once = train(setup, 4)
    train(setup, 2, tmp_path)
    continued = train(setup, 4, tmp_path)
    for block in range(setup.task.partition.num_blocks):
        assert same(continued.blocks[block], at_once.blocks[block])
        fresh = setup.trainer.init(block).params
        assert distance(fresh["layers"], at_once.blocks[block]["layers"]) > 1e-5
        assert ("statistics" in fresh) == ("noprop" in name and name[-2:] not in ("ct", "fm"))
    images = setup.dataset.source.read(np.arange(11))["image"]
    if setup.data.views == 2:
        images = images[:11]
    found = predict(Sampler(setup.task, setup.sampling), at_once.blocks, images)
    assert found.shape == (1, 11, 10)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in METHODS if "blocks" in name or "dt" in name])
def test_placements_agree(name: str) -> None:
    setup = method(name)
    one, other = (
        train(dataclasses.replace(setup, placement=placement), 3)
        for placement in (
            setup.placement,
            dataclasses.replace(
                setup.placement,
                name="stacked" if setup.placement.name == "sequential" else "sequential",
            ),
        )
    )
    for block in one.blocks:
        assert distance(one.blocks[block], other.blocks[block]) < 1e-4
