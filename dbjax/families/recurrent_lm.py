"""Language models of recurrent depth as DiffusionBlocks trains them.

Such a model (`dbjax.families.huginn`, the twin) reads a text by a prelude, repeats a core on a
state that starts as noise, and reads the state out by a coda. Here (arXiv 2506.14202, section 5.5)
all of it is one denoiser: the noisy embedding of the token to find takes the place of the state,
and a training step runs the core once, at a random noise level.

Slot i stands for token i. What enters the prelude there is token i - 1, at slot 0 the beginning of
the text; so ordinary causal attention shows a slot nothing of its answer but its own noisy
embedding. Those of the slots before tell of tokens that it may know.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from dbjax.errors import require
from dbjax.families.ar_lm import DTYPES, Caches, shifted
from dbjax.nn.decoder import Cache
from dbjax.nn.embedding import ScalarEmbedding
from dbjax.nn.modulation import Modulation
from dbjax.nn.sandwich import VECTORS, SandwichLayer, sandwich_norm, takase
from dbjax.nn.stacked import StackedNetwork


@dataclasses.dataclass(frozen=True)
class RecurrentConfig:
    """What the `model` sections of both families have; the defaults are the paper's.

    Attributes:
        prelude, core, coda: number of layers of each part.
        width: features of a token and of a token's embedding.
        num_heads: attention heads.
        mlp_hidden: hidden features of the gated MLP.
        dtype: what matrices are multiplied in, float32 or bfloat16; parameters, residual stream,
            normalisation, softmax and logits are float32 in any case.

    Raises:
        SettingError: if a value is impossible.
    """

    prelude: int = 2
    core: int = 4
    coda: int = 2
    width: int = 512
    num_heads: int = 8
    mlp_hidden: int = 2048
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if name != "dtype":
                require(value > 0, f"model.{name}", value, "a positive integer")
        require(
            self.width % (2 * self.num_heads) == 0,
            "model.num_heads",
            self.num_heads,
            f"a number that divides the width {self.width} into even parts",
        )
        require(self.dtype in DTYPES, "model.dtype", self.dtype, ", ".join(DTYPES))

    @property
    def depth(self) -> int:
        """Number of different layers."""
        return self.prelude + self.core + self.coda


@dataclasses.dataclass(frozen=True)
class DenoiserConfig(RecurrentConfig):
    """The `model` section of a configuration file of DiffusionBlocks' version.

    Attributes:
        condition_width: features of the noise level's embedding.
    """

    condition_width: int = 128


class Interface(nnx.Module):
    """Embeddings, the map that brings them into the state, the last normalisation and the head."""

    def __init__(self, config: RecurrentConfig, vocabulary: int, rngs: nnx.Rngs) -> None:
        width, init = config.width, takase(config.width)
        self.width, self.dtype, self.vocabulary = width, config.dtype, vocabulary
        self.tokens = nnx.Embed(vocabulary + 1, width, embedding_init=init, rngs=rngs)
        self.adapter = nnx.Linear(
            2 * width, width, use_bias=False, kernel_init=init, dtype=config.dtype, rngs=rngs
        )
        self.norm = sandwich_norm(width, rngs=rngs)

    def embed(self, tokens: Int[Array, "batch length"]) -> Float[Array, "batch length width"]:
        """Tokens as the prelude reads them; the vocabulary's size is the beginning of a text."""
        embedded: Array = self.tokens(tokens)
        return embedded.astype(jnp.float32) * math.sqrt(self.width)

    def inject(
        self, state: Float[Array, "batch length width"], read: Float[Array, "batch length width"]
    ) -> Float[Array, "batch length width"]:
        """What the core starts from: a state, and what the prelude has read."""
        joined: Array = self.adapter(jnp.concatenate([state, read], axis=-1))
        return joined.astype(jnp.float32)

    def head(self, hidden: Float[Array, "batch length width"]) -> Array:
        """Logits of normalised features, by the embeddings: [batch, length, vocabulary]."""
        rows = self.tokens.embedding[: self.vocabulary].astype(self.dtype)
        hidden = hidden.astype(self.dtype)
        return jnp.einsum("blw,vw->blv", hidden, rows, preferred_element_type=jnp.float32)


