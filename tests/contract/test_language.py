"""What every family of text must hold: it stops, continues, and is the same wherever it trains."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from dbjax import session
from dbjax.build import Setup, build
from dbjax.config import load_config
from dbjax.session import Model
from dbjax.task import Task
from tests.helpers import distance, same

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIGS = Path(__file__).parents[2] / "configs"
BRIEF = {
    "model.width": 8,
    "model.num_heads": 2,
    "model.mlp_hidden": 8,
    "data.length": 12,
    "data.stride": None,
    "data.batch_size": 4,
    "placement.steps_per_dispatch": 1,
    "placement.steps_per_visit": 2,
    "optimizer.warmup_steps": 0,
}
TWO = {"model.depth": 2, "partition.num_blocks": 2}
PARTS = {"model.core": 1}
BLOCKS: dict[str, dict[str, Any]] = {
    "mdm_docs.py:blocks": {**TWO, "model.embed_width": 4},
    "ar_docs.py:blocks": {**TWO, "model.condition_width": 4},
    "huginn_docs.py:blocks": {**PARTS, "model.condition_width": 4},
}
TWINS: dict[str, dict[str, Any]] = {
    "ar_docs.py:end_to_end": {"model.depth": 2},
    "huginn_docs.py:end_to_end": {**PARTS, "model.mean_recurrence": 3, "model.backprop_depth": 2},
}


def method(name: str, **overrides: Any) -> Setup:
    settings = {**BRIEF, **(BLOCKS | TWINS)[name], **overrides}
    return build(load_config(CONFIGS / name, settings))


def train(setup: Setup, steps: int, workdir: Path | None = None, **placement: Any) -> Model:
    return session.run(
        setup.trainer,
        setup.dataset,
        setup.data,
        dataclasses.replace(setup.placement, **placement),
        steps=steps,
        workdir=workdir,
        show=False,
    )


@pytest.mark.parametrize(
    "name",
    [
        # One block of the same task as another family's: run by hand.
        pytest.param(name, marks=pytest.mark.slow) if name == "huginn_docs.py:blocks" else name
        for name in BLOCKS | TWINS
    ],
)
def test_resumes_exactly(name: str, tmp_path: Path) -> None:
    setup = method(name)
    assert isinstance(setup.task, Task)
    at_once = train(setup, 4)
    train(setup, 2, tmp_path)
    continued = train(setup, 4, tmp_path)
    for block in range(setup.task.partition.num_blocks):
        assert same(continued.blocks[block], at_once.blocks[block])
        fresh = setup.trainer.init(block).params
        assert distance(fresh["interface"], at_once.blocks[block]["interface"]) > 1e-5


@pytest.mark.parametrize(
    ("name", "interface", "context"),
    [
        ("mdm_docs.py:blocks", "owned", "own"),
        pytest.param("ar_docs.py:blocks", "owned", "own", marks=pytest.mark.slow),
        # One block, whose depth is drawn within the program.
        pytest.param("huginn_docs.py:end_to_end", "owned", "own", marks=pytest.mark.slow),
        # Only this family has other parameters then: the targets, and borrowed layers.
        ("ar_docs.py:blocks", "shared", "cleaner"),
    ],
)
def test_placements_agree(name: str, interface: str, context: str) -> None:
    setup = method(
        name,
        **{
            "placement.interface": interface,
            "placement.sync_every": 1,
            "partition.context": context,
        },
    )
    num_blocks = setup.task.partition.num_blocks
    models = [
        train(setup, 3, name=placement, **settings)
        for placement, settings in (
            ("stacked", {}),
            ("sequential", {"steps_per_visit": 1}),
            ("sharded", {"devices": 4, "groups": num_blocks}),
        )
    ]
    for other in models[1:]:
        for block in range(num_blocks):
            assert distance(models[0].blocks[block], other.blocks[block]) < 1e-4
    interfaces = [models[0].blocks[block]["interface"] for block in range(num_blocks)]
    for other in interfaces[1:]:
        assert same(interfaces[0], other) == (interface == "shared")
    if context == "cleaner":
        borrowed = models[0].task.partition.context
        assert borrowed == ((1,), ())
