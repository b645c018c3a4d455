"""The pure update of one block: schedules, average, clipping, and what it must not depend on."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dbjax import keys
from dbjax.errors import SettingError
from dbjax.exchange import average_leaves, interface_leaves, with_interface
from dbjax.families.stack import ResidualStack
from dbjax.noise import LogNormalNoise
from dbjax.optimizer import OptimizerConfig, make_optimizer
from dbjax.partition import PartitionConfig, make_partition
from dbjax.placement import PlacementConfig, make_placement
from dbjax.task import DenoisingTask
from dbjax.training import Trainer, next_stop
from tests.helpers import (
    WIDTH,
    PlainTask,
    Residual,
    ToyStream,
    distance,
    linear,
    same,
    toy_batch,
    toy_task,
    toy_trainer,
)


def learning_rates(num_steps: int, **settings: Any) -> np.ndarray:
    """What each of `num_steps` updates does to a parameter whose gradient never changes.

    Adam then moves by the learning rate, whatever the gradient.
    """
    config = OptimizerConfig(clip_norm=None, eps=1e-20, **settings)
    optimizer = make_optimizer(config, num_steps)
    state = optimizer.init(jnp.zeros(()))

    def body(state: Any, _: None) -> tuple[Any, jax.Array]:
        update, state = optimizer.update(jnp.ones(()), state, jnp.zeros(()))
        return state, -update

    return np.asarray(jax.lax.scan(body, state, None, length=num_steps)[1])


def test_constant_schedule_starts_at_the_peak() -> None:
    np.testing.assert_allclose(learning_rates(5, learning_rate=0.3), 0.3, rtol=1e-4)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_warm_up_then_decay(schedule: str) -> None:
    rates = learning_rates(
        20, learning_rate=1.0, warmup_steps=4, schedule=schedule, final_scale=0.2
    )
    np.testing.assert_allclose(rates[:5], [0, 0.25, 0.5, 0.75, 1.0], rtol=1e-4)
    share = np.arange(16) / 16
    after = {
        "constant": np.ones(16),
        "cosine": 0.2 + 0.8 * (1 + np.cos(np.pi * share)) / 2,
        "linear": 1 - 0.8 * share,
    }
    np.testing.assert_allclose(rates[4:], after[schedule], rtol=1e-3)


def test_schedule_counts_the_blocks_own_steps() -> None:
    """A block that starts late is warmed up no less."""
    trainer = toy_trainer(warmup_steps=2, learning_rate=0.1)
    moves = []
    for block, steps in ((0, 3), (1, 1)):
        state = trainer.init(block)
        for position in range(steps):
            before = state.params
            state, _ = trainer.update(
                state, toy_batch(block, position), block, trainer.interval(block)
            )
        moves.append(distance(before["layers"], state.params["layers"]))
        assert int(state.step) == steps
    assert moves[0] > 0
    assert moves[1] == 0


def test_clipping_bounds_the_gradient() -> None:
    def moments(clip_norm: float | None) -> Any:
        """Adam's first moment after one step: (1 - b1) times the gradient it was given."""
        trainer = toy_trainer(clip_norm=clip_norm)
        state, metrics = trainer.update(trainer.init(0), toy_batch(), 0, trainer.interval(0))
        mu = optax.tree.get(state.opt_state, "mu")
        return float(optax.tree.norm(mu)) / 0.1, float(metrics["grad_norm"])

    free, norm = moments(None)
    assert free == pytest.approx(norm, rel=1e-4)
    clipped, still = moments(norm / 7)
    assert clipped == pytest.approx(norm / 7, rel=1e-4)
    # What is logged is the gradient's own norm.
    assert still == pytest.approx(norm, rel=1e-6)


def test_weight_decay_is_decoupled() -> None:
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, weight_decay=0.5), 10)
    params = jnp.full((), 2.0)
    update, _ = optimizer.update(jnp.zeros(()), optimizer.init(params), params)
    assert update == pytest.approx(-0.1 * 0.5 * 2.0)


