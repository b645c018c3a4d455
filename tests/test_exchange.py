"""Which layers blocks borrow, and what they get."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dbjax.build import build
from dbjax.config import load_config
from dbjax.errors import SettingError
from dbjax.exchange import lend, pool_layers
from dbjax.noise import LogNormalNoise
from dbjax.partition import PartitionConfig, make_partition

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ("own", ((), (), ())),
        ("first", ((), (0, 1), (0, 1))),
        ("noisier", ((), (0, 1), (0, 1, 2))),
        ("cleaner", ((3, 2), (3,), ())),
    ],
)
def test_who_reads_whose_layers(context, expected):
    config = PartitionConfig(3, layers=(2, 1, 1), context=context)
    partition = make_partition(config, LogNormalNoise(), 4)
    assert partition.context == expected
    assert partition.borrows == (context != "own")


def test_layers_are_lent_by_their_index():
    partition = make_partition(PartitionConfig(3, context="cleaner"), LogNormalNoise(), 6)
    layers = [{"w": jnp.array([10.0 * b, 10.0 * b + 1])} for b in range(3)]
    index, use = map(jnp.asarray, partition.borrowed())
    lent = [lend(pool_layers(layers), i, u) for i, u in zip(index, use, strict=True)]
    np.testing.assert_array_equal(lent[0]["layers"]["w"], [20, 21, 10, 11])
    np.testing.assert_array_equal(lent[1]["layers"]["w"][:2], [20, 21])
    np.testing.assert_array_equal([x["use"] for x in lent], [[1] * 4, [1, 1, 0, 0], [0] * 4])


def test_a_block_begins_with_what_others_begin_with():
    overrides = {"partition.context": "noisier", "placement.interface": "shared"}
    task = build(load_config("configs/ar_docs.py", {**overrides, "model.width": 8})).task
    init = jax.jit(task.init, static_argnums=1)
    key = jax.random.key(0)
    blocks = [init(key, b) for b in range(3)]
    pooled = pool_layers([block["layers"] for block in blocks])
    for block, layers in enumerate(task.partition.context):
        for place, layer in enumerate(layers):
            for found, owned in zip(
                *map(jax.tree.leaves, (blocks[block]["context"]["layers"], pooled)), strict=True
            ):
                np.testing.assert_array_equal(found[place], owned[layer])


@pytest.mark.parametrize(
    ("config", "overrides", "name"),
    [
        ("ar_docs.py", {"partition.context": "cleaner"}, "placement.interface"),
        ("mdm_docs.py", {"partition.context": "first"}, "partition.context"),
        ("ar_docs.py", {"partition.context": "deep"}, "partition.context"),
    ],
)
def test_refusals(config, overrides, name):
    with pytest.raises(SettingError, match=name):
        build(load_config(f"configs/{config}", overrides))
