"""Noise processes against SciPy in float64, and against their definitions."""

import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import strategies as st

from dbjax.errors import SettingError
from dbjax.noise import MASKED, LogNormalNoise, MaskingNoise, expand

NOISE = LogNormalNoise()
# Few shapes, so that each operation is compiled once.
N = 20_000
EVENLY = np.linspace(0, 1, 402)


def reference_sigma(noise: LogNormalNoise, u: np.ndarray) -> np.ndarray:
    """sigma(u) in float64, each half through the tail in which SciPy is exact."""
    normal = scipy.stats.norm(noise.p_mean, noise.p_std)
    low, high = np.log(noise.sigma_min), np.log(noise.sigma_max)
    mass = normal.sf(low) - normal.sf(high)
    above = normal.sf(high) + u * mass
    below = normal.cdf(low) + (1 - u) * mass
    return np.exp(np.where(above < 0.5, normal.isf(above), normal.ppf(below)))


def both_tails() -> np.ndarray:
    """u in float32, thinning out towards 0 and towards 1, where float32 stops at 1 - 6e-8."""
    noisy = np.logspace(-7, -0.31, 200)
    clean = 1 - np.logspace(np.log10(6e-8), -0.31, 200)
    return np.concatenate([[0.0], noisy, clean, [1.0]]).astype(np.float32)


def test_device_agrees_with_scipy_in_both_tails() -> None:
    u = both_tails()
    expected = reference_sigma(NOISE, u.astype(np.float64))
    np.testing.assert_allclose(NOISE.level(jnp.asarray(u)), expected, rtol=1e-3)
    assert NOISE.level(jnp.asarray(u)).dtype == jnp.float32


def test_host_agrees_with_scipy_in_float64() -> None:
    u = both_tails().astype(np.float64)
    np.testing.assert_allclose(NOISE.level(u), reference_sigma(NOISE, u), rtol=1e-9)


@st.composite
def _noises(draw: st.DrawFn) -> LogNormalNoise:
    """Any log-normal noise that has training mass within its range."""
    p_mean, p_std = draw(st.floats(-3, 2)), draw(st.floats(0.5, 3))
    low = draw(st.floats(-7, 2))
    high = low + draw(st.floats(0.5, 10))
    hypothesis.assume(low - p_mean < 6 * p_std and p_mean - high < 6 * p_std)
    return LogNormalNoise(p_mean, p_std, sigma_min=math.exp(low), sigma_max=math.exp(high))


noises = _noises()


def has_resolvable_tails(noise: LogNormalNoise) -> bool:
    """Whether each end keeps enough mass for float32 to tell u there from the end itself."""
    ends = (np.log([noise.sigma_min, noise.sigma_max]) - noise.p_mean) / noise.p_std
    return bool(np.all(np.abs(ends) < 5))


@hypothesis.given(noise=noises.filter(has_resolvable_tails))
@hypothesis.settings(max_examples=40)
def test_device_agrees_with_scipy_for_any_density(noise: LogNormalNoise) -> None:
    u = both_tails()
    expected = reference_sigma(noise, u.astype(np.float64))
    np.testing.assert_allclose(noise.level(jnp.asarray(u)), expected, rtol=1e-3)


@hypothesis.given(noise=noises, u=st.floats(0, 1))
@hypothesis.settings(max_examples=100)
def test_round_trip_on_the_host(noise: LogNormalNoise, u: float) -> None:
    assert noise.u_of(noise.level(u)) == pytest.approx(u, abs=1e-7)
    assert noise.u_of_natural(noise.natural(u)) == pytest.approx(u, abs=1e-7)


def test_round_trip_on_the_device() -> None:
    u = jnp.asarray(both_tails())
    back = NOISE.u_of(NOISE.level(u))
    np.testing.assert_allclose(back, u, atol=1e-6)
    # Relative precision too, where pure noise has only a millionth of the mass.
    np.testing.assert_allclose(back[1:150], u[1:150], rtol=1e-2)


def test_level_falls_from_sigma_max_to_sigma_min() -> None:
    sigma = NOISE.level(jnp.asarray(EVENLY))
    assert jnp.all(jnp.diff(sigma) < 0)
    np.testing.assert_allclose(sigma[jnp.array([0, -1])], [80.0, 0.002], rtol=1e-3)
    np.testing.assert_allclose(NOISE.level(np.array([0.0, 1.0])), [80.0, 0.002], rtol=1e-9)


def test_ends_without_mass_stay_in_range() -> None:
    """A density so narrow that both tails are 0 even in float64."""
    noise = LogNormalNoise(p_std=0.1)
    for u in (np.array([0.0, 1.0]), jnp.array([0.0, 1.0])):
        np.testing.assert_allclose(noise.level(u), [80.0, 0.002], rtol=1e-6)