def test_average_is_warmed_up() -> None:
    """ema' = d ema + (1 - d) params with d = min(decay, (1 + n) / (10 + n)), in NumPy."""
    trainer = toy_trainer(ema_decay=0.2)
    state = trainer.init(0)
    ema = np.asarray(state.params["interface"]["head"])
    for n in range(4):
        state, _ = trainer.update(state, toy_batch(position=n), 0, trainer.interval(0))
        decay = min(0.2, (1 + n) / (10 + n))
        ema = decay * ema + (1 - decay) * np.asarray(state.params["interface"]["head"])
        np.testing.assert_allclose(state.ema["interface"]["head"], ema, rtol=1e-5)
    assert [min(0.2, (1 + n) / (10 + n)) for n in (0, 3)] == [0.1, 0.2]
    assert state.weights is state.ema


def test_no_average_where_none_is_asked_for() -> None:
    trainer = toy_trainer(ema_decay=0.0)
    state, _ = trainer.update(trainer.init(0), toy_batch(), 0, trainer.interval(0))
    assert state.ema is None
    assert state.weights is state.params


def test_run_is_update_repeated() -> None:
    trainer = toy_trainer()
    batches = ToyStream(1).take(5)
    run = jax.jit(trainer.run)
    together, metrics = run(trainer.init(1), batches, 1, trainer.interval(1))
    state = trainer.init(1)
    losses = []
    update = jax.jit(trainer.update)
    for i in range(5):
        batch = {name: x[i] for name, x in batches.items()}
        state, one = update(state, batch, 1, trainer.interval(1))
        losses.append(one["loss"])
    assert int(together.step) == 5
    assert distance(together, state) < 1e-6
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    # The same program twice is the same to the last bit.
    assert same(together, run(trainer.init(1), batches, 1, trainer.interval(1))[0])


def test_randomness_comes_from_seed_block_and_step() -> None:
    def loss(seed: int = 0, block: int = 1, step: int = 0) -> float:
        trainer = toy_trainer(seed=seed)
        state = dataclasses.replace(trainer.init(1), step=jnp.int32(step))
        return float(update(trainer, state, block)["loss"])

    def update(trainer: Trainer, state: Any, block: int) -> Any:
        return trainer.update(state, toy_batch(), block, trainer.interval(1))[1]

    assert loss() == loss()
    # Weights do not depend on the seed here, so that only the draws of the step differ.
    assert len({loss(), loss(seed=1), loss(block=2), loss(step=1)}) == 4


def test_keys_are_named() -> None:
    def draw(*name: Any) -> float:
        return float(jax.random.uniform(keys.derive(*name)))

    names = [
        (0, "step", 1, 2),
        (0, "step", 2, 1),
        (0, "init", 1, 2),
        (1, "step", 1, 2),
        (0, "step"),
    ]
    assert len({draw(*name) for name in names}) == len(names)
    assert draw(0, "step", 1, 2) == draw(0, "step", jnp.int32(1), 2)


def test_a_block_learns_its_task() -> None:
    """Points in two tight clusters: well below the loss of 1 of a network without opinion."""
    trainer = toy_trainer(toy_task(), num_steps=200)
    points = np.where(np.arange(64)[:, None] % 2, [1.0, 1.0], [-1.0, -1.0]).astype(np.float32)
    batches = {"image": np.broadcast_to(points, (200, 64, 2))}
    _, metrics = jax.jit(trainer.run)(trainer.init(1), batches, 1, trainer.interval(1))
    assert jnp.mean(metrics["loss"][-20:]) < 0.75


def test_a_blocks_loss_has_no_gradient_on_other_blocks(key: jax.Array) -> None:
    task = toy_task((1, 2, 3))
    everyone = {b: task.init(key, b) for b in range(3)}

    def loss(everyone: Any, block: int) -> jax.Array:
        interval = jnp.array(task.partition.intervals[block])
        return task.loss(everyone[block], toy_batch(), interval, key)[0]

    gradients = jax.jit(lambda everyone: [jax.grad(loss)(everyone, b) for b in range(3)])
    for block, gradient in enumerate(gradients(everyone)):
        norms = {b: float(optax.tree.norm(gradient[b])) for b in gradient}
        assert norms.pop(block) > 0
        assert set(norms.values()) == {0.0}


