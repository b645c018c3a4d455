"""Layers as a loop over stacked parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dbjax.nn.stacked import StackedNetwork


class Layer(nnx.Module):
    """Multiplies, then adds a context and a number drawn from its key."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.factor = nnx.Param(rngs.params.uniform(()))

    def __call__(self, tokens: Any, context: Any, key: Any) -> Any:
        noise = 0.0 if key is None else jax.random.uniform(key)
        return tokens * self.factor[...] + context[:, None, None] + noise


class Interface(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.weights = nnx.Param(rngs.params.normal((2,)))


network = StackedNetwork(3, Interface, Layer)
tokens, context = jnp.ones((2, 1, 1)), jnp.array([1.0, 2.0])


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("noisy", [False, True])
def test_runs_the_layers_in_turn_each_with_its_own_key(key, remat, noisy):
    params = network.init(key, (0, 1, 2))
    expected = np.ones(2)
    for position, factor in enumerate(params["layers"]["factor"]):
        noise = jax.random.uniform(jax.random.fold_in(key, position)) if noisy else 0.0
        expected = expected * factor + np.array([1.0, 2.0]) + noise
    out = network.run_layers(params, tokens, context, key=key if noisy else None, remat=remat)
    np.testing.assert_allclose(out[:, 0, 0], expected, rtol=1e-6)


def test_a_layer_is_drawn_from_the_key_and_its_index(key):
    whole = network.init(key, (0, 1, 2))
    part = network.init(key, (2,))
    assert network.interface(part).weights[...].tolist() == whole["interface"]["weights"].tolist()
    assert part["layers"]["factor"].tolist() == whole["layers"]["factor"][2:].tolist()
    assert len(set(whole["layers"]["factor"].tolist())) == 3
