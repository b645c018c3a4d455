"""Networks of equal layers as pure functions of stacked parameters."""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, PRNGKeyArray


class StackedNetwork:
    """An interface and layers, taken apart at once into definitions and plain parameter trees.

    The layers' parameters are stacked on a leading axis: any run of layers is a slice of the whole
    network, and a block is a network with fewer layers.

    Attributes:
        depth: number of layers of the whole network.
    """

    def __init__(
        self,
        depth: int,
        new_interface: Callable[..., nnx.Module],
        new_layer: Callable[..., nnx.Module],
    ) -> None:
        """Keeps the two constructors, which are called as (rngs=), and their definitions."""
        self.depth = depth
        self._new_interface, self._new_layer = new_interface, new_layer
        self._interface, self._layer = _definition(new_interface), _definition(new_layer)

    def init(self, key: PRNGKeyArray, layers: Sequence[int]) -> dict[str, Any]:
        """Fresh parameters, float32, of the interface and of some layers.

        The interface depends on the key alone and layer i on the key and i alone, so blocks that
        are drawn one by one start from exactly the weights of the whole network.

        Args:
            key: what to draw from.
            layers: indices of the layers, counted in the whole network.

        Returns:
            {"interface": tree, "layers": tree} and, of layers with BatchNorm, "statistics"; the
            arrays of all but the first have a leading axis, one entry for each of `layers`.
        """
        interface_key, layers_key = jax.random.split(key)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(layers_key, jnp.asarray(layers))
        interface, _ = _state(self._new_interface, interface_key)
        # Not vmap: with some kinds of key it would draw other numbers for other sets of layers.
        parameters, statistics = jax.lax.map(functools.partial(_state, self._new_layer), keys)
        params = {"interface": interface, "layers": parameters}
        return {**params, "statistics": statistics} if statistics else params

    def interface(self, params: Mapping[str, Any]) -> Any:
        """The interface's module, around its parameters in `params`."""
        return nnx.merge(self._interface, params["interface"])

    def layer_module(self, params: Mapping[str, Any], position: int) -> Any:
        """A layer's module, around its parameters and statistics in `params`."""
        names = [name for name in ("layers", "statistics") if name in params]
        trees = (jax.tree.map(lambda x: x[position], params[name]) for name in names)
        return self.merge_layer(*trees)

    def merge_layer(self, *trees: Any) -> Any:
        """A layer's module, around its parameters and, if it has any, its statistics."""
        return nnx.merge(self._layer, *trees)

    def layer_modules(self, params: Mapping[str, Any]) -> list[Any]:
        """The modules of all layers in `params`."""
        count = len(jax.tree.leaves(params["layers"])[0])
        return [self.layer_module(params, position) for position in range(count)]

    def run_layers(
        self,
        params: Mapping[str, Any],
        tokens: Any,
        *context: Any,
        each: tuple[Any, ...] = (),
        key: PRNGKeyArray | None,
        remat: bool,
        run: Callable[..., Any] = operator.call,
    ) -> Any:
        """Tokens after the layers in `params`.

        Args:
            params: the interface and any consecutive layers, as from `init`.
            tokens: what the first layer reads, [batch, tokens, width] or a tree of such streams.
            *context: what every layer reads besides.
            each: what each layer reads by itself besides, arrays with the layers as leading axis.
            key: for dropout, folded with a layer's position in `params`; None is evaluation.
            remat: keep only each layer's input for the backward pass, compute the rest again.
            run: what a layer does, called as (layer, tokens, *context, *each, key); by default the
                layer itself is called.
        """

        def apply_layer(tokens: Any, numbered: tuple[Array, Any, Any]) -> tuple[Any, None]:
            position, layer, own = numbered
            layer_key = None if key is None else jax.random.fold_in(key, position)
            return run(self.merge_layer(layer), tokens, *context, *own, layer_key), None

        if remat:
            apply_layer = jax.checkpoint(apply_layer, prevent_cse=False)
        count = len(jax.tree.leaves(params["layers"])[0])
        # A rolled loop keeps one layer's intermediate results at a time, which is what remat is
        # for. Without remat it would copy them all into one array and back: that is slower and
        # larger than the unrolled program, which only takes longer to compile.
        tokens, _ = jax.lax.scan(
            apply_layer, tokens, (jnp.arange(count), params["layers"], each), unroll=not remat
        )
        return tokens


def _definition(make: Callable[..., nnx.Module]) -> Any:
    """The static part of the module that `make` makes."""
    return nnx.graphdef(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))))


def statistics_of(modules: Sequence[nnx.Module]) -> Any:
    """What layers have measured, arranged as `StackedNetwork.init` does."""
    trees = [nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)) for module in modules]
    return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)


def _state(make: Callable[..., nnx.Module], key: PRNGKeyArray) -> tuple[Any, Any]:
    """Parameters and statistics of the module that `make` makes."""
    module = make(rngs=nnx.Rngs(key))
    kinds = (nnx.Param, nnx.BatchStat)
    parameters, statistics = (nnx.to_pure_dict(nnx.state(module, kind)) for kind in kinds)
    return parameters, statistics