def corrupted(states: dict[int, Any], value: str) -> dict[int, Any]:
    """Block 1 as it is, the others with something else in their weights."""
    fill = {
        "nan": lambda x: jnp.full_like(x, jnp.nan),
        "random": lambda x: jax.random.normal(jax.random.key(3), x.shape),
    }[value]
    return {
        b: state if b == 1 else dataclasses.replace(state, params=jax.tree.map(fill, state.params))
        for b, state in states.items()
    }


@pytest.mark.parametrize("name", ["sequential", "stacked"])
def test_training_ignores_what_other_blocks_hold(name: str) -> None:
    """To the last bit, through the placements that have all blocks in their hands."""
    trainer = toy_trainer()
    config = PlacementConfig(name=name, steps_per_visit=4, steps_per_dispatch=4)
    fresh = {b: trainer.init(b) for b in range(3)}

    def train(states: dict[int, Any]) -> Any:
        placement = make_placement(config, trainer, states, {b: ToyStream(b) for b in states})
        assert sum(chunk.num_steps for chunk in placement.advance(8)) > 0
        return placement.state(1)

    alone = train({1: fresh[1]})
    reference = train(fresh)
    assert distance(reference, fresh[1]) > 0
    for value in ("nan", "random"):
        assert same(train(corrupted(fresh, value)), reference)
    if name == "sequential":
        assert same(alone, reference)
    else:
        # A program for one block is another program: it may round otherwise.
        assert distance(alone, reference) < 1e-6


def test_end_to_end_training_is_one_block_of_the_same_trainer() -> None:
    """All layers, the whole range of noise, and the same starting weights."""
    task = PlainTask((6,))
    assert task.partition.intervals == ((0.0, 1.0),)
    trainer = toy_trainer(task)
    state = trainer.init(0)
    cut = PlainTask((1, 2, 3))
    layers = [x for b in range(3) for x in cut.init(keys.derive(0, "init"), b)["layers"]]
    assert same(list(state.params["layers"]), layers)
    after, _ = trainer.update(state, toy_batch(), 0, trainer.interval(0))
    moved = [distance(a, b) for a, b in zip(layers, after.params["layers"], strict=True)]
    assert min(moved) > 0


def test_weights_in_bfloat16() -> None:
    """Types stay what they are from step to step, and the average does not stall."""

    class Bfloat16Task(PlainTask):
        def init(self, key: jax.Array, block: int) -> dict[str, Any]:
            return jax.tree.map(lambda x: x.astype(jnp.bfloat16), super().init(key, block))

    def types(tree: Any) -> list[Any]:
        return [x.dtype for x in jax.tree.leaves(tree)]

    trainer = toy_trainer(Bfloat16Task(), ema_decay=0.999)
    state = trainer.init(0)
    after, metrics = jax.jit(trainer.run)(state, ToyStream(0).take(40), 0, trainer.interval(0))
    assert types(after) == types(state)
    assert set(types(after.params)) == {jnp.dtype("bfloat16")}
    assert set(types(after.ema)) == {jnp.dtype("float32")}
    assert jnp.all(jnp.isfinite(metrics["loss"]))
    # After 40 steps d is 0.8: had the small last moves been rounded away, the two would agree.
    last, _ = trainer.update(after, toy_batch(), 0, trainer.interval(0))
    decay = jnp.float32(41 / 50)
    expected = jax.tree.map(
        lambda old, new: decay * old + (1 - decay) * new, after.ema, last.params
    )
    assert distance(last.ema, expected) < 1e-6
    assert distance(last.ema, after.ema) > 0


