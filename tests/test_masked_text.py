"""Prompts with gaps, and the steps in which a text is revealed."""

import jax.numpy as jnp
import numpy as np
import pytest

from dbjax.data import ByteCodec, CharacterCodec
from dbjax.errors import SettingError
from dbjax.masked_text import Revealing, Span, masked_prompt, revealing, token_pieces
from dbjax.noise import MASKED
from dbjax.partition import Grid
from dbjax.sampling import Samples, Trajectory
from dbjax.task import Estimate

CODEC = CharacterCodec("abc ")


@pytest.mark.parametrize(
    ("text", "gap", "ids"),
    [
        ("ab_c", "_", [0, 1, MASKED, 2, MASKED, MASKED]),
        ("__a", "_", [MASKED, MASKED, 0, MASKED, MASKED, MASKED]),
        ("a[?]b", "[?]", [0, MASKED, 1, MASKED, MASKED, MASKED]),
        ("", "_", [MASKED] * 6),
        ("abcabc", "_", [0, 1, 2, 0, 1, 2]),
    ],
)
def test_gaps_and_what_follows_a_prompt_are_masked(text, gap, ids):
    np.testing.assert_array_equal(masked_prompt(CODEC, text, gap, 6), ids)


@pytest.mark.parametrize(
    ("text", "gap", "sentence"),
    [
        ("a_b", "", "gap is ''; allowed: one character or more, which stand for a masked token"),
        (
            "abc abc",
            "_",
            "number of tokens of the prompt is 7; allowed: at most 6, which is data.length",
        ),
        (
            "a__bx",
            "__",
            "position 4 of the prompt is 'x' (U+0078); allowed: the characters 'abc '",
        ),
    ],
)
def test_impossible_prompts_are_refused(text, gap, sentence):
    with pytest.raises(SettingError) as refusal:
        masked_prompt(CODEC, text, gap, 6)
    assert str(refusal.value) == sentence


def test_each_token_is_of_the_step_that_revealed_it():
    z = jnp.array([[[-1, 1, -1, -1]], [[0, 1, -1, -1]], [[0, 1, -1, 3]]])
    clean = jnp.array([[0, 1, 2, 3]])
    grid = Grid((1.0, 0.6, 0.3), (0, 0, 1))
    found = revealing(CODEC, Samples(clean, Estimate(clean), Trajectory(z, z)), grid)
    assert found == Revealing(("a", "b", "c", " "), (0, -1, 2, 1), (0, 0, 1))
    assert [found.masked(step) for step in range(4)] == [0.75, 0.5, 0.25, 0.0]
    assert found.spans(0) == [Span("", 1, None), Span("b", 0, None), Span("", 2, None)]
    assert found.spans(2) == [
        Span("a", 0, 0), Span("b", 0, None), Span("", 1, None), Span(" ", 0, 0),
    ]  # fmt: skip
    assert found.spans(3, since=2) == [Span("ab", 0, None), Span("c", 0, 1), Span(" ", 0, None)]
    assert found.shown_steps(2) == [2, 3]
    assert found.shown_steps(8) == [1, 2, 3]


def test_pieces_make_up_the_text_where_tokens_share_a_character():
    codec = ByteCodec()
    assert token_pieces(codec, codec.encode("aé€b")) == ("a", "", "é", "", "", "€", "b")
    broken = np.array([97, 0xE2, 98, 0xC3])
    assert "".join(token_pieces(codec, broken)) == codec.decode(broken) == "a\ufffdb\ufffd"
