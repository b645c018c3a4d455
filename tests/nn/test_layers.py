"""Attention, MLP, modulation and affine layers against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from scipy.stats import norm

from dbjax.nn.attention import SelfAttention
from dbjax.nn.linear import xavier_linear
from dbjax.nn.mlp import MLP, exact_gelu
from dbjax.nn.modulation import Modulation, layer_norm, modulate

WIDTH, HEADS = 12, 3


@pytest.fixture
def tokens(key: jax.Array) -> jax.Array:
    return jax.random.normal(key, (2, 5, WIDTH))


def test_attention_mixes_each_head_by_itself(key, tokens):
    module = SelfAttention(WIDTH, HEADS, dtype=jnp.float32, rngs=nnx.Rngs(key))
    x = np.asarray(tokens, np.float64)
    query, key_, value = np.split(x @ module.qkv.kernel[...], 3, axis=-1)
    heads = []
    for part in np.split(np.arange(WIDTH), HEADS):
        logits = query[..., part] @ key_[..., part].swapaxes(1, 2) / np.sqrt(WIDTH / HEADS)
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        heads.append(weights @ value[..., part])
    expected = np.concatenate(heads, axis=-1) @ module.out.kernel[...]
    np.testing.assert_allclose(module(tokens), expected, atol=1e-5)


def test_attention_reads_every_token(key, tokens):
    module = SelfAttention(WIDTH, HEADS, dtype=jnp.float32, rngs=nnx.Rngs(key))
    gradient = jax.grad(lambda x: module(x)[0, 2].sum())(tokens)
    assert (jnp.abs(gradient[0]).sum(-1) > 0).all()
    assert not gradient[1].any()


def test_fused_map_has_the_bound_of_the_whole_matrix(key):
    module = SelfAttention(96, HEADS, dtype=jnp.float32, rngs=nnx.Rngs(key))
    bound = np.sqrt(6 / (4 * 96))
    assert 0.99 * bound < np.abs(module.qkv.kernel[...]).max() <= bound


def test_xavier_bound(key):
    module = xavier_linear(50, 150, dtype=jnp.float32, rngs=nnx.Rngs(key))
    bound = np.sqrt(6 / 200)
    assert 0.99 * bound < np.abs(module.kernel[...]).max() <= bound
    assert not module.bias[...].any()


def test_mlp_is_gelu_between_two_maps(key, tokens):
    module = MLP(WIDTH, 4 * WIDTH, dtype=jnp.float32, rngs=nnx.Rngs(key))
    h = np.asarray(tokens, np.float64) @ module.expand.kernel[...]
    h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    np.testing.assert_allclose(module(tokens), h @ module.contract.kernel[...], atol=1e-5)


def test_exact_gelu_and_its_derivative_also_within_shard_map():
    """jax 0.12 refuses the derivative of its own there."""
    x = np.linspace(-4, 4, 40).astype("f4")
    mesh = jax.make_mesh((2,), ("block",), axis_types=(AxisType.Auto,))

    def both(x: jax.Array) -> jax.Array:
        return jnp.stack([exact_gelu(x), jax.vmap(jax.grad(exact_gelu))(x)], axis=1)

    found = jax.jit(jax.shard_map(both, mesh=mesh, in_specs=P("block"), out_specs=P("block")))(x)
    expected = np.stack([x * norm.cdf(x), norm.cdf(x) + x * norm.pdf(x)], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_layer_norm_is_exact_far_from_zero(tokens):
    # The one-pass formula E[x^2] - E[x]^2 loses all digits here.
    far = np.asarray(3000 + tokens)
    x = far.astype(np.float64)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(layer_norm(jnp.asarray(far)), expected, atol=2e-3)


def test_layer_norm_computes_in_float32(tokens):
    assert layer_norm(tokens.astype(jnp.bfloat16)).dtype == jnp.float32


def test_modulation_starts_as_the_identity(key, tokens):
    module = Modulation(WIDTH, 2, dtype=jnp.bfloat16, rngs=nnx.Rngs(key))
    shift, scale = module(jax.random.normal(key, (2, WIDTH)))
    assert shift.shape == scale.shape == (2, 1, WIDTH)
    assert shift.dtype == jnp.float32
    np.testing.assert_array_equal(modulate(tokens, shift, scale), tokens)
