"""Solvers: one step of a walk from a noise level to the next, each a small pure function."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from dbjax.task import Estimate

Denoiser = Callable[[Array, Float[Array, ""]], Estimate]


@runtime_checkable
class Solver(Protocol):
    """One step from `level` to `next_level`, both scalars. The last step's `next_level` is 0."""

    def __call__(
        self,
        here: Denoiser,
        there: Denoiser,
        z: Array,
        level: Float[Array, ""],
        next_level: Float[Array, ""],
        key: PRNGKeyArray,
    ) -> tuple[Array, Estimate]:
        """The next z, and the estimate made at `level`.

        Args:
            here: the block that owns `level`.
            there: the block that owns `next_level`.
            z: [batch, ...].
            level: noise of z.
            next_level: noise to reach.
            key: for solvers that draw.
        """


def euler(
    here: Denoiser,
    there: Denoiser,
    z: Array,
    level: Float[Array, ""],
    next_level: Float[Array, ""],
    key: PRNGKeyArray,
) -> tuple[Array, Estimate]:
    """z' = (sigma'/sigma) z + (1 - sigma'/sigma) D, Euler's step of dz/dsigma = (z - D)/sigma.

    The paper prints the sign of this step reversed (equations 3 to 5); this one moves to D.
    """
    del there, key
    estimate = here(z, level)
    keep = next_level / level
    return keep * z + (1 - keep) * estimate.clean, estimate


def heun(
    here: Denoiser,
    there: Denoiser,
    z: Array,
    level: Float[Array, ""],
    next_level: Float[Array, ""],
    key: PRNGKeyArray,
) -> tuple[Array, Estimate]:
    """Euler's step, corrected by the slope at its end (Karras et al. 2022, algorithm 1)."""
    trial, estimate = euler(here, there, z, level, next_level, key)

    def correct(trial: Array) -> Array:
        slope = (z - estimate.clean) / level
        slope_there = (trial - there(trial, next_level).clean) / next_level
        return z + (next_level - level) * (slope + slope_there) / 2

    return jax.lax.cond(next_level > 0, correct, lambda trial: trial, trial), estimate


def ancestral(
    here: Denoiser,
    there: Denoiser,
    z: Array,
    level: Float[Array, ""],
    next_level: Float[Array, ""],
    key: PRNGKeyArray,
) -> tuple[Array, Estimate]:
    """A draw from q(z' | z, D), the posterior of the noising process (Ho et al. 2020, equation 7).

    With variance-exploding noise: mean r z + (1 - r) D with r = (sigma'/sigma)^2, and variance
    sigma'^2 (1 - r).
    """
    del there
    estimate = here(z, level)
    keep = (next_level / level) ** 2
    added = next_level * jnp.sqrt(1 - keep) * jax.random.normal(key, z.shape, z.dtype)
    return keep * z + (1 - keep) * estimate.clean + added, estimate


@dataclasses.dataclass(frozen=True)
class Churn:
    """Raises the noise a little before each step of `solver` (Karras et al. 2022, algorithm 2).

    Attributes:
        solver: the deterministic step.
        gamma: relative rise of sigma, min(S_churn / steps, sqrt(2) - 1).
        s_min, s_max: only levels in this range are raised.
        s_noise: standard deviation of the added noise.
    """

    solver: Solver
    gamma: float
    s_min: float = 0.0
    s_max: float = float("inf")
    s_noise: float = 1.0

    def __call__(
        self,
        here: Denoiser,
        there: Denoiser,
        z: Array,
        level: Float[Array, ""],
        next_level: Float[Array, ""],
        key: PRNGKeyArray,
    ) -> tuple[Array, Estimate]:
        inside = (level >= self.s_min) & (level <= self.s_max)
        rise = jnp.where(inside, self.gamma, 0.0)
        # sqrt(raised^2 - level^2), written so that rounding cannot make its argument negative.
        added = level * jnp.sqrt(rise * (2 + rise)) * self.s_noise
        z = z + added * jax.random.normal(key, z.shape, z.dtype)
        return self.solver(here, there, z, level * (1 + rise), next_level, key)


SOLVERS: Mapping[str, tuple[Solver, int]] = {
    "euler": (euler, 1),
    "heun": (heun, 2),
    "ancestral": (ancestral, 1),
}
"""Solvers by name, each with its network calls per step (the last step always takes one)."""
