"""The bound of a walk, on tokens whose posterior is known, and walks that draw from it."""

import dataclasses
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from dbjax.autoregressive import AutoregressiveConfig, AutoregressiveTask, FixedTable
from dbjax.categorical import draw
from dbjax.metrics.likelihood import next_token_entropy, walk_bound
from dbjax.nn.decoder import Streams
from dbjax.noise import LogNormalNoise
from dbjax.partition import PartitionConfig, make_partition, sampling_grid
from dbjax.solvers import euler
from dbjax.writers import Walk

pytestmark = pytest.mark.usefixtures("quick_compilation")

VOCABULARY, WIDTH, LENGTH = 5, 8, 10
NOISE = LogNormalNoise(p_mean=0.0, p_std=1.0, sigma_min=0.1, sigma_max=20.0)
CHANCES = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
TRUE = {"chances": jnp.log(jnp.asarray(CHANCES, jnp.float32))}


@dataclasses.dataclass(frozen=True, eq=False)
class Deaf:
    """Gives every token the log probabilities that are its parameters, whatever it is shown."""

    depth: int = 4
    vocabulary: int = VOCABULARY
    width: int = WIDTH

    def apply(self, params: Any, z: Array, *_: Any, **__: Any) -> Streams:
        return Streams(z, jnp.zeros_like(z))

    def interface(self, params: Any) -> Any:
        def head(hidden: Array) -> Array:
            return jnp.broadcast_to(params["chances"], (*hidden.shape[:-1], VOCABULARY))

        return types.SimpleNamespace(head=head)


def task_of(
    num_blocks: int, *, readout: str = "posterior", bridge: str = "hard"
) -> AutoregressiveTask:
    partition = make_partition(PartitionConfig(num_blocks), NOISE, Deaf().depth)
    config = AutoregressiveConfig(readout=readout, bridge=bridge)
    table = FixedTable(jax.random.key(5), WIDTH)
    return AutoregressiveTask(Deaf(), NOISE, partition, config, LENGTH, table)


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.choice(VOCABULARY, p=CHANCES, size=(2000, LENGTH)).astype(np.int32)


@pytest.mark.parametrize("num_blocks", [1, 2, 4])
def test_the_bound_is_the_entropy_where_the_posterior_is_known(tokens, num_blocks):
    """Whoever owns which levels, and although the walk's own bridge is a coarse one."""
    task = task_of(num_blocks)
    blocks = dict.fromkeys(range(num_blocks), TRUE)
    found = walk_bound(task, blocks, tokens, looks=4, batch_size=500)
    entropy = float(-np.log(CHANCES[tokens]).mean())
    assert found["nats_per_token"] == pytest.approx(entropy, rel=0.01)
    parts = [row["nats_per_token"] for row in found["by_block"]]
    assert sum(parts) + found["prior"] + found["read_out"] == pytest.approx(
        found["nats_per_token"], abs=1e-4
    )
    at_noise = next_token_entropy(task, blocks, tokens)
    assert at_noise["nats_per_token"] == pytest.approx(entropy, rel=0.01)


def test_each_block_answers_for_its_levels(tokens):
    """A wrong block costs where it is asked; at pure noise only the first one's fault shows."""
    task, wrong = task_of(2), {"chances": TRUE["chances"][::-1]}
    right = walk_bound(task, {0: TRUE, 1: TRUE}, tokens, batch_size=500)
    for b in range(2):
        blocks = {0: TRUE, 1: TRUE, b: wrong}
        found = walk_bound(task, blocks, tokens, batch_size=500)
        worse = [
            new["nats_per_token"] > old["nats_per_token"] + 0.05
            for new, old in zip(found["by_block"], right["by_block"], strict=True)
        ]
        assert worse == [b == 0, b == 1]
        at_noise = next_token_entropy(task, blocks, tokens, batch_size=500)["nats_per_token"]
        assert (at_noise > right["nats_per_token"] + 0.3) == (b == 0)


def test_what_does_not_look_at_z_is_told_nothing(tokens):
    """Without Bayes' rule in the read-out, all that is known is the chances, and z is no help."""
    found = walk_bound(task_of(1, readout="head"), {0: TRUE}, tokens, batch_size=500)
    assert found["read_out"] == pytest.approx(float(-np.log(CHANCES[tokens]).mean()), rel=0.01)
    assert found["nats_per_token"] > 10


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_a_bridge_that_draws_from_the_posterior_writes_what_is_likely(key, num_steps):
    """The draw and z are a pair as the noise makes them, so that any number of steps will do."""
    task, size = task_of(1, bridge="draw"), 20_000
    grid = sampling_grid(task.partition, NOISE, num_steps, "even")
    walk = Walk(grid, euler, 1.0, temperature=1.0, top_p=1.0)

    @jax.jit
    def written(key: Array) -> Array:
        z, estimate, keys = walk.start(task, size, key)
        hidden = jnp.zeros((size, WIDTH))
        for i in range(num_steps):
            levels = jax.tree.map(lambda each, i=i: each[i], walk.levels)
            z, estimate = walk.step(task, TRUE, z, estimate, hidden, levels, keys[i])
        return draw(jax.random.fold_in(key, 1), estimate.logits, 1.0)

    shares = np.bincount(written(key), minlength=VOCABULARY) / size
    np.testing.assert_allclose(shares, CHANCES, atol=0.015)
