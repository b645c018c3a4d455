"""Perplexity against the entropy of known sources, and against what it is fooled by."""

import dataclasses
import math

import numpy as np
import pytest

from dbjax.errors import SettingError
from dbjax.metrics import NgramScorer, generative_perplexity, require_comparable
from dbjax.metrics.perplexity import Scorer
from dbjax.metrics.text import distinct_n, token_entropy
from tests.metrics.text_sources import ANIMALS, MarkovSource, sentences

SOURCE = MarkovSource()


class CountingScorer:
    """A nat for each character but the first."""

    name = "one nat"

    def nll(self, texts):
        counts = np.array([len(text) - 1 for text in texts])
        return counts.astype(float), counts


@pytest.fixture(scope="module")
def scorer():
    return NgramScorer(SOURCE.texts(SOURCE.tokens(300, 200, seed=0)), order=2)


def test_the_result_carries_diversity():
    tokens = np.array([[0, 1, 0, 1], [0, 1, 2, 3]])
    found = generative_perplexity(["abab", "abcd"], tokens, CountingScorer(), decoding="by hand")
    assert found.perplexity == pytest.approx(math.e)
    assert (found.nats_per_token, found.num_tokens, found.scorer) == (1.0, 6, "one nat")
    distinct = (found.distinct_1, found.distinct_2, found.distinct_3)
    assert distinct == tuple(distinct_n(tokens, n) for n in (1, 2, 3)) == (1 / 2, 4 / 6, 1.0)
    assert found.token_entropy == token_entropy(tokens)
    assert (found.num_texts, found.length, found.decoding) == (2, 4, "by hand")


def test_the_mean_is_over_tokens_and_not_over_texts():
    class Uneven(CountingScorer):
        def nll(self, texts):
            return np.array([1.0, 12.0]), np.array([1, 3])

    tokens = np.zeros((2, 3), int)
    found = generative_perplexity(["a", "b"], tokens, Uneven(), decoding="by hand")
    assert found.nats_per_token == 13 / 4


@pytest.mark.parametrize("context", ["a", "bca", "abcdabcd", "zzz", "bz", "ddd"])
@pytest.mark.parametrize("order", [1, 2, 5])
def test_probabilities_sum_to_one_after_any_context(context, order):
    scorer = NgramScorer(["abcabd", "bcd", "a", "ddd"], order=min(order, 5))
    assert scorer.vocabulary == ("a", "b", "c", "d")
    before = scorer.nll([context])[0][0]
    after = scorer.nll([context + token for token in (*scorer.vocabulary, "?")])[0]
    assert np.exp(before - after).sum() == pytest.approx(1, abs=1e-12)


def test_witten_bell_by_hand():
    scorer = NgramScorer(["aab", "ab"], order=2)
    # Three tokens with the unknown one. Unigrams: a 3, b 2 of 5; two different ones.
    a, b, unknown = (3 + 2 / 3) / 7, (2 + 2 / 3) / 7, (2 / 3) / 7
    assert a + b + unknown == pytest.approx(1)
    # a was followed by a once and by b twice; nothing followed b.
    a_after_a, b_after_a = (1 + 2 * a) / 5, (2 + 2 * b) / 5
    nats, counts = scorer.nll(["aaba", "b?", "b"])
    expected = [a * a_after_a * b_after_a * a, b * unknown, b]
    np.testing.assert_allclose(np.exp(-nats), expected, rtol=1e-12)
    assert counts.tolist() == [4, 2, 1]


def test_a_known_source_has_the_perplexity_of_its_entropy(scorer):
    tokens = SOURCE.tokens(200, 200, seed=1)
    found = generative_perplexity(SOURCE.texts(tokens), tokens, scorer, decoding="the source")
    # The first letter of each text is an even draw: a little more than the others.
    expected = SOURCE.entropy_rate() + (math.log(4) - SOURCE.entropy_rate()) / 200
    assert found.nats_per_token == pytest.approx(expected, rel=0.02)


