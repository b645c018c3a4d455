"""Solvers: one step of a walk from a noise level to the next, each a small pure function."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from dbjax.task import Estimate

Denoiser = Callable[[Array, Float[Array, ""]], Estimate]


class Levels(NamedTuple):
    """Noise around a step: scalars, or [steps] of a whole walk.

    Attributes:
        before: at which the step before made its estimate; infinite where there was none.
        here: of z.
        there: to reach; 0 in the last step.
    """

    before: Float[Array, "*steps"]
    here: Float[Array, "*steps"]
    there: Float[Array, "*steps"]


def levels_of_walk(levels: Sequence[float]) -> Levels:
    """Those around each step of a walk along `levels`, noisiest first."""
    padded = jnp.asarray((math.inf, *levels, 0.0), jnp.float32)
    return Levels(padded[:-2], padded[1:-1], padded[2:])


class Step(NamedTuple):
    """All that a solver is told.

    What multistep solvers remember is what every walk holds anyway, its last estimate, so that no
    solver has a state of its own.

    Attributes:
        here: the block that owns `levels.here`.
        there: the block that owns `levels.there`.
        z: [batch, ...].
        levels: scalars.
        before: [batch, ...] the clean estimate of the step before; it says nothing where
            `levels.before` is infinite.
        key: for solvers that draw.
    """

    here: Denoiser
    there: Denoiser
    z: Array
    levels: Levels
    before: Array
    key: PRNGKeyArray


@runtime_checkable
class Solver(Protocol):
    """One step from `levels.here` to `levels.there`."""

    def __call__(self, step: Step) -> tuple[Array, Estimate]:
        """The next z, and the estimate made at `levels.here`."""


def euler(step: Step) -> tuple[Array, Estimate]:
    """z' = (sigma'/sigma) z + (1 - sigma'/sigma) D, Euler's step of dz/dsigma = (z - D)/sigma.

    The paper prints the sign of this step reversed (equations 3 to 5); this one moves to D.
    """
    estimate = step.here(step.z, step.levels.here)
    return _blend(step, estimate.clean), estimate


def heun(step: Step) -> tuple[Array, Estimate]:
    """Euler's step, corrected by the slope at its end (Karras et al. 2022, algorithm 1)."""
    trial, estimate = euler(step)
    z, (_, here, there) = step.z, step.levels

    def correct(trial: Array) -> Array:
        slope = (z - estimate.clean) / here
        slope_there = (trial - step.there(trial, there).clean) / there
        return z + (there - here) * (slope + slope_there) / 2

    return jax.lax.cond(there > 0, correct, lambda trial: trial, trial), estimate


def dpmpp_2m(step: Step) -> tuple[Array, Estimate]:
    """Euler's step with D led on by its change since the step before.

    DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2) for variance-exploding noise,
    where its steps h are differences of -ln sigma: D + (D - D_before) h / (2 h_before) in the place
    of D. The first step and the last one, to 0, are Euler's.
    """
    estimate = step.here(step.z, step.levels.here)
    before, here, there = step.levels
    # Infinite lengths are those of the two steps that are Euler's.
    length, length_before = jnp.log(here / there), jnp.log(before / here)
    on = jnp.where(there > 0, length / (2 * length_before), 0.0)
    clean = estimate.clean
    return _blend(step, clean + on * (clean - step.before)), estimate


def ancestral(step: Step) -> tuple[Array, Estimate]:
    """A draw from q(z' | z, D), the posterior of the noising process (Ho et al. 2020, equation 7).

    With variance-exploding noise: mean r z + (1 - r) D with r = (sigma'/sigma)^2, and variance
    sigma'^2 (1 - r).
    """
    z, (_, here, there) = step.z, step.levels
    estimate = step.here(z, here)
    keep = (there / here) ** 2
    added = there * jnp.sqrt(1 - keep) * jax.random.normal(step.key, z.shape, z.dtype)
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

    def __call__(self, step: Step) -> tuple[Array, Estimate]:
        z, here = step.z, step.levels.here
        inside = (here >= self.s_min) & (here <= self.s_max)
        rise = jnp.where(inside, self.gamma, 0.0)
        # sqrt(raised^2 - here^2), written so that rounding cannot make its argument negative.
        added = here * jnp.sqrt(rise * (2 + rise)) * self.s_noise
        z = z + added * jax.random.normal(step.key, z.shape, z.dtype)
        levels = step.levels._replace(here=here * (1 + rise))
        return self.solver(step._replace(z=z, levels=levels))


def _blend(step: Step, clean: Array) -> Array:
    """z moved to `clean` as far as the noise falls."""
    keep = step.levels.there / step.levels.here
    return keep * step.z + (1 - keep) * clean


SOLVERS: Mapping[str, tuple[Solver, int]] = {
    "euler": (euler, 1),
    "heun": (heun, 2),
    "dpmpp_2m": (dpmpp_2m, 1),
    "ancestral": (ancestral, 1),
}
"""Solvers by name, each with its network calls per step (the last step always takes one)."""
ORDERS: Mapping[str, int] = {"euler": 1, "heun": 2, "dpmpp_2m": 2, "ancestral": 1}
"""By which power of a step's length, besides its own, its error falls."""
