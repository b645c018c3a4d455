"""NoProp (arXiv 2503.24322): its three objectives, and its twin by back-propagation.

NoProp writes its noise as z_t = sqrt(abar) y + sqrt(1 - abar) eps (DT, CT) or t y + (1 - t) eps
(FM). Divided by the factor of y both are y + sigma eps, the form of all noise here. Networks read
that times c_in, which is z_t again; NoProp's step of inference is the ancestral one of
`dbjax.sampling`, and that of FM is Euler's. Time runs as u does, from noise at 0 to clean at 1.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from dbjax.errors import require
from dbjax.families.noprop import NoPropNetwork
from dbjax.noise import GaussianNoise, Real, backend, expand
from dbjax.partition import Partition
from dbjax.task import Batch, Estimate, Metrics, Params, draw_u

TIME_SCALE = 1000.0
"""Of times in [0, 1] before their sinusoid (not stated in the paper)."""
INITIAL_SHARE = 0.1
"""Of each network's answer in its output at the beginning, in the twin by back-propagation."""


# --- noise ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CosineNoise(GaussianNoise):
    """abar = cos^2(pi/2 (1 - u + s) / (1 + s)) (Nichol & Dhariwal 2021), so sigma is a tangent.

    The paper names the cosine schedule and prints no formula; range and offset are ours.

    Attributes:
        offset: s.
        sigma_min, sigma_max: where the schedule is cut.
    """

    offset: float = 0.008
    sigma_min: float = 0.02
    sigma_max: float = 100.0

    def __post_init__(self) -> None:
        require(0 <= self.offset < 1, "noise.offset", self.offset, "a number in [0, 1)")
        self._check_range()

    def level(self, u: Real) -> Real:
        xp, _ = backend(u)
        angle = np.pi / 2 * (1 - u + self.offset) / (1 + self.offset)
        # Cut before the tangent: at u = 0 the angle may round to beyond the pole.
        return xp.tan(xp.clip(angle, np.arctan(self.sigma_min), np.arctan(self.sigma_max)))

    def u_of(self, level: Real) -> Real:
        xp, _ = backend(level)
        u = 1 + self.offset - (1 + self.offset) * 2 / np.pi * xp.arctan(level)
        return xp.clip(u, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class GeometricNoise(GaussianNoise):
    """ln sigma falls evenly with u: what the schedule of NoProp-CT starts from.

    Attributes:
        sigma_min, sigma_max: the ends; gamma = 2 ln sigma there.
    """

    sigma_min: float = 0.05
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        self._check_range()

    def level(self, u: Real) -> Real:
        xp, _ = backend(u)
        return xp.exp((1 - u) * np.log(self.sigma_max) + u * np.log(self.sigma_min))

    def u_of(self, level: Real) -> Real:
        xp, _ = backend(level)
        u = (np.log(self.sigma_max) - xp.log(level)) / np.log(self.sigma_max / self.sigma_min)
        return xp.clip(u, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class FlowNoise(GaussianNoise):
    """z_t = t y + (1 - t) eps with t = u, that is sigma = (1 - u) / u.

    Attributes:
        sigma_min, sigma_max: where it is cut.
    """

    sigma_min: float = 0.001
    sigma_max: float = 1000.0

    def __post_init__(self) -> None:
        self._check_range()

    def level(self, u: Real) -> Real:
        xp, _ = backend(u)
        least = 1 / (1 + self.sigma_max)
        u = xp.clip(u, least, 1.0)
        return xp.clip((1 - u) / u, self.sigma_min, self.sigma_max)

    def u_of(self, level: Real) -> Real:
        return 1 / (1 + level)


# --- tasks ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class NoPropObjective:
    """The `noprop` section of a config.

    Attributes:
        eta: weight of the squared error (paper, table 3: 0.1 in DT, 1 in CT); FM has no use for it.
    """

    eta: float = 0.1

    def __post_init__(self) -> None:
        require(self.eta > 0, "noprop.eta", self.eta, "a number above 0")


@dataclasses.dataclass(frozen=True, eq=False)
class _NoPropTask:
    """What NoProp's tasks have in common.

    A batch holds "image" [batch, height, width, channels] in raw units and "label" [batch]. z is
    the noisy embedding of the label, [batch, width].

    Attributes:
        network: with "head" in its interface.
        noise: of the embeddings.
        partition: of the networks.
        eta: see `NoPropObjective`.
        mean, std: of the raw images, one number or one for each channel.
    """

    network: NoPropNetwork
    noise: GaussianNoise
    partition: Partition
    eta: float = 0.1
    mean: Any = 0.0
    std: Any = 1.0

    def init(self, key: PRNGKeyArray, block: int) -> Params:
        return self.network.init(key, self.partition.layers[block])

    def encode(self, image: Array) -> Float[Array, "..."]:
        """Raw images to zero mean and unit standard deviation."""
        return (image.astype(jnp.float32) - jnp.asarray(self.mean)) / jnp.asarray(self.std)

    def prior(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "batch width"]:
        return self.noise.prior(key, (num_samples, self.network.width))

    def decode(self, z: Float[Array, "batch width"]) -> Float[Array, "batch width"]:
        """Embeddings are their own units."""
        return z

    def embed_label(
        self, params: Params, label: Int[Array, " batch"]
    ) -> Float[Array, "batch width"]:
        """The clean embedding."""
        return self.network.label_table(params)[label]

    def _head(
        self, params: Params, z: Float[Array, "batch width"]
    ) -> Float[Array, "batch classes"]:
        """The linear layer on an embedding in the scale of z_t."""
        return self.network.interface(params).head(z)

    def _soft(self, params: Params, logits: Array) -> Float[Array, "batch width"]:
        """The convex combination of embeddings that logits stand for."""
        return jax.nn.softmax(logits) @ self.network.label_table(params)


@dataclasses.dataclass(frozen=True, eq=False)
class NoPropDT(_NoPropTask):
    """NoProp-DT (section 2, algorithm 1): T blocks, each for one step of discrete time.

    Block b reads z at the noisy end of its interval and pays for its squared error the signal to
    noise that the step gains. Embeddings and head belong to the interface and learn at every step.
    """

    def loss(
        self,
        params: Params,
        batch: Batch,
        interval: Float[Array, " 2"],
        key: PRNGKeyArray,
        *,
        remat: bool = False,
    ) -> tuple[Float[Array, ""], Metrics]:
        """CE(head(z_T)) + KL(z_0) + T/2 eta (SNR(t) - SNR(t-1)) |uhat - u_y|^2."""
        noise_key, head_key, network_key = jax.random.split(key, 3)
        label = batch["label"]
        y = self.embed_label(params, label)
        sigma = self.noise.level(interval)
        z = self.noise.corrupt(noise_key, y, jnp.broadcast_to(sigma[0], label.shape))
        image = self.encode(batch["image"])
        answer = self.network.predict(
            params, _preserving(sigma[0]) * z, image, key=network_key, remat=remat
        )
        error = jnp.sum((self._soft(params, answer.logits) - y) ** 2, axis=-1)
        gained = sigma[1] ** -2 - sigma[0] ** -2
        weight = self.eta / 2 * gained * self.partition.num_blocks
        logits = self._last_logits(params, y, head_key)
        loss = jnp.mean(_cross_entropy(logits, label) + weight * error)
        loss += _prior_divergence(y, jnp.asarray(self.noise.sigma_max))
        return loss, answer.with_statistics(_metrics(loss, answer.logits, label))

    def denoise(
        self,
        params: Params,
        z: Float[Array, "batch width"],
        level: Float[Array, " batch"],
        condition: Shaped[Array, "batch ..."] | None = None,
        *,
        guidance: float = 1.0,
    ) -> Estimate:
        """uhat, and what the head reads off it (the limit abar_T = 1 of what the paper reads)."""
        assert condition is not None
        answer = self.network.predict(
            params, expand(_preserving(level), z) * z, self.encode(condition)
        )
        clean = self._soft(params, answer.logits)
        return Estimate(clean, self._head(params, clean))

    def _last_logits(self, params: Params, y: Array, key: PRNGKeyArray) -> Array:
        """The head on z_T, drawn from the embedding alone."""
        last = jnp.asarray(self.noise.sigma_min)
        z = self.noise.corrupt(key, y, jnp.broadcast_to(last, y.shape[:1]))
        return self._head(params, _preserving(last) * z)


@dataclasses.dataclass(frozen=True, eq=False)
class NoPropCT(_NoPropTask):
    """NoProp-CT (section 2.2): one network for all times, on a schedule that is learned.

    gamma(t) = -ln SNR falls from 2 ln sigma_max to 2 ln sigma_min, both of which are learned too.
    Inference may walk any levels: the time that belongs to one is looked up in the schedule.
    """

    def loss(
        self,
        params: Params,
        batch: Batch,
        interval: Float[Array, " 2"],
        key: PRNGKeyArray,
        *,
        remat: bool = False,
    ) -> tuple[Float[Array, ""], Metrics]:
        """CE(head(z_1)) + KL(z_0) + 1/2 eta SNR'(t) |uhat(z_t, x, t) - u_y|^2."""
        time_key, noise_key, head_key, network_key = jax.random.split(key, 4)
        label = batch["label"]
        y = self.embed_label(params, label)
        time = draw_u(time_key, label.shape, interval)
        schedule: Schedule = self.network.interface(params).schedule
        gamma, slope = jax.jvp(schedule, (time,), (jnp.ones_like(time),))
        sigma = jnp.exp(gamma / 2)
        z = self.noise.corrupt(noise_key, y, sigma)
        image = self.encode(batch["image"])
        answer = self.network.predict(
            params,
            expand(_preserving(sigma), z) * z,
            image,
            TIME_SCALE * time,
            key=network_key,
            remat=remat,
        )
        error = jnp.sum((self._soft(params, answer.logits) - y) ** 2, axis=-1)
        weight = self.eta / 2 * -slope * jnp.exp(-gamma)
        first, last = jnp.exp(schedule(jnp.array([0.0, 1.0])) / 2)
        z_last = self.noise.corrupt(head_key, y, jnp.broadcast_to(last, label.shape))
        logits = self._head(params, _preserving(last) * z_last)
        loss = jnp.mean(_cross_entropy(logits, label) + weight * error)
        loss += _prior_divergence(y, first)
        return loss, answer.with_statistics(_metrics(loss, answer.logits, label))

    def denoise(
        self,
        params: Params,
        z: Float[Array, "batch width"],
        level: Float[Array, " batch"],
        condition: Shaped[Array, "batch ..."] | None = None,
        *,
        guidance: float = 1.0,
    ) -> Estimate:
        assert condition is not None
        time = self.network.interface(params).schedule.inverse(2 * jnp.log(level))
        answer = self.network.predict(
            params, expand(_preserving(level), z) * z, self.encode(condition), TIME_SCALE * time
        )
        clean = self._soft(params, answer.logits)
        return Estimate(clean, self._head(params, clean))


@dataclasses.dataclass(frozen=True, eq=False)
class NoPropFM(_NoPropTask):
    """NoProp-FM (section 2.3): one network for the velocity of a straight path from noise to y."""

    def loss(
        self,
        params: Params,
        batch: Batch,
        interval: Float[Array, " 2"],
        key: PRNGKeyArray,
        *,
        remat: bool = False,
    ) -> tuple[Float[Array, ""], Metrics]:
        """|v(z_t, x, t) - (u_y - z_0)|^2; learned embeddings add CE(head(z_t + (1 - t) v))."""
        time_key, noise_key, network_key = jax.random.split(key, 3)
        label = batch["label"]
        y = self.embed_label(params, label)
        time = expand(draw_u(time_key, label.shape, interval), y)
        start = jax.random.normal(noise_key, y.shape)
        z = time * y + (1 - time) * start
        image = self.encode(batch["image"])
        answer = self.network.predict(
            params, z, image, TIME_SCALE * time[:, 0], key=network_key, remat=remat
        )
        velocity = answer.logits @ self.network.label_table(params)
        loss = jnp.mean(jnp.sum((velocity - (y - start)) ** 2, axis=-1))
        clean = z + (1 - time) * velocity
        if self.network.config.embedding != "one_hot":
            loss += jnp.mean(_cross_entropy(self._head(params, clean), label))
        logits = self._nearest(params, clean)
        return loss, answer.with_statistics(_metrics(loss, logits, label))

    def denoise(
        self,
        params: Params,
        z: Float[Array, "batch width"],
        level: Float[Array, " batch"],
        condition: Shaped[Array, "batch ..."] | None = None,
        *,
        guidance: float = 1.0,
    ) -> Estimate:
        """z_t + (1 - t) v, and its nearness to the embeddings as logits."""
        assert condition is not None
        time = 1 / (1 + level)
        z = expand(time, z) * z
        answer = self.network.predict(params, z, self.encode(condition), TIME_SCALE * time)
        velocity = answer.logits @ self.network.label_table(params)
        clean = z + expand(1 - time, z) * velocity
        return Estimate(clean, self._nearest(params, clean))

    def _nearest(self, params: Params, clean: Array) -> Float[Array, "batch classes"]:
        rows = self.network.label_table(params)
        return -jnp.sum((clean[:, None] - rows[None]) ** 2, axis=-1) / 2


@dataclasses.dataclass(frozen=True, eq=False)
class NoPropBackprop(_NoPropTask):
    """The twin: the same networks in a row, trained end to end (section 4).

    z_t = (1 - a_t) z_{t-1} + a_t uhat_t(z_{t-1}, x), a_t = tanh(w_t), from z_0 ~ N(0, I); the loss
    is the head's cross entropy on z_T and ignores the interval. Inference is a walk of one step.
    """

    def loss(
        self,
        params: Params,
        batch: Batch,
        interval: Float[Array, " 2"],
        key: PRNGKeyArray,
        *,
        remat: bool = False,
    ) -> tuple[Float[Array, ""], Metrics]:
        del interval
        start_key, network_key = jax.random.split(key)
        label = batch["label"]
        start = self.prior(start_key, len(label))
        image = self.encode(batch["image"])
        z, statistics = self._run(params, start, image, network_key, remat)
        logits = self._head(params, z)
        loss = jnp.mean(_cross_entropy(logits, label))
        metrics = _metrics(loss, logits, label)
        return loss, metrics if statistics is None else {**metrics, "statistics": statistics}

    def prior(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "batch width"]:
        return jax.random.normal(key, (num_samples, self.network.width))

    def denoise(
        self,
        params: Params,
        z: Float[Array, "batch width"],
        level: Float[Array, " batch"],
        condition: Shaped[Array, "batch ..."] | None = None,
        *,
        guidance: float = 1.0,
    ) -> Estimate:
        """z_T and the head's logits; `z` is z_0, whatever the level."""
        assert condition is not None
        clean, _ = self._run(params, z, self.encode(condition), None, False)
        return Estimate(clean, self._head(params, clean))

    def _run(
        self, params: Params, z: Array, image: Array, key: PRNGKeyArray | None, remat: bool
    ) -> tuple[Array, Any]:
        measured = []
        shares = jnp.tanh(self.network.interface(params).shares())
        for i in range(self.network.depth):
            step_key = None if key is None else jax.random.fold_in(key, i)
            answer = self.network.predict(params, z, image, position=i, key=step_key, remat=remat)
            z = (1 - shares[i]) * z + shares[i] * self._soft(params, answer.logits)
            measured.append(answer.statistics)
        if measured[0] is None:
            return z, None
        return z, jax.tree.map(lambda *xs: jnp.concatenate(xs), *measured)


class Shares(nnx.Module):
    """w_t of each network in the twin."""

    def __init__(self, depth: int, *, rngs: nnx.Rngs) -> None:
        del rngs
        self.w = nnx.Param(jnp.full(depth, jnp.arctanh(INITIAL_SHARE)))

    def __call__(self) -> Float[Array, " depth"]:
        return self.w[...]


class Schedule(nnx.Module):
    """gamma(t) = g0 + (g1 - g0) (1 - gbar(t)), gbar rising from 0 to 1 (NoProp, appendix B).

    Behind gbar stands a network of two layers with positive weights, hence monotone; its size and
    first weights are ours, such that gamma starts nearly straight.
    """

    def __init__(self, noise: GaussianNoise, features: int = 16, *, rngs: nnx.Rngs) -> None:
        ends = 2 * np.log([noise.sigma_min, noise.sigma_max])
        self.ends = nnx.Param(jnp.asarray(ends, jnp.float32))
        self.straight = nnx.Param(jnp.zeros(()))
        self.expand = nnx.Param(jax.random.normal(rngs.params(), (features,)))
        self.bias = nnx.Param(jnp.linspace(0.0, -1.0, features))
        self.contract = nnx.Param(jnp.full(features, -6.0))

    def __call__(self, time: Float[Array, "..."]) -> Float[Array, "..."]:
        """gamma = -ln SNR = 2 ln sigma at times in [0, 1]."""
        g0, g1 = self.ends[...]
        start, stop = self._rising(jnp.zeros(())), self._rising(jnp.ones(()))
        gbar = (self._rising(time) - start) / (stop - start)
        return g0 + (g1 - g0) * (1 - gbar)

    def inverse(self, gamma: Float[Array, "..."], *, num_points: int = 257) -> Float[Array, "..."]:
        """The time in [0, 1] at which gamma is this, by linear interpolation in a table."""
        times = jnp.linspace(0.0, 1.0, num_points)
        return jnp.interp(-gamma, -self(times), times)

    def _rising(self, time: Float[Array, "..."]) -> Float[Array, "..."]:
        slopes, weights = jax.nn.softplus(self.expand[...]), jax.nn.softplus(self.contract[...])
        straight, bias = jax.nn.softplus(self.straight[...]), self.bias[...]

        def at(t: Float[Array, ""]) -> Float[Array, ""]:
            return straight * t + jax.nn.sigmoid(10 * (slopes * t + bias)) @ weights

        return jnp.vectorize(at)(time)


# --- terms of the losses --------------------------------------------------------------------------


def _preserving(sigma: Float[Array, "..."]) -> Float[Array, "..."]:
    """sqrt(abar), which turns y + sigma eps into NoProp's z_t."""
    return 1 / jnp.sqrt(1 + sigma**2)


def _cross_entropy(logits: Array, label: Array) -> Float[Array, " batch"]:
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, label)


def _prior_divergence(y: Float[Array, "batch width"], sigma: Float[Array, ""]) -> Float[Array, ""]:
    """KL(q(z_0 | y) || N(0, I)), mean over the batch."""
    abar = _preserving(sigma) ** 2
    each = (abar * y**2 - abar - jnp.log1p(-abar)) / 2
    return jnp.mean(jnp.sum(each, axis=-1))


def _metrics(loss: Array, logits: Array, label: Array) -> Metrics:
    accuracy = jnp.mean(jnp.argmax(logits, -1) == label)
    entropy = jnp.mean(_cross_entropy(logits, label))
    return {"loss": loss, "cross_entropy": entropy, "accuracy": accuracy}
