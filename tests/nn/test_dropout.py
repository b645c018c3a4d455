"""Dropout: rate, scale, and that nothing shares a mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dbjax.nn.attention import SelfAttention
from dbjax.nn.dropout import dropout, split_key
from dbjax.nn.mlp import MLP

pytestmark = pytest.mark.usefixtures("quick_compilation")

RATE = 0.25


def test_zeroes_a_share_and_scales_the_rest(key):
    out = np.asarray(dropout(jnp.ones((100, 100)), RATE, key))
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / (1 - RATE))}
    np.testing.assert_allclose((out == 0).mean(), RATE, atol=0.02)


def test_may_be_vmapped_with_a_key_for_each(key):
    keys, x = jax.random.split(key), jnp.ones((2, 5, 8))
    together = jax.jit(jax.vmap(lambda x, key: dropout(x, RATE, key)))(x, keys)
    np.testing.assert_array_equal(together[1], dropout(x[1], RATE, keys[1]))
    assert (together[0] != together[1]).any()


def test_is_the_identity_without_a_key(key):
    x = jnp.ones((3, 4))
    assert dropout(x, RATE, None) is x
    assert split_key(None, 3) == [None, None, None]
    first, second = split_key(key, 2)
    assert (dropout(x, RATE, first) != dropout(x, RATE, second)).any()


def test_attention_drops_probabilities_and_outputs(key):
    """With the identity for values and output, and equal queries, each row shows its masks."""
    module = SelfAttention(4, 1, dropout=RATE, dtype=jnp.float32, rngs=nnx.Rngs(key))
    weights = jnp.concatenate([jnp.zeros((4, 8)), jnp.eye(4)], axis=1)
    module.qkv.kernel[...], module.out.kernel[...] = weights, jnp.eye(4)
    tokens = jnp.tile(jnp.eye(4)[None], (2000, 1, 1))
    np.testing.assert_allclose(module(tokens), jnp.full((2000, 4, 4), 1 / 4), rtol=1e-6)
    out = np.asarray(module(tokens, key))
    # A probability survives both masks, the output's and its own.
    np.testing.assert_allclose((out == 0).mean(), 1 - (1 - RATE) ** 2, atol=0.02)
    np.testing.assert_allclose(out[out > 0], 1 / 4 / (1 - RATE) ** 2, rtol=1e-6)
    np.testing.assert_allclose(out.mean(0), 1 / 4, atol=0.02)
    # Masks of two examples, and of two queries of one example, are drawn apart.
    kept = out > 0
    both = (1 - RATE) ** 4
    np.testing.assert_allclose((kept[::2] & kept[1::2]).mean(), both, atol=0.02)
    np.testing.assert_allclose((kept[:, 0] & kept[:, 1]).mean(), both, atol=0.02)


def test_attention_with_a_mask_computes_what_it_computes_without(key):
    """The two programs agree at a rate so small that nothing is dropped."""
    module = SelfAttention(12, 3, dropout=1e-9, dtype=jnp.float32, rngs=nnx.Rngs(key))
    tokens = jax.random.normal(key, (2, 5, 12))
    masked, unmasked = jax.jit(lambda x, key: (module(x, key), module(x)))(tokens, key)
    np.testing.assert_allclose(masked, unmasked, atol=1e-6)


def test_mlp_drops_outputs(key):
    module = MLP(12, 24, dropout=RATE, dtype=jnp.float32, rngs=nnx.Rngs(key))
    tokens = jax.random.normal(key, (50, 12))
    out, clean = np.asarray(module(tokens, key)), np.asarray(module(tokens))
    kept = out != 0
    np.testing.assert_allclose(1 - kept.mean(), RATE, atol=0.1)
    np.testing.assert_allclose(out[kept], clean[kept] / (1 - RATE), rtol=1e-5)
