"""What every placement must hold: where blocks live never changes what they learn."""

import dataclasses
import itertools
from typing import Any

import jax
import numpy as np
import pytest

from dbjax.errors import SettingError
from dbjax.placement import PlacementConfig, make_placement
from dbjax.training import BlockState, Placement, Trainer
from tests.helpers import PlainTask, ToyStream, distance, memory_kinds, same, toy_task, toy_trainer

TRAINER = toy_trainer(PlainTask())
BLOCKS = range(3)
PLACEMENTS = ("sequential", "stacked", "sharded")


@dataclasses.dataclass
class Run:
    """A placement and the streams it reads."""

    placement: Placement
    streams: dict[int, ToyStream]

    def states(self) -> dict[int, BlockState]:
        return {b: self.placement.state(b) for b in BLOCKS}


def start(
    name: str,
    *,
    trainer: Trainer = TRAINER,
    states: dict[int, BlockState] | None = None,
    streams: dict[int, ToyStream] | None = None,
    **settings: Any,
) -> Run:
    if name == "sharded":
        settings = {"groups": 3, "shard_above": 2, **settings}
    config = PlacementConfig(**{"name": name, "steps_per_dispatch": 4, **settings})
    streams = streams or {b: ToyStream(b) for b in BLOCKS}
    states = states or {b: trainer.init(b) for b in BLOCKS}
    return Run(make_placement(config, trainer, states, streams), streams)


def train(name: str, target: int, **settings: Any) -> dict[int, BlockState]:
    run = start(name, **settings)
    steps = dict.fromkeys(BLOCKS, 0)
    for chunk in run.placement.advance(target):
        for block, metrics in chunk.metrics.items():
            steps[block] += chunk.num_steps
            assert metrics["loss"].shape == (chunk.num_steps,)
            assert run.placement.step(block) == steps[block]
    assert steps == dict.fromkeys(BLOCKS, target)
    states = run.states()
    assert {int(state.step) for state in states.values()} == {target}
    return states


@pytest.fixture(scope="module")
def reference() -> dict[int, BlockState]:
    """40 steps with owned interfaces, one block after the other."""
    return train("sequential", 40)


def interface(state: BlockState) -> Any:
    return state.params["interface"]


def test_stacked_equals_sequential(reference: dict[int, BlockState]) -> None:
    stacked = train("stacked", 40)
    for b in BLOCKS:
        assert distance(TRAINER.init(b), reference[b]) > 0.01
        assert distance(stacked[b], reference[b]) < 1e-6


def test_blocks_may_differ_in_their_layers() -> None:
    trainer = toy_trainer(PlainTask((1, 2, 3)))
    one, other = (train(name, 40, trainer=trainer) for name in ("sequential", "stacked"))
    for b in BLOCKS:
        assert len(one[b].params["layers"]) == b + 1
        assert distance(trainer.init(b), one[b]) > 0.01
        assert distance(one[b], other[b]) < 1e-6


@pytest.mark.parametrize("sync_every", [1, 5])
def test_placements_agree_with_a_shared_interface(
    sync_every: int, reference: dict[int, BlockState]
) -> None:
    shared = {"interface": "shared", "sync_every": sync_every}
    one, *others = (train(name, 40, **shared) for name in PLACEMENTS)
    for b in BLOCKS:
        assert max(distance(one[b], other[b]) for other in others) < 1e-6
        assert distance(one[b], reference[b]) > 1e-3


def test_denoising_blocks_agree_too() -> None:
    """A network in place of the plain task."""
    trainer = toy_trainer(toy_task((1, 1)))

    def trained(name: str) -> list[BlockState]:
        states, streams = ({b: make(b) for b in range(2)} for make in (trainer.init, ToyStream))
        run = start(name, trainer=trainer, states=states, streams=streams)
        assert sum(chunk.num_steps for chunk in run.placement.advance(8)) > 0
        return [run.placement.state(b) for b in range(2)]

    one, other = trained("sequential"), trained("stacked")
    assert distance(one[1], trainer.init(1)) > 0.01
    for a, b in zip(one, other, strict=True):
        assert distance(a, b) < 1e-5


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sequential", {"steps_per_visit": 6}),
        ("sequential", {"steps_per_visit": 4, "prefetch": False}),
        ("stacked", {"steps_per_dispatch": 10}),
    ],
)
def test_chunks_do_not_matter(
    name: str, settings: dict[str, Any], reference: dict[int, BlockState]
) -> None:
    states = train(name, 40, **settings)
    for b in BLOCKS:
        assert distance(states[b], reference[b]) < 1e-6


