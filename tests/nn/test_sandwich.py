"""The layer of recurrent-depth models against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dbjax.nn.decoder import Cache
from dbjax.nn.sandwich import BASE, SandwichLayer, takase
from tests.helpers import shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

WIDTH, HEADS, DIM, HIDDEN, LENGTH = 12, 3, 4, 10, 5


@pytest.fixture
def layer(key: jax.Array) -> SandwichLayer:
    made = SandwichLayer(
        WIDTH, HEADS, HIDDEN, effective_depth=7, dtype=jnp.float32, rngs=nnx.Rngs(key)
    )
    definition, state = nnx.split(made)
    return nnx.merge(definition, shaken(state, key))


def rms(x, norm):
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6) * np.asarray(norm.scale[...])


def turned(x):
    """Pairs of neighbouring features as complex numbers."""
    turns = np.arange(LENGTH)[:, None] * BASE ** (-2 * np.arange(DIM // 2) / DIM)
    z = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * turns)[None, :, None]
    return np.stack([z.real, z.imag], axis=-1).reshape(x.shape)


def attention(x, module):
    parts = np.split(x @ np.asarray(module.qkv.kernel[...]), 3, axis=-1)
    query, keys, value = (part.reshape(-1, LENGTH, HEADS, DIM) for part in parts)
    bias = np.asarray(module.query_key_bias[...])
    scores = np.einsum("bqhd,bkhd->bhqk", turned(query + bias[0]), turned(keys + bias[1]))
    scores = np.where(np.tri(LENGTH, dtype=bool), scores / np.sqrt(DIM), -np.inf)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    mixed = np.einsum("bhqk,bkhd->bqhd", weights, value).reshape(-1, LENGTH, WIDTH)
    return mixed @ np.asarray(module.out.kernel[...])


def mlp(x, module):
    gate, value = np.split(x @ np.asarray(module.expand.kernel[...]), 2, axis=-1)
    return (gate / (1 + np.exp(-gate)) * value) @ np.asarray(module.contract.kernel[...])


def expected(layer, x, vectors):
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = vectors
    update = attention(rms(x, layer.attention_norm) * (1 + scale_a) + shift_a, layer.attention)
    x = rms(x + (1 + gate_a) * update, layer.attention_sum_norm)
    update = mlp(rms(x, layer.mlp_norm) * (1 + scale_m) + shift_m, layer.mlp)
    return rms(x + (1 + gate_m) * update, layer.mlp_sum_norm)


@pytest.fixture
def tokens(key: jax.Array) -> jax.Array:
    return jax.random.normal(key, (2, LENGTH, WIDTH))


def test_plain_and_modulated(key, layer, tokens):
    vectors = jax.random.normal(jax.random.key(1), (6, 2, 1, WIDTH))
    x, v = (np.asarray(a, np.float64) for a in (tokens, vectors))
    np.testing.assert_allclose(layer(tokens, vectors), expected(layer, x, v), atol=1e-4)
    np.testing.assert_allclose(layer(tokens), expected(layer, x, 0 * v), atol=1e-4)
    np.testing.assert_allclose(layer(tokens, 0 * vectors), layer(tokens), atol=1e-6)


def test_a_cache_may_be_filled_in_any_portions_and_overwritten(key, layer, tokens):
    extend = jax.jit(lambda *arguments: layer.extend(*arguments))
    whole = layer(tokens)
    nothing = jnp.zeros((2, LENGTH + 1, HEADS, DIM))
    cache = Cache(nothing, nothing)
    # Position -1 is before the text; each slot is written twice, first with what is wrong.
    for i in range(LENGTH):
        positions = jnp.array([i - 1, i])
        wrong = jnp.stack([tokens[:, max(i - 1, 0)], tokens[:, i] + 1], axis=1)
        _, cache = extend(wrong, None, positions, cache)
        right = jnp.stack([tokens[:, max(i - 1, 0)], tokens[:, i]], axis=1)
        found, cache = extend(right, None, positions, cache)
        np.testing.assert_allclose(found[:, 1], whole[:, i], atol=1e-4)


def test_initial_weights(key):
    """For width 512: 0.02795, and 0.00172 where updates end (132 layers)."""
    for depth, deviation in ((None, 0.02795), (132, 0.001720)):
        weights = np.asarray(takase(512, depth)(key, (512, 256), jnp.float32))
        assert 2.9 * deviation < np.abs(weights).max() <= 3.001 * deviation
        # Cutting at three deviations takes 1.4 % off.
        assert weights.std() == pytest.approx(0.9866 * deviation, rel=0.01)
