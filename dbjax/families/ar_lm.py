"""Autoregressive language models of Llama 2's shape: as blocks that denoise, and the plain twin.

The next token's embedding is noised and denoised in the light of the clean tokens before it
(DiffusionBlocks, arXiv 2506.14202, section 5.4 and appendix E.4). Slot i of the noisy stream stands
for token i; slot i of the clean stream holds token i - 1, slot 0 the beginning of the text. So a
noisy slot may look at the clean slots up to its own, which have its position, and is never shown
its answer.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dbjax.errors import require
from dbjax.nn.decoder import Cache, Conditions, DecoderLayer, Streams, rms_norm
from dbjax.nn.embedding import ScalarEmbedding
from dbjax.nn.linear import normal_linear, zero_linear
from dbjax.nn.modulation import Modulation, modulate
from dbjax.nn.stacked import StackedNetwork

DTYPES = ("float32", "bfloat16")
Caches = tuple[Cache, ...]
"""Of each layer of a block."""
STARTS = ("noise", "text")
PASSES = {"separate": DecoderLayer.over_streams, "joint": DecoderLayer.over_joined}

_embedding = nnx.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class PlainARConfig:
    """The `model` section of the twin's configuration file; the defaults are the paper's.

    Attributes:
        depth: number of layers.
        width: features of a token and of a token's embedding.
        num_heads: attention heads.
        mlp_hidden: hidden features of the gated MLP.
        dropout: rate on the updates of attention and MLP.
        dtype: what matrices are multiplied in, float32 or bfloat16; parameters, residual stream,
            normalisation, softmax and output are float32 in any case.

    Raises:
        SettingError: if a value is impossible.
    """

    depth: int = 12
    width: int = 768
    num_heads: int = 12
    mlp_hidden: int = 2048
    dropout: float = 0.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("depth", "width", "num_heads", "mlp_hidden"):
            value = getattr(self, name)
            require(value > 0, f"model.{name}", value, "a positive integer")
        require(
            self.width % (2 * self.num_heads) == 0,
            "model.num_heads",
            self.num_heads,
            f"a number that divides the width {self.width} into even parts",
        )
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "a number in [0, 1)")
        require(self.dtype in DTYPES, "model.dtype", self.dtype, ", ".join(DTYPES))

    @property
    def layer(self) -> dict[str, Any]:
        """Arguments of a layer."""
        names = ("width", "num_heads", "mlp_hidden", "dropout", "dtype")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class ARConfig(PlainARConfig):
    """The `model` section of a configuration file of blocks that denoise.

    Attributes:
        condition_width: features of the noise level's embedding.
        gates: what the gates of the modulated layers start at: 0, which makes every layer the
            identity (adaLN-Zero), or 1, as if there were none.
        start: what a slot of the noisy stream starts from: `noise`, its noisy embedding alone, so
            that it learns of the token before only by looking at it (paper); or `text`, besides
            what the clean stream's slot starts from, which is the token before; z then enters
            by a map that is zero at first.
        passes: how the two streams attend: `separate`, each by itself with the clean one's keys and
            values in common; or `joint`, as one text of twice the length under one mask. The same
            mathematics at half the scores (paper, appendix B).
    """

    condition_width: int = 128
    gates: int = 0
    start: str = "noise"
    passes: str = "separate"

    def __post_init__(self) -> None:
        super().__post_init__()
        value = self.condition_width
        require(value > 0, "model.condition_width", value, "a positive integer")
        require(self.gates in (0, 1), "model.gates", self.gates, "0 or 1")
        for name, allowed in (("start", STARTS), ("passes", PASSES)):
            value = getattr(self, name)
            require(value in allowed, f"model.{name}", value, " or ".join(map(repr, allowed)))

    @property
    def layer(self) -> dict[str, Any]:
        names = ("condition_width", "gates")
        return {**super().layer, **{name: getattr(self, name) for name in names}}


class PlainInterface(nnx.Module):
    """Embeddings of tokens and of the beginning, last normalisation and head."""

    def __init__(self, config: PlainARConfig, vocabulary: int, rngs: nnx.Rngs) -> None:
        width = config.width
        self.tokens = nnx.Embed(vocabulary + 1, width, embedding_init=_embedding, rngs=rngs)
        self.norm = rms_norm(width, rngs=rngs)
        self.head = normal_linear(width, vocabulary, use_bias=False, dtype=config.dtype, rngs=rngs)

    def embed(self, tokens: Int[Array, "batch length"]) -> Float[Array, "batch length width"]:
        """The clean stream of a whole text: the beginning, then all tokens but the last."""
        return self.embed_each(shifted(tokens, self.tokens.num_embeddings - 1))

    def embed_each(self, tokens: Int[Array, "batch length"]) -> Float[Array, "batch length width"]:
        """The clean stream's tokens as they are; the vocabulary's size is the beginning."""
        embedded: Array = self.tokens(tokens)
        return embedded.astype(jnp.float32)

    def read_out(self, hidden: Float[Array, "batch length width"]) -> Array:
        """Logits of the token that follows, [batch, length, vocabulary]."""
        logits: Array = self.head(self.norm(hidden))
        return logits.astype(jnp.float32)


class Interface(PlainInterface):
    """The same, and what a noisy embedding and its noise level enter by."""

    def __init__(self, config: ARConfig, vocabulary: int, trained: bool, rngs: nnx.Rngs) -> None:
        super().__init__(config, vocabulary, rngs)
        width, narrow = config.width, config.condition_width
        settings: dict[str, Any] = {"dtype": config.dtype, "rngs": rngs}
        # Beside the text, z begins as nothing: a block is at first a language model.
        noisy = zero_linear if config.start == "text" else normal_linear
        self.noisy = noisy(width, width, use_bias=False, **settings)
        self.noise_level = ScalarEmbedding(narrow, **settings)
        self.modulation = Modulation(width, 2, condition_width=narrow, **settings)
        # Rows that blocks have in common and learn together; others have a table that is fixed.
        self.targets = (
            nnx.Embed(vocabulary, width, embedding_init=_embedding, rngs=rngs) if trained else None
        )

    def condition(self, c_noise: Float[Array, "batch tokens"]) -> Array:
        """Embedding of each token's noise level, [batch, tokens, condition_width]."""
        return self.noise_level(c_noise.reshape(-1)).reshape(*c_noise.shape, -1).astype(jnp.float32)

    def finish(
        self, hidden: Float[Array, "batch length width"], condition: Array
    ) -> Float[Array, "batch length width"]:
        """The noisy stream normalised: what the head reads, and F of a tied read-out."""
        shift, scale = self.modulation(condition)
        return modulate(self.norm(hidden), shift, scale)


