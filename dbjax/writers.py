"""How each kind of model finds the next token of texts whose earlier ones are in its caches.

Models that denoise walk from noise to the token. Blocks have a cache each, of the clean tokens
before. A recurrent model has a cache for each level of the walk: there the slots before have to
look as they do in training, where all slots of a text are at one level. So a slot whose token has
become known is shown to the later ones as the token's embedding with that level's noise, drawn once
for the slot. The paper does not say what its slots before hold.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dbjax.autoregressive import AutoregressiveTask, NextTokenTask, RecurrentTask
from dbjax.families.ar_lm import Caches, shifted
from dbjax.partition import Grid
from dbjax.solvers import Levels, Solver, Step, levels_of_walk
from dbjax.task import Estimate, Params

NOISE = 2**31 - 1
"""Names the noise of known slots, in the place of a position that no text has."""

Blocks = Mapping[int, Params]


@runtime_checkable
class Writer(Protocol):
    """What `dbjax.generation.Generator` asks of a kind of model.

    Attributes:
        layer_evaluations: residual layers run for one token, those for tokens before it counted.
    """

    layer_evaluations: int

    def begin(
        self, params: Blocks, tokens: Int[Array, "batch length"], capacity: int, key: PRNGKeyArray
    ) -> Any:
        """Caches for texts of `capacity` tokens that start with these."""

    def find(
        self,
        params: Blocks,
        caches: Any,
        position: Int[Array, ""],
        before: Int[Array, " batch"],
        key: PRNGKeyArray,
    ) -> tuple[Float[Array, "batch vocabulary"], Any]:
        """Logits of the token at `position`, and the caches with what is known there.

        Args:
            params: of the blocks that are asked.
            caches: of what is before.
            position: of the token to find.
            before: the token before it; the vocabulary's size is the beginning.
            key: of all draws for these texts; those for a token depend on its position besides.
        """


@dataclasses.dataclass(frozen=True)
class Walk:
    """The steps from noise to a token.

    Attributes:
        grid: levels, and the block asked at each.
        solver: what a step does.
        prior_scale: of the noise at first.
        temperature, top_p: of what the bridge draws.
    """

    grid: Grid
    solver: Solver
    prior_scale: float
    temperature: float
    top_p: float

    def start(
        self, task: AutoregressiveTask, batch: int, key: PRNGKeyArray
    ) -> tuple[Float[Array, "batch width"], Estimate, Array]:
        """z at the first level, an estimate that says nothing, and keys [steps, 2]: of each step's
        bridge, and of its solver."""
        keys = jax.random.split(key, 1 + 2 * len(self.grid.levels))
        z = self.prior_scale * task.noise.prior(keys[0], (batch, task.network.width))
        nothing = Estimate(jnp.zeros_like(z), jnp.zeros((batch, task.network.vocabulary)))
        return z, nothing, keys[1:].reshape(-1, 2)

    def step(
        self,
        task: AutoregressiveTask,
        params: Params,
        z: Float[Array, "batch width"],
        before: Estimate,
        hidden: Float[Array, "batch width"],
        levels: Levels,
        keys: Array,
    ) -> tuple[Float[Array, "batch width"], Estimate]:
        """z at the next level, and the estimate that the network's output stands for."""
        sigma = levels.here.reshape(1, 1)
        logits = task.read(params, z[:, None], sigma, hidden[:, None])[:, 0]
        clean = task.bridge(params, logits, keys[0], temperature=self.temperature, top_p=self.top_p)
        estimate = Estimate(clean, logits)

        def known(z: Array, level: Array) -> Estimate:
            return estimate

        return self.solver(Step(known, known, z, levels, before.clean, keys[1]))

    @property
    def levels(self) -> Levels:
        """Around each step."""
        return levels_of_walk(self.grid.levels)


def walk_key(key: PRNGKeyArray, position: Int[Array, ""]) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """Of the walk to the token at `position`, and of the token that is then drawn."""
    walk, token = jax.random.split(jax.random.fold_in(key, position))
    return walk, token


def slot_noise(
    key: PRNGKeyArray, position: Int[Array, ""], shape: tuple[int, ...]
) -> Float[Array, "batch width"]:
    """What a known slot's embedding is noised with, at every level."""
    noise_key = jax.random.fold_in(jax.random.fold_in(key, NOISE), position)
    return jax.random.normal(noise_key, shape)


class PlainWriter:
    """Of a model that finds the token at once."""

    def __init__(self, task: NextTokenTask) -> None:
        self._network = task.network
        self.layer_evaluations: int = task.network.layer_evaluations

    def begin(
        self, params: Blocks, tokens: Int[Array, "batch length"], capacity: int, key: PRNGKeyArray
    ) -> Any:
        del key
        return self._network.prefill(params[0], tokens, capacity)

    def find(
        self,
        params: Blocks,
        caches: Any,
        position: Int[Array, ""],
        before: Int[Array, " batch"],
        key: PRNGKeyArray,
    ) -> tuple[Float[Array, "batch vocabulary"], Any]:
        del key
        logits, caches = self._network.step(params[0], caches, position, before)
        return logits, caches


