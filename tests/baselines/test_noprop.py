"""NoProp against its own formulas in NumPy: noise, losses, and the steps of inference."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import nnx

from dbjax.baselines.noprop import (
    CosineNoise,
    FlowNoise,
    GeometricNoise,
    NoPropBackprop,
    NoPropCT,
    NoPropDT,
    NoPropFM,
    NoPropObjective,
    Schedule,
    Shares,
)
from dbjax.classification import Answer
from dbjax.errors import SettingError
from dbjax.families.noprop import NoPropConfig, NoPropNetwork
from dbjax.noise import NoiseProcess
from dbjax.partition import PartitionConfig, make_partition
from dbjax.sampling import Sampler, SamplingConfig
from dbjax.solvers import Levels, Step, ancestral
from dbjax.task import Estimate, Task

pytestmark = pytest.mark.usefixtures("quick_compilation")

CLASSES, WIDTH, BATCH = 3, 4, 6
ROWS = np.random.default_rng(0).normal(size=(CLASSES, WIDTH)).astype("f4")
NOISES = (CosineNoise(), GeometricNoise(), FlowNoise())


class FakeNetwork(NoPropNetwork):
    """Answers linearly in z and time; remembers what it was shown."""

    def __init__(self, depth: int, embedding: str = "learned", schedule: Any = None) -> None:
        self.depth, self.schedule = depth, schedule
        self.width, self.num_classes = WIDTH, CLASSES
        self.config = NoPropConfig(embedding=embedding)

    def init(self, key: jax.Array, layers: Any) -> Any:
        return {"interface": {"embedding": jnp.asarray(ROWS)}, "layers": jnp.ones((len(layers), 1))}

    def interface(self, params: Any) -> Any:
        class Interface:
            head = staticmethod(lambda z: z @ jnp.asarray(ROWS.T) * 2)
            shares = staticmethod(lambda: jnp.arctanh(jnp.linspace(0.2, 0.6, self.depth)))
            schedule = self.schedule

        return Interface

    def label_table(self, params: Any) -> jax.Array:
        return params["interface"]["embedding"]

    def predict(self, params: Any, z: Any, image: Any, time: Any = None, **_: Any) -> Answer:
        self.z, self.image, self.time = z, image, time
        logits = z[:, :CLASSES] * jnp.array([[1.0, -2.0, 0.5]]) + image.mean()
        return Answer(logits if time is None else logits + 0.001 * time[:, None])


def batch() -> dict[str, jax.Array]:
    rng = np.random.default_rng(1)
    return {
        "image": jnp.asarray(rng.integers(0, 20, (BATCH, 2, 2, 1)), jnp.uint8),
        "label": jnp.asarray(rng.integers(0, CLASSES, BATCH), jnp.int32),
    }


def task(kind: Any, noise: Any, num_blocks: int = 1, **network: Any) -> Any:
    partition = make_partition(PartitionConfig(num_blocks, overlap=0.0), noise, num_blocks)
    return kind(FakeNetwork(num_blocks, **network), noise, partition, 0.1, 10.0, 2.0)


def schedule_module(noise: Any = NOISES[1]) -> Schedule:
    return Schedule(noise, rngs=nnx.Rngs(0))


# --- noise ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
def test_noise_falls_from_end_to_end_on_host_and_device(noise: Any) -> None:
    assert isinstance(noise, NoiseProcess)
    u = np.linspace(0, 1, 101)
    levels = noise.level(u)
    assert np.all(np.diff(levels) <= 0)
    assert levels[0] == pytest.approx(noise.sigma_max, rel=1e-6)
    assert levels[-1] == pytest.approx(noise.sigma_min, rel=1e-6)
    inner = (levels < noise.sigma_max * 0.99) & (levels > noise.sigma_min * 1.01)
    np.testing.assert_allclose(noise.u_of(levels[inner]), u[inner], atol=1e-9)
    on_device = jax.jit(noise.level)(jnp.asarray(u, jnp.float32))
    np.testing.assert_allclose(on_device, levels, rtol=1e-3)


def test_cosine_schedule_is_that_of_abar() -> None:
    noise, u = CosineNoise(offset=0.01), np.linspace(0.1, 0.9, 9)
    abar = np.cos(np.pi / 2 * (1 - u + 0.01) / 1.01) ** 2
    np.testing.assert_allclose(noise.level(u), np.sqrt((1 - abar) / abar), rtol=1e-9)


def test_the_ancestral_step_is_noprops() -> None:
    """z_t = a uhat + b z_{t-1} + sqrt(c) eps in the scale of z, against sigma's."""
    rng = np.random.default_rng(0)
    z, clean = rng.normal(size=(2, 5, WIDTH))
    before, after = 0.3, 0.8  # abar_{t-1} and abar_t; time runs towards the data
    alpha = before / after
    a = np.sqrt(after) * (1 - alpha) / (1 - before)
    b = np.sqrt(alpha) * (1 - after) / (1 - before)
    c = (1 - after) * (1 - alpha) / (1 - before)
    sigma, next_sigma = (np.sqrt((1 - x) / x) for x in (before, after))
    key = jax.random.key(0)
    start = jnp.asarray(z / np.sqrt(before), jnp.float32)
    step = Step(
        here=lambda z, level: Estimate(jnp.asarray(clean, jnp.float32)),
        there=lambda z, level: Estimate(z),
        z=start,
        levels=Levels(jnp.float32(jnp.inf), jnp.float32(sigma), jnp.float32(next_sigma)),
        before=start,
        key=key,
    )
    found, _ = ancestral(step)
    eps = np.asarray(jax.random.normal(key, z.shape))
    expected = a * clean + b * z + np.sqrt(c) * eps
    np.testing.assert_allclose(found * np.sqrt(after), expected, rtol=1e-4, atol=1e-5)