class DenoiserInterface(Interface):
    """The same, and what a noise level and a noisy embedding enter by."""

    def __init__(
        self, config: DenoiserConfig, vocabulary: int, trained: bool, rngs: nnx.Rngs
    ) -> None:
        super().__init__(config, vocabulary, rngs)
        narrow, self.layers = config.condition_width, config.core + config.coda
        settings: dict[str, Any] = {"dtype": config.dtype, "rngs": rngs}
        self.noise_level = ScalarEmbedding(narrow, **settings)
        self.modulation = Modulation(
            self.width, VECTORS * self.layers, condition_width=narrow, **settings
        )
        # Rows that are learned; others have a table that is fixed.
        init = takase(self.width)
        self.targets = (
            nnx.Embed(vocabulary, self.width, embedding_init=init, rngs=rngs) if trained else None
        )

    def vectors(
        self, c_noise: Float[Array, " batch"]
    ) -> Float[Array, "layers vectors batch 1 width"]:
        """What modulates each layer of core and coda at a noise level."""
        condition = self.noise_level(c_noise).astype(jnp.float32)
        vectors = jnp.stack(self.modulation(condition))
        return vectors.reshape(self.layers, VECTORS, *vectors.shape[1:])


class PartCaches(NamedTuple):
    """Of the layers of each part."""

    prelude: Caches
    core: Caches
    coda: Caches


