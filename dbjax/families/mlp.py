"""A residual MLP for points in the plane: trains in seconds, and can be drawn."""

import dataclasses

import jax
from flax import nnx
from jaxtyping import Array, Float

from dbjax.errors import require
from dbjax.families.stack import ResidualStack


@dataclasses.dataclass(frozen=True)
class MLPConfig:
    """The `model` section of a config of family `mlp`.

    Attributes:
        depth: residual layers.
        width: features.
        expansion: hidden features of a layer, in widths.
    """

    depth: int = 6
    width: int = 64
    expansion: int = 4

    def __post_init__(self) -> None:
        for field in ("depth", "width", "expansion"):
            value = getattr(self, field)
            require(value >= 1, f"model.{field}", value, "1 or more")


class ResidualMLP(nnx.Module):
    """h + W2 gelu(W1 [norm(h) + c])."""

    def __init__(self, width: int, expansion: int, *, rngs: nnx.Rngs) -> None:
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.condition = nnx.Linear(width, width, rngs=rngs)
        self.up = nnx.Linear(width, expansion * width, rngs=rngs)
        self.down = nnx.Linear(expansion * width, width, rngs=rngs)

    def __call__(
        self, h: Float[Array, "batch width"], c: Float[Array, "batch width"]
    ) -> Float[Array, "batch width"]:
        return h + self.down(jax.nn.gelu(self.up(self.norm(h) + self.condition(c))))


def make_mlp(
    config: MLPConfig, sample_shape: tuple[int, ...], num_classes: int, seed: int
) -> ResidualStack:
    """The network for samples of shape [n]."""
    require(len(sample_shape) == 1, "the shape of a sample", sample_shape, "(n,) for family 'mlp'")
    rngs = nnx.Rngs(seed)
    return ResidualStack(
        [ResidualMLP(config.width, config.expansion, rngs=rngs) for _ in range(config.depth)],
        embed=nnx.Linear(sample_shape[0], config.width, rngs=rngs),
        head=nnx.Linear(config.width, sample_shape[0], rngs=rngs),
        sample_shape=sample_shape,
        num_classes=num_classes,
        seed=seed,
    )
