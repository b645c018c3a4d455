"""The denoising loss in nats, where it is known in closed form."""

import jax.numpy as jnp
import numpy as np
import pytest

from dbjax.errors import SettingError
from dbjax.metrics.denoising import denoising_loss, standard_error
from dbjax.noise import LogNormalNoise
from dbjax.partition import PartitionConfig, make_partition
from dbjax.task import DenoisingTask

NOISE = LogNormalNoise(sigma_min=0.01, sigma_max=50.0)

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Shrinkage:
    """D(z, sigma) = scale * z * s^2 / (s^2 + sigma^2): for scale 1 the best of Gaussian data."""

    depth = 4

    def init(self, key, layers):
        raise NotImplementedError

    def apply(self, params, z, c_noise, condition=None, *, key=None, remat=False):
        sigma = jnp.exp(4 * c_noise)[:, None]
        c = NOISE.precondition(sigma)
        best = z / c.c_in * NOISE.sigma_data**2 / (NOISE.sigma_data**2 + sigma**2)
        return (params["scale"] * best - c.c_skip * z / c.c_in) / c.c_out


def task(num_blocks, noise=NOISE):
    partition = make_partition(PartitionConfig(num_blocks, overlap=0.0), noise, 4)
    return DenoisingTask(Shrinkage(), noise, partition, (8,))


def blocks(*scales):
    return {b: {"scale": jnp.float32(scale)} for b, scale in enumerate(scales)}


@pytest.fixture(scope="module")
def batch():
    # In raw units of standard deviation 1.
    return {"image": np.random.default_rng(0).standard_normal((2048, 8)).astype(np.float32)}


@pytest.fixture(scope="module")
def best(batch, quick_compilation):
    """The loss of the best denoiser."""
    return denoising_loss(task(1), blocks(1.0), batch)


def test_the_best_denoiser_has_the_mutual_information(best):
    # The integral of mmse / sigma^2 d ln sigma is I(y; z): log(1 + s^2 / sigma^2) / 2 per value.
    ends = np.log1p(NOISE.sigma_data**2 / np.array([0.01, 50.0]) ** 2) / 2
    assert best.total == pytest.approx(ends[0] - ends[1], abs=4 * best.error + 0.005)
    assert 0 < best.error < 0.05
    assert np.diff(np.log(best.sigma)) == pytest.approx(np.log(0.01 / 50) / 32)


def test_it_ends_at_the_lowest_level_asked_for(batch, best):
    above = denoising_loss(task(1), blocks(1.0), batch, lowest=0.1, num_levels=8)
    step = np.log(50 / 0.1) / 8
    assert np.log(above.sigma[-1]) == pytest.approx(np.log(0.1) + step / 2)
    # What lies above is as much as there is there of the whole.
    assert above.total == pytest.approx(best.nats[:, best.sigma > 0.1].sum(axis=1).mean(), rel=0.1)


def test_every_level_is_asked_of_its_block_under_the_same_noise(batch, best):
    worse = denoising_loss(task(2), blocks(1.0, 0.9), batch)
    excess = worse.nats - best.nats
    assert np.abs(excess[:, worse.u < 0.5]).max() < 1e-5
    assert np.all(excess[:, worse.u > 0.5].mean(axis=0) > 0)


def test_refusals(batch):
    few = {"image": batch["image"][:8]}
    with pytest.raises(SettingError, match="number of examples"):
        denoising_loss(task(1), blocks(1.0), few)


def test_standard_error_of_one_value_is_unknown():
    assert standard_error(np.array([1.0])) == float("inf")
    assert standard_error(np.array([0.0, 2.0])) == pytest.approx(1.0)
