import hypothesis
import hypothesis.strategies as st
import numpy as np

from dbjax.data.order import shuffled


@hypothesis.given(st.integers(1, 3000), st.integers(0, 2**32), st.integers(0, 100))
def test_each_example_comes_once(size, seed, block):
    found = shuffled(np.arange(size), size, (seed, block))
    assert sorted(found.tolist()) == list(range(size))


def test_a_part_of_an_order_is_that_of_the_whole():
    whole = shuffled(np.arange(1000), 1000, (1, 2, 3))
    np.testing.assert_array_equal(shuffled(np.arange(300, 310), 1000, (1, 2, 3)), whole[300:310])


def test_seeds_have_orders_of_their_own():
    orders = {tuple(shuffled(np.arange(50), 50, (seed, 0))) for seed in range(20)}
    assert len(orders) == 20


def test_an_order_looks_random():
    size = 100_000
    found = shuffled(np.arange(size), size, (0,)) / size
    # Standard deviations of these are 0.003 and less.
    assert abs(np.corrcoef(found, np.arange(size))[0, 1]) < 0.015
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 0.015
    histogram, *_ = np.histogram2d(found, np.arange(size), bins=20)
    expected = size / 400
    chi_square = ((histogram - expected) ** 2 / expected).sum()
    assert 250 < chi_square < 480


def test_sizes_that_no_memory_holds():
    size = 10**12
    found = shuffled(np.arange(1000), size, (0,))
    assert found.min() >= 0
    assert found.max() < size
    assert len(set(found.tolist())) == 1000
