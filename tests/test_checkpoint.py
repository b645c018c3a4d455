"""Blocks are saved apart, restored exactly, and refused where they do not fit."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dbjax.checkpoint import Checkpoints, abstract
from dbjax.devices import host_memory, to_host
from dbjax.errors import SettingError
from dbjax.training import BlockState
from tests.helpers import toy_task, toy_trainer

TRAINER = toy_trainer()


def state_at(step: int, block: int = 0) -> BlockState:
    """Some state of a block, different at every step."""
    fresh = TRAINER.init(block)
    params = jax.tree.map(lambda x: x + step, fresh.params)
    return dataclasses.replace(fresh, step=jnp.int32(step), params=params)


def shape(block: int = 0):
    return abstract(jax.eval_shape(functools.partial(state_at, 0, block)), host_memory())


def check_same(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_what_is_saved_is_restored_even_if_training_goes_on(tmp_path):
    expected, state = state_at(3), state_at(3)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save({0: (state, {"position": 3})})
        # The next step takes over the arrays while the files are still being written.
        jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)(state)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.resume_steps([0, 1], together=False) == {0: 3}
        found, position = checkpoints.restore(0, 3, shape())
    check_same(found, expected)
    assert position == {"position": 3}


def test_idle_blocks_are_saved_from_the_host_and_restored_there(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save({0: (to_host(state_at(3)), {})})
        checkpoints.wait()
        found, _ = checkpoints.read(0, 3, shape())
    check_same(found, state_at(3))
    assert {x.sharding.memory_kind for x in jax.tree.leaves(found)} == {"pinned_host"}


def test_each_block_has_its_own_last_steps(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            blocks = {0: (state_at(step), {}), 1: (state_at(1, 1), {})}
            checkpoints.save(blocks, snapshot={0: step, 1: 1})
        checkpoints.wait()
        assert checkpoints.steps(0) == [2, 3]
        assert checkpoints.steps(1) == [1]
        assert checkpoints.resume_steps([0, 1], together=False) == {0: 3, 1: 1}
        assert checkpoints.resume_steps([0, 1], together=True) == {0: 3, 1: 1}


def test_a_snapshot_counts_only_when_all_its_blocks_are_on_disk(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save({b: (state_at(1, b), {}) for b in (0, 1)})
    # Killed while the second snapshot was being written: block 0 is there, the rest is not.
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save({0: (state_at(2), {})})
    (tmp_path / "snapshot.json").write_text(json.dumps({"0": 1, "1": 1}))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.resume_steps([0, 1], together=True) == {0: 1, 1: 1}
        checkpoints.restore(0, 1, shape())
        assert checkpoints.steps(0) == [1], "the abandoned future stayed"


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save({0: (state_at(1), {})})
    other = toy_trainer(toy_task((2, 1)))
    like = abstract(jax.eval_shape(functools.partial(other.init, 0)), host_memory())
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(SettingError, match="does not fit"):
        checkpoints.read(0, 1, like)