# --- losses ---------------------------------------------------------------------------------------


def entropy(logits: Any, label: Any) -> np.ndarray:
    return -scipy.special.log_softmax(np.asarray(logits), axis=1)[np.arange(BATCH), label]


def divergence(y: np.ndarray, abar: float) -> float:
    """KL of N(sqrt(abar) y, (1 - abar) I) from N(0, I)."""
    each = (abar * y**2 + (1 - abar) - 1 - np.log(1 - abar)) / 2
    return float(each.sum(1).mean())


def test_discrete_time() -> None:
    """z at the noisy end of the block's step; the weight is what SNR gains in it."""
    noise, blocks = CosineNoise(), 4
    dt = task(NoPropDT, noise, blocks)
    assert isinstance(dt, Task)
    params, examples, key = dt.init(jax.random.key(0), 1), batch(), jax.random.key(3)
    label = np.asarray(examples["label"])
    sigma = noise.level(np.array([0.25, 0.5]))
    loss, metrics = dt.loss(params, examples, jnp.asarray(dt.partition.intervals[1]), key)
    noise_key, head_key, _ = jax.random.split(key, 3)
    y = ROWS[label]
    z = (y + sigma[0] * np.asarray(jax.random.normal(noise_key, y.shape))) / np.hypot(1, sigma[0])
    np.testing.assert_allclose(dt.network.z, z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dt.network.image, (np.asarray(examples["image"], "f4") - 10) / 2)
    logits = np.asarray(dt.network.predict(params, jnp.asarray(z), dt.network.image).logits)
    error = np.sum((scipy.special.softmax(logits, axis=1) @ ROWS - y) ** 2, axis=1)
    last = noise.sigma_min
    z_last = (y + last * np.asarray(jax.random.normal(head_key, y.shape))) / np.hypot(1, last)
    weight = blocks / 2 * 0.1 * (sigma[1] ** -2 - sigma[0] ** -2)
    expected = np.mean(entropy(z_last @ ROWS.T * 2, label) + weight * error)
    expected += divergence(y, 1 / (1 + noise.sigma_max**2))
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert float(metrics["cross_entropy"]) == pytest.approx(entropy(logits, label).mean(), rel=1e-4)


