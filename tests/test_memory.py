"""The memory of one block's step against the end-to-end step, from the compiled programs."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from dbjax.families.dit import DiTConfig
from dbjax.memory import placement_memory, step_memory
from dbjax.placement import PlacementConfig
from experiments import memory
from experiments.memory import dit_memory, formula
from tests.helpers import PlainTask, toy_trainer

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "guides" / "memory.md"
BATCH = {
    "image": jax.ShapeDtypeStruct((4, 2), jnp.float32),
    "label": jax.ShapeDtypeStruct((4,), jnp.int32),
}


@pytest.mark.parametrize(
    ("size", "image_shape", "num_blocks", "batch", "bound"),
    [
        ("S", (32, 32, 3), 3, 512, 0.36),
        pytest.param("L", (32, 32, 4), 6, 64, 0.20, marks=pytest.mark.slow),
    ],
)
def test_one_block_needs_its_share(size, image_shape, num_blocks, batch, bound):
    block = dit_memory(DiTConfig(size), image_shape, batch, num_blocks)
    whole = dit_memory(DiTConfig(size), image_shape, batch, 1)
    assert block.total / whole.total <= bound
    for found in (block, whole):
        assert found.state + found.activations == found.total


@pytest.fixture(scope="module")
def trainer():
    """Three blocks, the second of which is the largest."""
    return toy_trainer(PlainTask(layers=(1, 2, 1)))


def test_the_parts_of_a_step_are_known_from_shapes(trainer):
    found = step_memory(trainer, 1, BATCH)
    # Four matrices of 2 x 2, float32, and two numbers that each layer measures and does not learn;
    # Adam's two moments and its counters.
    assert (found.parameters, found.gradients, found.average) == (80, 64, 80)
    assert 128 < found.optimizer <= 128 + 16
    assert found.total == found.state + found.activations


def test_sequential_holds_two_blocks_only_while_it_prefetches(trainer):
    ahead = placement_memory(PlacementConfig("sequential"), trainer, BATCH)
    alone = placement_memory(PlacementConfig("sequential", prefetch=False), trainer, BATCH)
    # During the turn of the largest block one of the smaller is fetched: three matrices,
    # and what its layer measures.
    assert ahead.parameters - alone.parameters == 56
    assert ahead.gradients == alone.gradients
    # And the counter of its steps.
    assert ahead.total - alone.total == ahead.state - alone.state + 4


def test_a_frozen_interface_has_no_gradients(trainer):
    frozen = dataclasses.replace(trainer, freeze_interface=True)
    assert step_memory(frozen, 1, BATCH).gradients == 32


def test_all_blocks_are_counted_where_all_are_on_the_device(trainer):
    found = placement_memory(PlacementConfig("stacked"), trainer, BATCH)
    assert (found.parameters, found.gradients) == (192, 64)


def test_batches_of_a_dispatch_and_of_the_next_are_counted(trainer):
    def total(num_steps):
        config = PlacementConfig("sequential", steps_per_dispatch=num_steps)
        return placement_memory(config, trainer, BATCH).total

    images, labels = 4 * 2 * 4, 4 * 4
    # The plain task does not read labels, so that its program does not take them.
    assert total(40) - total(20) >= 20 * (images + images + labels)


def test_the_formula_is_that_of_the_paper():
    depth, p, a = 24, 70, 2500
    whole = {"total": depth * (5 * p + a), "activations": depth * a}
    assert formula(whole, depth, 1, remat=False) == (5 * p + a) * depth
    assert formula(whole, depth, 1, remat=True) == 5 * p * depth + a
    assert formula(whole, depth, 6, remat=False) == (5 * p + a) * depth / 6
    assert formula(whole, depth, 6, remat=True) == 5 * p * depth / 6 + a


def test_the_tables_of_the_guide_are_those_of_the_results():
    text = GUIDE.read_text()
    files = ("memory_dit_l2.json", "memory_dit_s2.json", "memory_optimizers.json")
    assert all(f"<!-- table: results/{file} -->" in text for file in files)
    assert memory.renewed(text) == text


def test_the_published_result_holds():
    result = json.loads((ROOT / "results" / "memory_dit_l2.json").read_text())
    rows = {(r["batch_size"], r["num_blocks"], r["remat"]): r["total"] for r in result["rows"]}
    for b in (2, 3, 4, 6):
        assert rows[64, 1, False] / rows[64, b, False] >= 0.9 * b
        # With remat activations are not divided, so that it takes a batch beside which they are
        # small.
        assert rows[4, 1, True] / rows[4, b, True] >= 0.9 * b
