"""Order and values of the sinusoidal embeddings."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from dbjax.nn.embedding import ScalarEmbedding, position_table

ROWS, COLUMNS, WIDTH = 3, 5, 16


def test_first_half_encodes_the_column_and_second_the_row():
    column, row = np.split(position_table(ROWS, COLUMNS, WIDTH).reshape(ROWS, COLUMNS, WIDTH), 2, 2)
    assert (column == column[:1]).all() and (row == row[:, :1]).all()
    assert len(np.unique(column[0], axis=0)) == COLUMNS
    assert len(np.unique(row[:, 0], axis=0)) == ROWS


def test_positions_are_sines_then_cosines_from_fast_to_slow():
    code = position_table(1, COLUMNS, WIDTH)[3, : WIDTH // 2]
    # Two axes, sines and cosines: a quarter of the width is left for the frequencies.
    angles = [3 / 10_000 ** (k / 4) for k in range(4)]
    np.testing.assert_allclose(code, [*np.sin(angles), *np.cos(angles)], atol=1e-7)


def test_scalar_embedding_is_cosines_then_sines_then_a_small_network(key):
    module = ScalarEmbedding(8, features=4, dtype=jnp.float32, rngs=nnx.Rngs(key))
    values = np.array([-1.5, 0.3])
    angles = np.stack([values, values / 100], axis=1)
    hidden = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) @ module.expand.kernel[...]
    expected = hidden / (1 + np.exp(-hidden)) @ module.out.kernel[...]
    np.testing.assert_allclose(module(jnp.asarray(values, jnp.float32)), expected, atol=1e-6)


def test_scalar_embedding_starts_with_small_normal_weights(key):
    module = ScalarEmbedding(256, dtype=jnp.float32, rngs=nnx.Rngs(key))
    for layer in (module.expand, module.out):
        np.testing.assert_allclose(jnp.std(layer.kernel[...]), 0.02, rtol=0.02)
        assert not layer.bias[...].any()
