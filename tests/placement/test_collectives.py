"""No communication between blocks, read off the compiled program."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from dbjax.families.dit import DiT, DiTConfig
from dbjax.noise import LogNormalNoise
from dbjax.partition import PartitionConfig, make_partition
from dbjax.placement import PlacementConfig
from dbjax.placement.collectives import Collective, collectives, parse_collectives
from dbjax.placement.program import Program
from dbjax.task import DenoisingTask
from tests.helpers import PlainTask, toy_trainer

needs_eight = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 (simulated) devices")


def dit_task(num_blocks: int) -> DenoisingTask:
    noise = LogNormalNoise()
    config = DiTConfig(depth=num_blocks, width=32, num_heads=2, patch_size=4)
    network = DiT(config, (8, 8, 1), 10)
    partition = make_partition(PartitionConfig(num_blocks), noise, num_blocks)
    return DenoisingTask(network, noise, partition, (8, 8, 1), num_classes=10)


@functools.cache
def exchanges(
    task: str, num_blocks: int, groups: int, devices: int, interface: str, num_steps: int = 3
) -> tuple[list[Collective], list[int]]:
    """What the program of some steps exchanges, and the group each device belongs to."""
    made = dit_task(num_blocks) if task == "dit" else PlainTask((1,) * num_blocks)
    config = PlacementConfig(
        "sharded",
        interface,
        groups=groups,
        devices=devices,
        shard_above=512 if task == "dit" else 2,
    )
    program = Program(config, toy_trainer(made), range(num_blocks))
    shapes = {"dit": ((8, 8, 8, 1), "uint8"), "plain": ((8, 2), "float32")}
    batch = {
        "image": jax.ShapeDtypeStruct(*shapes[task]),
        "label": jax.ShapeDtypeStruct((8,), "int32"),
    }
    found = collectives(program.lower(num_steps, batch).compile())
    return found, [device // (devices // groups) for device in range(devices)]


SHAPES = [("plain", 3, 3, 3), ("plain", 4, 4, 8), ("plain", 4, 2, 8), ("dit", 2, 2, 8)]


@needs_eight
@pytest.mark.parametrize(("task", "blocks", "groups", "devices"), SHAPES)
def test_blocks_with_owned_interfaces_exchange_nothing(task, blocks, groups, devices):
    found, group_of = exchanges(task, blocks, groups, devices, "owned")
    assert [c.line for c in found if c.crosses(group_of)] == []
    # Within a group devices do exchange, or the check above would prove nothing.
    assert bool(found) == (devices > groups)


@needs_eight
@pytest.mark.parametrize(("task", "blocks", "groups", "devices"), SHAPES[:-1])
def test_a_shared_interface_is_one_average(task, blocks, groups, devices):
    found, group_of = exchanges(task, blocks, groups, devices, "shared")
    (average,) = [c for c in found if c.crosses(group_of)]
    assert average.operation == "all-reduce"
    # Each device meets its counterparts in all the other groups.
    ways = devices // groups
    assert set(average.groups) == {tuple(range(i, devices, ways)) for i in range(ways)}


@needs_eight
def test_the_reader_sees_exchanges_along_any_axis():
    """The control: programs known to exchange along one axis of a mesh or the other."""
    mesh = jax.make_mesh((2, 4), ("block", "data"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    group_of = [0] * 4 + [1] * 4
    operations = {
        "all-reduce": lambda x, axis: jax.lax.psum(x, axis),
        "all-gather": lambda x, axis: jax.lax.all_gather(x, axis).sum(0),
        "collective-permute": lambda x, axis: jax.lax.ppermute(x, axis, [(0, 1), (1, 0)]),
        "reduce-scatter": lambda x, axis: jax.lax.psum_scatter(x, axis, tiled=True),
    }
    for axis, crosses in (("block", True), ("data", False)):
        for name, operation in operations.items():
            function = jax.shard_map(
                lambda x, o=operation, a=axis: o(x, a),
                mesh=mesh,
                in_specs=P(("block", "data")),
                out_specs=P(("block", "data")),
                check_vma=False,
            )
            compiled = jax.jit(function).lower(jnp.zeros((64, 3))).compile()
            (found,) = collectives(compiled)
            assert (found.operation, found.crosses(group_of)) == (name, crosses)


@pytest.mark.parametrize(
    ("written", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}", ((0, 1), (2, 3))),
        ("replica_groups=[2,2]<=[4]", ((0, 1), (2, 3))),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", ((0, 2), (1, 3))),
        ("replica_groups=[3,2]<=[6]", ((0, 1), (2, 3), (4, 5))),
        ("replica_groups={}", ((0, 1, 2, 3),)),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}", ((0, 1), (2, 3))),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0'}", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", ((0, 1, 2, 3),)),
        ("source_target_pairs={{0,1},{1,0}}", ((0, 1), (1, 0))),
    ],
)
def test_every_way_of_writing_groups_is_read(written, groups):
    text = (
        "HloModule jit_f, num_partitions=4\n"
        f"  %x.1 = (f32[2]{{0}}, f32[]) all-reduce-start(%a, %b), {written}, to_apply=%r\n"
        "  %y.1 = f32[2]{0} all-reduce-done(%x.1)\n"
    )
    (found,) = parse_collectives(text)
    assert found.groups == groups


@pytest.mark.parametrize("written", ["", "replica_groups=mesh['a'=4] {'a':(1)2},"])
def test_unknown_groups_are_not_passed_over(written):
    with pytest.raises(ValueError, match="unknown replica groups"):
        parse_collectives(f"%x = f32[] all-reduce(%a), {written} to_apply=%r\n")