def test_continuous_time() -> None:
    """The weight is the slope of SNR on the schedule, here by differences."""
    schedule = schedule_module()
    ct = task(NoPropCT, NOISES[1], schedule=schedule)
    assert isinstance(ct, Task)
    params, examples, key = ct.init(jax.random.key(0), 0), batch(), jax.random.key(3)
    label, t = np.asarray(examples["label"]), 0.4
    loss, _ = ct.loss(params, examples, jnp.array([t, t]), key)
    np.testing.assert_allclose(ct.network.time, 1000 * t, rtol=1e-5)
    step = 1e-2
    snr = np.exp(-np.asarray(schedule(jnp.array([t - step, t, t + step])), np.float64))
    sigma = snr[1] ** -0.5
    _, noise_key, head_key, _ = jax.random.split(key, 4)
    y = ROWS[label]
    z = (y + sigma * np.asarray(jax.random.normal(noise_key, y.shape))) / np.hypot(1, sigma)
    np.testing.assert_allclose(ct.network.z, z, rtol=1e-3, atol=1e-4)
    time = jnp.full(BATCH, 1000 * t)
    logits = ct.network.predict(params, ct.network.z, ct.network.image, time).logits
    error = np.sum((scipy.special.softmax(np.asarray(logits), axis=1) @ ROWS - y) ** 2, axis=1)
    first, last = 20.0, 0.05
    z_last = (y + last * np.asarray(jax.random.normal(head_key, y.shape))) / np.hypot(1, last)
    weight = 0.1 / 2 * (snr[2] - snr[0]) / (2 * step)
    expected = np.mean(entropy(z_last @ ROWS.T * 2, label) + weight * error)
    expected += divergence(y, 1 / (1 + first**2))
    assert float(loss) == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("embedding", ["one_hot", "learned"])
def test_flow_matching(embedding: str) -> None:
    fm = task(NoPropFM, FlowNoise(), embedding=embedding)
    assert isinstance(fm, Task)
    params, examples, key = fm.init(jax.random.key(0), 0), batch(), jax.random.key(3)
    label, t = np.asarray(examples["label"]), 0.3
    loss, _ = fm.loss(params, examples, jnp.array([t, t]), key)
    _, noise_key, _ = jax.random.split(key, 3)
    start, y = np.asarray(jax.random.normal(noise_key, (BATCH, WIDTH))), ROWS[label]
    z = t * y + (1 - t) * start
    np.testing.assert_allclose(fm.network.z, z, rtol=1e-4, atol=1e-6)
    answer = fm.network.predict(params, jnp.asarray(z), fm.network.image, jnp.full(BATCH, 300.0))
    v = np.asarray(answer.logits) @ ROWS
    expected = np.mean(np.sum((v - (y - start)) ** 2, axis=1))
    if embedding == "learned":
        expected += entropy((z + (1 - t) * v) @ ROWS.T * 2, label).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-4)


# --- inference ------------------------------------------------------------------------------------


def test_flow_is_walked_as_noprop_walks_it() -> None:
    """z_{t + 1/T} = z_t + v / T from z_0 ~ N(0, I); the answer is the nearest embedding."""
    fm, steps = task(NoPropFM, FlowNoise()), 20
    params, image = fm.init(jax.random.key(0), 0), batch()["image"]
    sampler = Sampler(fm, SamplingConfig(num_steps=steps, grid="left", batch_size=BATCH))
    found = sampler({0: params}, jax.random.key(1), BATCH, image, record=True)
    assert found.path is not None and found.estimate.logits is not None
    z = np.asarray(found.path.z[0]) / (1 + FlowNoise().sigma_max)
    encoded = fm.encode(image)
    for i in range(steps):
        time = jnp.full(BATCH, 1000 * max(i / steps, 1 / (1 + FlowNoise().sigma_max)))
        logits = fm.network.predict(params, jnp.asarray(z, jnp.float32), encoded, time).logits
        z = z + np.asarray(logits) @ ROWS / steps
    distance = np.linalg.norm(z[:, None] - ROWS[None], axis=-1)
    np.testing.assert_allclose(found.clean, z, rtol=0.02, atol=0.02)
    np.testing.assert_array_equal(np.argmax(found.estimate.logits, 1), distance.argmin(1))


