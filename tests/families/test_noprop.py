"""NoProp's network: its sizes, its statistics, and what the trainer relies on."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dbjax.classification import LabelNetwork
from dbjax.errors import SettingError
from dbjax.families.noprop import LabelNet, NoPropConfig, NoPropNetwork, prototypes
from dbjax.noise import LogNormalNoise
from tests.helpers import distance, relative_distance

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0, impl="unsafe_rbg")  # draws of this kind compile fastest
SHAPE, CLASSES, BATCH = (8, 8, 1), 3, 6
SMALL: dict[str, Any] = {"channels": (2, 3, 4), "width": 8, "depth": 2}


def network(timed: bool = True, **settings: Any) -> NoPropNetwork:
    return NoPropNetwork(NoPropConfig(**{**SMALL, **settings}), SHAPE, CLASSES, timed=timed)


NETWORK = network()
PARAMS = jax.jit(NETWORK.init, static_argnums=1)(KEY, (0, 1))
PREDICT = jax.jit(NETWORK.predict, static_argnames=("position", "remat"))


@pytest.fixture
def inputs(key: jax.Array) -> tuple[jax.Array, ...]:
    z_key, image_key = jax.random.split(key)
    z = jax.random.normal(z_key, (BATCH, CLASSES))
    return z, jax.random.normal(image_key, (BATCH, *SHAPE)), jnp.linspace(-1.5, 1.1, BATCH)


def count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def affine(n_in: int, n_out: int) -> int:
    return n_in * n_out + n_out


@pytest.mark.parametrize(("padding", "flat"), [("same", 8192), ("valid", 3200)])
@pytest.mark.parametrize("norm", [True, False])
def test_parameter_counts_at_the_published_size(padding: str, flat: int, norm: bool) -> None:
    """Figure 6 of the paper, counted by hand, for CIFAR-100 with one-hot labels."""
    config = NoPropConfig(padding=padding, batch_norm=norm)
    make = functools.partial(LabelNet, config, (32, 32, 3), 100, timed=not norm)
    state = nnx.state(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))), nnx.Param)
    image = affine(9 * 3, 32) + affine(9 * 32, 64) + affine(9 * 64, 128) + affine(flat, 256)
    label = affine(100, 256) + (2 * affine(256, 256) if norm else 0)
    time = 0 if norm else affine(64, 256)
    fusion = affine(512 if norm else 768, 256) + affine(256, 128) + affine(128, 100)
    # Gain and offset of each BatchNorm: one of the image, three of the label, two of the fusion.
    gains = 2 * (4 * 256 + 256 + 128) if norm else 0
    assert count(state) == image + label + time + fusion + gains


def test_running_moments_are_measured_in_training_and_used_after(
    inputs: tuple[jax.Array, ...],
) -> None:
    assert set(PARAMS) == {"interface", "layers", "statistics"}
    assert {leaf.shape[0] for leaf in jax.tree.leaves(PARAMS["statistics"])} == {2}
    answer = PREDICT(PARAMS, *inputs, key=KEY)
    new = jax.tree.map(lambda x: x[:1], PARAMS["statistics"])
    assert jax.tree.structure(answer.statistics) == jax.tree.structure(new)
    assert distance(answer.statistics, new) > 1e-3
    # What is measured last, by hand: the moments of the hidden layer's input to its norm.
    momentum = 0.9
    for name in ("mean", "var"):
        old, now = (
            tree["hidden"]["norm"][name] for tree in (PARAMS["statistics"], answer.statistics)
        )
        batch_moment = (now[0] - momentum * old[0]) / (1 - momentum)
        assert np.isfinite(batch_moment).all()
        assert (batch_moment >= 0).all() or name == "mean"
    # Evaluation measures nothing and sees each example on its own.
    alone = PREDICT(PARAMS, *(x[:1] for x in inputs))
    together = PREDICT(PARAMS, *inputs)
    assert together.statistics is None
    assert relative_distance(alone.logits, together.logits[:1]) < 1e-5
    moved = {**PARAMS, "statistics": jax.tree.map(lambda x: x + 1, PARAMS["statistics"])}
    assert distance(PREDICT(moved, *inputs).logits, together.logits) > 1e-3


def test_networks_have_weights_of_their_own(inputs: tuple[jax.Array, ...]) -> None:
    init = jax.jit(NETWORK.init, static_argnums=1)
    whole, block = (init(jax.random.key(0), layers) for layers in ((0, 1), (1,)))
    first, second = (PREDICT(whole, *inputs, position=i).logits for i in (0, 1))
    assert distance(first, second) > 1e-2
    assert relative_distance(PREDICT(block, *inputs).logits, second) < 1e-6


def test_dropout_follows_the_key_and_remat_changes_nothing(
    inputs: tuple[jax.Array, ...],
) -> None:
    @functools.partial(jax.jit, static_argnames="remat")
    def gradient(params: Any, key: Any, remat: bool = False) -> Any:
        def loss(trained: Any) -> Any:
            answer = NETWORK.predict({**params, **trained}, *inputs, key=key, remat=remat)
            return jnp.mean(answer.logits**2), answer.statistics

        trained = {name: params[name] for name in ("interface", "layers")}
        return jax.grad(loss, has_aux=True)(trained)

    one, other = (gradient(PARAMS, k) for k in jax.random.split(KEY))
    assert distance(one, other) > 1e-3
    again = gradient(PARAMS, jax.random.split(KEY)[0], remat=True)
    assert distance(one, again) < 1e-5


@pytest.mark.parametrize(("embedding", "width"), [("learned", 20), ("prototype", 64)])
def test_learned_embeddings(embedding: str, width: int, inputs: Any) -> None:
    rows = jnp.arange(CLASSES * 64.0).reshape(CLASSES, 64)
    config = NoPropConfig(**{**SMALL, "depth": 1}, embedding=embedding)
    own = NoPropNetwork(
        config, SHAPE, CLASSES, timed=False, prototypes=rows if embedding == "prototype" else None
    )
    params = jax.jit(own.init, static_argnums=1)(KEY, (0,))
    assert own.width == width
    table = np.asarray(own.label_table(params))
    assert table.shape == (CLASSES, width)
    if embedding == "prototype":
        np.testing.assert_array_equal(table, rows)
        assert "third" in params["layers"]["label"]
    else:
        np.testing.assert_allclose(table @ table.T, np.eye(CLASSES), atol=1e-5)
    z = jnp.ones((BATCH, width))
    assert jax.jit(own.predict)(params, z, inputs[1]).logits.shape == (BATCH, CLASSES)


def test_as_a_block_of_diffusion_blocks(inputs: tuple[jax.Array, ...]) -> None:
    """It reads c_in z and c_noise, and its logits are the answer."""
    assert isinstance(NETWORK, LabelNetwork)
    z, image, c_noise = inputs
    c = LogNormalNoise().precondition(jnp.exp(4 * c_noise))
    found = jax.jit(NETWORK.classify)(PARAMS, z, c, image).logits
    expected = PREDICT(PARAMS, c.c_in[:, None] * z, image, c_noise).logits
    assert relative_distance(found, expected) < 1e-5
    np.testing.assert_array_equal(NETWORK.label_table(PARAMS), np.eye(CLASSES))


def test_prototypes_are_the_most_central_images() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(40, 2, 2, 1)).astype("f4")
    label = np.arange(40) % 2
    images[label == 1] += 5
    found = prototypes(images, label, 2)
    for c in range(2):
        own = images[label == c].reshape(-1, 4)
        medians = [np.median(np.linalg.norm(own - x, axis=1)) for x in own]
        np.testing.assert_array_equal(found[c], own[np.argmin(medians)])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"depth": 0}, "model.depth is 0; allowed: 1 or more"),
        ({"width": 1}, "model.width is 1; allowed: 2 or more"),
        ({"channels": (3, 4)}, "model.channels is (3, 4); allowed: three positive numbers"),
        ({"dropout": 1.0}, "model.dropout is 1.0; allowed: a number in [0, 1)"),
        ({"padding": "full"}, "model.padding is 'full'; allowed: 'same' or 'valid'"),
        (
            {"embedding": "hot"},
            "model.embedding is 'hot'; allowed: 'one_hot' or 'learned' or 'prototype'",
        ),
        (
            {"padding": "valid"},
            "model.padding is 'valid'; allowed: 'same' for images of 8 x 8 pixels",
        ),
    ],
)
def test_refusals(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError) as error:
        network(**settings)
    assert str(error.value) == sentence
