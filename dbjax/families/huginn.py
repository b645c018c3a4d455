"""Huginn, the language model of recurrent depth (Geiping et al. 2025, arXiv 2502.05171).

Its core is repeated a random number of times in a training step, and trained by back-propagation
through the last of them. The parts and their layers are those of `dbjax.families.recurrent_lm`.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dbjax.families.ar_lm import Caches, shifted
from dbjax.families.recurrent_lm import Interface, PartCaches, RecurrentConfig, RecurrentNetwork

STATE_DEVIATION = math.sqrt(2 / 5)
"""Of each number of a state at first, before it is cut at three deviations; for every width."""
DEPTH_SPREAD = 0.5
"""Standard deviation of the logarithm of the rate that a number of iterations is drawn with."""


@dataclasses.dataclass(frozen=True)
class HuginnConfig(RecurrentConfig):
    """The `model` section of the twin's configuration file.

    Attributes:
        mean_recurrence: iterations of the core where a model is evaluated or writes, and about as
            many on average in training (one more, as in Huginn's code).
        backprop_depth: the last iterations of a training step, which alone have gradients.
    """

    mean_recurrence: int = 32
    backprop_depth: int = 8


class Huginn(RecurrentNetwork):
    """The twin: the core is repeated on a state, and trained through the last iterations.

    Attributes:
        layer_evaluations: layers that are run for one token.
    """

    def __init__(self, config: HuginnConfig, vocabulary: int) -> None:
        outer, repeated = config.prelude + config.coda, config.core * config.mean_recurrence
        self.layer_evaluations = outer + repeated
        interface = functools.partial(Interface, config, vocabulary)
        super().__init__(config, vocabulary, interface, self.layer_evaluations)
        self._mean, self._limit = config.mean_recurrence, config.backprop_depth

    def apply(
        self,
        params: Mapping[str, Any],
        tokens: Int[Array, "batch length"],
        *,
        key: PRNGKeyArray | None = None,
        remat: bool = False,
    ) -> Float[Array, "batch length vocabulary"]:
        """Logits of each token from those before it.

        Args:
            params: interface and layers.
            tokens: whole texts.
            key: draws the states and the number of iterations, which is one for all texts; None is
                evaluation: `mean_recurrence` of them from states that depend on the position alone.
            remat: keep of each layer of prelude and coda its input only for the backward pass, and
                of each iteration of the core.
        """
        if key is None:
            count, still = min(self._mean, self._limit), max(self._mean - self._limit, 0)
            state = fixed_state(jnp.arange(tokens.shape[1]), len(tokens), self.width)
            return self.unroll(params, tokens, state, still, count, remat=remat)
        state_key, depth_key = jax.random.split(key)
        depth = draw_depth(depth_key, self._mean)
        return self.unroll(
            params,
            tokens,
            draw_state(state_key, (*tokens.shape, self.width)),
            jnp.maximum(depth - self._limit, 0),
            jnp.minimum(depth, self._limit),
            remat=remat,
        )

    def unroll(
        self,
        params: Mapping[str, Any],
        tokens: Int[Array, "batch length"],
        state: Float[Array, "batch length width"],
        still: int | Int[Array, ""],
        count: int | Int[Array, ""],
        *,
        remat: bool = False,
    ) -> Float[Array, "batch length vocabulary"]:
        """Logits after so many iterations.

        Args:
            params: see `apply`.
            tokens: see `apply`.
            remat: see `apply`.
            state: what the core starts from.
            still: iterations whose gradient is left out.
            count: those after them, with their gradient; at most `backprop_depth`. The prelude has
                gradients through these alone.
        """
        interface = self.interface(params)
        read = self._read(params, tokens, remat)

        def iterate(params: Mapping[str, Any], read: Array, state: Array) -> Array:
            injected = self.interface(params).inject(state, read)
            return self._run(params, self._core, injected, remat=False)

        without = functools.partial(iterate, *jax.lax.stop_gradient((params, read)))
        state = jax.lax.stop_gradient(state)
        state = jax.lax.fori_loop(0, still, lambda _, state: without(state), state)
        if remat:
            iterate = jax.checkpoint(iterate, prevent_cse=False)

        def one(state: Array, number: Array) -> tuple[Array, None]:
            # The number of steps is fixed, so that there is a backward pass; some may do nothing.
            return jnp.where(number < count, iterate(params, read, state), state), None

        state, _ = jax.lax.scan(one, state, jnp.arange(self._limit))
        hidden = self._run(params, self._coda, interface.norm(state), remat=remat)
        logits: Array = interface.head(interface.norm(hidden))
        return logits

    def prefill(
        self, params: Mapping[str, Any], tokens: Int[Array, "batch length"], capacity: int
    ) -> PartCaches:
        """Caches of `capacity` positions with what tokens 0 to length - 1 may look at.

        Those of the core have the iterations as leading axis.
        """
        sizes = (len(tokens), capacity)
        caches = PartCaches(
            self._empty(self._prelude, *sizes),
            self._empty(self._core, self._mean, *sizes),
            self._empty(self._coda, *sizes),
        )
        positions = jnp.arange(tokens.shape[1])
        return self._slots(params, caches, shifted(tokens, self.vocabulary), positions)[1]

    def step(
        self,
        params: Mapping[str, Any],
        caches: PartCaches,
        position: Int[Array, ""],
        before: Int[Array, " batch"],
    ) -> tuple[Float[Array, "batch vocabulary"], PartCaches]:
        """Logits of the token at `position`, and the caches with the one before it.

        See `dbjax.families.ar_lm.PlainAR.step`.
        """
        hidden, caches = self._slots(params, caches, before[:, None], position[None])
        return self.interface(params).head(hidden)[:, 0], caches

    def _slots(
        self,
        params: Mapping[str, Any],
        caches: PartCaches,
        tokens: Int[Array, "batch slots"],
        positions: Int[Array, " slots"],
    ) -> tuple[Float[Array, "batch slots width"], PartCaches]:
        """What slots end with that the given tokens stand before."""
        interface = self.interface(params)
        embedded = interface.embed(tokens)
        read, prelude = self._extend(params, self._prelude, embedded, positions, caches.prelude)

        def one(state: Array, core: Caches) -> tuple[Array, Caches]:
            injected = interface.inject(state, read)
            return self._extend(params, self._core, injected, positions, core)

        state = fixed_state(positions, len(tokens), self.width)
        state, core = jax.lax.scan(one, state, caches.core)
        state = interface.norm(state)
        hidden, coda = self._extend(params, self._coda, state, positions, caches.coda)
        return interface.norm(hidden), PartCaches(prelude, core, coda)


def draw_state(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """What the core starts from: a normal distribution, cut at three standard deviations."""
    return STATE_DEVIATION * jax.random.truncated_normal(key, -3.0, 3.0, shape)


def fixed_state(
    positions: Int[Array, " slots"], batch: int, width: int
) -> Float[Array, "batch slots width"]:
    """What the core starts from in evaluation: drawn once for a position, the same in all texts."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), positions)
    state = jax.vmap(lambda key: draw_state(key, (width,)))(keys)
    return jnp.broadcast_to(state, (batch, *state.shape))


def draw_depth(key: PRNGKeyArray, mean: int) -> Int[Array, ""]:
    """Iterations of a training step: one more than a Poisson draw of mean `mean`.

    Its rate is drawn itself, log-normal, so that the number is spread widely (Geiping et al. 2025,
    section 3.3).
    """
    rate_key, key = jax.random.split(key)
    drift = math.log(mean) - DEPTH_SPREAD**2 / 2
    rate = jnp.exp(drift + DEPTH_SPREAD * jax.random.normal(rate_key))
    return 1 + jax.random.poisson(key, rate)