class OwnInterface(Residual):
    """A layer with a part that is called like the interface."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        super().__init__(rngs)
        self.interface = linear(WIDTH, WIDTH, rngs)


def test_interface_is_found_wherever_it_is_kept_and_nowhere_else() -> None:
    rngs = nnx.Rngs(0)
    network = ResidualStack(
        [OwnInterface(rngs)],
        embed=linear(2, WIDTH, rngs),
        head=linear(WIDTH, 2, rngs),
        sample_shape=(2,),
    )
    noise = LogNormalNoise()
    task = DenoisingTask(network, noise, make_partition(PartitionConfig(1), noise, 1), (2,))
    state = toy_trainer(task).init(0)
    leaves = interface_leaves(state)
    # Weights, both moments and the average of everything in the interface.
    assert len(leaves) == 4 * len(jax.tree.leaves(state.params["interface"]))
    marked = with_interface(state, [jnp.full_like(leaf, 7.0) for leaf in leaves])
    assert jnp.all(marked.params["interface"]["head"]["kernel"] == 7.0)
    assert jnp.all(marked.ema["interface"]["embed"]["bias"] == 7.0)
    assert same(marked.params["layers"], state.params["layers"])
    assert same(with_interface(marked, leaves), state)


def test_average_of_leaves_is_their_mean() -> None:
    blocks = [[jnp.array([1.0, 2.0]), jnp.array(3.0)], [jnp.array([3.0, 6.0]), jnp.array(5.0)]]
    mean = average_leaves([*blocks, blocks[1]])
    np.testing.assert_allclose(mean[0], [7 / 3, 14 / 3], rtol=1e-6)
    np.testing.assert_allclose(mean[1], 13 / 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("step", "target", "every", "stop"),
    [(0, 100, 20, 20), (15, 100, 20, 20), (20, 100, 20, 40), (95, 100, 20, 100), (0, 7, 20, 7)],
)
def test_stops_are_absolute(step: int, target: int, every: int, stop: int) -> None:
    assert next_stop(step, target, every) == stop


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"learning_rate": 0.0}, "optimizer.learning_rate is 0.0; allowed: above 0"),
        ({"eps": 0.0}, "optimizer.eps is 0.0; allowed: above 0"),
        ({"b2": 1.0}, "optimizer.b2 is 1.0; allowed: a number in [0, 1)"),
        ({"ema_decay": -0.1}, "optimizer.ema_decay is -0.1; allowed: a number in [0, 1)"),
        ({"warmup_steps": -1}, "optimizer.warmup_steps is -1; allowed: 0 or more"),
        ({"weight_decay": -1.0}, "optimizer.weight_decay is -1.0; allowed: 0 or more"),
        (
            {"schedule": "step"},
            "optimizer.schedule is 'step'; allowed: one of 'constant', 'cosine', 'linear'",
        ),
        ({"clip_norm": 0.0}, "optimizer.clip_norm is 0.0; allowed: a number above 0, or None"),
    ],
)
def test_refusals(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError) as error:
        OptimizerConfig(**settings)
    assert str(error.value) == sentence


def test_statistics_are_measured_and_not_trained() -> None:
    """Neither gradient nor weight decay moves them, and no optimizer state is kept for them."""
    trainer = toy_trainer(weight_decay=10.0)
    state = trainer.init(0)
    batch, interval = toy_batch(), trainer.interval(0)
    new, metrics = jax.jit(trainer.update)(state, batch, 0, interval)
    key = keys.derive(trainer.seed, "step", 0, state.step)
    measured = trainer.task.loss(state.params, batch, interval, key)[1]["statistics"]
    assert float(jnp.abs(measured[0]).max()) > 0.01
    assert distance(new.params["statistics"], measured) < 1e-7
    assert set(metrics) == {"loss", "grad_norm"}
    names = {str(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)}
    assert not any("statistics" in name for name in names)
    frozen = dataclasses.replace(trainer, freeze_interface=True)
    again, _ = jax.jit(frozen.update)(frozen.init(0), batch, 0, interval)
    assert same(again.params["interface"], state.params["interface"])
    assert distance(again.params["statistics"], measured) < 1e-7
