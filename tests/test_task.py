"""The denoising task: loss, preconditioned denoiser, guidance."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from dbjax.noise import LogNormalNoise
from dbjax.partition import PartitionConfig, make_partition
from dbjax.task import DenoisingTask, Network, NoiseProcess, Task, draw_u
from tests.helpers import toy_batch, toy_network, toy_task

NOISE = LogNormalNoise()
EVERYWHERE = jnp.array([0.0, 1.0])
BLOCK = {"interface": {}, "layers": np.zeros(1)}
# One size for all, so that each operation is compiled once.
N = 10_000


class FakeNetwork:
    """F is a plain function of what the network is shown; keeps the last condition it saw."""

    depth = 3

    def __init__(self, function: Any) -> None:
        self._function = function

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
        self.condition = condition
        return self._function(z, c_noise, condition)


def fake_task(function: Any, **settings: Any) -> DenoisingTask:
    partition = make_partition(PartitionConfig(3), NOISE, 3)
    return DenoisingTask(FakeNetwork(function), NOISE, partition, (2,), **settings)


def test_keeps_the_protocols() -> None:
    task = toy_task()
    assert isinstance(task, Task)
    assert isinstance(task.network, Network)
    assert isinstance(task.noise, NoiseProcess)


def test_draws_fill_the_interval_evenly(key: jax.Array) -> None:
    u = draw_u(key, (N,), jnp.array([0.2, 0.7]))
    assert 0.2 <= jnp.min(u) < 0.201
    assert 0.699 < jnp.max(u) <= 0.7
    # Five standard errors of a uniform mean: 5 * 0.5 / sqrt(12 n).
    assert jnp.mean(u) == pytest.approx(0.45, abs=0.0073)
    assert jnp.all(draw_u(key, (100,), jnp.array([0.3, 0.3])) == jnp.float32(0.3))


def test_encode_gives_the_data_the_deviation_the_noise_expects() -> None:
    task = fake_task(None, mean=127.5, std=60.0)
    raw = jnp.array([127.5, 187.5, 7.5])
    np.testing.assert_allclose(task.encode(raw), [0.0, 0.5, -1.0], rtol=1e-6)
    np.testing.assert_allclose(task.decode(task.encode(raw)), raw, rtol=1e-6)
    assert task.encode(jnp.array([255], jnp.uint8)).dtype == jnp.float32


def test_denoiser_is_preconditioned() -> None:
    """D = c_skip z + c_out F(c_in z, c_noise), by hand at sigma = sigma_data = 0.5."""
    seen = {}

    def raw(z: Array, c_noise: Array, condition: Any) -> Array:
        seen.update(z=z, c_noise=c_noise)
        return jnp.full_like(z, 3.0)

    z = jnp.array([[2.0, -4.0]])
    clean = fake_task(raw).denoise(BLOCK, z, jnp.array([0.5])).clean
    np.testing.assert_allclose(clean, z / 2 + 3 * 0.5**1.5, rtol=1e-6)
    np.testing.assert_allclose(seen["z"], z * 2**0.5, rtol=1e-6)
    np.testing.assert_allclose(seen["c_noise"], [np.log(0.5) / 4], rtol=1e-6)


def test_loss_of_a_network_without_opinion_is_one(key: jax.Array) -> None:
    """F = 0 on data of variance sigma_data^2: the target of F has unit variance at every level."""
    task = fake_task(lambda z, c_noise, condition: jnp.zeros_like(z))
    batch = {"image": jax.random.normal(key, (N, 2))}
    for interval in (EVERYWHERE, jnp.array([0.0, 0.01]), jnp.array([0.99, 1.0])):
        loss, metrics = task.loss(BLOCK, batch, interval, key)
        assert loss == pytest.approx(1.0, abs=0.05)
        assert metrics["loss"] == loss


def test_loss_draws_its_levels_from_the_interval(key: jax.Array) -> None:
    seen = []

    def raw(z: Array, c_noise: Array, condition: Any) -> Array:
        seen.append(NOISE.u_of(jnp.exp(4 * c_noise)))
        return jnp.zeros_like(z)

    task = fake_task(raw)
    batch = {"image": jnp.zeros((N, 2))}
    task.loss(BLOCK, batch, jnp.array([0.4, 0.5]), key)
    assert jnp.all((seen[0] > 0.399) & (seen[0] < 0.501))
    assert jnp.std(seen[0]) > 0.02


def test_exact_denoiser_has_the_least_loss(key: jax.Array) -> None:
    """For N(0, sigma_data^2) that is F = 0; any other F does worse."""
    batch = {"image": jax.random.normal(key, (N, 2))}

    def loss(slope: float) -> Array:
        task = fake_task(lambda z, c_noise, condition: slope * z)
        return task.loss(BLOCK, batch, EVERYWHERE, key)[0]

    assert loss(0.0) < min(loss(0.2), loss(-0.2))


def test_guidance_extrapolates_from_no_label() -> None:
    """D_null + s (D_label - D_null)."""
    task = fake_task(lambda z, c_noise, label: z + label[:, None].astype(z.dtype), num_classes=5)
    z = jnp.array([[1.0, 2.0], [3.0, -1.0]])
    level = jnp.array([0.3, 7.0])
    label = jnp.array([0, 4])

    def denoise(label: Array, guidance: float = 1.0) -> Array:
        return task.denoise(BLOCK, z, level, label, guidance=guidance).clean

    with_label, without = denoise(label), denoise(jnp.full(2, 5))
    assert not jnp.any(with_label == without)
    for scale in (0.0, 0.5, 2.0):
        np.testing.assert_allclose(
            denoise(label, scale), without + scale * (with_label - without), rtol=1e-5
        )


def test_no_guidance_runs_the_network_once() -> None:
    sizes = []

    def raw(z: Array, c_noise: Array, label: Any) -> Array:
        sizes.append(len(z))
        return z

    task = fake_task(raw, num_classes=5)
    for guidance in (1.0, 2.0):
        task.denoise(BLOCK, jnp.ones((3, 2)), jnp.ones(3), jnp.zeros(3, int), guidance=guidance)
    assert sizes == [3, 6]


@pytest.mark.parametrize("dropout", [0.0, 0.3, 1.0])
def test_labels_are_hidden_in_training(dropout: float, key: jax.Array) -> None:
    task = fake_task(lambda z, c_noise, label: z, num_classes=3, label_dropout=dropout)
    label = jnp.arange(N) % 3
    task.loss(BLOCK, {"image": jnp.zeros((N, 2)), "label": label}, EVERYWHERE, key)
    seen = task.network.condition
    hidden = seen == 3
    # Five standard errors of a share are at most 0.025.
    assert jnp.mean(hidden) == pytest.approx(dropout, abs=0.025 * (0 < dropout < 1))
    np.testing.assert_array_equal(seen[~hidden], label[~hidden])


def test_unconditional_networks_see_no_label(key: jax.Array) -> None:
    task = fake_task(lambda z, c_noise, label: z)
    batch = {"image": jnp.zeros((N, 2)), "label": jnp.zeros(N, int)}
    task.loss(BLOCK, batch, EVERYWHERE, key)
    assert task.network.condition is None


def test_prior_has_the_shape_of_samples(key: jax.Array) -> None:
    assert toy_task().prior(key, 7).shape == (7, 2)


def test_loss_is_a_function_of_its_arguments(key: jax.Array) -> None:
    task = toy_task()
    params = task.init(key, 1)
    losses = [
        float(task.loss(params, toy_batch(position=p), EVERYWHERE, k)[0])
        for p, k in [(0, key), (0, key), (0, jax.random.key(1)), (1, key)]
    ]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_blocks_of_one_key_start_from_one_interface(key: jax.Array) -> None:
    task = toy_task((1, 2, 3))
    blocks = [task.init(key, b) for b in range(3)]
    whole = toy_network(6).init(key, range(6))
    for block in blocks:
        assert jax.tree.all(jax.tree.map(jnp.array_equal, block["interface"], whole["interface"]))
    cut = [layer for block in blocks for layer in block["layers"]]
    assert jax.tree.all(jax.tree.map(jnp.array_equal, cut, list(whole["layers"])))
