"""The rule, on losses whose answer is known."""

import itertools

import numpy as np
import pytest

from dbjax.choosing import CERTAIN, judge, largest, suggest_split

GROUPS, LEVELS = 32, 24


def losses(excess, *, noise=0.0, common=0.3, seeds=1, between=0.0, seed=0):
    """Made of an excess for each B: a spread over examples that all models share, one of their own,
    and one between trainings."""
    rng = np.random.default_rng(seed)
    shared = 1 + common * rng.standard_normal((1, GROUPS, 1))
    return {
        b: (shared + value + between * rng.standard_normal((seeds, 1, 1))) / LEVELS
        + noise * rng.standard_normal((seeds, GROUPS, LEVELS)) / LEVELS**0.5
        for b, value in {1: 0.0, **excess}.items()
    }


def test_the_largest_within_the_tolerance_is_chosen():
    found = judge(losses({2: -0.002, 4: 0.006, 8: 0.03}, noise=0.001), tolerance=0.01)
    assert [one.verdict for one in found] == ["within", "within", "within", "beyond"]
    assert largest(found) == 4
    assert found[2].excess == pytest.approx(0.006, abs=4 * found[2].error)


def test_what_all_models_share_does_not_hide_a_small_excess():
    # The loss itself is known to 0.3 / sqrt(32) only.
    found = judge(losses({2: 0.005}, noise=0.001), tolerance=0.01)
    assert found[1].error < 0.001
    assert largest(found) == 2


def test_cuts_are_judged_one_by_one():
    assert largest(judge(losses({2: 0.03, 4: 0.0, 8: 0.05}), tolerance=0.01)) == 4


def test_all_beyond_leaves_the_network_uncut():
    assert largest(judge(losses({2: 0.02, 4: 0.05}), tolerance=0.01)) == 1


def test_what_cannot_be_decided_is_refused():
    found = judge(losses({2: 0.009, 4: 0.5}, noise=0.05), tolerance=0.01)
    assert [one.verdict for one in found[1:]] == ["undecided", "beyond"]
    assert largest(found) is None
    # With one that is surely within there is an answer, and a larger one stays open.
    found = judge(losses({2: -0.2, 4: 0.009}, noise=0.05), tolerance=0.01)
    assert [one.verdict for one in found[1:]] == ["within", "undecided"]
    assert largest(found) == 2


def test_a_cut_beyond_the_tolerance_is_hardly_ever_chosen():
    # Right at the tolerance is the worst case: 2.3% are taken for being within by chance.
    wrong = sum(
        largest(judge(losses({2: 0.0101}, noise=0.02, seed=s), tolerance=0.01)) == 2
        for s in range(400)
    )
    assert wrong <= 20
    far = (judge(losses({2: 0.03}, noise=0.02, seed=s), tolerance=0.01) for s in range(400))
    assert all(largest(found) != 2 for found in far)


def test_the_spread_of_trainings_is_part_of_the_error():
    few = {2: 0.0, 4: 0.0}
    one = judge(losses(few, noise=0.001), tolerance=0.01)
    several = judge(losses(few, noise=0.001, seeds=3, between=0.02), tolerance=0.01)
    # Of a difference of two trainings, over three of each.
    assert several[1].error == pytest.approx((2 / 3) ** 0.5 * 0.02, rel=0.7)
    assert several[1].error > 5 * one[1].error
    assert [x.verdict for x in several[1:]] == ["undecided", "undecided"]


def by_depth(weights, *, num_layers=12, counts=(1, 2, 4, 6, 12), noise=0.0, seed=0):
    """Losses of a network in whose ranges of noise b the loss falls as weights[b] / layers."""
    rng = np.random.default_rng(seed)
    owner = np.arange(LEVELS) * len(weights) // LEVELS
    share = np.asarray(weights)[owner] * len(weights) / LEVELS
    made = {
        b: share * b / num_layers + noise * rng.standard_normal((1, GROUPS, LEVELS)) / LEVELS**0.5
        for b in counts
    }
    return made, owner


def least(weights, num_layers, allowed):
    """By trying all splits."""
    splits = itertools.product(allowed, repeat=len(weights))
    return min(
        (split for split in splits if sum(split) == num_layers),
        key=lambda split: sum(w / n for w, n in zip(weights, split, strict=True)),
    )


@pytest.mark.parametrize("weights", [(1, 4, 1), (1, 1, 9), (3, 2, 1)])
def test_layers_go_where_depth_is_worth_most(weights):
    made, owner = by_depth(weights, counts=(1, 2, 3, 4, 6, 12))
    split = suggest_split(made, 3, 12, owner)
    assert sum(split.layers) == 12
    assert np.argmax(split.layers) == np.argmax(weights)
    # Depths that do not divide 12 are interpolated.
    exact = least(weights, 12, range(1, 13))
    assert np.abs(np.subtract(split.layers, exact)).max() <= 1
    assert split.gain >= 0


def test_ranges_alike_keep_even_layers():
    made, owner = by_depth((1, 1, 1, 1))
    split = suggest_split(made, 4, 12, owner)
    assert split.layers == (3, 3, 3, 3)
    assert split.gain == 0
    assert not split.supported


def test_a_split_made_of_chance_is_not_supported():
    supported = 0
    for seed in range(40):
        made, owner = by_depth((1e-4, 1e-4, 1e-4, 1e-4), noise=0.1, seed=seed)
        supported += suggest_split(made, 4, 12, owner).supported
    assert supported <= 3


def test_a_split_of_substance_is_supported_in_noise():
    made, owner = by_depth((0.1, 0.1, 0.1, 2.0), noise=0.02)
    split = suggest_split(made, 4, 12, owner)
    assert split.supported
    assert split.gain > CERTAIN * split.error > 0
    assert split.layers[3] == max(split.layers)


def test_depths_that_were_not_tried_are_not_supposed():
    made, owner = by_depth((1, 4, 1, 1), counts=(1, 2, 4))
    assert suggest_split(made, 4, 12, owner) is None
    assert suggest_split(made, 1, 12, owner) is None
    # 2 layers are the fewest that were tried.
    made, owner = by_depth((1, 40, 1, 1), counts=(1, 4, 6))
    assert min(suggest_split(made, 4, 12, owner).layers) == 2
