"""Noise processes in one coordinate: u, the share of the training mass already denoised.

`u = 0` is pure noise and `u = 1` is clean data. A noise process maps u to its own level (a standard
deviation, a masking time) and back. Partition, training and sampling speak of u alone, so a further
process is a further class here and nothing else.

Every function of u is written once and runs in two places: on the host in float64 through SciPy
when it is given Python or NumPy numbers, and on the device in float32 when it is given jax arrays.
"""

import abc
import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dbjax.errors import require

Real = Any
"""A Python float or a NumPy array (answered in float64) or a jax array (answered in float32)."""

# Some way above the smallest numbers of float32.
_SMALLEST_MASS = 1e-30


@runtime_checkable
class NoiseProcess(Protocol):
    """What partition, trainer and sampler ask of a noise process.

    All three maps are monotone and vectorised. `natural` is the coordinate in which a level is
    spread evenly by eye (ln sigma, or time): uniform partitions and overlaps are measured in it.
    """

    @property
    def level_name(self) -> str:
        """What a level is: "sigma" or "time"."""

    def level(self, u: Real) -> Real:
        """Level of noise at which the share `u` of the training mass has been denoised."""

    def u_of(self, level: Real) -> Real:
        """Inverse of `level`."""

    def natural(self, u: Real) -> Real:
        """Evenly spread coordinate at `u`, falling from noise to clean."""

    def u_of_natural(self, x: Real) -> Real:
        """Inverse of `natural`."""

    def corrupt(self, key: PRNGKeyArray, clean: Array, level: Array) -> Array:
        """A noisy version of `clean` at `level`, one level for each example."""

    def prior(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
        """The start of sampling: a draw at u = 0."""

    def weight(self, level: Array) -> Array:
        """Loss weight at `level` when u is drawn uniformly."""


class GaussianNoise(abc.ABC):
    """Variance-exploding noise z = y + sigma * eps; levels are sigma, in the units of the data.

    Variance-preserving noise and flow matching are the same after division by the factor of y
    (Karras et al. 2022, appendix C), so that they differ in sigma(u) alone.

    Attributes:
        sigma_min: smallest noise, reached at u = 1.
        sigma_max: largest noise, reached at u = 0.
    """

    sigma_min: float
    sigma_max: float
    level_name = "sigma"

    @abc.abstractmethod
    def level(self, u: Real) -> Real:
        """sigma at `u`."""

    @abc.abstractmethod
    def u_of(self, level: Real) -> Real:
        """Inverse of `level`."""

    def natural(self, u: Real) -> Real:
        """ln sigma(u)."""
        xp, _ = backend(u)
        return xp.log(self.level(u))

    def u_of_natural(self, x: Real) -> Real:
        """u at ln sigma = x; beyond the range, the nearer end."""
        xp, _ = backend(x)
        return self.u_of(xp.exp(xp.clip(x, np.log(self.sigma_min), np.log(self.sigma_max))))

    def corrupt(
        self, key: PRNGKeyArray, clean: Float[Array, "batch ..."], level: Float[Array, " batch"]
    ) -> Float[Array, "batch ..."]:
        """z = y + sigma * eps."""
        noise = jax.random.normal(key, clean.shape, clean.dtype)
        return clean + expand(level, clean) * noise

    def prior(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        """sigma_max * eps."""
        return self.sigma_max * jax.random.normal(key, shape)

    def weight(self, level: Float[Array, "..."]) -> Float[Array, "..."]:
        """One, unless a process says otherwise."""
        return jnp.ones_like(level)

    def _check_range(self) -> None:
        require(self.sigma_min > 0, "noise.sigma_min", self.sigma_min, "a number above 0")
        require(
            self.sigma_max > self.sigma_min,
            "noise.sigma_max",
            self.sigma_max,
            f"a number above noise.sigma_min = {self.sigma_min!r}",
        )


@dataclasses.dataclass(frozen=True)
class LogNormalNoise(GaussianNoise):
    """Variance-exploding noise z = y + sigma * eps, ln sigma ~ N(p_mean, p_std^2), cut to a range.

    Karras et al. 2022 (arXiv 2206.00364), table 1; the cut as in DiffusionBlocks (arXiv 2506.14202,
    section 3.3). Levels are sigma, in the units of the data.

    Attributes:
        p_mean: mean of ln sigma in training.
        p_std: standard deviation of ln sigma in training.
        sigma_min: smallest noise, reached at u = 1.
        sigma_max: largest noise, reached at u = 0.
        sigma_data: standard deviation of the clean data.

    Raises:
        SettingError: if a scale is not positive, or the range is empty or without training mass.
    """

    p_mean: float = -1.2
    p_std: float = 1.2
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        for name in ("p_std", "sigma_data"):
            value = getattr(self, name)
            require(value > 0, f"noise.{name}", value, "a number above 0")
        self._check_range()
        require(
            self._tails()[-1] > _SMALLEST_MASS,
            "noise.p_mean",
            self.p_mean,
            f"a mean of ln sigma from which the range {self.sigma_min} to {self.sigma_max} is "
            f"within reach at noise.p_std = {self.p_std}",
        )

    def level(self, u: Real) -> Real:
        """exp(p_mean - p_std * Phi^-1(S(sigma_max) + u (S(sigma_min) - S(sigma_max))))."""
        xp, special = backend(u)
        s_max, q_min, mass = self._tails()
        # Near sigma_max the survival function keeps its relative precision in float32 and the
        # distribution function does not; near sigma_min it is the other way round.
        survival = s_max + u * mass
        distribution = q_min + (1 - u) * mass
        x = xp.where(
            survival < 0.5,
            -special.ndtri(xp.clip(survival, s_max, 0.5)),
            special.ndtri(xp.clip(distribution, q_min, 0.5)),
        )
        # Where the density leaves almost no mass at an end, its tail rounds to 0 and x to infinity.
        return xp.clip(xp.exp(self.p_mean + self.p_std * x), self.sigma_min, self.sigma_max)

    def u_of(self, level: Real) -> Real:
        """u(sigma) = (S(sigma) - S(sigma_max)) / (S(sigma_min) - S(sigma_max))."""
        xp, special = backend(level)
        s_max, q_min, mass = self._tails()
        x = (xp.log(level) - self.p_mean) / self.p_std
        u = xp.where(
            x > 0,
            (special.ndtr(-x) - s_max) / mass,
            1 - (special.ndtr(x) - q_min) / mass,
        )
        return xp.clip(u, 0.0, 1.0)

    def weight(self, level: Float[Array, "..."]) -> Float[Array, "..."]:
        """w(sigma) = (sigma^2 + sigma_data^2) / (sigma * sigma_data)^2 = 1 / c_out^2."""
        return (level**2 + self.sigma_data**2) / (level * self.sigma_data) ** 2

    def precondition(self, sigma: Float[Array, "..."]) -> "Preconditioning":
        """The EDM scalings at `sigma` (Karras et al. 2022, table 1)."""
        total = sigma**2 + self.sigma_data**2
        return Preconditioning(
            c_skip=self.sigma_data**2 / total,
            c_out=sigma * self.sigma_data / jnp.sqrt(total),
            c_in=1 / jnp.sqrt(total),
            c_noise=jnp.log(sigma) / 4,
        )

    def _tails(self) -> tuple[float, float, float]:
        """S(sigma_max), Phi(sigma_min) and the mass between the two, in float64."""
        low = (np.log(self.sigma_min) - self.p_mean) / self.p_std
        high = (np.log(self.sigma_max) - self.p_mean) / self.p_std
        s_max, q_min = float(scipy.special.ndtr(-high)), float(scipy.special.ndtr(low))
        # A difference of two numbers near 1 has no digits: take it in the smaller tail.
        if low > 0:
            mass = float(scipy.special.ndtr(-low)) - s_max
        else:
            mass = float(scipy.special.ndtr(high)) - q_min
        return s_max, q_min, mass


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Preconditioning:
    """D(z, sigma) = c_skip z + c_out F(c_in z, c_noise); each field has the shape of sigma."""

    c_skip: Array
    c_out: Array
    c_in: Array
    c_noise: Array


MASKED = -1
"""What stands in the place of a masked token: the id of none."""


@dataclasses.dataclass(frozen=True)
class MaskingNoise:
    """Absorbing noise: a token stays unmasked with probability alpha(t).

    Shi et al. 2024 (MD4, arXiv 2406.04329): alpha(t) = (1 - 2 eps) a(t) + eps. The mass of the
    evidence bound on [t_a, t_b] is proportional to a(t_a) - a(t_b), so u = a(t): all masked is
    u = 0 (t = 1), clean is u = 1 (t = 0). Levels are times t in [0, 1].

    Attributes:
        schedule: `linear`, a = 1 - t, or `cosine`, a = 1 - cos(pi/2 (1 - t)).
        eps: distance that alpha keeps from 0 and 1.

    Raises:
        SettingError: for an unknown schedule or an eps outside (0, 0.5).
    """

    schedule: str = "linear"
    eps: float = 1e-4
    level_name = "time"

    def __post_init__(self) -> None:
        require(
            self.schedule in ("linear", "cosine"),
            "noise.schedule",
            self.schedule,
            "'linear' or 'cosine'",
        )
        require(0 < self.eps < 0.5, "noise.eps", self.eps, "a number in (0, 0.5)")

    def level(self, u: Real) -> Real:
        """The time t with a(t) = u."""
        xp, _ = backend(u)
        if self.schedule == "linear":
            return 1 - u
        return 1 - xp.arccos(xp.clip(1 - u, 0.0, 1.0)) * (2 / np.pi)

    def u_of(self, level: Real) -> Real:
        """a(t)."""
        xp, _ = backend(level)
        if self.schedule == "linear":
            return 1 - level
        return 1 - xp.cos(np.pi / 2 * (1 - level))

    def natural(self, u: Real) -> Real:
        """The time t."""
        return self.level(u)

    def u_of_natural(self, x: Real) -> Real:
        """u at time x; beyond [0, 1], the nearer end."""
        xp, _ = backend(x)
        return self.u_of(xp.clip(x, 0.0, 1.0))

    def alpha(self, level: Real) -> Real:
        """Probability that a token is unmasked at time `level`."""
        return (1 - 2 * self.eps) * self.u_of(level) + self.eps

    def corrupt(
        self, key: PRNGKeyArray, clean: Int[Array, "batch ..."], level: Float[Array, " batch"]
    ) -> Int[Array, "batch ..."]:
        """Each token on its own is kept with probability alpha, else replaced by `MASKED`."""
        keep = jax.random.uniform(key, clean.shape) < expand(self.alpha(level), clean)
        return jnp.where(keep, clean, MASKED)

    def prior(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Int[Array, "..."]:
        """All tokens masked."""
        del key
        return jnp.full(shape, MASKED, jnp.int32)

    def weight(self, level: Float[Array, "..."]) -> Float[Array, "..."]:
        """-alpha'(t) / (1 - alpha(t)) per masked token, for u (not t) drawn uniformly.

        The change of variable from t to u absorbs a'(t): (1 - 2 eps) / (1 - alpha).
        """
        # Not 1 - alpha: near clean data float32 would round a small eps away.
        masked = (1 - 2 * self.eps) * (1 - self.u_of(level)) + self.eps
        return (1 - 2 * self.eps) / masked


def expand(level: Array, like: Array) -> Array:
    """`level` [batch] with trailing axes of length one, ready to meet `like` [batch, ...]."""
    return level.reshape(level.shape + (1,) * (like.ndim - level.ndim))


def backend(x: Real) -> tuple[Any, Any]:
    """(jnp, jax.scipy.special) for jax arrays and tracers, (np, scipy.special) otherwise."""
    if isinstance(x, jax.Array):
        return jnp, jax.scipy.special
    return np, scipy.special
