"""Fault 3: the variance of data far from zero, which Flax's one-pass form loses in float32."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import numpy_batch_norm, numpy_moments, numpy_variance

from normjax.functional import batch_norm, moments
from normjax.functional.moments import _shifted_pass

WAYS = {
    "one pass": {"use_fast_variance": True},
    "two passes": {"use_fast_variance": False},
    "masked": {"mask": np.arange(512)[:, None] % 3 > 0},
}
DATA = {"N(1e4, 1)": (1e4, 1.0), "N(1e3, 0.1)": (1e3, 0.1), "N(1e6, 10)": (1e6, 10.0)}


def draw(*shape, mean, std, seed=0):
    return np.random.default_rng(seed).normal(mean, std, shape).astype(np.float32)


def with_mask(options, rows=512):
    mask = options.get("mask")
    return options if mask is None else {**options, "mask": jnp.asarray(mask[:rows])}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("data", DATA)
def test_variance_is_within_a_hundredth(data, way):
    # Flax gives variance 0 for N(1e4, 1); Haiku a negative one, then NaN, for N(1e3, 0.1).
    mean, std = DATA[data]
    x = draw(512, 2, mean=mean, std=std)
    stats = jax.jit(partial(moments, axes=(0,), **with_mask(WAYS[way])))(jnp.asarray(x))
    expected = numpy_variance(x, (0,), WAYS[way].get("mask"))
    assert numpy_one_pass_error(x) > 0.01, "the case must be one that unshifted sums of squares get wrong"
    chex.assert_trees_all_close(stats.variance, expected, rtol=0.01)


@pytest.mark.parametrize("way", WAYS)
def test_variance_over_eight_devices_is_within_a_hundredth(way):
    # One all-reduce of sums of squares would lose it again, however careful each device is.
    x = draw(8, 512, 2, mean=1e4, std=1.0)
    f = jax.pmap(partial(moments, axes=(0,), axis_name="batch", **with_mask(WAYS[way])), axis_name="batch")
    mask = WAYS[way].get("mask")
    expected = numpy_variance(x, (0, 1), None if mask is None else mask[None])
    chex.assert_trees_all_close(f(jnp.asarray(x)).variance, np.stack([expected] * 8), rtol=0.01)


def test_the_merged_mean_is_rounded_once():
    # An error common to all values does not average out in a gradient: weights like 7/31 must not add theirs.
    x = draw(8, 8, 64, mean=1e4, std=1.0)
    mask = (np.arange(8) < np.array([7, 1, 3, 5, 2, 8, 1, 4])[:, None])[..., None]
    f = jax.pmap(lambda x, mask: moments(x, (0,), mask=mask, axis_name="batch").mean, axis_name="batch")
    expected = numpy_moments(x, (0, 1), mask).mean
    chex.assert_trees_all_close(f(jnp.asarray(x), jnp.asarray(mask))[0], expected, rtol=1e-7)


def test_devices_far_from_each_other_keep_the_variance_of_their_means():
    # Each device sees its own class, say: nearly all variance is between the devices.
    x = draw(8, 16, 2, mean=0.0, std=1.0) + 1e3 * np.arange(8, dtype=np.float32)[:, None, None]
    stats = jax.pmap(partial(moments, axes=(0,), axis_name="batch"), axis_name="batch")(jnp.asarray(x))
    expected = numpy_moments(x, (0, 1))
    chex.assert_trees_all_close(jax.tree.map(lambda part: part[3], tuple(stats)), tuple(expected), rtol=1e-4)


@pytest.mark.parametrize("way", ["one pass", "two passes"])
@pytest.mark.parametrize("outlier", ["first pixel", "first example", "last example"])
def test_an_outlier_where_the_shift_is_taken_does_no_harm(outlier, way):
    # The one-pass shift is the mean of the first example: at worst it is the outlier, and all else far from it.
    x = draw(64, 4, 4, 2, mean=1e4, std=1.0)
    x[{"first pixel": (0, 0, 0), "first example": (0,), "last example": (-1,)}[outlier]] = -1e4
    stats = jax.jit(partial(moments, axes=(0, 1, 2), **WAYS[way]))(jnp.asarray(x))
    chex.assert_trees_all_close(stats.variance, numpy_variance(x, (0, 1, 2)), rtol=0.01)


@pytest.mark.parametrize("distance", [1e2, 1e4, 1e6])
@pytest.mark.parametrize(("fast", "rtol"), [(True, 1024 * 2.0**-23), (False, 1e-6)])
def test_an_outlier_in_front_of_many_rows_costs_what_the_docstring_says(distance, fast, rtol):
    # One pass: a factor of 1,024 is lost to cancellation at most. Two passes lose nothing.
    x = draw(4096, 2, mean=0.0, std=1.0)
    x[0] = distance
    stats = jax.jit(partial(moments, axes=(0,), use_fast_variance=fast))(jnp.asarray(x))
    chex.assert_trees_all_close(stats.variance, numpy_variance(x, (0,)), rtol=rtol)


@pytest.mark.parametrize("shape", [(64, 6, 5, 2), (3, 50, 50, 2), (5000, 2), (1, 1, 1, 2), (7, 1, 3000, 2)])
@pytest.mark.parametrize("outlier", [0.0, 1e4])
def test_the_pass_of_other_platforms_samples_one_value_in_1024(shape, outlier):
    # CPU takes another pass for real data, so this one is called by name.
    x = draw(*shape, mean=1e3, std=1.0)
    x[(0,) * (x.ndim - 1)] += outlier
    axes = tuple(range(x.ndim - 1))
    mean, m2 = _shifted_pass(jnp.asarray(x), axes)
    count = x[..., 0].size
    chex.assert_trees_all_close(mean, x.astype(np.float64).mean(axes), rtol=1e-5)
    chex.assert_trees_all_close(m2 / count, numpy_variance(x, axes), rtol=4 * 1024 * 2.0**-23, atol=1e-6)


@pytest.mark.parametrize("fast", [True, False])
def test_padding_in_front_does_not_set_the_shift(fast):
    # A shift taken from masked-out zeros would square the whole distance to data at 1e4.
    x = draw(512, 2, mean=1e4, std=1.0)
    x[:3] = 0.0
    mask = (np.arange(512) >= 3)[:, None]
    stats = jax.jit(lambda x: moments(x, (0,), mask=jnp.asarray(mask), use_fast_variance=fast))(jnp.asarray(x))
    chex.assert_trees_all_close(stats.variance, numpy_variance(x, (0,), mask), rtol=0.01)


@pytest.mark.parametrize("way", WAYS)
def test_outputs_and_gradients_far_from_zero_have_unit_scale(way):
    # A lost variance gives outputs of 1 / sqrt(eps), 316 times too large.
    x = draw(512, 2, mean=1e4, std=1.0)
    f = jax.jit(lambda x: batch_norm(x, **with_mask(WAYS[way]))[0])
    y, pull = jax.vjp(f, jnp.asarray(x))
    mask = WAYS[way].get("mask")
    chex.assert_trees_all_close(y, numpy_batch_norm(x, axes=(0,), mask=mask), rtol=0.01, atol=0.01)
    shifted = (x - np.float32(1e4)).astype(np.float32)
    (dx,), (expected,) = pull(jnp.sin(y)), jax.vjp(f, jnp.asarray(shifted))[1](jnp.sin(f(jnp.asarray(shifted))))
    chex.assert_trees_all_close(dx, expected, rtol=0.01, atol=0.01)


def numpy_one_pass_error(x):
    """Relative error of E[x**2] - E[x]**2 in float32."""
    one_pass = np.mean(np.square(x), 0, dtype=np.float32) - np.square(np.mean(x, 0, dtype=np.float32))
    return np.min(np.abs(one_pass / numpy_variance(x, (0,)) - 1))