def test_repetition_lowers_perplexity_and_diversity_reveals_it(scorer):
    honest = SOURCE.tokens(200, 200, seed=1)
    # The likeliest letter after a is a, and so on for ever.
    loop = np.zeros_like(honest)
    real, fake = (
        generative_perplexity(SOURCE.texts(x), x, scorer, decoding=how)
        for x, how in ((honest, "the source"), (loop, "greedy"))
    )
    require_comparable(real, fake)
    assert fake.perplexity < 0.7 * real.perplexity
    assert fake.distinct_2 < 0.1 * real.distinct_2
    assert fake.token_entropy == 0 < real.token_entropy


def test_words_and_their_unknowns():
    texts = sentences(ANIMALS, 200, 0)
    scorer = NgramScorer(texts, order=1, unit="word")
    assert scorer.vocabulary == tuple(sorted(ANIMALS))
    nats, counts = scorer.nll(["cat dog", "cat  zebra\n"])
    assert counts.tolist() == [2, 2]
    assert nats[0] == pytest.approx(2 * math.log(8), rel=0.05)
    assert nats[1] - nats[0] > 3


def test_longer_histories_help_where_text_has_structure():
    seen, unseen = sentences(ANIMALS, 300, 0), sentences(ANIMALS, 100, 1)
    # Of a text's 31 characters only the choice of its 8 words, ln 8 nats each, is news.
    losses = []
    for order in (1, 2, 4):
        nats, counts = NgramScorer(seen, order=order).nll(unseen)
        losses.append(nats.sum() / counts.sum())
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] == pytest.approx(math.log(8) * 8 / 31, rel=0.1)


def test_scorers_are_named_proxies_and_by_the_texts_they_were_fitted_to(scorer):
    assert isinstance(scorer, Scorer)
    assert scorer.name.startswith("2-gram of characters, Witten-Bell (proxy, 300 texts ")
    assert NgramScorer(["ab"], order=1).name != NgramScorer(["ba"], order=1).name


def test_figures_of_different_scorers_do_not_compare():
    tokens = np.zeros((1, 3), int)
    found = generative_perplexity(["aaa"], tokens, CountingScorer(), decoding="greedy")
    require_comparable(found, dataclasses.replace(found, perplexity=1.0, decoding="top-p 0.9"))
    with pytest.raises(SettingError, match="scorer 'one nat' and 'gpt2' do not compare"):
        require_comparable(found, dataclasses.replace(found, scorer="gpt2"))


def test_what_cannot_be_scored_is_refused():
    def score(texts, length=3, decoding="greedy"):
        tokens = np.zeros((2, length), int)
        return generative_perplexity(texts, tokens, CountingScorer(), decoding=decoding)

    with pytest.raises(SettingError, match="number of texts is 1; allowed: 2, the rows of tokens"):
        score(["ab"])
    with pytest.raises(SettingError, match="number of generated texts is 0"):
        score([])
    with pytest.raises(SettingError, match="number 1 of generated texts is ''"):
        score(["ab", ""])
    with pytest.raises(SettingError, match="length of sequences is 2; allowed: 3 or more"):
        score(["ab", "cd"], length=2)
    with pytest.raises(SettingError, match="decoding is ' '"):
        score(["ab", "cd"], decoding=" ")
    with pytest.raises(SettingError, match="number of tokens scored is 0"):
        score(["a", "c"])


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(SettingError, match="order is 5; allowed: 1 to 3, the characters of the"):
        NgramScorer(["ab", "abc"])
    with pytest.raises(SettingError, match="order is 0"):
        NgramScorer(["ab"], order=0)
    with pytest.raises(SettingError, match="number of texts to fit a scorer to is 0"):
        NgramScorer([])
    with pytest.raises(SettingError, match="number 0 of texts is ''"):
        NgramScorer(["ab"], order=1).nll([""])
