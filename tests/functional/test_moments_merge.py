"""Merging the moments of parts gives those of the whole, in any order and with empty parts."""

from functools import reduce

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import numpy_moments

from normjax.functional import Moments, empty_moments, merge, moments

VARIANTS = {"with_jit": True, "without_jit": True, "with_device": True, "without_device": True, "with_pmap": True}


def draw(rows, seed=0, shift=0.0):
    return (np.random.default_rng(seed).normal(size=(rows, 3)) + shift).astype(np.float32)


def as_moments(x):
    return Moments(*(jnp.asarray(part, jnp.float32) for part in numpy_moments(x, (0,))))


class MergeTest(chex.TestCase):
    @chex.variants(**VARIANTS)
    def test_merged_moments_are_those_of_the_union(self):
        x, y = draw(7, seed=1), draw(2, seed=2, shift=5.0)
        f = self.variant(lambda a, b: merge(Moments(*map(jnp.asarray, a)), Moments(*map(jnp.asarray, b))))
        expected = numpy_moments(np.concatenate([x, y]), (0,))
        chex.assert_trees_all_close(tuple(f(as_moments(x), as_moments(y))), tuple(expected), rtol=1e-5, atol=1e-6)

    @chex.variants(**VARIANTS)
    def test_empty_moments_are_neutral_on_either_side(self):
        # As the start of a sum over micro-batches they must not pull the mean to 0.
        some = as_moments(draw(4, shift=9.0))

        @self.variant
        def both_sides(a):
            a = Moments(*map(jnp.asarray, a))
            return merge(empty_moments((3,)), a), merge(a, empty_moments((3,)))

        for merged in both_sides(some):
            chex.assert_trees_all_equal(tuple(merged), tuple(np.asarray(part) for part in some))


@pytest.mark.parametrize(
    ("first", "second", "apart"), [(4, 4, 0.0), (3, 9, 50.0), (0, 5, 0.0), (5, 0, 0.0), (0, 0, 0.0), (1, 1, 2.0)]
)
def test_parts_weigh_by_their_counts(first, second, apart):
    # Fault 6: averaging variances drops the variance of the means; 50 apart that is nearly all of it.
    x, y = draw(first, seed=1), draw(second, seed=2, shift=apart)
    expected = numpy_moments(np.concatenate([x, y]), (0,))
    chex.assert_trees_all_close(tuple(merge(as_moments(x), as_moments(y))), tuple(expected), rtol=1e-5, atol=1e-6)


def test_merging_many_parts_in_any_order_gives_the_whole():
    # Gradient accumulation merges one micro-batch after the other; the order of the data must not matter.
    parts = [draw(rows, seed=rows, shift=rows) for rows in (1, 4, 2, 6, 3)]
    expected = numpy_moments(np.concatenate(parts), (0,))
    for ordered in (parts, parts[::-1]):
        merged = reduce(merge, [moments(jnp.asarray(part), (0,)) for part in ordered], empty_moments((3,)))
        chex.assert_trees_all_close(tuple(merged), tuple(expected), rtol=1e-5)


def test_merging_is_exact_far_from_zero():
    # Sums of squares carried from part to part would lose the variance at mean 1e4 in float32.
    parts = [draw(64, seed=seed, shift=1e4) for seed in range(8)]
    merged = reduce(merge, [moments(jnp.asarray(part), (0,)) for part in parts])
    expected = numpy_moments(np.concatenate(parts), (0,))
    chex.assert_trees_all_close(merged.m2, expected.m2, rtol=1e-3)


def test_complex_moments_merge_with_the_squared_distance_of_the_means():
    # |delta|**2 for complex means; delta**2 would be complex.
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(8, 2)) + 1j * rng.normal(size=(8, 2))).astype(np.complex64)
    merged = merge(moments(jnp.asarray(x[:3]), (0,)), moments(jnp.asarray(x[3:] + 5j), (0,)))
    expected = numpy_moments(np.concatenate([x[:3], x[3:] + 5j]), (0,))
    chex.assert_trees_all_close(tuple(merged), tuple(expected), rtol=1e-5)


def test_empty_moments_of_complex_data_have_real_count_and_deviations():
    # Else a scan over complex micro-batches would change the type of its carry.
    x = jnp.ones((2, 3), jnp.complex64)
    assert [part.dtype for part in empty_moments((3,), jnp.complex64)] == [part.dtype for part in moments(x, (0,))]


def test_features_merge_each_with_their_own_count():
    # A mask per feature gives counts that differ between features.
    x, mask = draw(10), np.random.default_rng(3).random((10, 3)) < 0.4
    mask[:5, 1] = False
    parts = [moments(jnp.asarray(x[rows]), (0,), mask=jnp.asarray(mask[rows])) for rows in (slice(5), slice(5, None))]
    chex.assert_trees_all_close(tuple(merge(*parts)), tuple(numpy_moments(x, (0,), mask)), rtol=1e-5, atol=1e-6)
