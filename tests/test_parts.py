"""Blocks are taken apart into layers, and new blocks get the weights their table promises."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from dbjax.families.dit import DiT, DiTConfig
from dbjax.noise import LogNormalNoise
from dbjax.partition import Partition, PartitionConfig, make_partition
from dbjax.parts import Origin, gather, join_layers, regroup, split_layers
from tests.helpers import same, toy_network


def cut(*layers: int, edges: tuple[float, ...] | None = None) -> Partition:
    """Blocks with so many layers each, without overlap; the noise is shared evenly by default."""
    edges = edges or tuple(b / len(layers) for b in range(len(layers) + 1))
    ends = list(itertools.accumulate(layers, initial=0))
    own = tuple(tuple(range(lo, hi)) for lo, hi in itertools.pairwise(ends))
    return Partition(edges, tuple(itertools.pairwise(edges)), own)


def numbered(block: int, layers: tuple[int, ...], *, stacked: bool, dtype="f8") -> dict:
    """Weights that say where they are from: layers their index, the interface its block."""
    trees = [{"w": np.full((2, 3), i, dtype), "b": np.full(2, -i, dtype)} for i in layers]
    joined = jax.tree.map(lambda *xs: np.stack(xs), *trees) if stacked else tuple(trees)
    return {"interface": {"head": np.full(4, 100 + block, dtype)}, "layers": joined}


def indices(params: dict) -> list[int]:
    """Which layers these are; all of a layer's arrays must agree."""
    found = [{abs(int(x)) for leaf in layer.values() for x in leaf.flat} for layer in split(params)]
    assert all(len(values) == 1 for values in found)
    return [values.pop() for values in found]


def split(params: dict) -> list:
    return split_layers(params["layers"])


@pytest.mark.parametrize("stacked", [True, False])
def test_layers_are_split_and_joined(stacked):
    layers = numbered(0, (3, 4, 5), stacked=stacked)["layers"]
    parts = split_layers(layers)
    assert [part["w"].shape for part in parts] == [(2, 3)] * 3
    assert [part["w"][0, 0] for part in parts] == [3, 4, 5]
    assert same(join_layers(parts, like=layers), layers)
    fewer = join_layers(parts[1:], like=layers)
    assert type(fewer) is type(layers)
    assert same(split_layers(fewer), parts[1:])


@pytest.mark.parametrize(
    "network",
    [toy_network(4), DiT(DiTConfig(size="tiny", depth=4), (8, 8, 1), 3)],
    ids=["stack", "dit"],
)
def test_the_networks_keep_the_convention(network):
    def parts(key, layers):
        return split_layers(network.init(key, layers)["layers"])

    whole, one = (
        jax.eval_shape(lambda key, own=own: parts(key, own), jax.random.key(0))
        for own in ((0, 1, 2, 3), (2,))
    )
    assert len(whole) == 4
    assert whole[2:3] == one


def test_three_blocks_become_two():
    assert regroup(cut(2, 2, 2), cut(3, 3)) == (
        Origin(((0, 0), (0, 1), (1, 0)), interface=0, fits=False),
        Origin(((1, 1), (2, 0), (2, 1)), interface=2, fits=False),
    )


def test_two_blocks_become_four():
    origins = regroup(cut(3, 3), cut(1, 2, 2, 1))
    assert [o.layers for o in origins] == [
        ((0, 0),),
        ((0, 1), (0, 2)),
        ((1, 0), (1, 1)),
        ((1, 2),),
    ]
    assert [o.interface for o in origins] == [0, 0, 1, 1]
    assert not any(o.fits for o in origins)


def test_layers_beyond_the_old_network_are_new():
    (origin,) = regroup(cut(2), cut(3))
    assert origin == Origin(((0, 0), (0, 1), None), interface=0, fits=False)
    assert origin.describe((0, 1, 2)) == "layers 0-1 of block 0, 2 new; interface of block 0"


def test_an_added_block_leaves_the_others_fitting():
    origins = regroup(cut(2, 2, 2), cut(2, 1, 2, 2, edges=(0.0, 1 / 3, 0.4, 2 / 3, 1.0)))
    assert [o.fits for o in origins] == [True, False, False, True]
    assert [o.interface for o in origins] == [0, 1, 1, 2]
    assert origins[3].layers == ((2, 0), (2, 1)), "its layers were shifted, and are still its own"
    assert origins[2].layers == ((1, 1), (2, 0))
    assert [o.describe((0, 1)) for o in (origins[0], origins[3])] == ["block 0", "block 2"]


@pytest.mark.parametrize(
    ("edge", "fits"),
    [(1 / 3 + 1e-10, [True, True, True]), (1 / 3 + 1e-6, [False, False, True])],
)
def test_a_block_fits_if_its_interval_does(edge, fits):
    new = cut(2, 2, 2, edges=(0.0, edge, 2 / 3, 1.0))
    assert [o.fits for o in regroup(cut(2, 2, 2), new)] == fits


def test_a_block_that_was_trained_with_another_overlap_does_not_fit():
    old, new = (
        make_partition(PartitionConfig(3, overlap=overlap), LogNormalNoise(), 6)
        for overlap in (0.05, 0.06)
    )
    assert all(o.fits for o in regroup(old, old))
    assert not any(o.fits for o in regroup(old, new))


def test_a_block_fits_only_with_as_many_layers():
    assert [o.fits for o in regroup(cut(2, 2, 2), cut(2, 3, 1))] == [True, False, False]


def test_of_several_that_fit_the_one_with_the_same_layers_is_taken():
    alike = dataclasses.replace(cut(2, 2, 2), intervals=((0.0, 1.0),) * 3)
    assert [o.interface for o in regroup(alike, alike)] == [0, 1, 2]


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (cut(2, 2, 2), cut(3, 3)),
        (cut(2, 2, 2), cut(1, 1, 1, 1, 1, 1)),
        (cut(1, 5), cut(5, 1)),
        (cut(2, 1), cut(1, 2, 2)),
    ],
)
def test_weights_come_from_where_the_origin_says(stacked, old, new):
    weights = {a: numbered(a, layers, stacked=stacked) for a, layers in enumerate(old.layers)}
    for b, origin in enumerate(regroup(old, new)):
        fresh = numbered(50, tuple(1000 + i for i in new.layers[b]), stacked=stacked, dtype="f4")
        params = gather(origin, {a: weights[a] for a in origin.blocks}, fresh)
        depth = sum(map(len, old.layers))
        assert indices(params) == [i if i < depth else 1000 + i for i in new.layers[b]]
        assert set(params["interface"]["head"]) == {100 + origin.interface}
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("f4")}


def test_a_block_that_was_shifted_keeps_its_own_layers():
    old, new = cut(1, 2), cut(1, 1, 2, edges=(0.0, 0.25, 0.5, 1.0))
    weights = {a: numbered(a, layers, stacked=True) for a, layers in enumerate(old.layers)}
    origin = regroup(old, new)[2]
    fresh = numbered(0, new.layers[2], stacked=True)
    assert indices(gather(origin, weights, fresh)) == [1, 2]


def test_shapes_do_where_nothing_is_drawn():
    weights = {0: numbered(0, (0, 1), stacked=True, dtype="f4")}
    shapes = jax.eval_shape(lambda: weights[0])
    assert same(gather(Origin(((0, 0), (0, 1)), 0, True), weights, shapes), weights[0])
