"""The guard of a step: what counts as finite, and a selection that no NaN gets through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normjax.transforms import all_finite, select

TREE = {"a": jnp.arange(6.0).reshape(2, 3), "b": (jnp.ones(4, jnp.bfloat16), jnp.arange(3)), "c": jnp.array(True)}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.complex64])
def test_one_bad_number_anywhere_is_found(value, dtype):
    assert bool(all_finite({**TREE, "d": jnp.ones((3, 4), dtype)}))
    assert not bool(all_finite({**TREE, "d": jnp.ones((3, 4), dtype).at[2, 1].set(value)}))


def test_integers_and_nothing_at_all_are_finite():
    assert bool(all_finite({"count": jnp.array(2**31 - 1), "right": jnp.array(False)}))
    assert bool(all_finite({"none": None, "empty": ()}))


def test_the_largest_numbers_are_finite():
    # A sum of squares, the cheap way to ask, would overflow.
    assert bool(all_finite({"a": jnp.full(8, jnp.finfo(jnp.float32).max)}))


@pytest.mark.parametrize("condition", [False, True])
def test_a_nan_on_the_other_side_is_harmless(condition):
    # 0 * NaN is NaN: a selection by arithmetic would let it through.
    bad = {"w": jnp.array([jnp.nan, jnp.inf]), "count": jnp.array([7, 7])}
    good = {"w": jnp.array([1.0, -2.0]), "count": jnp.array([1, 2])}
    new, old = (good, bad) if condition else (bad, good)
    chosen = jax.jit(select)(jnp.array(condition), new, old)
    jax.tree.map(np.testing.assert_array_equal, chosen, good)
    assert jax.tree.map(lambda leaf: leaf.dtype, chosen) == jax.tree.map(lambda leaf: leaf.dtype, good)


def test_a_tree_may_have_holes():
    # The averaged weights are None where none are kept.
    chosen = select(jnp.array(True), {"ema": None, "w": jnp.array(2.0)}, {"ema": None, "w": jnp.array(1.0)})
    assert (chosen["ema"], float(chosen["w"])) == (None, 2.0)
