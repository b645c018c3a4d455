"""Sampling with the exact denoiser of known data in the network's place.

Where the denoiser is exact, what a sampler must produce is known too: the flow of the Gaussian in
closed form, mean and covariance of a mixture. Each block is exact in its own range alone and says
NaN elsewhere, so that asking the wrong one never goes unnoticed.
"""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from dbjax.adaptive import adapt
from dbjax.errors import SettingError
from dbjax.noise import LogNormalNoise, MaskingNoise
from dbjax.partition import Partition, PartitionConfig, make_partition
from dbjax.sampling import Sampler, SamplingConfig
from dbjax.solvers import Churn, Levels, Solver, Step, euler
from dbjax.task import DenoisingTask, Estimate
from dbjax.unmasking import UnmaskingConfig
from tests.helpers import TaskStub, toy_task

WIDE = LogNormalNoise()
NARROW = LogNormalNoise(sigma_min=0.05, sigma_max=2.0)


@dataclasses.dataclass(frozen=True, eq=False)
class MixtureTask(TaskStub):
    """Exact denoising of a mixture of Gaussians in the plane; a block knows its range of sigma."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    noise: LogNormalNoise = WIDE
    num_blocks: int = 3
    slack: float = 0.0

    @property
    def partition(self) -> Partition:
        config = PartitionConfig(self.num_blocks)
        return make_partition(config, self.noise, self.num_blocks)

    def init(self, key: Any, block: int) -> dict[str, Any]:
        upper, lower = self.noise.level(np.array(self.partition.edges[block : block + 2]))
        return {"range": jnp.array([lower / (1.001 + self.slack), upper * (1.001 + self.slack)])}

    def blocks(self) -> dict[int, dict[str, Any]]:
        return {b: self.init(None, b) for b in range(self.num_blocks)}

    def denoise(
        self, params: Any, z: Array, level: Array, condition: Any = None, *, guidance: float = 1.0
    ) -> Estimate:
        clean = jax.vmap(self.posterior_mean)(z, level)
        lower, upper = params["range"]
        mine = (level >= lower) & (level <= upper)
        return Estimate(jnp.where(mine[:, None], clean, jnp.nan))

    def posterior_mean(self, z: Float[Array, " 2"], sigma: Float[Array, ""]) -> Float[Array, " 2"]:
        """E[y | y + sigma eps = z], in the eigenbasis of each component's covariance."""
        values, bases = np.linalg.eigh(self.covariances)
        noisy = values + sigma**2
        along = jnp.einsum("kij,ki->kj", bases, z[None] - self.means)
        log_weight = np.log(self.weights) - jnp.sum(jnp.log(noisy) + along**2 / noisy, axis=1) / 2
        means = self.means + jnp.einsum("kij,kj->ki", bases, along * values / noisy)
        return jax.nn.softmax(log_weight) @ means

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        mean = self.weights @ self.means
        second = self.covariances + np.einsum("ki,kj->kij", self.means, self.means)
        return mean, np.einsum("k,kij->ij", self.weights, second) - np.outer(mean, mean)


def gaussian(**settings: Any) -> MixtureTask:
    return MixtureTask(
        weights=np.ones(1, np.float32),
        means=np.array([[0.3, -0.2]], np.float32),
        covariances=np.array([[[0.4, 0.15], [0.15, 0.1]]], np.float32),
        **settings,
    )


def mixture(**settings: Any) -> MixtureTask:
    return MixtureTask(
        weights=np.array([0.3, 0.7], np.float32),
        means=np.array([[-0.8, 0.5], [0.4, -0.1]], np.float32),
        covariances=np.array([[[0.02, 0.01], [0.01, 0.04]], [[0.1, -0.05], [-0.05, 0.05]]], "f4"),
        **settings,
    )