def moved(name: str, run: Run, **settings: Any) -> Run:
    """What `run` holds, handed to a placement of another kind."""
    return start(name, states=run.states(), streams=run.streams, **settings)


@pytest.mark.parametrize("chunks", [1, 4])
@pytest.mark.parametrize(("first", "second"), list(itertools.product(PLACEMENTS, PLACEMENTS)))
def test_stopping_and_continuing_changes_nothing(
    first: str, second: str, chunks: int, reference: dict[int, BlockState]
) -> None:
    """In the middle of a visit and of a round, in the same placement and in the other one."""
    run = start(first, steps_per_visit=8)
    for _ in itertools.islice(run.placement.advance(40), chunks):
        pass
    if second != first:
        run = moved(second, run, steps_per_visit=8)
    assert sum(chunk.num_steps for chunk in run.placement.advance(40)) > 0
    for b in BLOCKS:
        assert run.placement.step(b) == 40
        assert distance(run.placement.state(b), reference[b]) < 1e-6


AVERAGED = {"interface": "shared", "sync_every": 8}


@pytest.fixture(scope="module")
def averaged() -> dict[int, BlockState]:
    """12 steps with a shared interface that is averaged every 8."""
    return train("stacked", 12, **AVERAGED)


@pytest.mark.parametrize("second", PLACEMENTS)
@pytest.mark.parametrize("chunks", range(1, 8))
def test_stopping_skips_no_average(
    second: str, chunks: int, averaged: dict[int, BlockState]
) -> None:
    """Stopped after any chunk of a round."""
    run = start("sequential", **AVERAGED)
    for _ in itertools.islice(run.placement.advance(12), chunks):
        pass
    if second != "sequential":
        run = moved(second, run, **AVERAGED)
    assert sum(chunk.num_steps for chunk in run.placement.advance(12)) > 0
    for b in BLOCKS:
        assert distance(run.placement.state(b), averaged[b]) < 1e-6


def test_idle_blocks_are_in_host_memory() -> None:
    """Whenever the caller looks, only the block in the middle of its visit is on the device."""
    device = jax.local_devices()[0].default_memory().kind
    run = start("sequential", steps_per_visit=8)
    visits = []
    for chunk in run.placement.advance(16):
        (block,) = chunk.metrics
        visits.append(block)
        ends = run.placement.step(block) % 8 == 0
        for b in BLOCKS:
            expected = {device} if b == block and not ends else {"pinned_host"}
            assert memory_kinds(run.placement.state(b)) == expected
    assert set(visits) == set(BLOCKS)


@pytest.mark.parametrize("prefetch", [False, True])
def test_the_device_holds_one_state_or_two(prefetch: bool) -> None:
    """Counted among all live arrays, so that no forgotten reference keeps a block there."""
    device = jax.local_devices()[0].default_memory().kind
    shape = (17, 19)

    class Marked(PlainTask):
        def init(self, key: jax.Array, block: int) -> dict[str, Any]:
            return {**super().init(key, block), "layers": (jax.numpy.zeros(shape),)}

        def loss(self, params: Any, batch: Any, interval: Any, key: Any, **settings: Any) -> Any:
            loss, metrics = super().loss({**params, "layers": ()}, batch, interval, key)
            return loss + jax.numpy.sum(params["layers"][0] ** 2), metrics

    trainer = toy_trainer(Marked())
    run = start("sequential", trainer=trainer, steps_per_visit=8, prefetch=prefetch)
    counts = []
    for chunk in run.placement.advance(16):
        jax.block_until_ready(chunk.metrics)
        there = [
            x for x in jax.live_arrays() if x.shape == shape and x.sharding.memory_kind == device
        ]
        counts.append(len(there))
    # Weights, two moments and the average of one block. At the end of a visit nothing of it is
    # left, but the next block may have arrived.
    in_visit, at_end = counts[0::2], counts[1::2]
    assert in_visit == [4] * 6
    assert at_end == ([4, 4, 0] * 2 if prefetch else [0] * 6)


