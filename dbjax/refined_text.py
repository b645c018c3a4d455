"""How blocks of an autoregressive model find the tokens of a text, step by step."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, PRNGKeyArray

from dbjax.autoregressive import AutoregressiveTask
from dbjax.data.codecs import Codec
from dbjax.masked_text import Span, token_pieces
from dbjax.sampling import Sampler, SamplingConfig
from dbjax.task import Params


@dataclasses.dataclass(frozen=True)
class Refining:
    """What each step of the walks to a text's tokens takes them for.

    Attributes:
        text: as it was written; each token is looked for in the light of those before it.
        guesses: for each step, a piece of text for each token.
        blocks: who made each step.
    """

    text: str
    guesses: Sequence[Sequence[str]]
    blocks: Sequence[int]

    def spans(self, step: int) -> list[Span]:
        """The guesses after `step` steps, from 1; those that have changed tell their block."""
        now = self.guesses[step - 1]
        before = self.guesses[step - 2] if step > 1 else [None] * len(now)
        block = self.blocks[step - 1]
        marked = [
            (piece, block if piece != old else None) for piece, old in zip(now, before, strict=True)
        ]
        return [
            Span("".join(piece for piece, _ in own), 0, kind)
            for kind, own in itertools.groupby(marked, key=lambda pair: pair[1])
        ]


def refining(
    task: AutoregressiveTask,
    blocks: Mapping[int, Params],
    config: SamplingConfig,
    codec: Codec,
    tokens: Int[np.ndarray, " length"],
    *,
    key: PRNGKeyArray,
    count: int | None = None,
) -> Refining:
    """Walks to all tokens of a text at once, each given those before it as they are.

    Args:
        task: of the blocks.
        blocks: weights of every block.
        config: of the walks.
        codec: of the tokens.
        tokens: the text.
        key: of the noise.
        count: tokens that are told of, the first ones; None is all.
    """
    sampler = Sampler(task, config)
    walk = sampler(blocks, key, 1, jnp.asarray(tokens[None]), record=True)
    assert walk.path is not None
    guesses = []
    for clean, block in zip(walk.path.clean[:, 0], sampler.grid.blocks, strict=True):
        rows = task.targets(blocks[block]).rows(jnp.arange(task.network.vocabulary))
        found = np.asarray(jnp.argmax(clean @ rows.T, axis=-1))
        guesses.append([codec.decode(found[i : i + 1]) for i in range(len(found[:count]))])
    text = "".join(token_pieces(codec, tokens)[:count])
    return Refining(text, guesses, sampler.grid.blocks)
