"""The same seed gives the same parameters wherever blocks live (owned interface, 200 steps)."""

from typing import Any

import jax
import numpy as np
import pytest

from dbjax.errors import SettingError
from dbjax.placement import PlacementConfig, held_blocks, make_placement
from dbjax.training import BlockState, Trainer
from tests.helpers import (
    PlainTask,
    ToyStream,
    memory_kinds,
    relative_distance,
    same,
    toy_task,
    toy_trainer,
)

STEPS = 200
needs_eight = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 (simulated) devices")


def train(
    trainer: Trainer, num_blocks: int, blocks: list[int] | None = None, **settings: Any
) -> dict[int, BlockState]:
    """The states of `blocks` after all steps."""
    blocks = list(range(num_blocks)) if blocks is None else blocks
    config = PlacementConfig(**{"steps_per_dispatch": 40, "shard_above": 2, **settings})
    streams = {b: ToyStream(b, batch_size=8) for b in blocks}
    states = {b: trainer.init(b) for b in blocks}
    place = make_placement(config, trainer, states, streams)
    assert sum(chunk.num_steps for chunk in place.advance(STEPS)) > 0
    return {b: jax.device_get(place.state(b)) for b in blocks}


def check_same(found: dict[int, BlockState], expected: dict[int, BlockState]) -> None:
    for b, state in expected.items():
        assert int(found[b].step) == STEPS
        # Moments and average too. They are sums of hundreds of terms in another order.
        assert relative_distance(found[b].params, state.params) < 1e-5
        assert relative_distance(found[b], state) < 1e-4


@pytest.fixture(scope="module")
def references() -> dict[int, dict[int, BlockState]]:
    """One block after the other, for 3 and for 4 blocks."""
    return {n: train(plain(n), n, name="sequential") for n in (3, 4)}


def plain(num_blocks: int) -> Trainer:
    return toy_trainer(PlainTask((1,) * num_blocks), num_steps=STEPS)


def test_training_moves_every_block(references: dict[int, dict[int, BlockState]]) -> None:
    for n, states in references.items():
        for b, state in states.items():
            assert relative_distance(state.params, plain(n).init(b).params) > 0.05


@pytest.mark.parametrize("num_blocks", [3, 4])
def test_stacked(num_blocks: int, references: dict[int, dict[int, BlockState]]) -> None:
    check_same(train(plain(num_blocks), num_blocks, name="stacked"), references[num_blocks])


@needs_eight
@pytest.mark.parametrize(
    ("num_blocks", "groups", "devices"),
    [(3, 1, 1), (3, 3, 3), (3, 3, 6), (3, 1, 8), (4, 2, 2), (4, 4, 4), (4, 2, 8), (4, 4, 8)],
)
def test_sharded(
    num_blocks: int, groups: int, devices: int, references: dict[int, dict[int, BlockState]]
) -> None:
    found = train(plain(num_blocks), num_blocks, name="sharded", groups=groups, devices=devices)
    check_same(found, references[num_blocks])


@pytest.mark.parametrize("blocks", [[0, 2], [1], [3]])
def test_isolated(blocks: list[int], references: dict[int, dict[int, BlockState]]) -> None:
    """Bit for bit: it runs the very program of `sequential`."""
    found = train(plain(4), 4, blocks, name="isolated")
    for b in blocks:
        assert same(found[b], references[4][b])


@needs_eight
@pytest.mark.parametrize(
    ("groups", "devices"), [(2, 2), (2, 8), pytest.param(1, 8, marks=pytest.mark.slow)]
)
def test_a_network_with_remat_and_other_optimizers(groups: int, devices: int) -> None:
    """Denoising blocks of a real network, in few steps."""
    trainer = toy_trainer(toy_task((1, 1)), name="lion", learning_rate=1e-3)

    def trained(**settings: Any) -> list[BlockState]:
        states = {b: trainer.init(b) for b in range(2)}
        streams = {b: ToyStream(b, batch_size=8) for b in range(2)}
        config = PlacementConfig(**{"steps_per_dispatch": 4, "shard_above": 8, **settings})
        place = make_placement(config, trainer, states, streams)
        assert sum(chunk.num_steps for chunk in place.advance(8)) > 0
        return [jax.device_get(place.state(b).params) for b in range(2)]

    expected = trained(name="sequential")
    found = trained(name="sharded", groups=groups, devices=devices)
    assert relative_distance(found, expected) < 1e-5