class BlockWriter:
    """Of blocks with two streams: a walk that asks them one after the other."""

    def __init__(self, task: AutoregressiveTask, walk: Walk) -> None:
        self._task, self._walk = task, walk
        layers, asked = [len(own) for own in task.partition.layers], walk.grid.blocks
        # Unless blocks borrow layers, there are no such rows.
        borrowed = task.partition.context or [()] * len(layers)
        clean = sum(layers[b] + len(borrowed[b]) for b in set(asked))
        self.layer_evaluations = sum(layers[b] for b in asked) + clean

    def begin(
        self, params: Blocks, tokens: Int[Array, "batch length"], capacity: int, key: PRNGKeyArray
    ) -> dict[int, Caches]:
        del key
        network, level = self._task.network, self._task.clean_level
        return {b: network.prefill(p, tokens, level, capacity) for b, p in params.items()}

    def find(
        self,
        params: Blocks,
        caches: dict[int, Caches],
        position: Int[Array, ""],
        before: Int[Array, " batch"],
        key: PRNGKeyArray,
    ) -> tuple[Float[Array, "batch vocabulary"], dict[int, Caches]]:
        task, walk, asked = self._task, self._walk, self._walk.grid.blocks
        z, estimate, keys = walk.start(task, len(before), walk_key(key, position)[0])
        for i, block in enumerate(asked):
            levels = jax.tree.map(lambda each, i=i: each[i], walk.levels)
            c = task.noise.precondition(levels.here)
            hidden, cache = task.network.step(
                params[block],
                caches[block],
                position,
                before,
                c.c_in * z,
                c.c_noise,
                task.clean_level,
                first=block not in asked[:i],
            )
            caches = {**caches, block: cache}
            z, estimate = walk.step(task, params[block], z, estimate, hidden, levels, keys[i])
        assert estimate.logits is not None
        return estimate.logits, caches


class RecurrentCaches(NamedTuple):
    """What a recurrent model keeps of the slots before.

    Attributes:
        prelude: caches of its layers.
        levels: caches of core and coda, the levels of the walk as leading axis.
        read: what the prelude said of the slot before, [batch, 1, width].
    """

    prelude: Caches
    levels: tuple[Caches, Caches]
    read: Array


class RecurrentWriter:
    """Of one network whose slots look at each other: a cache for each level of the walk.

    A step takes two slots through core and coda: the one before, whose token is known by now and
    has the level's noise, and the one whose token is sought. The latter's keys and values are
    replaced once its token is known.
    """

    def __init__(self, task: RecurrentTask, walk: Walk) -> None:
        self._task, self._walk = task, walk
        network, steps = task.network, len(walk.grid.levels)
        self.layer_evaluations = network.prelude_depth + 2 * steps * network.denoiser_depth

    def begin(
        self, params: Blocks, tokens: Int[Array, "batch length"], capacity: int, key: PRNGKeyArray
    ) -> RecurrentCaches:
        (block,), task, (batch, length) = params.values(), self._task, tokens.shape
        network, positions = task.network, jnp.arange(length)
        # One place more than tokens: for the slot before the text.
        empty = network.empty(batch, capacity + 1)
        before = shifted(tokens, network.vocabulary)
        read, prelude = network.read(block, before, positions, empty.prelude)
        rows = task.targets(block).rows(tokens)
        noise = jax.lax.map(lambda i: slot_noise(key, i, (batch, network.width)), positions)
        noise = noise.swapaxes(0, 1)

        def at(level: Float[Array, ""]) -> tuple[Caches, Caches]:
            z, nothing = rows + level * noise, (empty.core, empty.coda)
            return self._denoise(block, z, level, read, positions, nothing)[1]

        levels = jax.lax.map(at, self._walk.levels.here)
        nothing = jnp.zeros((batch, 1, network.width))
        return RecurrentCaches(prelude, levels, jnp.concatenate([nothing, read], axis=1)[:, -1:])

    def find(
        self,
        params: Blocks,
        caches: RecurrentCaches,
        position: Int[Array, ""],
        before: Int[Array, " batch"],
        key: PRNGKeyArray,
    ) -> tuple[Float[Array, "batch vocabulary"], RecurrentCaches]:
        (block,), task, walk = params.values(), self._task, self._walk
        network = task.network
        read, prelude = network.read(block, before[:, None], position[None], caches.prelude)
        both = jnp.concatenate([caches.read, read], axis=1)
        positions = position + jnp.array([-1, 0])
        row = task.targets(block).rows(before)
        noise = slot_noise(key, positions[0], row.shape)
        z, nothing, keys = walk.start(task, len(before), walk_key(key, position)[0])

        def step(carry: Any, of_level: Any) -> tuple[Any, tuple[Caches, Caches]]:
            z, estimate = carry
            levels, keys, cache = of_level
            slots = jnp.stack([row + levels.here * noise, z], axis=1)
            hidden, cache = self._denoise(block, slots, levels.here, both, positions, cache)
            return walk.step(task, block, z, estimate, hidden[:, 1], levels, keys), cache

        along = (walk.levels, keys, caches.levels)
        (_, estimate), levels = jax.lax.scan(step, (z, nothing), along)
        assert estimate.logits is not None
        return estimate.logits, RecurrentCaches(prelude, levels, read)

    def _denoise(
        self,
        params: Params,
        z: Float[Array, "batch slots width"],
        level: Float[Array, ""],
        read: Float[Array, "batch slots width"],
        positions: Int[Array, " slots"],
        caches: tuple[Caches, Caches],
    ) -> tuple[Float[Array, "batch slots width"], tuple[Caches, Caches]]:
        c = self._task.noise.precondition(level)
        hidden, caches = self._task.network.denoise(
            params, c.c_in * z, c.c_noise[None], read, positions, caches
        )
        return hidden, caches