def shifted(tokens: Int[Array, "batch length"], beginning: int) -> Int[Array, "batch length"]:
    """What stands before each token: the beginning, then all tokens but the last."""
    first = jnp.full_like(tokens[:, :1], beginning)
    return jnp.concatenate([first, tokens[:, :-1]], axis=1)


class PlainAR(StackedNetwork):
    """The plain language model: pure functions of (parameters, tokens), and no parameters."""

    def __init__(self, config: PlainARConfig, vocabulary: int) -> None:
        super().__init__(
            config.depth,
            functools.partial(PlainInterface, config, vocabulary),
            functools.partial(DecoderLayer, **config.layer),
        )
        self.vocabulary = vocabulary

    @property
    def layer_evaluations(self) -> int:
        """Layers that are run for one token."""
        return self.depth

    def apply(
        self,
        params: Mapping[str, Any],
        tokens: Int[Array, "batch length"],
        *,
        key: PRNGKeyArray | None = None,
        remat: bool = False,
    ) -> Float[Array, "batch length vocabulary"]:
        """Logits of each token from those before it."""
        interface = self.interface(params)
        hidden = self.run_layers(params, interface.embed(tokens), None, key=key, remat=remat)
        logits: Array = interface.read_out(hidden)
        return logits

    def prefill(
        self, params: Mapping[str, Any], tokens: Int[Array, "batch length"], capacity: int
    ) -> Caches:
        """Caches of `capacity` positions with what tokens 0 to length - 1 may look at."""
        embedded = self.interface(params).embed(tokens)
        return _prefill(self.layer_modules(params), embedded, None, capacity)

    def step(
        self,
        params: Mapping[str, Any],
        caches: Caches,
        position: Int[Array, ""],
        before: Int[Array, " batch"],
    ) -> tuple[Float[Array, "batch vocabulary"], Caches]:
        """Logits of the token at `position`, and the caches with the one before it.

        Args:
            params: the network.
            caches: of the slots before.
            position: of the token to find.
            before: the token before it; the vocabulary's size is the beginning.
        """
        interface = self.interface(params)
        tokens = interface.embed_each(before[:, None])
        seen = []
        for module, cache in zip(self.layer_modules(params), caches, strict=True):
            tokens, cache = module.step(tokens, None, position, cache, clean=True, noisy=False)
            seen.append(cache)
        return interface.read_out(tokens)[:, 0], tuple(seen)