def exact_flow(task: MixtureTask, start: np.ndarray) -> np.ndarray:
    """Where the ODE takes `start` from sigma_max to sigma_min, for one Gaussian.

    In the eigenbasis of the covariance every coordinate shrinks as sqrt(lambda + sigma^2).
    """
    eigenvalues, basis = np.linalg.eigh(task.covariances[0].astype(np.float64))
    first, last = task.noise.sigma_max, task.noise.sigma_min
    shrink = np.sqrt((eigenvalues + last**2) / (eigenvalues + first**2))
    mean = task.means[0].astype(np.float64)
    return (((start - mean) @ basis) * shrink) @ basis.T + mean


# Enough steps for each solver's own error to stay below 3 % of the variance.
SETTINGS = [
    SamplingConfig(num_steps=200),
    SamplingConfig(num_steps=300, grid="karras"),
    SamplingConfig(num_steps=60, grid="karras", solver="heun"),
    SamplingConfig(num_steps=300, grid="karras", churn=5.0, churn_min=0.01, churn_max=50.0),
    SamplingConfig(num_steps=60, grid="karras", solver="heun", churn=20.0),
    SamplingConfig(num_steps=300, grid="karras", solver="ancestral"),
    SamplingConfig(num_steps=60, grid="karras", solver="dpmpp_2m"),
    SamplingConfig(num_steps=30, grid="adaptive", solver="dpmpp_2m"),
]


def describe(config: SamplingConfig) -> str:
    return f"{config.solver}-{config.grid}-churn{config.churn:g}"


# The deterministic solvers meet the Gaussian in closed form below.
@pytest.mark.parametrize(
    ("make", "config"),
    [(mixture, config) for config in SETTINGS]
    + [(gaussian, config) for config in SETTINGS if config.churn or config.solver == "ancestral"],
    ids=lambda case: describe(case) if isinstance(case, SamplingConfig) else case.__name__,
)
def test_samples_have_the_mean_and_covariance_of_the_data(
    make: Any, config: SamplingConfig, key: jax.Array
) -> None:
    n = 10_000
    task = make(slack=0.5 if config.churn else 0.0)
    config = adapt(task, task.blocks(), config)
    samples = np.asarray(Sampler(task, config)(task.blocks(), key, n).clean, np.float64)
    mean, covariance = task.moments()
    # Five standard errors, and for the covariance what the solver is allowed.
    np.testing.assert_array_less(
        np.abs(samples.mean(axis=0) - mean), 5 * samples.std(axis=0) / np.sqrt(n)
    )
    centred = samples - samples.mean(axis=0)
    products = centred[:, :, None] * centred[:, None, :]
    allowed = 5 * products.std(axis=0) / np.sqrt(n) + 0.03 * np.abs(covariance)
    np.testing.assert_array_less(np.abs(products.mean(axis=0) - covariance), allowed)


def flow_error(config: SamplingConfig, noise: LogNormalNoise, key: jax.Array) -> float:
    """Root mean square distance from the exact flow, when sigma_min is reached."""
    task = gaussian(noise=noise)
    config = adapt(task, task.blocks(), config)
    path = Sampler(task, config)(task.blocks(), key, 64, record=True).path
    assert path is not None
    expected = exact_flow(task, np.asarray(path.z[0], np.float64))
    return float(np.sqrt(np.mean((np.asarray(path.z[-1]) - expected) ** 2)))


@pytest.mark.parametrize(
    ("grid", "noise"),
    [("even", NARROW), ("karras", WIDE), ("adaptive", WIDE)],
    ids=["even", "karras", "adaptive"],
)
@pytest.mark.parametrize(("solver", "order"), [("euler", 1.0), ("heun", 2.0), ("dpmpp_2m", 2.0)])
def test_order_of_convergence(
    solver: str, order: float, grid: str, noise: LogNormalNoise, key: jax.Array
) -> None:
    """Twice the steps divide the error by 2 and by 4; with memory, at last only.

    The even grid shows its order on a range whose ends hold some mass: between sigma_max = 80 and
    its next point lies nearly all of ln sigma, however many points there are.
    """
    coarse, fine = (
        flow_error(SamplingConfig(steps, grid, solver), noise, key) for steps in (33, 129)
    )
    allowed = 0.25 if solver == "dpmpp_2m" else 0.1
    assert np.log2(coarse / fine) / 2 == pytest.approx(order, abs=allowed)
    assert fine < (0.02 if order == 1 else 0.001)


