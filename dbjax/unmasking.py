"""Sampling of masked tokens: the steps that reveal them."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from dbjax.categorical import draw, nucleus
from dbjax.errors import require
from dbjax.noise import MASKED, MaskingNoise, NoiseProcess
from dbjax.sampling import WalkConfig
from dbjax.solvers import Solver, Step
from dbjax.task import Estimate

SOLVERS = ("ancestral", "mean")


@dataclasses.dataclass(frozen=True)
class UnmaskingConfig(WalkConfig):
    """The `sampling` section of a config of masked tokens.

    Attributes:
        grid: `left` (even in u, without the clean end) is MD4's; `even` spends its last call where
            nearly all is revealed.
        solver: how a masked token is drawn in a step that reveals the share r of them: `ancestral`,
            one draw from r p and "still masked", 1 - r; or `mean`, a draw from p and another that
            keeps it with probability r. Their distribution is the same.
        temperature: of p; 0 is the likeliest token.
        top_p: least mass of the tokens that are drawn from, the likeliest ones; 1 is all.
    """

    grid: str = "left"
    solver: str = "ancestral"
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.solver in SOLVERS, "sampling.solver", self.solver, " or ".join(map(repr, SOLVERS))
        )
        require(self.temperature >= 0, "sampling.temperature", self.temperature, "0 or more")
        require(0 < self.top_p <= 1, "sampling.top_p", self.top_p, "a number in (0, 1]")

    def make_solver(self, noise: NoiseProcess) -> tuple[Solver, int]:
        require(
            isinstance(noise, MaskingNoise),
            "sampling.solver",
            self.solver,
            f"one of Gaussian noise, for the noise is {type(noise).__name__}",
        )
        assert isinstance(noise, MaskingNoise)
        return Unmask(noise, self.solver == "mean", self.temperature, self.top_p), 1


@dataclasses.dataclass(frozen=True)
class Unmask:
    """Reveals the share r = (u' - u) / (1 - u) of the masked tokens, and in the last step all.

    The reverse process of masking (Shi et al. 2024, arXiv 2406.04329, section 3); tokens that are
    not masked stay as they are.

    Attributes:
        noise: maps levels to u.
        twice: draw the token and whether it is revealed apart.
        temperature, top_p: see `UnmaskingConfig`.
    """

    noise: MaskingNoise
    twice: bool = False
    temperature: float = 1.0
    top_p: float = 1.0

    def __call__(self, step: Step) -> tuple[Array, Estimate]:
        z, (_, here, there) = step.z, step.levels
        estimate = step.here(z, here)
        assert estimate.logits is not None
        u, next_u = self.noise.u_of(here), self.noise.u_of(there)
        # At the clean end itself, where all has been revealed, r is 0 / 0.
        reveal = jnp.where(there > 0, (next_u - u) / jnp.maximum(1 - u, 1e-6), 1.0)
        reveal = jnp.clip(reveal, 0.0, 1.0)
        logits = nucleus(estimate.logits.astype(jnp.float32), self.top_p)
        token_key, reveal_key = jax.random.split(step.key)
        if self.twice or self.temperature == 0:
            token = draw(token_key, logits, self.temperature)
            shown = jax.random.uniform(reveal_key, z.shape) < reveal
        else:
            chances = jnp.log(reveal) + jax.nn.log_softmax(logits / self.temperature)
            hidden = jnp.broadcast_to(jnp.log1p(-reveal), (*z.shape, 1))
            drawn = draw(token_key, jnp.concatenate([chances, hidden], axis=-1))
            token, shown = drawn, drawn < logits.shape[-1]
        masked = z == MASKED
        return jnp.where(masked & shown, token.astype(z.dtype), z), estimate
