"""Layers of a transformer encoder as in BERT's descendants: learned LayerNorms, GELU, dropout."""

import functools
from typing import Any

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from dbjax.nn.attention import SelfAttention
from dbjax.nn.dropout import split_key
from dbjax.nn.linear import normal_linear
from dbjax.nn.mlp import MLP
from dbjax.nn.modulation import ActivatedModulation, modulate

# A variance as E[x^2] - E[x]^2 would lose its digits.
affine_layer_norm = functools.partial(nnx.LayerNorm, use_fast_variance=False)
"""Layer normalisation with gain and offset, in float32, called as (features, epsilon=, rngs=)."""


class SubLayers(nnx.Module):
    """Attention and MLP, with the LayerNorm before each and dropout after."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_hidden: int,
        *,
        dropout: float,
        norm_epsilon: float = 1e-12,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        settings: dict[str, Any] = {
            "linear": normal_linear,
            "dropout": dropout,
            "dtype": dtype,
            "rngs": rngs,
        }
        self.attention_norm = affine_layer_norm(width, epsilon=norm_epsilon, rngs=rngs)
        self.attention = SelfAttention(width, num_heads, **settings)
        self.mlp_norm = affine_layer_norm(width, epsilon=norm_epsilon, rngs=rngs)
        self.mlp = MLP(width, mlp_hidden, approximate=False, **settings)


class EncoderLayer(SubLayers):
    """Layer of a vision transformer (Dosovitskiy et al. 2021, equations 2 and 3)."""

    def __call__(
        self, tokens: Float[Array, "batch tokens width"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "batch tokens width"]:
        """One residual layer. `key` drives dropout."""
        attention_key, mlp_key = split_key(key, 2)
        tokens = tokens + self.attention(self.attention_norm(tokens), attention_key)
        return tokens + self.mlp(self.mlp_norm(tokens), mlp_key)


class ModulatedEncoderLayer(SubLayers):
    """The same with modulated updates (DiffusionBlocks, released ViT)."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_hidden: int,
        *,
        condition_width: int,
        dropout: float,
        gates: int = 0,
        norm_epsilon: float = 1e-12,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(
            width,
            num_heads,
            mlp_hidden,
            dropout=dropout,
            norm_epsilon=norm_epsilon,
            dtype=dtype,
            rngs=rngs,
        )
        self.gates = gates
        self.modulation = ActivatedModulation(
            width, 6, condition_width=condition_width, dtype=dtype, rngs=rngs
        )

    def __call__(
        self,
        tokens: Float[Array, "batch tokens width"],
        condition: Float[Array, "batch condition"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch tokens width"]:
        """One residual layer; at initialisation both gates are `gates`."""
        attention_key, mlp_key = split_key(key, 2)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)
        modulated = modulate(self.attention_norm(tokens), shift_a, scale_a)
        tokens = tokens + (self.gates + gate_a) * self.attention(modulated, attention_key)
        modulated = modulate(self.mlp_norm(tokens), shift_m, scale_m)
        return tokens + (self.gates + gate_m) * self.mlp(modulated, mlp_key)
