"""Layers that learn from losses of their own, in the memory that one of them takes."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dbjax.families.vit import ViTConfig
from dbjax.nn.dropout import split_key
from dbjax.nn.encoder import EncoderLayer
from dbjax.nn.stacked import StackedNetwork
from dbjax.task import Metrics, Params

LocalLoss = Callable[[Any, Any], tuple[Float[Array, ""], Any]]


def gradient_at_once(loss: LocalLoss) -> LocalLoss:
    """`loss`, but its gradient is taken along with its value.

    Back-propagation through a sum of such losses finds their gradients ready: nothing that lies
    between parameters and loss outlives the call.

    Args:
        loss: (parameters, inputs) -> (loss, anything else).

    Returns:
        The same function; no gradient flows into its inputs or out of its second result.
    """

    def forward(params: Any, inputs: Any) -> tuple[Any, Any]:
        return jax.value_and_grad(loss, has_aux=True)(params, inputs)

    def backward(gradient: Any, cotangents: Any) -> tuple[Any, None]:
        return jax.tree.map(lambda g: (cotangents[0] * g).astype(g.dtype), gradient), None

    local = jax.custom_vjp(loss)
    local.defvjp(forward, backward)
    return local


class LocalViT(StackedNetwork):
    """A ViT whose layers each have a loss; the first one's trains the embedding of patches too.

    Subclasses say what the first layer reads and how a layer's output is judged.
    """

    def __init__(self, config: ViTConfig, new_interface: Callable[..., nnx.Module]) -> None:
        super().__init__(
            config.depth, new_interface, functools.partial(EncoderLayer, **config.layer)
        )

    def embed(
        self, interface: Any, examples: Mapping[str, Array], key: PRNGKeyArray | None
    ) -> Float[Array, "batch tokens width"]:
        """What the first layer reads."""
        raise NotImplementedError

    def judge(
        self,
        tokens: Float[Array, "batch tokens width"],
        examples: Mapping[str, Array],
        position: int | Int[Array, ""],
    ) -> tuple[Float[Array, ""], tuple[Float[Array, "batch tokens width"], Metrics]]:
        """Loss of the layer at `position` from its output; what it hands on, and measures."""
        raise NotImplementedError

    def train(
        self, params: Params, examples: Mapping[str, Array], key: PRNGKeyArray | None
    ) -> tuple[Float[Array, ""], Float[Array, "batch tokens width"], Metrics]:
        """Sum of the layers' losses, the last tokens, and the measures' means over the layers.

        One layer's intermediate results are in memory at a time, so there is nothing to gain from
        computing them again.

        Args:
            params: the interface and all layers.
            examples: arrays with a leading batch axis, for `embed` and `judge`.
            key: for dropout.
        """

        @gradient_at_once
        def begin(own: Any, inputs: Any) -> Any:
            examples, key = inputs
            embed_key, layer_key = split_key(key, 2)
            tokens = self.embed(self.interface(own), examples, embed_key)
            return self.judge(self.layer(own["layers"], tokens, layer_key), examples, 0)

        @gradient_at_once
        def go_on(layer: Any, inputs: Any) -> Any:
            tokens, position, examples, key = inputs
            layer_key = None if key is None else jax.random.fold_in(key, position)
            return self.judge(self.layer(layer, tokens, layer_key), examples, position)

        def step(tokens: Array, numbered: tuple[Array, Any]) -> tuple[Array, Any]:
            position, layer = numbered
            loss, (tokens, metrics) = go_on(layer, (tokens, position, examples, key))
            return jax.lax.stop_gradient(tokens), (loss, metrics)

        first, rest = (
            jax.tree.map(lambda x, part=part: x[part], params["layers"])
            for part in (0, slice(1, None))
        )
        own = {"interface": params["interface"], "layers": first}
        loss, (tokens, metrics) = begin(own, (examples, key))
        count = len(jax.tree.leaves(params["layers"])[0])
        # Rolled, for the next layer shall reuse the memory of the last.
        tokens, (losses, others) = jax.lax.scan(
            step, jax.lax.stop_gradient(tokens), (jnp.arange(1, count), rest)
        )
        total = loss + jnp.sum(losses)
        means = jax.tree.map(lambda one, more: (one + jnp.sum(more)) / count, metrics, others)
        return total, tokens, means

    def layer(
        self, params: Any, tokens: Float[Array, "batch tokens width"], key: PRNGKeyArray | None
    ) -> Float[Array, "batch tokens width"]:
        """One layer, from its own parameters."""
        module: Any = nnx.merge(self._layer, params)
        return module(tokens, key)


def normalised(image: Array, mean: Any, std: Any) -> Float[Array, "..."]:
    """Raw images to zero mean and unit standard deviation."""
    return (image.astype(jnp.float32) - jnp.asarray(mean)) / jnp.asarray(std)