def test_stacked_takes_states_from_the_host_and_leaves_the_callers_alone() -> None:
    device = jax.local_devices()[0]
    host = jax.sharding.SingleDeviceSharding(device, memory_kind="pinned_host")
    for where in (host, jax.sharding.SingleDeviceSharding(device)):
        states = jax.device_put({b: TRAINER.init(b) for b in BLOCKS}, where)
        run = start("stacked", states=states)
        for _ in run.placement.advance(4):
            pass
        for b in BLOCKS:
            assert memory_kinds(run.placement.state(b)) == {device.default_memory().kind}
            assert same(states[b], TRAINER.init(b))


@pytest.mark.parametrize("name", PLACEMENTS)
def test_shared_interfaces_meet_at_every_average_and_part_in_between(name: str) -> None:
    run = start(name, interface="shared", sync_every=8)
    for target, together in [(4, False), (8, True), (12, False), (16, True)]:
        for _ in run.placement.advance(target):
            pass
        states = run.states()
        for b in (1, 2):
            apart = distance(interface(states[0]), interface(states[b]))
            average_apart = distance(states[0].ema["interface"], states[b].ema["interface"])
            assert (apart == 0) == (average_apart == 0) == together
            # What is not interface is never exchanged.
            assert distance(states[0].params["layers"][0], states[b].params["layers"][0]) > 0


def test_the_average_is_the_mean_over_blocks() -> None:
    """One step apart, against NumPy."""
    (apart, together) = (
        train("sequential", 1, **settings)
        for settings in ({}, {"interface": "shared", "sync_every": 1})
    )
    for name in ("embed", "head"):
        mean = np.mean([np.asarray(interface(apart[b])[name]) for b in BLOCKS], axis=0)
        for b in BLOCKS:
            np.testing.assert_allclose(interface(together[b])[name], mean, rtol=1e-6)


def test_owned_interfaces_never_meet(reference: dict[int, BlockState]) -> None:
    for a, b in itertools.combinations(BLOCKS, 2):
        assert distance(interface(reference[a]), interface(reference[b])) > 0.01


def test_rounds_visit_every_block_in_changing_order() -> None:
    run = start("sequential", steps_per_visit=4)
    visits = [block for chunk in run.placement.advance(40) for block in chunk.metrics]
    rounds = [tuple(visits[i : i + 3]) for i in range(0, len(visits), 3)]
    assert all(set(order) == set(BLOCKS) for order in rounds)
    assert len(set(rounds)) > 1


@pytest.mark.parametrize("name", PLACEMENTS)
def test_compiles_once_for_blocks_of_one_shape(name: str) -> None:
    run = start(name)
    assert sum(chunk.num_steps for chunk in run.placement.advance(12)) > 0
    program = run.placement._run if name == "sequential" else run.placement._program.run
    assert program._cache_size() == 1


def test_reaching_a_target_twice_does_nothing() -> None:
    for name in PLACEMENTS:
        run = start(name)
        assert sum(chunk.num_steps for chunk in run.placement.advance(4)) > 0
        assert list(run.placement.advance(4)) == []


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"name": "mpi"},
            "placement.name is 'mpi'; allowed: 'sequential' or 'stacked' or 'sharded' or "
            "'isolated'",
        ),
        (
            {"name": "pmap"},
            "placement.name is 'pmap', which jax keeps as a wrapper over shard_map; allowed: "
            "'sharded', which uses jax.shard_map itself",
        ),
        (
            {"interface": "none"},
            "placement.interface is 'none'; allowed: 'owned' or 'shared' or 'frozen'",
        ),
        (
            {"name": "isolated", "interface": "shared"},
            "placement.interface is 'shared'; allowed: 'owned' or 'frozen' with placement.name "
            "'isolated', where nothing is exchanged",
        ),
        ({"sync_every": 0}, "placement.sync_every is 0; allowed: 1 or more"),
        ({"steps_per_visit": 0}, "placement.steps_per_visit is 0; allowed: 1 or more, or None"),
        ({"groups": 0}, "placement.groups is 0; allowed: 1 or more, or None"),
        ({"devices": 0}, "placement.devices is 0; allowed: 1 or more, or None"),
        ({"shard_above": 0}, "placement.shard_above is 0; allowed: 1 or more"),
        ({"steps_per_dispatch": 0}, "placement.steps_per_dispatch is 0; allowed: 1 or more"),
    ],
)
def test_refusals(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError) as error:
        PlacementConfig(**settings)
    assert str(error.value) == sentence
