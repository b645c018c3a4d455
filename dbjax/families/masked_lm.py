"""Masked diffusion language model: the transformer of MD4, cut into layers, and its task.

Shi et al. 2024 (MD4, arXiv 2406.04329); by blocks as in DiffusionBlocks (arXiv 2506.14202, appendix
D): each block predicts the masked tokens at its own share of masking, as a small denoiser of its
own.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dbjax.errors import require
from dbjax.nn.dropout import dropout, split_key
from dbjax.nn.embedding import MAX_PERIOD
from dbjax.nn.linear import zero_linear
from dbjax.nn.mlp import GatedMLP
from dbjax.nn.modulation import Modulation, layer_norm, modulate
from dbjax.nn.rotary import RotaryAttention
from dbjax.nn.stacked import StackedNetwork
from dbjax.noise import MASKED, MaskingNoise, expand
from dbjax.partition import Partition
from dbjax.task import Batch, Estimate, Metrics, Network, Params, spread_u

DTYPES = ("float32", "bfloat16")
ACTIVATIONS = {"sigmoid": jax.nn.sigmoid, "silu": jax.nn.silu}

_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class MaskedLMConfig:
    """The `model` section of a configuration file; the defaults are MD4's for text8.

    Attributes:
        depth: number of layers.
        width: features of a token.
        num_heads: attention heads.
        mlp_hidden: hidden features of the gated MLP.
        embed_width: features of a token's embedding and of the time's, before they are widened.
        activation: of the MLP's gate and of the time's embedding before each modulation: `sigmoid`
            (MD4) or `silu`.
        dropout: rate on attention probabilities, and on whole features of the sub-layers' outputs.
        dtype: what matrices are multiplied in, float32 or bfloat16; parameters, residual stream,
            normalisation, softmax and output are float32 in any case.

    Raises:
        SettingError: if a value is impossible.
    """

    depth: int = 12
    width: int = 768
    num_heads: int = 12
    mlp_hidden: int = 2048
    embed_width: int = 64
    activation: str = "sigmoid"
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
        value = self.embed_width
        require(value >= 4 and value % 2 == 0, "model.embed_width", value, "even, at least 4")
        allowed = " or ".join(map(repr, ACTIVATIONS))
        require(self.activation in ACTIVATIONS, "model.activation", self.activation, allowed)
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "a number in [0, 1)")
        require(self.dtype in DTYPES, "model.dtype", self.dtype, ", ".join(DTYPES))


class Interface(nnx.Module):
    """All but the layers: embeddings of tokens and time, and the head."""

    def __init__(self, config: MaskedLMConfig, vocabulary: int, rngs: nnx.Rngs) -> None:
        narrow, width = config.embed_width, config.width
        settings: dict[str, Any] = {"dtype": config.dtype, "rngs": rngs}
        self.narrow = narrow
        self.tokens = nnx.Embed(vocabulary + 1, narrow, rngs=rngs)
        self.widen = nnx.Linear(narrow, width, **settings)
        self.expand_time = nnx.Linear(narrow, 4 * narrow, **settings)
        self.time = nnx.Linear(4 * narrow, narrow, **settings)
        self.modulation = Modulation(
            width,
            2,
            condition_width=narrow,
            activation=ACTIVATIONS[config.activation],
            **settings,
        )
        self.out = zero_linear(width, vocabulary, use_bias=False, **settings)

    def embed(
        self, tokens: Int[Array, "batch tokens"], time: Float[Array, " batch"]
    ) -> tuple[Float[Array, "batch tokens width"], Float[Array, "batch narrow"]]:
        """Tokens and condition that the layers read."""
        # Unlike those of other sinusoids, MD4's frequencies include the last, 1 / 10000.
        rates = MAX_PERIOD ** -jnp.linspace(0, 1, self.narrow // 2)
        angles = jnp.outer(1000 * time, rates)
        features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        condition = self.time(jax.nn.silu(self.expand_time(features)))
        tokens = jnp.where(tokens == MASKED, self.tokens.num_embeddings - 1, tokens)
        return self.widen(self.tokens(tokens)).astype(jnp.float32), condition.astype(jnp.float32)

    def read_out(
        self,
        tokens: Float[Array, "batch tokens width"],
        condition: Float[Array, "batch narrow"],
    ) -> Float[Array, "batch tokens vocabulary"]:
        """Logits, zero at initialisation."""
        shift, scale = self.modulation(condition)
        logits: Array = self.out(modulate(layer_norm(tokens, _EPSILON), shift, scale))
        return logits.astype(jnp.float32)


class Layer(nnx.Module):
    """Attention and gated MLP, each a residual update modulated by the condition (adaLN-Zero)."""

    def __init__(self, config: MaskedLMConfig, rngs: nnx.Rngs) -> None:
        settings: dict[str, Any] = {"dtype": config.dtype, "rngs": rngs}
        activation = ACTIVATIONS[config.activation]
        scaled = nnx.initializers.variance_scaling(2 / config.depth, "fan_in", "truncated_normal")
        self.dropout = config.dropout
        self.modulation = Modulation(
            config.width, 6, condition_width=config.embed_width, activation=activation, **settings
        )
        self.attention = RotaryAttention(
            config.width,
            config.num_heads,
            linear=nnx.Linear,
            interleaved=True,
            dropout=config.dropout,
            **settings,
        )
        self.mlp = GatedMLP(
            config.width,
            config.mlp_hidden,
            linear=functools.partial(nnx.Linear, kernel_init=scaled),
            activation=activation,
            **settings,
        )

    def __call__(
        self,
        tokens: Float[Array, "batch tokens width"],
        condition: Float[Array, "batch narrow"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch tokens width"]:
        """One residual layer; the identity at initialisation, when both gates are zero."""
        probability_key, attention_key, mlp_key = split_key(key, 3)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)
        positions = jnp.arange(tokens.shape[1])
        modulated = modulate(layer_norm(tokens, _EPSILON), shift_a, scale_a)
        update = self.attention(modulated, positions, key=probability_key)
        tokens = tokens + gate_a * dropout(update, self.dropout, attention_key, together=(1,))
        update = self.mlp(modulate(layer_norm(tokens, _EPSILON), shift_m, scale_m))
        return tokens + gate_m * dropout(update, self.dropout, mlp_key, together=(1,))


class MaskedLM(StackedNetwork):
    """The raw network: pure functions of (parameters, tokens, time), and no parameters.

    Token ids are 0 to vocabulary - 1, or `MASKED`.
    """

    def __init__(self, config: MaskedLMConfig, vocabulary: int) -> None:
        super().__init__(
            config.depth,
            functools.partial(Interface, config, vocabulary),
            functools.partial(Layer, config),
        )
        self.vocabulary = vocabulary

    def apply(
        self,
        params: Mapping[str, Any],
        z: Int[Array, "batch tokens"],
        c_noise: Float[Array, " batch"],
        condition: None = None,
        *,
        key: PRNGKeyArray | None = None,
        remat: bool = False,
    ) -> Float[Array, "batch tokens vocabulary"]:
        """Logits of every token, masked or not; `c_noise` is the time t in [0, 1]."""
        del condition
        interface = self.interface(params)
        tokens, vector = interface.embed(z, c_noise)
        tokens = self.run_layers(params, tokens, vector, key=key, remat=remat)
        logits: Array = interface.read_out(tokens, vector)
        return logits


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedTask:
    """Prediction of masked tokens, weighted so that the losses make up the evidence bound.

    A batch holds "tokens" [batch, length], ids below the vocabulary. z are token ids or `MASKED`.

    Attributes:
        network: logits from partly masked tokens and the time.
        noise: masking.
        partition: who owns which share of masking and which layers.
        length: tokens of a sample.
    """

    network: Network
    noise: MaskingNoise
    partition: Partition
    length: int

    def init(self, key: PRNGKeyArray, block: int) -> Params:
        return self.network.init(key, self.partition.layers[block])

    def loss(
        self,
        params: Params,
        batch: Batch,
        interval: Float[Array, " 2"],
        key: PRNGKeyArray,
        *,
        remat: bool = False,
    ) -> tuple[Float[Array, ""], Metrics]:
        """Mean of `density`, in nats per token; the times are spread evenly over the batch."""
        u_key, noise_key, network_key = jax.random.split(key, 3)
        u = spread_u(u_key, len(batch["tokens"]), interval)
        density, entropy = self.density(
            params, batch["tokens"], u, noise_key, network_key=network_key, remat=remat
        )
        loss = jnp.mean(density)
        return loss, {"loss": loss, "cross_entropy": entropy}

    def density(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        u: Float[Array, " batch"],
        noise_key: PRNGKeyArray,
        *,
        network_key: PRNGKeyArray | None = None,
        remat: bool = False,
    ) -> tuple[Float[Array, " batch"], Float[Array, ""]]:
        """What u adds to the negative evidence bound, and the cross entropy of masked tokens.

        The integral of the first over u in [0, 1] is the bound without its small constant (MD4,
        equation 5): -alpha'(t) / (1 - alpha(t)) times the masked tokens' cross entropy.

        Args:
            params: the block that owns u.
            tokens: clean.
            u: of each example.
            noise_key: of the masks.
            network_key: of dropout; None is evaluation.
            remat: see `Network.apply`.

        Returns:
            Nats per token, [batch], and nats per masked token, the batch's mean.
        """
        time = self.noise.level(u)
        z = self.noise.corrupt(noise_key, tokens, time)
        logits = self.network.apply(params, z, time, key=network_key, remat=remat)
        entropy = optax.losses.softmax_cross_entropy_with_integer_labels(logits, tokens)
        masked = z == MASKED
        entropy = jnp.where(masked, entropy, 0.0)
        density = jnp.mean(expand(self.noise.weight(time), entropy) * entropy, axis=1)
        return density, jnp.sum(entropy) / jnp.maximum(jnp.sum(masked), 1)

    def prior(self, key: PRNGKeyArray, num_samples: int) -> Int[Array, "batch length"]:
        return self.noise.prior(key, (num_samples, self.length))

    def denoise(
        self,
        params: Params,
        z: Int[Array, "batch length"],
        level: Float[Array, " batch"],
        condition: None = None,
        *,
        guidance: float = 1.0,
    ) -> Estimate:
        """Logits, and the likeliest tokens in the place of masked ones."""
        logits = self.network.apply(params, z, level)
        likeliest = jnp.argmax(logits, axis=-1).astype(z.dtype)
        return Estimate(jnp.where(z == MASKED, likeliest, z), logits)

    def decode(self, z: Int[Array, "*batch length"]) -> Int[Array, "*batch length"]:
        """Tokens are their own units."""
        return z
