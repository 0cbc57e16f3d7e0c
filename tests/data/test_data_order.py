"""The order of the training examples: all of them each epoch, by the seed alone."""

from collections import Counter
from itertools import pairwise, permutations

import numpy as np
import pytest

from normjax.data import example_order


@pytest.mark.parametrize("size", [1, 7, 10])
@pytest.mark.parametrize("cut", [1, 3, 10, 23])
def test_every_example_comes_once_an_epoch_however_the_order_is_cut(size, cut):
    # Cuts of 3 and 23 span epochs: nothing may be dropped or doubled at the seam.
    edges = [*range(0, 5 * size, cut), 5 * size]
    order = np.concatenate([example_order(size, 0, start, stop) for start, stop in pairwise(edges)])
    np.testing.assert_array_equal(np.sort(order.reshape(5, size)), np.tile(np.arange(size), (5, 1)))


def test_a_position_holds_the_same_example_wherever_reading_starts():
    whole = example_order(6, 3, 0, 30)
    for start in range(30):
        for stop in range(start + 1, 31):
            np.testing.assert_array_equal(example_order(6, 3, start, stop), whole[start:stop])


def test_order_is_decided_by_the_seed_and_the_epoch():
    # Same seed, same order, whatever was asked for in between; no two of seeds or epochs share one.
    orders = {
        (seed, epoch): example_order(50, seed, 50 * epoch, 50 * epoch + 50) for seed in range(4) for epoch in range(4)
    }
    for (seed, epoch), order in reversed(orders.items()):
        np.testing.assert_array_equal(example_order(50, seed, 50 * epoch, 50 * epoch + 50), order)
    assert len({order.tobytes() for order in orders.values()}) == len(orders)


def test_all_orders_are_equally_likely():
    # 24 orders of 4 examples, 4800 epochs: 200 of each, with a standard deviation of 14.
    order = example_order(4, 0, 0, 4 * 4800).reshape(-1, 4)
    counts = Counter(map(tuple, order.tolist()))
    assert set(counts) == set(permutations(range(4)))
    assert all(abs(count - 200) < 70 for count in counts.values())