def test_one_euler_step_moves_to_the_estimate() -> None:
    """From 80 to 0.3012, 0.0038 of the noise is kept."""
    task = gaussian()
    config = SamplingConfig(num_steps=3)
    path = Sampler(task, config)(task.blocks(), jax.random.key(1), 8, record=True).path
    assert path is not None
    keep = 0.3012 / 80
    np.testing.assert_allclose(
        path.z[1], keep * path.z[0] + (1 - keep) * path.clean[0], rtol=1e-4, atol=1e-5
    )


def test_dpmpp_2m_leads_the_estimate_on_also_where_another_block_made_the_last() -> None:
    task = gaussian()
    sampler = Sampler(task, SamplingConfig(8, "karras", "dpmpp_2m"))
    path = sampler(task.blocks(), jax.random.key(1), 4, record=True).path
    assert path is not None
    assert len(set(sampler.grid.blocks)) == 3
    levels, (z, clean) = np.array(sampler.grid.levels), (np.asarray(x, "f8") for x in path[:2])
    keep, lengths = levels[1:] / levels[:-1], -np.diff(np.log(levels))
    led = clean[:-1].copy()
    led[1:] += np.diff(clean[:-1], axis=0) * (lengths[1:] / lengths[:-1] / 2)[:, None, None]
    keep = keep[:, None, None]
    np.testing.assert_allclose(z[1:], keep * z[:-1] + (1 - keep) * led, rtol=1e-4, atol=1e-5)


def test_the_last_estimate_is_the_sample(key: jax.Array) -> None:
    task = mixture()
    config = SamplingConfig(num_steps=7, grid="karras", solver="heun")
    clean, estimate, path = Sampler(task, config)(task.blocks(), key, 5, record=True)
    assert path is not None
    assert path.z.shape == path.clean.shape == (7, 5, 2)
    np.testing.assert_array_equal(clean, path.clean[-1])
    np.testing.assert_array_equal(clean, estimate.clean)


class Recorder(TaskStub):
    """A task that notes which block was asked at which level, call by call."""

    def __init__(self, num_blocks: int = 3, layers: tuple[int, ...] | None = None) -> None:
        depth = num_blocks if layers is None else sum(layers)
        self.noise = WIDE
        self.partition = make_partition(PartitionConfig(num_blocks, layers=layers), WIDE, depth)
        self.calls: list[tuple[int, float]] = []

    def init(self, key: Any, block: int) -> dict[str, Any]:
        return {"block": jnp.int32(block), "layers": jnp.zeros(len(self.partition.layers[block]))}

    def blocks(self) -> dict[int, Any]:
        return {b: self.init(None, b) for b in range(self.partition.num_blocks)}

    def denoise(
        self, params: Any, z: Array, level: Array, condition: Any = None, *, guidance: float = 1.0
    ) -> Estimate:
        jax.debug.callback(self._note, params["block"], level[0], ordered=True)
        return Estimate(0.9 * z)

    def _note(self, block: Any, level: Any) -> None:
        self.calls.append((int(block), float(level)))


def check_calls(calls: list[tuple[int, float]], expected: list[tuple[int, float]]) -> None:
    jax.effects_barrier()
    assert [block for block, _ in calls] == [block for block, _ in expected]
    np.testing.assert_allclose([c[1] for c in calls], [e[1] for e in expected], rtol=1e-5)


