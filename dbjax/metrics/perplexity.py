"""Generative perplexity: how likely another model finds generated texts, with their diversity.

Low perplexity alone is no quality. Repetition, greedy decoding and low temperatures lower it below
that of real text, so it is only given together with measures that such samples are bad at, and with
how they were decoded.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Integer

from dbjax.errors import require
from dbjax.metrics.text import distinct_n, token_entropy
from dbjax.metrics.text_requirements import require_texts


@runtime_checkable
class Scorer(Protocol):
    """A language model that tells how likely texts are, with tokens of its own.

    Attributes:
        name: all that the likelihoods depend on.
    """

    name: str

    def nll(
        self, texts: Sequence[str]
    ) -> tuple[Float[np.ndarray, " texts"], Int[np.ndarray, " texts"]]:
        """Returns of each text the negative log-likelihood, in nats, and the tokens it is a sum of.

        Every text is scored without the others. Tokens that are given and not predicted, such as a
        first one, are not counted.
        """


@dataclasses.dataclass(frozen=True)
class GenerativePerplexity:
    """Perplexity of generated texts and their diversity.

    Attributes:
        perplexity: exp(nats_per_token).
        nats_per_token: mean negative log-likelihood of the scorer's tokens.
        num_tokens: how many tokens were scored.
        scorer: its name.
        distinct_1: share of different tokens (`distinct_n`), the generator's tokens.
        distinct_2: share of different pairs.
        distinct_3: share of different triples.
        token_entropy: of the generator's tokens in a sequence, in nats.
        num_texts: number of texts.
        length: tokens in each sequence, the generator's.
        decoding: how the texts were sampled.
    """

    perplexity: float
    nats_per_token: float
    num_tokens: int
    scorer: str
    distinct_1: float
    distinct_2: float
    distinct_3: float
    token_entropy: float
    num_texts: int
    length: int
    decoding: str

    @property
    def settings(self) -> Mapping[str, object]:
        """What must be equal for two perplexities to compare; decodings may be what differs."""
        return {name: getattr(self, name) for name in ("scorer", "num_texts", "length")}


def generative_perplexity(
    texts: Sequence[str],
    tokens: Integer[np.ndarray, "texts length"],
    scorer: Scorer,
    *,
    decoding: str,
) -> GenerativePerplexity:
    """Returns exp(mean negative log-likelihood per token) under a scorer, and diversity beside it.

    One mean over the tokens of all texts, as in MDLM (Sahoo et al. 2024, arXiv 2406.07524). The
    mean of each text's own perplexity, found with SEDD's code, is larger (Jensen's inequality).

    Args:
        texts: generated texts.
        tokens: the same as the generator's tokens, row by row.
        scorer: another model; with one that was trained on the generator's samples, or the
            generator itself, the figure means nothing.
        decoding: how the texts were sampled, such as "top-p 0.95, temperature 1".

    Raises:
        SettingError: a text is empty, texts and tokens differ in number, sequences are shorter than
            three tokens, `decoding` says nothing, or the scorer predicts no token.
    """
    require_texts(texts, "generated texts")
    num_texts, length = tokens.shape
    allowed = f"{num_texts}, the rows of tokens"
    require(len(texts) == num_texts, "the number of texts", len(texts), allowed)
    require(length >= 3, "the length of sequences", length, "3 or more, for distinct-3")
    said = "a description such as 'top-p 0.95, temperature 1'"
    require(bool(decoding.strip()), "decoding", decoding, said)
    nats, counts = scorer.nll(texts)
    num_tokens = int(counts.sum())
    require(num_tokens > 0, "the number of tokens scored", num_tokens, "1 or more: longer texts")
    nats_per_token = float(nats.sum() / num_tokens)
    return GenerativePerplexity(
        perplexity=math.exp(nats_per_token),
        nats_per_token=nats_per_token,
        num_tokens=num_tokens,
        scorer=scorer.name,
        distinct_1=distinct_n(tokens, 1),
        distinct_2=distinct_n(tokens, 2),
        distinct_3=distinct_n(tokens, 3),
        token_entropy=token_entropy(tokens),
        num_texts=num_texts,
        length=length,
        decoding=decoding,
    )
