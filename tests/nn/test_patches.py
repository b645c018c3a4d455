"""Order of patches and of the values inside them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dbjax.nn.patches import patchify, unpatchify


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_round_trip(key, patch_size):
    images = jax.random.normal(key, (2, 8, 12, 3))
    tokens = patchify(images, patch_size)
    assert tokens.shape == (2, 96 // patch_size**2, 3 * patch_size**2)
    np.testing.assert_array_equal(unpatchify(tokens, patch_size, 8, 12), images)


def test_tokens_run_row_by_row_and_channels_last():
    row, column, channel = jnp.meshgrid(*map(jnp.arange, (4, 6, 2)), indexing="ij")
    image = (100.0 * row + 10 * column + channel)[None]
    tokens = patchify(image, 2)[0]
    np.testing.assert_array_equal(tokens[0], [0, 1, 10, 11, 100, 101, 110, 111])
    np.testing.assert_array_equal(tokens[:, 0], [0, 20, 40, 200, 220, 240])