# --- the mesh -------------------------------------------------------------------------------------


@needs_eight
def test_devices_hold_their_own_blocks_and_shares_only() -> None:
    trainer = plain(4)
    config = PlacementConfig("sharded", groups=2, devices=4, shard_above=2)
    states = {b: trainer.init(b) for b in range(4)}
    place = make_placement(config, trainer, states, {b: ToyStream(b, batch_size=8) for b in states})
    for _ in place.advance(20):
        pass
    devices = jax.devices()
    for b, group in {0: 0, 1: 0, 2: 1, 3: 1}.items():
        state = place.state(b)
        assert memory_kinds(state) == {devices[0].default_memory().kind}
        for leaf in jax.tree.leaves(state):
            assert leaf.sharding.device_set == set(devices[2 * group : 2 * group + 2])
            # 2 x 2 matrices are divided between two devices, scalars are on both.
            assert {s.data.size for s in leaf.addressable_shards} == {max(leaf.size // 2, 1)}
    # The placement works on copies.
    assert all(same(states[b], trainer.init(b)) for b in states)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"groups": 2, "devices": 2},
            "placement.groups is 2; allowed: 1 (3 blocks on 2 devices)",
        ),
        ({"devices": 9}, "placement.devices is 9; allowed: at most 8, as here"),
        (
            {"groups": 1, "devices": 3},
            "data.batch_size is 8; allowed: a multiple of 3, the devices that share out a batch "
            "(1 x 3 devices: groups of blocks x shares of a batch)",
        ),
    ],
)
@needs_eight
def test_refusals(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError) as error:
        train(plain(3), 3, name="sharded", **settings)
    assert str(error.value) == sentence


@needs_eight
def test_blocks_of_unequal_layers_need_one_group_or_another_placement() -> None:
    trainer = toy_trainer(PlainTask((1, 2, 2)), num_steps=STEPS)
    with pytest.raises(SettingError, match="blocks 0 and 1, but they differ in layers"):
        train(trainer, 3, name="sharded", groups=3)
    check_same(
        train(trainer, 3, name="sharded", groups=1, devices=2),
        train(trainer, 3, name="sequential"),
    )


def test_a_shared_interface_is_not_taken_up_from_different_periods() -> None:
    trainer = plain(3)
    states = {
        b: train(trainer, 3, [b], name="isolated")[b] if b else trainer.init(0) for b in (0, 1)
    }
    config = PlacementConfig("stacked", interface="shared", sync_every=5)
    with pytest.raises(SettingError, match=r"at steps 0, 200 and no longer share"):
        make_placement(config, trainer, states, {b: ToyStream(b) for b in states})


def test_one_process_holds_all() -> None:
    for name in ("sequential", "stacked", "sharded"):
        assert held_blocks(PlacementConfig(name), range(3)) == dict.fromkeys(range(3), True)


def test_batches_are_what_a_single_device_sees(references: Any) -> None:
    """A control of the whole file: another batch does change the parameters."""
    trainer = plain(3)
    config = PlacementConfig("sharded", steps_per_dispatch=40, groups=3, devices=6)
    streams = {b: ToyStream(b, position=1, batch_size=8) for b in range(3)}
    place = make_placement(config, trainer, {b: trainer.init(b) for b in range(3)}, streams)
    for _ in place.advance(STEPS):
        pass
    found = jax.device_get(place.state(0).params)
    assert relative_distance(found, references[3][0].params) > 1e-4
    assert np.isfinite(relative_distance(found, references[3][0].params))
