"""Bring your own network: any list of flax modules that keep their input's shape."""

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dbjax.errors import SettingError, require
from dbjax.nn.embedding import ScalarEmbedding
from dbjax.task import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layer:
    """Parameters of one layer, and which of the stack's module definitions they belong to."""

    params: Any
    definition: int = dataclasses.field(metadata={"static": True})


class ResidualStack:
    """A `dbjax.task.Network` made of modules of your own.

    F(z, noise, label) = head(layers(embed(z) + c)), where c is an embedding of the noise level and
    the label that this class adds. A layer that needs a second argument is given c as well,
    [batch, width]. Initial weights are those the modules come with; every block that owns its
    interface starts from a copy of `embed` and `head`.
    """

    def __init__(
        self,
        layers: Sequence[nnx.Module],
        *,
        embed: nnx.Module,
        head: nnx.Module,
        sample_shape: tuple[int, ...],
        num_classes: int = 0,
        seed: int = 0,
    ) -> None:
        """Takes the modules apart and checks that they can be cut.

        Args:
            layers: residual layers, h -> h or (h, c) -> h.
            embed: [batch, *sample_shape] -> h, [batch, ..., width].
            head: h -> [batch, *sample_shape].
            sample_shape: shape of one clean sample.
            num_classes: of the labels that condition the network; 0 for none.
            seed: of the noise and label embedding.

        Raises:
            SettingError: if a layer changes the shape of its input or keeps state besides
                parameters, or if `head` does not return the shape of a sample.
        """
        require(len(layers) >= 1, "layers", list(layers), "at least one module")
        self.num_classes = num_classes
        z = jax.ShapeDtypeStruct((2, *sample_shape), jnp.float32)
        h = _output(embed, "embed", z)
        c = jax.ShapeDtypeStruct((2, h.shape[-1]), jnp.float32)
        for i, layer in enumerate(layers):
            name = f"layers[{i}] ({type(layer).__name__})"
            out = _output(layer, name, h, c)
            if (out.shape, out.dtype) != (h.shape, h.dtype):
                raise SettingError(
                    f"{name} turns {_describe(h)} into {_describe(out)}; a stack can be cut into "
                    "blocks only if every layer keeps the shape and type of its input"
                )
        out = _output(head, "head", h)
        if out.shape != z.shape:
            raise SettingError(
                f"head returns {_describe(out)}; allowed: {_describe(z)}, the shape of a sample"
            )
        definitions: list[Any] = []
        self._layers = []
        for i, layer in enumerate(layers):
            definition, params = _split(layer, f"layers[{i}] ({type(layer).__name__})")
            if definition not in definitions:
                definitions.append(definition)
            self._layers.append(Layer(params, definitions.index(definition)))
        self._definitions = tuple(definitions)
        condition = Condition(h.shape[-1], num_classes, rngs=nnx.Rngs(seed))
        interface = {"embed": embed, "condition": condition, "head": head}
        parts = {name: _split(module, name) for name, module in interface.items()}
        self._interface = {name: params for name, (_, params) in parts.items()}
        self._interface_definitions = {name: definition for name, (definition, _) in parts.items()}

    @property
    def depth(self) -> int:
        return len(self._layers)

    def init(self, key: PRNGKeyArray, layers: Sequence[int]) -> Params:
        """The weights the modules came with, copied."""
        del key
        params = {"interface": self._interface, "layers": tuple(self._layers[i] for i in layers)}
        return jax.tree.map(jnp.copy, params)

    def apply(
        self,
        params: Params,
        z: Float[Array, "batch ..."],
        c_noise: Float[Array, " batch"],
        condition: Int[Array, " batch"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
        remat: bool = False,
    ) -> Float[Array, "batch ..."]:
        """Raw output F, the shape of z; `condition` is the label, `num_classes` for none."""
        del key
        part = {
            name: nnx.merge(definition, params["interface"][name])
            for name, definition in self._interface_definitions.items()
        }
        c = part["condition"](c_noise, condition)
        h = part["embed"](z)
        h = h + c.reshape(c.shape[0], *(1,) * (h.ndim - 2), c.shape[1]).astype(h.dtype)

        def apply_layer(layer: Layer, h: Array) -> Array:
            return _call(nnx.merge(self._definitions[layer.definition], layer.params), h, c)

        for layer in params["layers"]:
            h = (jax.checkpoint(apply_layer) if remat else apply_layer)(layer, h)
        return part["head"](h)


class Condition(nnx.Module):
    """Embedding of noise level and label, [batch, width]."""

    def __init__(self, width: int, num_classes: int, *, rngs: nnx.Rngs) -> None:
        self.noise = ScalarEmbedding(width, dtype=jnp.float32, rngs=rngs)
        self.label = nnx.Embed(num_classes + 1, width, rngs=rngs) if num_classes else None

    def __call__(
        self, c_noise: Float[Array, " batch"], label: Int[Array, " batch"] | None
    ) -> Float[Array, "batch width"]:
        c = self.noise(c_noise)
        if self.label is None:
            return c
        null = jnp.full(c_noise.shape, self.label.num_embeddings - 1)
        return c + self.label(null if label is None else label)


def _call(module: Any, h: Array, c: Array) -> Any:
    """module(h, c) if it needs a second argument, else module(h)."""
    takes = inspect.signature(module.__call__).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p for p in takes if p.kind in positional and p.default is p.empty]
    return module(h, c) if len(required) >= 2 else module(h)


def _output(module: Any, name: str, h: Any, c: Any = None) -> Any:
    """Shape and type that `module` returns."""
    definition, params = _split(module, name)

    def apply(params: Any, h: Array, c: Array | None) -> Any:
        merged: Any = nnx.merge(definition, params)
        return merged(h) if c is None else _call(merged, h, c)

    try:
        out = jax.eval_shape(apply, params, h, c)
    except Exception as error:  # a module of the user's may raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SettingError(f"{name} does not take {_describe(h)}: {reason}") from error
    require(hasattr(out, "shape"), f"the output of {name}", type(out).__name__, "one array")
    return out


def _split(module: Any, name: str) -> tuple[Any, Any]:
    """(definition, parameters); refuses modules that keep anything else."""
    if not isinstance(module, nnx.Module):
        raise SettingError(f"{name} is {module!r}; allowed: an instance of flax.nnx.Module")
    parts: Any = nnx.split(module, nnx.Param, ...)
    definition, params, rest = parts
    kinds = sorted({type(leaf).__name__ for _, leaf in nnx.to_flat_state(rest)})
    if kinds:
        raise SettingError(
            f"{name} keeps state of kind {', '.join(kinds)}; allowed: parameters only "
            "(LayerNorm or GroupNorm instead of BatchNorm, no Dropout)"
        )
    return definition, nnx.to_pure_dict(params)


def _describe(x: Any) -> str:
    return f"{x.dtype}[batch, {', '.join(map(str, x.shape[1:]))}]"