class RecurrentNetwork(StackedNetwork):
    """Prelude, core and coda, stacked in this order.

    Attributes:
        vocabulary: number of tokens.
        width: of an embedding.
    """

    def __init__(
        self,
        config: RecurrentConfig,
        vocabulary: int,
        new_interface: Callable[..., nnx.Module],
        effective_depth: int,
    ) -> None:
        new_layer = functools.partial(
            SandwichLayer,
            config.width,
            config.num_heads,
            config.mlp_hidden,
            effective_depth=effective_depth,
            dtype=config.dtype,
        )
        super().__init__(config.depth, new_interface, new_layer)
        self.vocabulary, self.width = vocabulary, config.width
        self._heads = (config.num_heads, config.width // config.num_heads)
        self._dtype = config.dtype
        self._prelude = slice(0, config.prelude)
        self._core = slice(config.prelude, config.prelude + config.core)
        self._coda = slice(config.prelude + config.core, config.depth)

    def _part(self, params: Mapping[str, Any], part: slice) -> Mapping[str, Any]:
        """Parameters of some layers, and the interface."""
        return {**params, "layers": jax.tree.map(lambda x: x[part], params["layers"])}

    def _run(
        self,
        params: Mapping[str, Any],
        part: slice,
        tokens: Float[Array, "batch length width"],
        vectors: Array | None = None,
        *,
        remat: bool,
    ) -> Float[Array, "batch length width"]:
        """Whole texts through some layers, each modulated by its `vectors`."""

        def run(layer: SandwichLayer, tokens: Array, vectors: Array | None, key: None) -> Array:
            return layer(tokens, vectors)

        params, each = self._part(params, part), (vectors,)
        found: Array = self.run_layers(params, tokens, each=each, key=None, remat=remat, run=run)
        return found

    def _read(
        self, params: Mapping[str, Any], tokens: Int[Array, "batch length"], remat: bool
    ) -> Float[Array, "batch length width"]:
        """What the prelude says of whole texts."""
        embedded = self.interface(params).embed(shifted(tokens, self.vocabulary))
        return self._run(params, self._prelude, embedded, remat=remat)

    def _empty(self, part: slice, *sizes: int) -> Caches:
        """Caches of some layers, each [*sizes, heads, dim]."""
        nothing = jnp.zeros((*sizes, *self._heads), self._dtype)
        return (Cache(nothing, nothing),) * (part.stop - part.start)

    def _extend(
        self,
        params: Mapping[str, Any],
        part: slice,
        tokens: Float[Array, "batch tokens width"],
        positions: Int[Array, " tokens"],
        caches: Caches,
        vectors: Sequence[Array] | Array | None = None,
    ) -> tuple[Float[Array, "batch tokens width"], Caches]:
        """Some positions of texts through some layers; see `SandwichLayer.extend`."""
        seen = []
        for i, module in enumerate(self.layer_modules(self._part(params, part))):
            own = None if vectors is None else vectors[i]
            tokens, cache = module.extend(tokens, own, positions, caches[i])
            seen.append(cache)
        return tokens, tuple(seen)


class RecurrentDenoiser(RecurrentNetwork):
    """DiffusionBlocks' version: one pass, at a noise level that modulates core and coda.

    The prelude is not modulated, so that what it reads is the same at every level.

    Attributes:
        prelude_depth: layers that are run once for a token.
        denoiser_depth: layers of core and coda, which are run for each step of a walk.
    """

    def __init__(self, config: DenoiserConfig, vocabulary: int, *, trained_targets: bool) -> None:
        """Fixes the shapes; with `trained_targets` the interface has the rows that are noised."""
        interface = functools.partial(DenoiserInterface, config, vocabulary, trained_targets)
        super().__init__(config, vocabulary, interface, config.depth)
        self.prelude_depth, self.denoiser_depth = config.prelude, config.core + config.coda

    def apply(
        self,
        params: Mapping[str, Any],
        z: Float[Array, "batch length width"],
        c_noise: Float[Array, "#batch"],
        tokens: Int[Array, "batch length"],
        *,
        remat: bool = False,
    ) -> Float[Array, "batch length width"]:
        """What each slot ends with, normalised.

        Args:
            params: interface and layers.
            z: noisy embeddings of the tokens, already scaled by c_in.
            c_noise: noise level of each text as the network reads it.
            tokens: the clean text; slot i is shown those before token i.
            remat: see `dbjax.task.Network.apply`.
        """
        interface = self.interface(params)
        read = self._read(params, tokens, remat)
        core, coda = self._vectors(params, c_noise)
        state = self._run(params, self._core, interface.inject(z, read), core, remat=remat)
        hidden = self._run(params, self._coda, interface.norm(state), coda, remat=remat)
        normalised: Array = interface.norm(hidden)
        return normalised

    def empty(self, batch: int, capacity: int) -> PartCaches:
        """Caches with nothing in them; those of core and coda are of one noise level."""
        parts = (self._prelude, self._core, self._coda)
        return PartCaches(*(self._empty(part, batch, capacity) for part in parts))

    def read(
        self,
        params: Mapping[str, Any],
        before: Int[Array, "batch slots"],
        positions: Int[Array, " slots"],
        caches: Caches,
    ) -> tuple[Float[Array, "batch slots width"], Caches]:
        """What the prelude says of slots that the tokens `before` stand before, and its caches."""
        embedded = self.interface(params).embed(before)
        return self._extend(params, self._prelude, embedded, positions, caches)

    def denoise(
        self,
        params: Mapping[str, Any],
        z: Float[Array, "batch slots width"],
        c_noise: Float[Array, "1"],
        read: Float[Array, "batch slots width"],
        positions: Int[Array, " slots"],
        caches: tuple[Caches, Caches],
    ) -> tuple[Float[Array, "batch slots width"], tuple[Caches, Caches]]:
        """What slots end with at a noise level, and the caches of core and coda with them.

        Args:
            params: interface and layers.
            z: noisy embeddings, already scaled by c_in.
            c_noise: their noise level as the network reads it.
            read: what the prelude says of the slots.
            positions: theirs; see `dbjax.nn.sandwich.SandwichLayer.extend`.
            caches: of core and coda at this level.
        """
        interface, vectors = self.interface(params), self._vectors(params, c_noise)
        state, core = self._extend(
            params, self._core, interface.inject(z, read), positions, caches[0], vectors[0]
        )
        hidden, coda = self._extend(
            params, self._coda, interface.norm(state), positions, caches[1], vectors[1]
        )
        return interface.norm(hidden), (core, coda)

    def _vectors(self, params: Mapping[str, Any], c_noise: Array) -> list[Array]:
        """What modulates the layers of the core, and of the coda."""
        vectors = self.interface(params).vectors(c_noise)
        return jnp.split(vectors, [self._core.stop - self._core.start])
