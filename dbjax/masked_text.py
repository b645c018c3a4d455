"""Masked texts as people write and read them: prompts with gaps, and who revealed what when."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Integer

from dbjax.data.codecs import Codec, UnknownCharacter
from dbjax.errors import SettingError, require
from dbjax.noise import MASKED
from dbjax.partition import Grid
from dbjax.sampling import Samples

_UNDECODED = "\ufffd"


def masked_prompt(codec: Codec, text: str, gap: str, length: int) -> Int[np.ndarray, " length"]:
    """A text to be filled in: each `gap` in it, and all after its end, is a masked token.

    Args:
        codec: of the model's tokens.
        text: what the samples shall say.
        gap: what stands for one masked token.
        length: tokens of a sample.

    Raises:
        SettingError: if the gap is empty, the text too long, or a character unknown.
    """
    require(gap != "", "gap", gap, "one character or more, which stand for a masked token")
    ids: list[int] = []
    position = 0
    for number, part in enumerate(text.split(gap)):
        ids += [MASKED] * (number > 0)
        try:
            ids += codec.encode(part).tolist()
        except UnknownCharacter as error:
            place = f"position {position + error.position} of the prompt"
            raise SettingError(error.sentence(place)) from error
        position += len(part) + len(gap)
    allowed = f"at most {length}, which is data.length"
    require(len(ids) <= length, "number of tokens of the prompt", len(ids), allowed)
    return np.array(ids + [MASKED] * (length - len(ids)), np.int32)


class Span(NamedTuple):
    """Neighbouring tokens of one kind.

    Attributes:
        text: what they say; empty where they are masked.
        masked: how many of them are masked, all or none.
        block: which has just revealed them, if one has.
    """

    text: str
    masked: int
    block: int | None


@dataclasses.dataclass(frozen=True)
class Revealing:
    """How one text came to be.

    Attributes:
        pieces: of the finished text, one for each token.
        steps: the step of the walk, from 0, that revealed each token; -1 for those given.
        blocks: who made each step.
    """

    pieces: Sequence[str]
    steps: Sequence[int]
    blocks: Sequence[int]

    def masked(self, step: int) -> float:
        """Share of the tokens that are masked after so many steps."""
        return sum(own >= step for own in self.steps) / len(self.steps)

    def spans(self, step: int, since: int = 0) -> list[Span]:
        """The text after `step` steps; those after the first `since` tell their block."""

        def kind(own: int) -> tuple[bool, int | None]:
            hidden = own >= step
            return hidden, None if hidden or own < max(since, 0) else self.blocks[own]

        tokens = zip(self.pieces, map(kind, self.steps), strict=True)
        spans = []
        for (hidden, block), own in itertools.groupby(tokens, key=lambda token: token[1]):
            texts = [text for text, _ in own]
            spans.append(Span("" if hidden else "".join(texts), len(texts) * hidden, block))
        return spans

    def shown_steps(self, count: int) -> list[int]:
        """Numbers of steps after which to show it, spread evenly, the last one among them."""
        last = len(self.blocks)
        return np.unique(np.linspace(0, last, count + 1).round().astype(int))[1:].tolist()


def revealing(codec: Codec, walk: Samples, grid: Grid, index: int = 0) -> Revealing:
    """Of one sample of a recorded walk of masked tokens.

    Args:
        codec: of the tokens.
        walk: `Model.walk`.
        grid: of its sampler.
        index: of the sample.
    """
    assert walk.path is not None
    masked = np.asarray(walk.path.z)[:, index] == MASKED
    ids = np.asarray(walk.clean)[index]
    steps = (masked.sum(axis=0) - 1).tolist()
    return Revealing(token_pieces(codec, ids), tuple(steps), grid.blocks)


def token_pieces(codec: Codec, ids: Integer[np.ndarray, " length"]) -> tuple[str, ...]:
    """What each token adds to the text; together they are the text.

    Of tokens that share a character, the last one has it.
    """
    texts = [codec.decode(ids[:stop]) for stop in range(1, len(ids) + 1)]
    ends = [len(text.rstrip(_UNDECODED)) for text in texts]
    ends[-1] = len(texts[-1])
    ends = np.minimum.accumulate(ends[::-1])[::-1].tolist()
    return tuple(texts[-1][a:b] for a, b in itertools.pairwise([0, *ends]))
