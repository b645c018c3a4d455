"""A scorer of texts that needs no network and no download: an n-gram model."""

from collections.abc import Sequence
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from dbjax.errors import require
from dbjax.metrics.text_requirements import require_texts, texts_name


class _Level(NamedTuple):
    """Counts of the n-grams of one size, sorted.

    An n-gram is known by the number of its history (its place among the n-grams one shorter) times
    the size of the vocabulary, plus its last token.
    """

    ngram: Int[np.ndarray, " ngrams"]
    times: Int[np.ndarray, " ngrams"]
    # of each history: how many tokens, and how many different ones, followed it
    followers: Int[np.ndarray, " histories"]
    different: Int[np.ndarray, " histories"]


class _Tokens(NamedTuple):
    """Tokens of all texts in one row."""

    token: Int[np.ndarray, " tokens"]
    text: Int[np.ndarray, " tokens"]
    # place in the own text, from 0
    place: Int[np.ndarray, " tokens"]


class NgramScorer:
    """Characters or words by those before them, fitted to real texts: a proxy for a language model.

    Witten-Bell smoothing (Witten and Bell 1991, method C) in the interpolated form of Chen and
    Goodman 1999: with c(h, x) how often x followed the history h, N(h) how many tokens did and T(h)
    how many different ones,

        p(x | h) = (c(h, x) + T(h) p(x | h')) / (N(h) + T(h)),

    h' being h without its first token, down to the uniform distribution over the tokens of the
    fitted texts and one that stands for all others. Every history's probabilities sum to one. At
    the start of a text histories are shorter; its end is not predicted.

    It knows spelling and words, not sense: no figure made with it compares with a published one.

    Attributes:
        name: "<order>-gram of <unit>s, Witten-Bell (proxy, <fitted texts>)".
        vocabulary: the fitted texts' tokens; the one for all others comes on top.
    """

    def __init__(
        self,
        texts: Sequence[str],
        *,
        order: int = 5,
        unit: Literal["character", "word"] = "character",
    ) -> None:
        """Counts n-grams.

        Args:
            texts: real texts, none of those that are going to be scored.
            order: n, the history and the token together.
            unit: what a token is; words are what white space separates.

        Raises:
            SettingError: there is no text, one is empty, or none is `order` tokens long.
        """
        require_texts(texts, "texts to fit a scorer to")
        self._unit = unit
        self.vocabulary = tuple(sorted(set(chain.from_iterable(map(self._split, texts)))))
        self._number = {token: i for i, token in enumerate(self.vocabulary)}
        self._size = len(self.vocabulary) + 1
        tokens = self._tokens(texts)
        longest = int(tokens.place.max(initial=-1)) + 1
        allowed = f"1 to {longest}, the {unit}s of the longest text"
        require(1 <= order <= longest, "order", order, allowed)
        self._levels: list[_Level] = []
        history = np.zeros_like(tokens.token)
        num_histories = 1
        for n in range(order):
            ngram = history * self._size + tokens.token
            known, count = np.unique(ngram[tokens.place >= n], return_counts=True)
            parent = known // self._size
            followers = np.zeros(num_histories, count.dtype)
            np.add.at(followers, parent, count)
            different = np.bincount(parent, minlength=num_histories)
            self._levels.append(_Level(known, count, followers, different))
            # The n-gram that ends here is the history of the next token.
            history = np.roll(np.searchsorted(known, ngram), 1)
            num_histories = len(known)
        self.name = f"{order}-gram of {unit}s, Witten-Bell (proxy, {texts_name(texts)})"

    def nll(
        self, texts: Sequence[str]
    ) -> tuple[Float[np.ndarray, " texts"], Int[np.ndarray, " texts"]]:
        """Returns of each text the negative log-likelihood, in nats, and its number of tokens.

        Raises:
            SettingError: a text is empty.
        """
        require_texts(texts, "texts")
        tokens = self._tokens(texts)
        surprise = -np.log(self._probability(tokens))
        return (
            np.bincount(tokens.text, weights=surprise, minlength=len(texts)).astype(np.float64),
            np.bincount(tokens.text, minlength=len(texts)),
        )

    def _probability(self, tokens: _Tokens) -> Float[np.ndarray, " tokens"]:
        """Of each token, given those before it in its text."""
        probability = np.full(len(tokens.token), 1 / self._size)
        history = np.zeros_like(tokens.token)
        seen = np.ones(len(tokens.token), bool)
        for n, level in enumerate(self._levels):
            seen &= tokens.place >= n
            history = np.where(seen, history, 0)
            followers = np.where(seen, level.followers[history], 0)
            different = np.where(seen, level.different[history], 0)
            ngram = history * self._size + tokens.token
            place = np.searchsorted(level.ngram, ngram).clip(max=len(level.ngram) - 1)
            found = seen & (level.ngram[place] == ngram)
            count = np.where(found, level.times[place], 0)
            # A history that was seen at the ends of texts only says nothing.
            informed = followers > 0
            probability = np.where(
                informed,
                (count + different * probability) / np.where(informed, followers + different, 1),
                probability,
            )
            history, seen = np.roll(place, 1), np.roll(found, 1)
        return probability

    def _split(self, text: str) -> Sequence[str]:
        return text if self._unit == "character" else text.split()

    def _tokens(self, texts: Sequence[str]) -> _Tokens:
        split = [self._split(text) for text in texts]
        lengths = np.array([len(tokens) for tokens in split], np.int64)
        unknown = len(self.vocabulary)
        numbers = (self._number.get(token, unknown) for token in chain.from_iterable(split))
        start = np.repeat(np.cumsum(lengths) - lengths, lengths)
        return _Tokens(
            np.fromiter(numbers, np.int64, int(lengths.sum())),
            np.repeat(np.arange(len(texts)), lengths),
            np.arange(len(start)) - start,
        )
