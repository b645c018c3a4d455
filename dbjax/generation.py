"""Writing of text token by token, each by a short walk of a model that has caches.

A token's slot costs every block that the walk asks one pass: in it go the clean token before, which
extends the block's cache, and the noisy one, so that the block's weights are read once. What a
plain model of the same depth reads for a token, all blocks together read. How the next token is
found is the business of `dbjax.writers`.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from dbjax.autoregressive import AutoregressiveTask, NextTokenTask, RecurrentTask
from dbjax.categorical import draw, nucleus
from dbjax.devices import to_device
from dbjax.errors import require
from dbjax.noise import NoiseProcess
from dbjax.sampling import SamplingConfig
from dbjax.solvers import SOLVERS, Solver
from dbjax.task import Params
from dbjax.writers import BlockWriter, PlainWriter, RecurrentWriter, Walk, Writer, walk_key

GIVEN_NOT = -1
"""In the place of a token that is to be written."""


@dataclasses.dataclass(frozen=True)
class GenerationConfig(SamplingConfig):
    """The `sampling` section of a config that writes text token by token.

    Attributes:
        num_steps: of the walk to each token; twins, which make one, have no use for it.
        solver: `euler`, `dpmpp_2m` or `ancestral`.
        temperature: of tokens that are drawn: after the last step, and in the walk where
            `autoregressive.bridge` is `draw`; 0 is the likeliest. At the lowest noise z already
            tells the token and neither this nor top_p changes much.
        top_p: least mass of the tokens that are drawn from, the likeliest ones; 1 is all.
    """

    num_steps: int = 4
    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature >= 0, "sampling.temperature", self.temperature, "0 or more")
        require(0 < self.top_p <= 1, "sampling.top_p", self.top_p, "a number in (0, 1]")
        allowed = "1.0, since the text before cannot be left out"
        require(self.guidance == 1.0, "sampling.guidance", self.guidance, allowed)
        require(self.churn == 0, "sampling.churn", self.churn, "0 where text is written")

    def make_solver(self, noise: NoiseProcess) -> tuple[Solver, int]:
        solver, calls = super().make_solver(noise)
        once = " or ".join(repr(name) for name, (_, calls) in SOLVERS.items() if calls == 1)
        require(calls == 1, "sampling.solver", self.solver, once)
        return solver, calls


class Text(NamedTuple):
    """Texts that are being written.

    Attributes:
        tokens: [batch, capacity], `GIVEN_NOT` from `position` on except where a token is given.
        position: of the next token, the same in all texts.
        caches: of the model.
    """

    tokens: Array
    position: Array
    caches: Any


class Generator:
    """Writes texts; compiled once for each shape of the prompts.

    Attributes:
        grid: levels of the walk to a token, and the block asked at each.
        layer_evaluations: residual layers run for one token, those for tokens before it counted.
        batch_size: texts that are meant to be written together.
    """

    def __init__(self, task: AutoregressiveTask | NextTokenTask, config: GenerationConfig) -> None:
        """Compiles nothing.

        Args:
            task: of blocks, of a recurrent model, or of a twin.
            config: steps, grid, solver, temperature.

        Raises:
            SettingError: if the solver cannot be used token by token.
        """
        self._task, self._config = task, config
        solver, _ = config.make_solver(task.noise)
        self.grid = config.make_grid(task.partition, task.noise)
        walk = Walk(self.grid, solver, config.prior_scale, config.temperature, config.top_p)
        self._writer = _writer(task, walk)
        self.layer_evaluations = self._writer.layer_evaluations
        self.batch_size = config.batch_size
        self._advance = jax.jit(self._write, donate_argnums=1)
        self._begin = jax.jit(self._writer.begin, static_argnums=2)

    def __call__(
        self,
        blocks: Mapping[int, Params],
        prompt: Int[np.ndarray, "batch length"],
        num_tokens: int,
        *,
        seed: PRNGKeyArray,
    ) -> Int[np.ndarray, "batch total"]:
        """Prompts and what follows them, [batch, length + num_tokens]."""
        *_, last = self.stream(blocks, prompt, num_tokens, seed=seed, every=num_tokens)
        return last

    def stream(
        self,
        blocks: Mapping[int, Params],
        prompt: Int[np.ndarray, "batch length"],
        num_tokens: int,
        *,
        seed: PRNGKeyArray,
        every: int = 1,
    ) -> Iterator[Int[np.ndarray, "batch written"]]:
        """The texts so far, after every so many tokens.

        Args:
            blocks: weights of every block; all that the walk asks go to the device together.
            prompt: tokens to go on from, at least one text; its length may be 0. `GIVEN_NOT`
                within it is written in its turn, so that prompts may differ in length.
            num_tokens: to write after the prompt.
            seed: of all draws.
            every: tokens between two looks.

        Raises:
            SettingError: if there is nothing to write, or more than the model was trained to read.
        """
        batch, length = prompt.shape
        total, most = length + num_tokens, self._task.length
        require(num_tokens >= 1, "number of tokens to write", num_tokens, "1 or more")
        allowed = f"at most {most}, which is data.length"
        require(total <= most, "length of prompt and what follows", total, allowed)
        params = {b: to_device(blocks[b]) for b in sorted(set(self.grid.blocks))}
        known = np.full((batch, total), GIVEN_NOT, np.int32)
        known[:, :length] = prompt
        # Up to the first token that some text lacks, all can be read at once.
        lacking = (known == GIVEN_NOT).any(axis=0)
        start = int(np.argmax(lacking))
        caches = self._begin(params, jnp.asarray(known[:, :start]), total, seed)
        text = Text(jnp.asarray(known), jnp.int32(start), caches)
        for stop in [*range(start + every, total, every), total]:
            text = self._advance(params, text, jnp.int32(stop), seed)
            yield np.asarray(text.tokens[:, :stop])

    def _write(
        self, params: Mapping[int, Params], text: Text, stop: Int[Array, ""], key: PRNGKeyArray
    ) -> Text:
        """Tokens up to `stop`; the draws of each depend on the key and its position alone."""

        def one(text: Text) -> Text:
            tokens, position, caches = text
            before = tokens[:, jnp.maximum(position - 1, 0)]
            beginning = jnp.full_like(before, self._task.network.vocabulary)
            before = jnp.where(position == 0, beginning, before)
            logits, caches = self._writer.find(params, caches, position, before, key)
            _, token_key = walk_key(key, position)
            found = draw(token_key, nucleus(logits, self._config.top_p), self._config.temperature)
            given = tokens[:, position]
            found = jnp.where(given == GIVEN_NOT, found, given)
            return Text(tokens.at[:, position].set(found), position + 1, caches)

        return jax.lax.while_loop(lambda text: text.position < stop, one, text)


def _writer(task: AutoregressiveTask | NextTokenTask, walk: Walk) -> Writer:
    if isinstance(task, NextTokenTask):
        return PlainWriter(task)
    return (
        RecurrentWriter(task, walk) if isinstance(task, RecurrentTask) else BlockWriter(task, walk)
    )
