"""Measures of token sequences: how varied they are, and units of likelihood.

Sequences are arrays of token numbers `[sequences, length]`, all of one length: what follows the end
of a text is cut off, or whole sequences are generated. Every measure here depends on the number
and the length of the sequences, so that only equal ones compare.
"""

import math

import numpy as np
from jaxtyping import Int, Integer
from scipy.special import entr

from dbjax.errors import require


def distinct_n(tokens: Integer[np.ndarray, "sequences length"], n: int) -> float:
    """Share of n-grams that differ: different n-grams / n-grams, over all sequences together.

    From 1 / (sequences * (length - n + 1)), one n-gram everywhere, to 1, none twice. An n-gram is n
    tokens in a row of one sequence; there are `length - n + 1` in each.

    Li et al. 2016 (arXiv 1510.03055), whose distinct-1 and distinct-2 divide by the number of
    tokens instead: theirs is this one times `(length - n + 1) / length`.

    Raises:
        SettingError: there is no sequence, or none is n tokens long.
    """
    _require_sequences(tokens)
    length = tokens.shape[1]
    require(1 <= n <= length, "n", n, f"1 to {length}, the length of a sequence")
    grams = kinds = _numbered(tokens)
    for shift in range(1, n):
        # Numbers of shorter n-grams stay below the number of tokens, so that no pair overflows.
        pairs = grams[:, :-1].astype(np.int64) * (kinds.max() + 1) + kinds[:, shift:]
        grams = _numbered(pairs)
    return float((grams.max() + 1) / grams.size)


def token_entropy(tokens: Integer[np.ndarray, "sequences length"]) -> float:
    """Entropy of each sequence's own histogram of tokens, in nats; mean over the sequences.

    From 0, one token repeated, to ln(length), none repeated. As computed with the samples of BD3-LM
    (Arriola et al. 2025, arXiv 2503.09573), and by Zheng et al. 2024 (arXiv 2409.02908) to show
    which samplers lower perplexity by losing diversity.

    Raises:
        SettingError: there is no sequence.
    """
    _require_sequences(tokens)
    num_sequences, length = tokens.shape
    kinds = _numbered(tokens)
    rows = np.arange(num_sequences)[:, np.newaxis] * (kinds.max() + 1)
    counts = np.unique(rows + kinds, return_counts=True)[1]
    return float(entr(counts / length).sum() / num_sequences)


def unigram_entropy(tokens: Integer[np.ndarray, "sequences length"], vocabulary: int) -> float:
    """Entropy of the histogram of all tokens together, in nats per token.

    From 0 to ln(vocabulary). Of the training data: what a model reaches that knows how frequent
    tokens are and nothing else.

    Args:
        tokens: token numbers below `vocabulary`.
        vocabulary: number of different tokens.

    Raises:
        SettingError: there is no sequence, or a token is not in the vocabulary.
    """
    _require_sequences(tokens)
    for token in (tokens.min(), tokens.max()):
        allowed = f"0 to {vocabulary - 1}, the vocabulary"
        require(bool(0 <= token < vocabulary), "a token", int(token), allowed)
    return float(entr(np.bincount(tokens.ravel(), minlength=vocabulary) / tokens.size).sum())


def bits_per_token(nats_per_token: float) -> float:
    """Nats as bits: divided by ln 2."""
    return nats_per_token / math.log(2)


def nats_per_token(bits_per_token: float) -> float:
    """Bits as nats: times ln 2."""
    return bits_per_token * math.log(2)


def bits_per_character(nats_per_token: float, characters_per_token: float) -> float:
    """Bits per character (BPC) of a text: likelihoods of models with different tokens compare so.

    Args:
        nats_per_token: mean negative log-likelihood.
        characters_per_token: characters of the text / tokens of the text; 1 for text8.

    Raises:
        SettingError: `characters_per_token` is not above 0.
    """
    _require_characters(characters_per_token)
    return bits_per_token(nats_per_token) / characters_per_token


def nats_from_bits_per_character(bits_per_character: float, characters_per_token: float) -> float:
    """Nats per token: the inverse of `bits_per_character`.

    Raises:
        SettingError: `characters_per_token` is not above 0.
    """
    _require_characters(characters_per_token)
    return nats_per_token(bits_per_character * characters_per_token)


def _numbered(values: Integer[np.ndarray, "sequences n"]) -> Int[np.ndarray, "sequences n"]:
    """The values by their rank among the different ones, from 0."""
    return np.unique(values, return_inverse=True)[1].reshape(values.shape)


def _require_sequences(tokens: Integer[np.ndarray, "sequences length"]) -> None:
    require(tokens.size > 0, "the shape of tokens", tokens.shape, "[sequences, length], not empty")


def _require_characters(characters_per_token: float) -> None:
    require(characters_per_token > 0, "characters_per_token", characters_per_token, "above 0")