class ARDenoiser(StackedNetwork):
    """The network of a block: two streams of a text, pure functions and no parameters.

    Attributes:
        vocabulary: number of tokens.
        width: of an embedding.
    """

    def __init__(self, config: ARConfig, vocabulary: int, *, trained_targets: bool) -> None:
        """Fixes the shapes; with `trained_targets` the interface has the rows that are noised."""
        super().__init__(
            config.depth,
            functools.partial(Interface, config, vocabulary, trained_targets),
            functools.partial(DecoderLayer, **config.layer),
        )
        self.vocabulary, self.width = vocabulary, config.width
        self._pass, self._reads_text = PASSES[config.passes], config.start == "text"

    def apply(
        self,
        params: Mapping[str, Any],
        z: Float[Array, "batch length width"],
        c_noise: Float[Array, "#batch #length"],
        tokens: Int[Array, "batch length"],
        clean_level: Float[Array, ""],
        *,
        key: PRNGKeyArray | None = None,
        remat: bool = False,
    ) -> Streams:
        """What the noisy stream ends with, normalised and modulated, and the clean one as it is.

        Args:
            params: the interface and any consecutive layers.
            z: noisy embeddings of the tokens, already scaled by c_in.
            c_noise: noise level of each, or one of a text, as the network reads it.
            tokens: the clean text; slot i is shown those before token i.
            clean_level: what the clean stream reads as its noise level.
            key: for dropout; None is evaluation.
            remat: see `dbjax.task.Network.apply`.
        """
        interface = self.interface(params)
        clean_noise = jnp.full((1, 1), clean_level, jnp.float32)
        conditions = Conditions(interface.condition(clean_noise), interface.condition(c_noise))
        clean = self._lead(params, interface.embed(tokens), conditions.clean)
        streams = Streams(clean, self._noisy(interface, z, clean))
        streams = self.run_layers(params, streams, conditions, key=key, remat=remat, run=self._pass)
        noisy = interface.finish(streams.noisy, conditions.noisy)
        return Streams(streams.clean, noisy)

    def prefill(
        self,
        params: Mapping[str, Any],
        tokens: Int[Array, "batch length"],
        clean_level: Float[Array, ""],
        capacity: int,
    ) -> Caches:
        """Caches of `capacity` positions with what tokens 0 to length - 1 may look at."""
        interface = self.interface(params)
        condition = interface.condition(jnp.full((1, 1), clean_level, jnp.float32))
        clean, led = interface.embed(tokens), []
        for module, use in self._borrowed(params):
            through, cache = module.prefill(clean, condition, capacity)
            clean = jnp.where(use > 0, through, clean)
            led.append(cache)
        return (*led, *_prefill(self.layer_modules(params), clean, condition, capacity))

    def step(
        self,
        params: Mapping[str, Any],
        caches: Caches,
        position: Int[Array, ""],
        before: Int[Array, " batch"],
        z: Float[Array, "batch width"],
        c_noise: Float[Array, ""],
        clean_level: Float[Array, ""],
        *,
        first: bool,
    ) -> tuple[Float[Array, "batch width"], Caches]:
        """What the noisy slot at `position` ends with, one token for each text.

        Args:
            params: the block.
            caches: of the clean slots before, and of this one unless it is the first time.
            position: of the token to find.
            before: the token before it; the vocabulary's size is the beginning.
            z: noisy embeddings, already scaled by c_in.
            c_noise: their noise level as the network reads it.
            clean_level: see `apply`.
            first: whether this block is asked for the first time at this position: then the token
                before enters the caches.
        """
        interface = self.interface(params)
        levels = jnp.stack([clean_level, c_noise])[None].astype(jnp.float32)
        condition = interface.condition(levels)
        borrowed = self._borrowed(params)
        seen, own = list(caches[: len(borrowed)]), caches[len(borrowed) :]
        clean = interface.embed_each(before[:, None])
        if first or self._reads_text:
            for i, (module, use) in enumerate(borrowed):
                through, seen[i] = module.step(
                    clean, condition[:, :1], position, seen[i], clean=True, noisy=False
                )
                clean = jnp.where(use > 0, through, clean)
        tokens = self._noisy(interface, z[:, None], clean)
        if first:
            tokens = jnp.concatenate([clean, tokens], axis=1)
        else:
            condition = condition[:, 1:]
        modules = self.layer_modules(params)
        for i, (module, cache) in enumerate(zip(modules, own, strict=True), 1):
            tokens, cache = module.step(
                tokens, condition, position, cache, clean=first, noisy=True, last=i == len(modules)
            )
            seen.append(cache)
        return interface.finish(tokens, condition[:, -1:])[:, 0], tuple(seen)

    def _noisy(self, interface: Interface, z: Array, clean: Array) -> Array:
        """What the noisy stream starts from, where the clean one starts from `clean`."""
        embedded: Array = interface.noisy(z).astype(jnp.float32)
        return embedded + clean if self._reads_text else embedded

    def _lead(self, params: Mapping[str, Any], embedded: Array, condition: Array) -> Array:
        """The clean stream as the block's own layers read it: after the layers it borrows.

        Nothing is learned through them and nothing of them is kept for the backward pass; along the
        residual stream the embedding still learns.
        """
        if "context" not in params:
            return embedded

        def lead(tokens: Array, lent: Any) -> tuple[Array, None]:
            module = self.merge_layer(lent["layers"])
            through = functools.partial(module, condition=condition)
            return jax.lax.cond(lent["use"] > 0, through, lambda tokens: tokens, tokens), None

        start, lent = jax.lax.stop_gradient((embedded, params["context"]))
        condition = jax.lax.stop_gradient(condition)
        led, _ = jax.lax.scan(lead, start, lent)
        return embedded + (led - start)

    def _borrowed(self, params: Mapping[str, Any]) -> list[tuple[DecoderLayer, Array]]:
        """The layers that the block borrows, and whether it does or keeps the room only."""
        if "context" not in params:
            return []
        context = params["context"]
        modules = self.layer_modules(context)
        return list(zip(modules, context["use"], strict=True))


def _prefill(
    modules: Sequence[DecoderLayer], tokens: Array, condition: Array | None, capacity: int
) -> Caches:
    caches = []
    for module in modules:
        tokens, cache = module.prefill(tokens, condition, capacity)
        caches.append(cache)
    return tuple(caches)