@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m"])
def test_one_step_is_one_estimate_of_pure_noise(solver: str, key: jax.Array) -> None:
    task = Recorder()
    sampler = Sampler(task, SamplingConfig(num_steps=1, solver=solver))
    clean, _, path = sampler(task.blocks(), key, 5, record=True)
    assert path is not None
    check_calls(task.calls, [(0, 80.0)])
    np.testing.assert_allclose(clean, 0.9 * path.z[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("grid", "solver"), [("even", "euler"), ("karras", "dpmpp_2m"), ("adaptive", "dpmpp_2m")]
)
def test_each_level_asks_the_block_that_owns_it(grid: str, solver: str, key: jax.Array) -> None:
    task = Recorder()
    config = adapt(task, task.blocks(), SamplingConfig(num_steps=10, grid=grid, solver=solver))
    jax.effects_barrier()
    task.calls.clear()
    sampler = Sampler(task, config)
    sampler(task.blocks(), key, 4)
    check_calls(task.calls, list(zip(sampler.grid.blocks, sampler.grid.levels, strict=True)))


@pytest.mark.parametrize("grid", ["even", "karras"])
def test_heun_asks_the_next_block_at_a_seam(grid: str, key: jax.Array) -> None:
    task = Recorder()
    sampler = Sampler(task, SamplingConfig(num_steps=10, grid=grid, solver="heun"))
    sampler(task.blocks(), key, 4)
    points = list(zip(sampler.grid.blocks, sampler.grid.levels, strict=True))
    expected = [call for pair in itertools.pairwise(points) for call in pair]
    check_calls(task.calls, [*expected, points[-1]])


def test_churn_asks_at_the_raised_level(key: jax.Array) -> None:
    task = Recorder()
    config = SamplingConfig(num_steps=10, grid="karras", churn=1.0, churn_min=0.1, churn_max=10.0)
    sampler = Sampler(task, config)
    sampler(task.blocks(), key, 4)
    points = zip(sampler.grid.blocks, sampler.grid.levels, strict=True)
    raised = [(b, s * 1.1 if 0.1 <= s <= 10.0 else s) for b, s in points]
    assert 0 < sum(0.1 <= s <= 10.0 for s in sampler.grid.levels) < 10
    check_calls(task.calls, raised)


def test_churn_is_bounded_and_draws_anew_at_every_step(key: jax.Array) -> None:
    """gamma is at most sqrt(2) - 1, which adds as much noise as there is, times churn_noise."""
    task = Recorder()
    config = SamplingConfig(num_steps=4, grid="karras", churn=100.0, churn_noise=0.5)
    sampler = Sampler(task, config)
    path = sampler(task.blocks(), key, 20_000, record=True).path
    assert path is not None
    jax.effects_barrier()
    np.testing.assert_allclose(
        [level for _, level in task.calls], np.array(sampler.grid.levels) * 2**0.5, rtol=1e-5
    )
    # The estimate is 0.9 of what the block was shown, so it gives the added noise away.
    added = path.clean / 0.9 - path.z
    added = np.asarray(path.clean / 0.9 - path.z).reshape(4, -1)
    np.testing.assert_allclose(added.std(axis=1), np.array(sampler.grid.levels) / 2, rtol=0.02)
    np.testing.assert_allclose(np.corrcoef(added), np.eye(4), atol=0.03)


def test_churn_leaves_levels_outside_its_range_alone(key: jax.Array) -> None:
    """At every level: sqrt(raised^2 - level^2) as written would often be NaN once compiled."""
    churn = Churn(euler, gamma=0.1, s_min=100.0)

    def denoiser(z: Array, level: Array) -> Estimate:
        return Estimate(0.9 * z)

    def step(solver: Solver, level: Array) -> Array:
        z, levels = jnp.ones((1, 2)), Levels(jnp.float32(jnp.inf), level, level / 2)
        return solver(Step(denoiser, denoiser, z, levels, z, key))[0]

    levels = jnp.geomspace(0.002, 80, 500)
    churned, plain = (
        jax.jit(jax.vmap(functools.partial(step, solver)))(levels) for solver in (churn, euler)
    )
    np.testing.assert_allclose(churned, plain, rtol=1e-6)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_compiles_once_for_blocks_of_one_shape(solver: str, key: jax.Array) -> None:
    task = Recorder(num_blocks=6)
    sampler = Sampler(task, SamplingConfig(num_steps=20, solver=solver))
    sampler(task.blocks(), key, 4)
    sampler(task.blocks(), jax.random.key(1), 4)
    assert sampler._walk._cache_size() == 1


class CountingNetwork:
    """Counts layers times examples, the work a sampler makes a network do."""

    depth = 6
    evaluations = 0

    def init(self, key: Any, layers: Any) -> dict[str, Any]:
        return {"interface": {}, "layers": jnp.zeros(len(layers))}

    def apply(
        self,
        params: Any,
        z: Array,
        c_noise: Array,
        condition: Any = None,
        *,
        key: Any = None,
        remat: bool = False,
    ) -> Array:
        jax.debug.callback(self._add, params["layers"].shape[0] * z.shape[0])
        return z

    def _add(self, count: Any) -> None:
        self.evaluations += int(count)


@pytest.mark.parametrize(("solver", "guidance"), [("euler", 1.0), ("heun", 2.0)])
def test_layer_evaluations_are_what_runs(solver: str, guidance: float, key: jax.Array) -> None:
    network = CountingNetwork()
    partition = make_partition(PartitionConfig(layers=(1, 2, 3)), WIDE, 6)
    task = DenoisingTask(network, WIDE, partition, (2,), num_classes=3)
    config = SamplingConfig(num_steps=7, grid="karras", solver=solver, guidance=guidance)
    sampler = Sampler(task, config)
    blocks = {b: task.init(key, b) for b in range(3)}
    sampler(blocks, key, 5, jnp.zeros(5, jnp.int32))
    jax.effects_barrier()
    assert network.evaluations == 5 * sampler.layer_evaluations


def test_steps_are_chosen_after_training(key: jax.Array) -> None:
    """One set of weights, any number of steps, grid and solver."""
    task = toy_task()
    blocks = {b: task.init(key, b) for b in range(3)}
    for config in (SamplingConfig(4), SamplingConfig(9, "karras", "heun")):
        clean, _, path = Sampler(task, config)(blocks, key, 3)
        assert clean.shape == (3, 2)
        assert jnp.all(jnp.isfinite(clean))
        assert path is None


def test_blocks_may_wait_on_the_host(key: jax.Array) -> None:
    task = toy_task((1, 2))
    blocks = {b: task.init(key, b) for b in range(2)}
    device = jax.local_devices()[0]
    host = jax.sharding.SingleDeviceSharding(device, memory_kind="pinned_host")
    sampler = Sampler(task, SamplingConfig(num_steps=5, solver="heun"))
    there = sampler(jax.device_put(blocks, host), key, 3).clean
    here = sampler(blocks, key, 3).clean
    assert there.sharding.memory_kind == device.default_memory().kind
    np.testing.assert_array_equal(there, here)


def test_samples_depend_on_the_key_alone(key: jax.Array) -> None:
    task = mixture(slack=0.5)
    sampler = Sampler(task, SamplingConfig(num_steps=10, churn=5.0))
    first, again, other = (
        sampler(task.blocks(), k, 4).clean for k in (key, key, jax.random.key(1))
    )
    np.testing.assert_array_equal(first, again)
    assert not jnp.any(first == other)


def test_without_starting_noise_the_likelier_of_two_answers_is_given(key: jax.Array) -> None:
    """With it they are given as often as they are probable."""
    answers = MixtureTask(
        weights=np.array([0.35, 0.65], np.float32),
        means=np.array([[-1.0, 1.0], [1.0, -1.0]], np.float32),
        covariances=np.stack([1e-4 * np.eye(2, dtype=np.float32)] * 2),
    )

    def share_of_the_second(prior_scale: float) -> float:
        sampler = Sampler(answers, SamplingConfig(num_steps=100, prior_scale=prior_scale))
        found = sampler(answers.blocks(), key, 4000).clean
        np.testing.assert_allclose(np.abs(found), 1, atol=0.2)
        return float(jnp.mean(found[:, 0] > 0))

    assert share_of_the_second(1.0) == pytest.approx(0.65, abs=0.03)
    assert share_of_the_second(0.0) == 1.0


def test_starting_noise_is_scaled_also_without_the_first_block(key: jax.Array) -> None:
    task = gaussian(slack=1e9)
    for without in ((), (0,)):
        samplers = [
            Sampler(task, SamplingConfig(num_steps=6, prior_scale=scale), without=without)
            for scale in (1.0, 0.25)
        ]
        paths = [sampler(task.blocks(), key, 5, record=True).path for sampler in samplers]
        np.testing.assert_allclose(paths[1].z[0], 0.25 * paths[0].z[0], rtol=1e-6)


def test_a_solver_goes_with_its_noise() -> None:
    task = dataclasses.replace(gaussian(), noise=MaskingNoise())
    with pytest.raises(SettingError, match=r"solver is 'euler'; allowed: one of masked tokens"):
        Sampler(task, SamplingConfig())
    with pytest.raises(SettingError, match=r"solver is 'mean'; allowed: one of Gaussian noise"):
        Sampler(gaussian(), UnmaskingConfig(solver="mean"))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"grid": "linear"},
            "sampling.grid is 'linear'; allowed: 'even' or 'left' or 'karras' or 'adaptive'",
        ),
        (
            {"solver": "rk4"},
            "sampling.solver is 'rk4'; allowed: 'euler' or 'heun' or 'dpmpp_2m' or 'ancestral'",
        ),
        ({"num_steps": 0}, "sampling.num_steps is 0; allowed: 1 or more"),
        ({"batch_size": 0}, "sampling.batch_size is 0; allowed: 1 or more"),
        ({"guidance": -1.0}, "sampling.guidance is -1.0; allowed: 0 or more"),
        ({"prior_scale": -1.0}, "sampling.prior_scale is -1.0; allowed: 0 or more"),
        ({"churn": -1.0}, "sampling.churn is -1.0; allowed: 0 or more"),
        (
            {"churn": 1.0, "solver": "dpmpp_2m"},
            "sampling.churn is 1.0; allowed: 0 with 'dpmpp_2m'",
        ),
        (
            {"levels": (80.0, 1.0)},
            "number of sampling.levels is 2; allowed: 50, which is sampling.num_steps",
        ),
    ],
)
def test_refusals(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError) as error:
        SamplingConfig(**settings)
    assert str(error.value) == sentence