def test_times_are_looked_up_in_the_learned_schedule() -> None:
    schedule = schedule_module()
    schedule.contract[...] = jnp.full(16, 1.0)  # far from straight
    gamma = schedule(jnp.linspace(0.0, 1.0, 101))
    assert np.all(np.diff(gamma) < 0)
    np.testing.assert_allclose(gamma[jnp.array([0, -1])], 2 * np.log([20, 0.05]), rtol=1e-5)
    assert np.abs(np.diff(gamma)).max() > 2 * np.abs(np.diff(gamma)).min()
    times = jnp.linspace(0.0, 1.0, 37)
    np.testing.assert_allclose(schedule.inverse(schedule(times)), times, atol=2e-3)
    np.testing.assert_allclose(schedule.inverse(jnp.array([99.0, -99.0])), [0, 1])
    ct = task(NoPropCT, NOISES[1], schedule=schedule)
    params = ct.init(jax.random.key(0), 0)
    level = jnp.exp(schedule(jnp.array([0.2, 0.7])) / 2)
    ct.denoise(params, jnp.ones((2, WIDTH)), level, batch()["image"][:2])
    np.testing.assert_allclose(ct.network.time, [200, 700], atol=2)
    np.testing.assert_allclose(ct.network.z[:, 0], 1 / np.hypot(1, level), rtol=1e-5)


def test_the_twin_runs_its_networks_in_a_row() -> None:
    noise = CosineNoise()
    twin = NoPropBackprop(
        FakeNetwork(3), noise, make_partition(PartitionConfig(1), noise, 3), mean=10.0, std=2.0
    )
    assert isinstance(twin, Task)
    params, examples = twin.init(jax.random.key(0), 0), batch()
    start = twin.prior(jax.random.key(5), BATCH)
    assert 0.5 < float(jnp.std(start)) < 1.5
    found = twin.denoise(params, start, jnp.ones(BATCH), examples["image"])
    z = np.asarray(start)
    for share in (0.2, 0.4, 0.6):
        logits = twin.network.predict(params, jnp.asarray(z), twin.network.image).logits
        clean = scipy.special.softmax(np.asarray(logits), axis=1) @ ROWS
        z = (1 - share) * z + share * clean
    np.testing.assert_allclose(found.clean, z, rtol=1e-4)
    np.testing.assert_allclose(found.logits, z @ ROWS.T * 2, rtol=1e-4)
    first, second = (
        twin.loss(params, examples, jnp.array(i), jax.random.key(0))[0]
        for i in ([0.0, 1.0], [0.2, 0.3])
    )
    assert float(first) == float(second)
    assert np.tanh(Shares(4, rngs=nnx.Rngs(0))()) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: NoPropObjective(eta=0.0), "noprop.eta is 0.0; allowed: a number above 0"),
        (lambda: CosineNoise(offset=1.0), "noise.offset is 1.0; allowed: a number in [0, 1)"),
        (
            lambda: FlowNoise(sigma_min=2.0, sigma_max=1.0),
            "noise.sigma_max is 1.0; allowed: a number above noise.sigma_min = 2.0",
        ),
        (
            lambda: GeometricNoise(sigma_min=0.0),
            "noise.sigma_min is 0.0; allowed: a number above 0",
        ),
    ],
)
def test_refusals(make: Any, sentence: str) -> None:
    with pytest.raises(SettingError) as error:
        make()
    assert str(error.value) == sentence
