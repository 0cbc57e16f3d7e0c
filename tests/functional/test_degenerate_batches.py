"""Fault 2 and its kin: batches in which nothing counts, padding of NaN, constants, no rows, one row."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import numpy_batch_norm, numpy_batch_norm_gradients, numpy_moments

from normjax.functional import RunningStatistics, batch_norm, moments, update_running_statistics

GARBAGE = {"nan": np.nan, "inf": np.inf, "minus_inf": -np.inf, "huge": 1e30}


def draw(*shape, seed=0):
    return (np.random.default_rng(seed).normal(size=shape) + 1).astype(np.float32)


def outputs_and_gradients(x, upstream, scale, bias, mask=None, **options):
    mask = None if mask is None else jnp.asarray(mask)

    def loss(x, scale, bias):
        y, stats = batch_norm(x, scale, bias, mask=mask, **options)
        return (y * upstream).sum(), (y, stats)

    step = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
    (_, (y, stats)), grads = step(*map(jnp.asarray, (x, scale, bias)))
    return y, stats, grads


@pytest.mark.parametrize("garbage", GARBAGE)
def test_padding_leaves_no_trace_on_the_rows_that_count(garbage):
    # Flax: NaN in padding gives NaN gradients on valid rows. Here they are those of the batch without the padding.
    x, upstream, scale, bias = draw(4, 5, 3), draw(4, 5, 3, seed=1), draw(3, seed=2), draw(3, seed=3)
    mask = np.arange(5) < np.array([5, 2, 3, 1])[:, None]
    padded = np.where(mask[..., None], x, np.float32(GARBAGE[garbage]))
    upstream[~mask] = 0  # as a loss over valid positions has it
    y, stats, (dx, dscale, dbias) = outputs_and_gradients(padded, upstream, scale, bias, mask[..., None])

    valid = x[mask]
    chex.assert_trees_all_close(tuple(stats), tuple(numpy_moments(valid, (0,))), rtol=1e-5)
    chex.assert_trees_all_close(y[mask], numpy_batch_norm(valid, scale, bias, axes=(0,)), rtol=1e-4, atol=1e-5)
    expected = numpy_batch_norm_gradients(valid, upstream[mask], scale, axes=(0,))
    chex.assert_trees_all_close((dx[mask], dscale, dbias), expected, rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_equal(dx[~mask], np.zeros_like(x[~mask]))


@pytest.mark.parametrize("garbage", ["nan", "inf", "minus_inf"])
def test_padding_that_is_not_finite_counts_as_the_mean_even_under_a_loss(garbage):
    # A loss over all positions meets beta there: finite values, and a gradient for beta alone.
    x, upstream, scale, bias = draw(6, 3), draw(6, 3, seed=1), draw(3, seed=2), draw(3, seed=3)
    mask = (np.arange(6) < 4)[:, None]
    padded = np.where(mask, x, np.float32(GARBAGE[garbage]))
    y, _, grads = outputs_and_gradients(padded, upstream, scale, bias, mask)
    chex.assert_trees_all_close(y, numpy_batch_norm(padded, scale, bias, axes=(0,), mask=mask), rtol=1e-4, atol=1e-5)
    expected = numpy_batch_norm_gradients(padded, upstream, scale, axes=(0,), mask=mask)
    chex.assert_trees_all_close(grads, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("garbage", [None, "nan"])
def test_nothing_counts_gives_finite_values_and_gradients(garbage):
    # Flax: 0 / 0. Here mean 0 and variance 0 stand in, as an empty set of moments has them.
    x = draw(4, 3) if garbage is None else np.full((4, 3), np.nan, np.float32)
    upstream, scale, bias = draw(4, 3, seed=1), draw(3, seed=2), draw(3, seed=3)
    y, stats, grads = outputs_and_gradients(x, upstream, scale, bias, np.zeros((4, 1), bool))
    chex.assert_trees_all_equal(tuple(stats), (np.zeros(3, np.float32),) * 3)
    mask = np.zeros((4, 1), bool)
    expected = numpy_batch_norm(x, scale, bias, axes=(0,), mask=mask)
    chex.assert_trees_all_close(y, expected, rtol=1e-4, atol=1e-4)
    expected = numpy_batch_norm_gradients(x, upstream, scale, axes=(0,), mask=mask)
    chex.assert_trees_all_close(grads, expected, rtol=1e-4, atol=1e-4)


def test_features_without_a_value_keep_their_running_statistics():
    # An empty batch has mean 0 and variance 0: averaging them in would pull the population there.
    running = RunningStatistics(jnp.array([5.0, 6.0]), jnp.array([7.0, 8.0]))
    x, mask = draw(4, 2), np.array([True, False])
    new = update_running_statistics(running, moments(jnp.asarray(x), (0,), mask=jnp.asarray(mask)), momentum=0.5)
    expected = (5 + x[:, 0].mean()) / 2, (7 + x[:, 0].var()) / 2
    chex.assert_trees_all_close((new.mean[0], new.variance[0]), expected, rtol=1e-5)
    chex.assert_trees_all_equal((new.mean[1], new.variance[1]), (np.float32(6), np.float32(8)))


@pytest.mark.parametrize(("value", "fast"), [(0.0, True), (0.1, True), (0.1, False), (-1e4, True), (1e8, True)])
def test_constant_input_gives_the_bias_and_finite_gradients(value, fast):
    # Reference whitening code without its eps gives NaN; a negative rounded variance would, too.
    x, upstream = np.full((5, 3, 3), value, np.float32), draw(5, 3, 3, seed=1)
    scale, bias = draw(3, seed=2), draw(3, seed=3)
    y, stats, grads = outputs_and_gradients(x, upstream, scale, bias, use_fast_variance=fast)
    chex.assert_trees_all_close(stats.variance, np.zeros(3), atol=1e-9)
    chex.assert_trees_all_close(y, np.broadcast_to(bias, x.shape), atol=1e-4)
    expected = numpy_batch_norm_gradients(x, upstream, scale, axes=(0, 1))
    chex.assert_trees_all_close(grads, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("masked", [False, True])
def test_batch_of_no_rows_gives_no_rows_and_no_statistics(masked):
    # The last shard of a data set may be empty; Flax gives NaN statistics, which then stay in the running ones.
    mask = np.zeros((0, 1), bool) if masked else None
    x, scale, bias = draw(0, 3), draw(3, seed=2), draw(3, seed=3)
    y, stats, grads = outputs_and_gradients(x, x, scale, bias, mask)
    zeros = np.zeros(3, np.float32)
    chex.assert_trees_all_equal((y, tuple(stats), grads), (x, (zeros,) * 3, (x, zeros, zeros)))


@pytest.mark.parametrize("masked", [False, True])
def test_batch_of_one_row_gives_the_bias_and_no_gradient_for_the_input(masked):
    # One value is its own mean: y = beta, dx = 0, and the unbiased variance is not 0 / 0.
    x, upstream, scale, bias = draw(3, 2), draw(3, 2, seed=1), draw(2, seed=2), draw(2, seed=3)
    mask = (np.arange(3) == 1)[:, None] if masked else None
    rows = slice(1, 2)
    x, upstream = (x, np.where(mask, upstream, 0)) if masked else (x[rows], upstream[rows])
    y, stats, grads = outputs_and_gradients(x, upstream, scale, bias, mask)
    chex.assert_trees_all_close(y[rows] if masked else y, bias[None], atol=1e-4)
    chex.assert_trees_all_close(grads, (np.zeros_like(x), np.zeros(2), upstream.sum(0)), atol=1e-4)
    chex.assert_trees_all_equal((stats.variance, stats.unbiased_variance), (np.zeros(2, np.float32),) * 2)
