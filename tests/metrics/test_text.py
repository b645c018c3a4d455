"""Diversity and units against sums made by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dbjax.errors import SettingError
from dbjax.metrics.text import (
    bits_per_character,
    bits_per_token,
    distinct_n,
    nats_from_bits_per_character,
    nats_per_token,
    token_entropy,
    unigram_entropy,
)

TOKENS = np.array([[5, 5, 7, 5], [5, 7, 5, 9]])


def test_distinct_n():
    assert distinct_n(TOKENS, 1) == 3 / 8
    # 55 57 75 | 57 75 59: nothing crosses from one sequence to the next.
    assert distinct_n(TOKENS, 2) == 4 / 6
    # 557 575 | 575 759
    assert distinct_n(TOKENS, 3) == 3 / 4
    assert distinct_n(TOKENS, 4) == 1


@given(
    arrays.arrays(
        np.int32,
        st.tuples(st.integers(1, 5), st.integers(3, 9)),
        elements={
            "min_value": 0,
            "max_value": 3,
        },
    ),
    st.integers(1, 3),
)
def test_distinct_n_is_the_size_of_a_set(tokens, n):
    grams = [tuple(row[i : i + n]) for row in tokens for i in range(len(row) - n + 1)]
    assert distinct_n(tokens, n) == len(set(grams)) / len(grams)


def test_distinct_n_of_numbers_near_the_end_of_their_type():
    tokens = np.array([[2**31 - 1, 2**31 - 2, 2**31 - 1, 2**31 - 2]], np.int32)
    assert distinct_n(tokens, 2) == 2 / 3


def test_token_entropy():
    def entropy(*shares):
        return -sum(p * math.log(p) for p in shares)

    expected = (entropy(3 / 4, 1 / 4) + entropy(1 / 2, 1 / 4, 1 / 4)) / 2
    assert token_entropy(TOKENS) == pytest.approx(expected)
    assert token_entropy(np.full((3, 10), 4)) == 0
    assert token_entropy(np.arange(20).reshape(2, 10)) == pytest.approx(math.log(10))


def test_unigram_entropy():
    shares = [5 / 8, 2 / 8, 1 / 8]
    expected = -sum(p * math.log(p) for p in shares)
    assert unigram_entropy(TOKENS, 10) == pytest.approx(expected)
    # Each sequence repeats a token of its own: all together are varied, none of them is.
    repeated = np.repeat(np.arange(27)[:, np.newaxis], 8, axis=1)
    assert token_entropy(repeated) == 0
    assert bits_per_token(unigram_entropy(repeated, 27)) == pytest.approx(4.755, abs=5e-4)


def test_units():
    assert bits_per_token(math.log(2)) == pytest.approx(1)
    assert nats_per_token(1.0) == pytest.approx(math.log(2))
    # A token of four characters that costs eight bits.
    assert bits_per_character(8 * math.log(2), 4.0) == pytest.approx(2)
    assert nats_from_bits_per_character(2.0, 4.0) == pytest.approx(8 * math.log(2))


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(SettingError, match="n is 5; allowed: 1 to 4, the length of a sequence"):
        distinct_n(TOKENS, 5)
    with pytest.raises(SettingError, match="n is 0"):
        distinct_n(TOKENS, 0)
    for measure in (lambda x: distinct_n(x, 1), token_entropy, lambda x: unigram_entropy(x, 3)):
        with pytest.raises(SettingError, match=r"shape of tokens is \(0, 4\)"):
            measure(np.zeros((0, 4), int))
    with pytest.raises(SettingError, match="a token is 9; allowed: 0 to 8, the vocabulary"):
        unigram_entropy(TOKENS, 9)
    with pytest.raises(SettingError, match="a token is -1"):
        unigram_entropy(TOKENS - 6, 9)
    for convert in (bits_per_character, nats_from_bits_per_character):
        with pytest.raises(SettingError, match=r"characters_per_token is 0\.0; allowed: above 0"):
            convert(1.0, 0.0)
