"""The two streams of a text: who may look at whom, in every form that the layers have."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dbjax.errors import SettingError
from dbjax.families.ar_lm import ARConfig, ARDenoiser, PlainAR, PlainARConfig
from tests.helpers import shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

VOCABULARY, LENGTH = 7, 6
SHAPE: dict[str, Any] = {"depth": 3, "width": 8, "num_heads": 2, "mlp_hidden": 12}
SMALL = ARConfig(**SHAPE, condition_width=6, gates=1)
PLAIN = PlainARConfig(**SHAPE)
LEVEL = jnp.float32(-0.5)


@pytest.fixture
def inputs(key: jax.Array) -> tuple[Any, ...]:
    """z, c_noise and tokens of two texts."""
    z_key, noise_key, token_key = jax.random.split(key, 3)
    return (
        jax.random.normal(z_key, (2, LENGTH, SMALL.width)),
        jax.random.normal(noise_key, (2, LENGTH)),
        jax.random.randint(token_key, (2, LENGTH), 0, VOCABULARY),
    )


def network_of(key: jax.Array, **settings: Any) -> tuple[ARDenoiser, Any]:
    config = dataclasses.replace(SMALL, **settings)
    network = ARDenoiser(config, VOCABULARY, trained_targets=False)
    return network, shaken(jax.jit(network.init, static_argnums=1)(key, (0, 1, 2)), key)


@pytest.mark.parametrize(
    ("passes", "start"), [("separate", "noise"), ("joint", "noise"), ("separate", "text")]
)
def test_no_slot_is_shown_its_answer_or_what_follows(key, inputs, passes, start):
    """Token j changes slots after j, and only those; also with all gradients of one slot."""
    network, params = network_of(key, passes=passes, start=start)
    apply = jax.jit(network.apply)
    z, c_noise, tokens = inputs
    before = apply(params, z, c_noise, tokens, LEVEL)
    for j in range(LENGTH):
        other = tokens.at[0, j].set((tokens[0, j] + 1) % VOCABULARY)
        after = apply(params, z, c_noise, other, LEVEL)
        for old, new in zip(before, after, strict=True):
            changed = np.abs(np.asarray(old - new)).max(axis=-1)
            np.testing.assert_array_equal(changed[0, : j + 1], 0)
            # The positive control: what may be read is read.
            assert (changed[0, j + 1 :] > 1e-4).all()
            np.testing.assert_array_equal(changed[1], 0)


@pytest.mark.parametrize("passes", ["separate", "joint"])
def test_noisy_slots_do_not_see_each_other(key, inputs, passes):
    network, params = network_of(key, passes=passes)
    z, c_noise, tokens = inputs

    def slot(z: jax.Array, c_noise: jax.Array, i: jax.Array) -> jax.Array:
        return network.apply(params, z, c_noise, tokens, LEVEL).noisy[0, i].sum()

    gradient = jax.jit(jax.grad(slot, argnums=(0, 1)))
    for i in range(LENGTH):
        by_z, by_level = gradient(z, c_noise, i)
        seen = np.abs(np.asarray(by_z)).sum(-1)
        mine = np.zeros((2, LENGTH), bool)
        mine[0, i] = True
        assert (seen[mine] > 1e-4).all()
        np.testing.assert_array_equal(seen[~mine], 0)
        np.testing.assert_array_equal(np.asarray(by_level)[~mine], 0)
        assert by_level[0, i] != 0


def test_clean_stream_knows_nothing_of_the_noisy_one(key, inputs):
    network, params = network_of(key)
    apply = jax.jit(network.apply)
    z, c_noise, tokens = inputs
    clean = apply(params, z, c_noise, tokens, LEVEL).clean
    other = apply(params, z + 1, c_noise - 1, tokens, LEVEL).clean
    np.testing.assert_array_equal(clean, other)


@pytest.mark.parametrize("per_token", [False, True])
def test_one_mask_and_two_passes_are_the_same(key, inputs, per_token):
    z, c_noise, tokens = inputs
    c_noise = c_noise if per_token else c_noise[:, :1]
    apart, params = network_of(key)
    joint, _ = network_of(key, passes="joint")

    def loss(params: Any, network: ARDenoiser) -> jax.Array:
        streams = network.apply(params, z, c_noise, tokens, LEVEL)
        return jnp.mean(streams.clean**2) + jnp.mean(streams.noisy**2)

    for found, expected in zip(
        apart.apply(params, z, c_noise, tokens, LEVEL),
        joint.apply(params, z, c_noise, tokens, LEVEL),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    gradients = [jax.jit(jax.grad(loss), static_argnums=1)(params, n) for n in (apart, joint)]
    for found, expected in zip(*map(jax.tree.leaves, gradients), strict=True):
        largest = float(jnp.abs(expected).max())
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * largest)


def test_borrowed_layers_continue_the_clean_stream_and_are_not_learned(key, inputs):
    network, params = network_of(key)
    z, c_noise, tokens = inputs

    def of(*layers: int) -> Any:
        return jax.tree.map(lambda x: x[np.array(layers)], params["layers"])

    @jax.jit
    def clean(own: Any, context: Any) -> jax.Array:
        return network.apply({**own, **context}, z, c_noise, tokens, LEVEL).clean

    own = {**params, "layers": of(2)}
    # The last place is room that is not used.
    context = {"context": {"layers": of(1, 0, 0), "use": jnp.array([1.0, 1.0, 0.0])}}
    expected = clean({**params, "layers": of(1, 0, 2)}, {})
    np.testing.assert_allclose(clean(own, context), expected, rtol=1e-4, atol=1e-4)
    assert jnp.abs(clean(own, {}) - expected).max() > 0.1

    gradients = jax.jit(jax.grad(lambda *p: jnp.sum(clean(*p) ** 2), argnums=(0, 1)))(own, context)
    for leaf in jax.tree.leaves(gradients[1]):
        np.testing.assert_array_equal(leaf, 0)
    assert jnp.abs(gradients[0]["interface"]["tokens"]["embedding"]).max() > 1e-3
    assert all(jnp.abs(x).max() > 0 for x in jax.tree.leaves(gradients[0]["layers"]["mlp"]))


@pytest.mark.parametrize(("filled", "start"), [(0, "noise"), (1, "text"), (4, "noise")])
def test_with_caches_slots_are_the_same(key, inputs, filled, start):
    network, params = network_of(key, start=start)
    z, c_noise, tokens = inputs
    c_noise = jnp.broadcast_to(c_noise[:1, :1], c_noise.shape)
    whole = network.apply(params, z, c_noise, tokens, LEVEL).noisy
    caches = network.prefill(params, tokens[:, :filled], LEVEL, LENGTH)
    step = jax.jit(network.step, static_argnames="first")
    for i in range(filled, LENGTH):
        before = tokens[:, i - 1] if i else jnp.full(2, VOCABULARY)
        slot = (jnp.int32(i), before, z[:, i], c_noise[0, 0], LEVEL)
        found, caches = step(params, caches, *slot, first=True)
        np.testing.assert_allclose(found, whole[:, i], rtol=1e-4, atol=1e-3)
        again, same = step(params, caches, *slot, first=False)
        np.testing.assert_allclose(again, whole[:, i], rtol=1e-4, atol=1e-3)
        assert jax.tree.all(jax.tree.map(np.array_equal, caches, same))


def test_the_plain_model_is_causal_and_its_caches_agree(key, inputs):
    network = PlainAR(PLAIN, VOCABULARY)
    params = shaken(jax.jit(network.init, static_argnums=1)(key, (0, 1, 2)), key)
    _, _, tokens = inputs
    whole = network.apply(params, tokens)
    other = network.apply(params, tokens.at[0, 3].set((tokens[0, 3] + 1) % VOCABULARY))
    changed = np.abs(np.asarray(whole - other)).max(axis=-1)[0]
    np.testing.assert_array_equal(changed > 1e-4, np.arange(LENGTH) > 3)
    caches = network.prefill(params, tokens[:, :2], LENGTH)
    step = jax.jit(network.step)
    for i in range(2, LENGTH):
        found, caches = step(params, caches, jnp.int32(i), tokens[:, i - 1])
        np.testing.assert_allclose(found, whole[:, i], rtol=1e-4, atol=1e-3)


def test_published_size():
    """Llama 2's shape at the paper's width: 134.1 M parameters, and the beginning's row."""
    network = PlainAR(PlainARConfig(), 32_000)
    shapes = jax.eval_shape(lambda key: network.init(key, range(12)), jax.random.key(0))
    layers = 12 * (4 * 768**2 + 3 * 768 * 2048 + 2 * 768)
    expected = layers + 2 * 32_000 * 768 + 768 + 768
    assert sum(x.size for x in jax.tree.leaves(shapes)) == expected
    assert expected == pytest.approx(134.1e6, rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_heads": 5}, "model.num_heads is 5; allowed: a number that divides the width 768"),
        ({"passes": "both"}, "model.passes is 'both'; allowed: 'separate' or 'joint'"),
        ({"gates": 2}, "model.gates is 2; allowed: 0 or 1"),
        ({"condition_width": 0}, "model.condition_width is 0; allowed: a positive integer"),
        ({"dropout": -0.1}, r"model.dropout is -0.1; allowed: a number in \[0, 1\)"),
        ({"dtype": "float16"}, "model.dtype is 'float16'; allowed: float32, bfloat16"),
    ],
)
def test_refusals(settings, sentence):
    with pytest.raises(SettingError, match=sentence):
        ARConfig(**settings)