@pytest.mark.parametrize(
    ("num_blocks", "boundaries"),
    [
        (2, [80, 0.3012, 0.002]),
        (3, [80, 0.505041, 0.179632, 0.002]),
        (4, [80, 0.676649, 0.3012, 0.134076, 0.002]),
        (6, [80, 0.961665, 0.505041, 0.3012, 0.179632, 0.09434, 0.002]),
    ],
)
def test_published_boundaries(num_blocks: int, boundaries: list[float]) -> None:
    u = np.arange(num_blocks + 1) / num_blocks
    np.testing.assert_allclose(NOISE.level(u), boundaries, rtol=4e-5)


def test_u_counts_training_mass() -> None:
    """ln sigma drawn from the truncated normal has u uniform."""
    draws = scipy.stats.norm(NOISE.p_mean, NOISE.p_std).rvs(20_000, random_state=0)
    inside = draws[(draws > np.log(0.002)) & (draws < np.log(80))]
    u = NOISE.u_of(np.exp(inside))
    assert scipy.stats.kstest(u, "uniform").pvalue > 1e-3


def test_corrupt_adds_noise_of_the_level(key: jax.Array) -> None:
    level = jnp.array([0.1, 1.0, 30.0, 0.0])
    clean = jnp.full((4, N), 2.0)
    noisy = NOISE.corrupt(key, clean, level)
    # Five standard errors of a standard deviation from N = 20,000: 5 / sqrt(2 N) = 2.5 %.
    np.testing.assert_allclose(jnp.std(noisy, axis=1), level, rtol=0.025)
    error = jnp.abs(jnp.mean(noisy, axis=1) - 2.0)
    np.testing.assert_array_less(error[:3], 5 * level[:3] / 141)
    np.testing.assert_array_equal(noisy[3], clean[3])
    assert jnp.abs(np.corrcoef(noisy[:2])[0, 1]) < 5 / 141


def test_prior_is_noise_of_sigma_max(key: jax.Array) -> None:
    prior = NOISE.prior(key, (4, N))
    assert prior.shape == (4, N)
    assert jnp.std(prior) == pytest.approx(80.0, rel=0.025)


def test_preconditioning_gives_network_and_target_unit_variance() -> None:
    """The conditions from which Karras et al. derive the scalings (their appendix B.6)."""
    sigma = NOISE.level(jnp.asarray(EVENLY))
    sd = NOISE.sigma_data
    c = NOISE.precondition(sigma)
    # Input: variance of c_in (y + sigma eps).
    np.testing.assert_allclose(c.c_in**2 * (sd**2 + sigma**2), 1.0, rtol=1e-5)
    # Target of F: (y - c_skip (y + sigma eps)) / c_out.
    target = ((1 - c.c_skip) ** 2 * sd**2 + c.c_skip**2 * sigma**2) / c.c_out**2
    np.testing.assert_allclose(target, 1.0, rtol=2e-3)
    # c_skip is the one that makes c_out smallest: the target is uncorrelated with z.
    np.testing.assert_allclose((1 - c.c_skip) * sd**2, c.c_skip * sigma**2, rtol=2e-3, atol=1e-9)
    np.testing.assert_allclose(NOISE.weight(sigma) * c.c_out**2, 1.0, rtol=1e-5)
    np.testing.assert_allclose(c.c_noise, jnp.log(sigma) / 4, rtol=1e-6)


def test_published_weights() -> None:
    sigma = jnp.array([0.002, 0.01, 0.1, 0.5, 1.0, 80.0])
    np.testing.assert_allclose(NOISE.weight(sigma), [250_004, 10_004, 104, 8, 5, 4.0], rtol=1e-3)


def test_expand_adds_trailing_axes() -> None:
    assert expand(jnp.zeros(3), jnp.zeros((3, 4, 5))).shape == (3, 1, 1)


@pytest.mark.parametrize("setting", ["p_std", "sigma_min", "sigma_data"])
def test_refuses_a_scale_that_is_not_positive(setting: str) -> None:
    with pytest.raises(SettingError, match=rf"^noise\.{setting} is 0\.0; allowed: a number above"):
        LogNormalNoise(**{setting: 0.0})


def test_refuses_an_empty_range() -> None:
    with pytest.raises(SettingError, match=r"^noise\.sigma_max is 0\.001; .*sigma_min = 0\.002$"):
        LogNormalNoise(sigma_max=0.001)
    with pytest.raises(SettingError, match=r"^noise\.p_mean is 30\.0; allowed: .*within reach"):
        LogNormalNoise(p_mean=30.0)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
