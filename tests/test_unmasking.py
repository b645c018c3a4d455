"""Walks that reveal masked tokens, with the exact posterior of known texts as the model."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from dbjax.categorical import draw, nucleus
from dbjax.errors import SettingError
from dbjax.noise import MASKED, MaskingNoise
from dbjax.partition import Partition, PartitionConfig, make_partition
from dbjax.sampling import Sampler
from dbjax.task import Estimate
from dbjax.unmasking import UnmaskingConfig
from tests.helpers import TaskStub

VOCABULARY, LENGTH = 3, 2
JOINT = np.array([[0.30, 0.02, 0.03], [0.05, 0.25, 0.00], [0.10, 0.05, 0.20]])
"""Probability of each text of two tokens, which depend on each other."""


@dataclasses.dataclass(frozen=True, eq=False)
class ExactTask(TaskStub):
    """Knows p(token | what is shown); a block answers only within its own share of masking."""

    schedule: str = "linear"
    num_blocks: int = 3

    @property
    def noise(self) -> MaskingNoise:
        return MaskingNoise(self.schedule)

    @property
    def partition(self) -> Partition:
        return make_partition(PartitionConfig(self.num_blocks), self.noise, self.num_blocks)

    def blocks(self) -> dict[int, Any]:
        edges = self.partition.edges
        return {b: {"u": jnp.array(edges[b : b + 2])} for b in range(self.num_blocks)}

    def prior(self, key: Array, num_samples: int) -> Array:
        return self.noise.prior(key, (num_samples, LENGTH))

    def denoise(
        self, params: Any, z: Array, level: Array, condition: Any = None, *, guidance: float = 1.0
    ) -> Estimate:
        other = z[:, ::-1]
        tables = []
        for position in range(LENGTH):
            joint = jnp.asarray(JOINT if position == 0 else JOINT.T, jnp.float32)
            # The last column: nothing is known of the other token.
            table = jnp.concatenate([joint, joint.sum(1, keepdims=True)], axis=1)
            tables.append(table[:, other[:, position]].T)
        logits = jnp.log(jnp.stack(tables, axis=1))
        u = self.noise.u_of(level)
        mine = (u >= params["u"][0] - 1e-5) & (u <= params["u"][1] + 1e-5)
        logits = jnp.where(mine[:, None, None], logits, jnp.nan)
        return Estimate(jnp.where(z == MASKED, jnp.argmax(logits, -1), z), logits)


def frequencies(tokens: Array) -> np.ndarray:
    counts = np.zeros((VOCABULARY, VOCABULARY))
    np.add.at(counts, tuple(np.asarray(tokens).T), 1)
    return counts / len(tokens)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("solver", ["ancestral", "mean"])
@pytest.mark.parametrize("grid", ["left", "even"])
def test_texts_come_as_often_as_they_are_probable(schedule, solver, grid, key):
    task = ExactTask(schedule)
    sampler = Sampler(task, UnmaskingConfig(num_steps=60, grid=grid, solver=solver))
    found = sampler(task.blocks(), key, 20_000).clean
    assert found.dtype == jnp.int32
    # Of 20,000 texts a share is known to 0.0035 and the two tokens seldom appear in one step.
    np.testing.assert_allclose(frequencies(found), JOINT, atol=0.015)


def test_in_one_step_tokens_are_drawn_without_each_other(key):
    task = ExactTask()
    found = Sampler(task, UnmaskingConfig(num_steps=1))(task.blocks(), key, 20_000).clean
    expected = np.outer(JOINT.sum(1), JOINT.sum(0))
    np.testing.assert_allclose(frequencies(found), expected, atol=0.015)


def test_as_many_are_shown_as_the_schedule_says(key):
    task = ExactTask("cosine")
    sampler = Sampler(task, UnmaskingConfig(num_steps=10))
    path = sampler(task.blocks(), key, 5_000, record=True).path
    assert path is not None
    assert path.logits is None
    shown = np.mean(np.asarray(path.z) != MASKED, axis=(1, 2))
    np.testing.assert_allclose(shown, np.arange(10) / 10, atol=0.02)


def test_given_tokens_stay_and_are_read(key):
    task = ExactTask()
    start = jnp.tile(jnp.array([[1, MASKED]], jnp.int32), (5_000, 1))
    found = Sampler(task, UnmaskingConfig(num_steps=20))(task.blocks(), key, 5_000, start=start)
    expected = np.zeros_like(JOINT)
    expected[1] = JOINT[1] / JOINT[1].sum()
    np.testing.assert_allclose(frequencies(found.clean), expected, atol=0.02)


@pytest.mark.parametrize("solver", ["ancestral", "mean"])
def test_temperature_and_nucleus(solver, key):
    task = ExactTask()
    for settings in ({"temperature": 0.0}, {"top_p": 0.3}):
        config = UnmaskingConfig(num_steps=60, solver=solver, **settings)
        found = frequencies(Sampler(task, config)(task.blocks(), key, 1_000).clean)
        # Whichever token comes first, the likeliest other is its like; seldom both come at once.
        assert np.trace(found) > 0.95
    warm = UnmaskingConfig(num_steps=1, solver=solver, temperature=2.0)
    found = frequencies(Sampler(task, warm)(task.blocks(), key, 20_000).clean).sum(1)
    root = np.sqrt(JOINT.sum(1))
    np.testing.assert_allclose(found, root / root.sum(), atol=0.015)


def test_nucleus_keeps_the_fewest_that_reach_the_mass():
    logits = jnp.log(jnp.array([[0.5, 0.2, 0.3], [0.05, 0.9, 0.05]]))
    for top_p, kept in (
        (0.5, [[1, 0, 0], [0, 1, 0]]),
        (0.51, [[1, 0, 1], [0, 1, 0]]),
        (0.85, [[1, 1, 1], [0, 1, 0]]),
        (1e-9, [[1, 0, 0], [0, 1, 0]]),
    ):
        np.testing.assert_array_equal(jnp.isfinite(nucleus(logits, top_p)), np.array(kept, bool))
    assert nucleus(logits, 1.0) is logits


def test_rare_tokens_are_drawn(key):
    """With ordinary float32 noise none would be, of probability below 2^-24 or so."""
    probability = 3e-8
    logits = jnp.log(jnp.array([1 - probability, probability]))
    count = 2**22

    def rare(key: Array) -> Array:
        return jnp.sum(draw(key, jnp.broadcast_to(logits, (count, 2))))

    keys = jax.random.split(key, 24)
    found = int(jax.lax.map(rare, keys).sum())
    # 3 are expected; 0 have a chance of 5 in 100, and more than 11 of 1 in 14,000.
    assert 1 <= found <= 11


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"solver": "euler"}, "sampling.solver is 'euler'; allowed: 'ancestral' or 'mean'"),
        ({"temperature": -1.0}, "sampling.temperature is -1.0; allowed: 0 or more"),
        ({"top_p": 0.0}, "sampling.top_p is 0.0; allowed: a number in (0, 1]"),
        ({"num_steps": 0}, "sampling.num_steps is 0; allowed: 1 or more"),
        (
            {"grid": "cosine"},
            "sampling.grid is 'cosine'; allowed: 'even' or 'left' or 'karras' or 'adaptive'",
        ),
    ],
)
def test_refusals(settings, sentence):
    with pytest.raises(SettingError) as error:
        UnmaskingConfig(**settings)
    assert str(error.value) == sentence
