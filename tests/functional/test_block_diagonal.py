"""The products of groups that TPUs compute as blocks of wide matrices are the products of groups."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normjax.functional import block_diagonal
from normjax.functional.groups import products_of_groups, times_groups


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


# One wide matrix; features without a wide divisor but the group; more features than one matrix takes; one group.
CASES = [((3, 5, 12), 4), ((3, 5, 7), 1), ((4, 1040), 16), ((9, 1030), 515), ((2, 3, 3, 6), 6)]


def with_derivatives(f, arguments, tangents):
    y, pull = jax.vjp(f, *arguments)
    return jax.jvp(f, arguments, tangents), pull(y)


@pytest.mark.parametrize(("shape", "size"), CASES)
def test_products_and_their_derivatives(shape, size):
    arguments, tangents = (draw(*shape), draw(*shape, seed=1)), (draw(*shape, seed=2), draw(*shape, seed=3))
    got = with_derivatives(lambda a, b: block_diagonal.products(a, b, size), arguments, tangents)
    want = with_derivatives(lambda a, b: products_of_groups(a, b, size), arguments, tangents)
    chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("shape", "size"), CASES)
def test_vectors_times_matrices_and_their_derivatives(shape, size):
    def matrices(seed):
        m = draw(shape[-1] // size, size, size, seed=seed)
        return m + jnp.swapaxes(m, -1, -2)

    arguments, tangents = (draw(*shape), matrices(1)), (draw(*shape, seed=2), matrices(3))
    got = with_derivatives(block_diagonal.times, arguments, tangents)
    want = with_derivatives(times_groups, arguments, tangents)
    chex.assert_trees_all_close(got[0], want[0], rtol=1e-4, atol=1e-3)
    chex.assert_trees_all_close(got[1], want[1], rtol=1e-4, atol=5e-3)