class TestMasking:
    vocabulary = 27

    def noise(self, schedule: str) -> MaskingNoise:
        return MaskingNoise(schedule)

    def test_u_is_alpha_up_to_eps(self, schedule: str) -> None:
        noise = self.noise(schedule)
        u = jnp.asarray(EVENLY)
        np.testing.assert_allclose(noise.alpha(noise.level(u)), u, atol=1.1e-4)
        assert noise.alpha(1.0) == pytest.approx(1e-4, abs=1e-7)
        assert noise.alpha(0.0) == pytest.approx(1 - 1e-4)

    def test_round_trip(self, schedule: str) -> None:
        noise = self.noise(schedule)
        u = EVENLY
        np.testing.assert_allclose(noise.u_of(noise.level(u)), u, atol=1e-12)
        np.testing.assert_allclose(noise.u_of(noise.level(jnp.asarray(u))), u, atol=1e-6)
        np.testing.assert_allclose(noise.u_of_natural(noise.natural(u)), u, atol=1e-12)

    def test_time_runs_from_one_to_zero(self, schedule: str) -> None:
        noise = self.noise(schedule)
        times = noise.level(np.linspace(0, 1, 101))
        np.testing.assert_allclose(times[[0, -1]], [1.0, 0.0], atol=1e-12)
        assert np.all(np.diff(times) < 0)

    def test_schedule_is_the_published_one(self, schedule: str) -> None:
        """MD4: a(1/4) is 3/4 for the linear and 1 - cos(3 pi / 8) for the cosine schedule."""
        expected = {"linear": 0.75, "cosine": 1 - math.cos(3 * math.pi / 8)}
        assert self.noise(schedule).u_of(0.25) == pytest.approx(expected[schedule])

    def test_corrupt_masks_the_right_share(self, schedule: str, key: jax.Array) -> None:
        noise = self.noise(schedule)
        u = jnp.array([0.0, 0.2, 0.9, 1.0])
        clean = jnp.broadcast_to(jnp.arange(N) % self.vocabulary, (4, N))
        noisy = noise.corrupt(key, clean, noise.level(u))
        masked = noisy == MASKED
        # Five standard errors of a share from N = 20,000 are at most 0.018.
        np.testing.assert_allclose(jnp.mean(masked, axis=1), 1 - u, atol=0.018)
        np.testing.assert_array_equal(noisy[~masked], clean[~masked])
        assert noisy.dtype == clean.dtype

    def test_weight_sums_the_bound_of_a_model_that_ignores_its_input(self, schedule: str) -> None:
        """The ELBO of a unigram model is its cross entropy, whatever was masked."""
        noise = self.noise(schedule)
        entropy = math.log(self.vocabulary)
        u = jnp.asarray((np.arange(402) + 0.5) / 402, jnp.float32)
        t = noise.level(u)
        bound = jnp.mean(noise.weight(t) * (1 - noise.alpha(t)) * entropy)
        assert bound == pytest.approx(entropy, rel=1e-3)

    def test_weight_is_the_elbo_density_in_time(self, schedule: str) -> None:
        """weight(t) du = -alpha'(t) / (1 - alpha(t)) dt, by finite differences in float64."""
        noise = self.noise(schedule)
        t = np.linspace(0.05, 0.95, 19)
        h = 1e-6
        slope = (noise.alpha(t + h) - noise.alpha(t - h)) / (2 * h)
        du_dt = (noise.u_of(t + h) - noise.u_of(t - h)) / (2 * h)
        in_u = -slope / (1 - noise.alpha(t)) / -du_dt
        np.testing.assert_allclose(noise.weight(jnp.asarray(t)), in_u, rtol=1e-4)

    def test_weight_stays_finite_at_the_clean_end(self, schedule: str) -> None:
        noise = MaskingNoise(schedule=schedule, eps=1e-9)
        assert noise.weight(noise.level(jnp.ones(()))) == pytest.approx(1e9, rel=1e-3)

    def test_prior_is_all_masks(self, schedule: str, key: jax.Array) -> None:
        prior = self.noise(schedule).prior(key, (2, 5))
        assert prior.shape == (2, 5)
        assert jnp.all(prior == MASKED)


def test_masking_refusals() -> None:
    with pytest.raises(SettingError, match=r"^noise\.schedule is 'poly'; allowed: 'linear' or 'c"):
        MaskingNoise(schedule="poly")
    for eps in (0.0, 0.5):
        with pytest.raises(SettingError, match=rf"^noise\.eps is {eps}; allowed: a number in \(0"):
            MaskingNoise(eps=eps)
