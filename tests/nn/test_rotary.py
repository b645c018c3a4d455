"""Rotary attention and the gated MLP against NumPy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dbjax.nn.mlp import GatedMLP
from dbjax.nn.rotary import RotaryAttention, causal_mask, rotate

WIDTH, HEADS, DIM = 12, 3, 4


@pytest.fixture
def tokens(key: jax.Array) -> jax.Array:
    return jax.random.normal(key, (2, 5, WIDTH))


@pytest.mark.parametrize("interleaved", [False, True])
def test_each_pair_is_turned_as_a_complex_number(key, interleaved):
    x = jax.random.normal(key, (2, 5, HEADS, 6))
    positions = np.array([0, 3, 4, 70, 1000])
    pairs = [(0, 1), (2, 3), (4, 5)] if interleaved else [(0, 3), (1, 4), (2, 5)]
    expected = np.array(x, np.float64)
    for k, (a, b) in enumerate(pairs):
        turn = np.exp(1j * positions * 50.0 ** (-2 * k / 6))[None, :, None]
        z = (x[..., a] + 1j * x[..., b]) * turn
        expected[..., a], expected[..., b] = z.real, z.imag
    found = rotate(x, jnp.asarray(positions), base=50.0, interleaved=interleaved)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    every = jnp.broadcast_to(jnp.asarray(positions), (2, 5))
    again = rotate(x, every, base=50.0, interleaved=interleaved)
    np.testing.assert_array_equal(again, found)


def attention(key: jax.Array, **settings) -> RotaryAttention:
    return RotaryAttention(
        WIDTH, HEADS, linear=nnx.Linear, dtype=jnp.float32, rngs=nnx.Rngs(key), **settings
    )


def test_attention_mixes_each_head_by_itself(key, tokens):
    module = attention(key, query_key_bias=True)
    bias = np.arange(2 * WIDTH).reshape(2, HEADS, DIM) / 10
    module.query_key_bias[...] = jnp.asarray(bias, jnp.float32)
    positions = jnp.array([0, 1, 2, 5, 9])
    x = np.asarray(tokens, np.float64)
    parts = np.split(x @ np.asarray(module.qkv.kernel[...]), 3, axis=-1)
    query, keys, value = (part.reshape(2, 5, HEADS, DIM) for part in parts)
    query, keys = (
        np.asarray(rotate(jnp.asarray(part, jnp.float32), positions), np.float64)
        for part in (query + bias[0], keys + bias[1])
    )
    scores = np.einsum("bqhd,bkhd->bhqk", query, keys) / 2
    scores = np.where(np.tri(5, dtype=bool), scores, -np.inf)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    mixed = np.einsum("bhqk,bkhd->bqhd", weights, value).reshape(2, 5, WIDTH)
    found = module(tokens, positions, causal_mask(5))
    np.testing.assert_allclose(found, mixed @ module.out.kernel[...], atol=1e-5)


def test_attention_knows_distances_only(key, tokens):
    module = attention(key)
    near, far = (module(tokens, jnp.arange(5) + start, causal_mask(5)) for start in (0, 300))
    np.testing.assert_allclose(near, far, atol=1e-4)
    apart = module(tokens, 3 * jnp.arange(5), causal_mask(5))
    assert not np.allclose(near, apart, atol=1e-3)


def test_reading_and_attending_apart_is_the_same(key, tokens):
    """As a cache does it: the last token looks at what was read of the others before."""
    module = attention(key)
    positions = jnp.arange(5)
    whole = module(tokens, positions, causal_mask(5))
    before = module.read(tokens[:, :4], positions[:4])
    last = module.read(tokens[:, 4:], positions[4:])
    keys = jnp.concatenate([before.key, last.key], axis=1)
    values = jnp.concatenate([before.value, last.value], axis=1)
    np.testing.assert_allclose(module.attend(last.query, keys, values), whole[:, 4:], atol=1e-6)


@pytest.mark.parametrize("activation", [jax.nn.silu, jax.nn.sigmoid])
def test_gated_mlp(key, tokens, activation):
    linear = functools.partial(nnx.Linear, kernel_init=nnx.initializers.normal(0.5))
    module = GatedMLP(
        WIDTH, 7, linear=linear, activation=activation, dtype=jnp.float32, rngs=nnx.Rngs(key)
    )
    x = np.asarray(tokens, np.float64)
    gate, value = np.split(x @ module.expand.kernel[...], 2, axis=-1)
    sigmoid = 1 / (1 + np.exp(-gate))
    gate = sigmoid * (gate if activation is jax.nn.silu else 1)
    expected = (gate * value) @ module.contract.kernel[...]
    np.testing.assert_allclose(module(tokens), expected, atol=1e-5)
    assert module.expand.bias is None
    assert module.contract.bias is None