@pytest.mark.parametrize("levels", [(80.0, 1.0, 1.0), (70.0, 1.0, 0.01), (80.0, 1.0, 0.001)])
def test_levels_that_are_given_lie_in_the_range(levels: tuple[float, ...]) -> None:
    allowed = "falling numbers, the first 80 and the last 0.002 or more"
    with pytest.raises(SettingError) as error:
        Sampler(gaussian(), SamplingConfig(3, levels=levels))
    assert str(error.value) == f"sampling.levels is {levels}; allowed: {allowed}"
    assert Sampler(gaussian(), SamplingConfig(3, levels=(80.0, 0.3, 0.01))).grid.blocks == (0, 1, 2)


def test_blocks_can_be_left_out() -> None:
    """Their steps are skipped; the walk goes from the level before to the one after."""
    task = gaussian(slack=1e9)
    config = SamplingConfig(num_steps=6)
    whole, part = (Sampler(task, config, without=blocks) for blocks in ((), (1,)))
    assert part.grid.blocks == (0, 0, 2, 2)
    assert part.grid.levels == whole.grid.levels[:2] + whole.grid.levels[4:]
    path = part(task.blocks(), jax.random.key(1), 8, record=True).path
    assert path is not None
    keep = part.grid.levels[2] / part.grid.levels[1]
    expected = keep * path.z[1] + (1 - keep) * path.clean[1]
    np.testing.assert_allclose(path.z[2], expected, rtol=1e-4, atol=1e-5)
    late = Sampler(task, config, without=(0,))
    path = late(task.blocks(), jax.random.key(1), 2000, record=True).path
    assert path is not None
    assert np.std(path.z[0]) == pytest.approx(whole.grid.levels[2], rel=0.05)
    with pytest.raises(SettingError) as error:
        Sampler(task, config, without=(0, 1, 2))
    assert str(error.value) == (
        "without is [0, 1, 2]; allowed: fewer blocks, so that a step is left"
    )
