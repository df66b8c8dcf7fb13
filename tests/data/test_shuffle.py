"""The computed permutation against the definition of one."""

import numpy as np
import pytest

from jaxgpt.data.shuffle import permute, random_u64

SIZES = [
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    9,
    15,
    16,
    17,
    31,
    33,
    63,
    64,
    65,
    101,
    127,
    129,
    255,
    257,
    1023,
    1024,
    1025,
    4093,
    65_537,
]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("key", [(), (0,), (42, 0, 3)])
def test_is_a_bijection(n, key):
    images = permute(np.arange(n), n, *key)
    assert images.dtype == np.int64
    assert sorted(images.tolist()) == list(range(n))


def test_is_pure_and_each_image_stands_alone():
    n, key = 10_007, (42, 1)
    images = permute(np.arange(n), n, *key)
    np.testing.assert_array_equal(permute(np.arange(n), n, *key), images)
    some = np.array([[9_000, 0], [17, 10_006]])
    np.testing.assert_array_equal(permute(some, n, *key), images[some])
    assert some.tolist() == [[9_000, 0], [17, 10_006]]


def test_keys_differ():
    n = 1009
    orders = {tuple(permute(np.arange(n), n, *key)) for key in [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (1, 0, 0)]}
    assert len(orders) == 7


@pytest.mark.parametrize("n", [1009, 1 << 12])
def test_looks_random(n):
    """Fixed points, rises and distances of neighbours are as rare as in random orders, within five deviations."""
    keys = 97
    images = np.stack([permute(np.arange(n), n, key) for key in range(keys)])
    fixed = (images == np.arange(n)).sum()
    assert abs(fixed - keys) < 5 * np.sqrt(keys)  # one per permutation on average, with variance one
    rises = (np.diff(images) > 0).mean()
    assert abs(rises - 0.5) < 5 * np.sqrt(1 / 12 / (keys * n))
    # The mean distance of two different numbers below n is (n + 1) / 3.
    assert abs(np.abs(np.diff(images)).mean() / ((n + 1) / 3) - 1) < 0.02
    # Where one index goes under many keys is spread over the whole range.
    assert abs(images[:, 0].mean() / n - 0.5) < 5 * np.sqrt(1 / 12 / keys)


def test_every_order_of_three_comes_up_about_equally_often():
    orders, counts = np.unique([permute(np.arange(3), 3, key) for key in range(3000)], axis=0, return_counts=True)
    assert len(orders) == 6
    assert (np.abs(counts - 500) < 5 * np.sqrt(500)).all()


def test_time_and_memory_do_not_depend_on_n():
    """A few indices of a range that no array could hold."""
    images = permute(np.arange(101), 10**15 + 37, 42)
    assert len(set(images.tolist())) == 101
    assert images.min() >= 0
    assert images.max() < 10**15 + 37


def test_random_numbers_are_pure_and_depend_on_every_part_of_the_key():
    assert random_u64(1, 2, 3) == random_u64(1, 2, 3)
    keys = [(a, b) for a in range(29) for b in range(31)]
    values = np.array([random_u64(*key) for key in keys], np.float64) / 2**64
    assert len(set(values)) == 29 * 31
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 5 * np.sqrt(1 / 12 / len(values))
