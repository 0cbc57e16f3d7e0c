"""What Ioffe and Szegedy (2015) state about batch normalization: Algorithm 2, the identity, scale invariance."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import widen

from normjax.functional import (
    RunningStatistics,
    batch_norm,
    empty_moments,
    merge,
    moments,
    normalize,
    update_running_statistics,
)


def draw(*shape, seed=0, shift=1.0):
    return np.random.default_rng(seed).normal(size=shape) + shift


def test_running_statistics_after_many_batches_are_those_of_algorithm_2():
    # Var[x] = m/(m-1) E_B[var_B] and E[x] = E_B[mean_B]: momentum 1 - 1/k makes the moving average the plain one.
    m, batches = 4, draw(5, 4, 3)
    running = RunningStatistics(jnp.zeros(3), jnp.ones(3))
    for k, batch in enumerate(batches, start=1):
        stats = moments(jnp.asarray(batch, jnp.float32), (0,))
        running = update_running_statistics(running, stats, momentum=1 - 1 / k, unbiased=True)
    expected = batches.mean(1).mean(0), m / (m - 1) * batches.var(1).mean(0)
    chex.assert_trees_all_close(tuple(running), expected, rtol=1e-5)


def test_inference_is_the_linear_transform_of_algorithm_2():
    # y = gamma / sqrt(Var + eps) x + (beta - gamma E / sqrt(Var + eps)), step 11 as it stands.
    x, mean, scale, bias = draw(6, 3), draw(3, seed=1), draw(3, seed=2), draw(3, seed=3)
    variance, epsilon = np.square(draw(3, seed=4)), 1e-3
    gain = scale / np.sqrt(variance + epsilon)
    given = [jnp.asarray(array, jnp.float32) for array in (x, mean, variance, scale, bias)]
    actual = normalize(*given, epsilon=epsilon)
    chex.assert_trees_all_close(actual, gain * x + (bias - gain * mean), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [-1, 1])
def test_gamma_of_the_deviation_and_beta_of_the_mean_recover_the_input(axis):
    # "the network can represent the identity": gamma = sqrt(Var + eps), beta = E.
    x = jnp.asarray(draw(4, 3, 3), jnp.float32)
    axes = tuple({0, 1, 2} - {axis % 3})
    scale = np.sqrt(np.var(x, axes) + 1e-5)
    y, _ = batch_norm(x, jnp.asarray(scale), jnp.asarray(np.mean(x, axes)), axis=axis)
    chex.assert_trees_all_close(y, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("a", [0.125, 30.0])
def test_scale_of_the_weights_does_not_matter(a):
    # Section 3.3 for epsilon -> 0: BN(aWu) = BN(Wu), d/du the same, and d/d(aW) is 1/a times d/dW.
    with jax.enable_x64(True):
        u, w, upstream = (jnp.asarray(draw(*shape, seed=i)) for i, shape in enumerate([(8, 5), (5, 3), (8, 3)]))

        @jax.jit
        def layer(w, u):
            return batch_norm(u @ w, epsilon=1e-30)[0]

        y, pull = jax.vjp(layer, w, u)
        y_scaled, pull_scaled = jax.vjp(layer, a * w, u)
        (dw, du), (dw_scaled, du_scaled) = pull(upstream), pull_scaled(upstream)
        chex.assert_trees_all_close(y_scaled, y, rtol=1e-10, atol=1e-12)
        chex.assert_trees_all_close(du_scaled, du, rtol=1e-9, atol=1e-11)
        chex.assert_trees_all_close(dw_scaled, dw / a, rtol=1e-9, atol=1e-11)


def test_bias_before_normalization_has_no_effect_and_no_gradient():
    # "the bias b can be ignored since its effect will be canceled": a gradient left over would move it for ever.
    with jax.enable_x64(True):
        x, upstream = jnp.asarray(draw(8, 3)), jnp.asarray(draw(8, 3, seed=1))
        y, pull = jax.vjp(lambda b: batch_norm(x + b[None])[0], jnp.asarray(draw(3, seed=2)))
        chex.assert_trees_all_close(y, batch_norm(x)[0], rtol=1e-9)
        chex.assert_trees_all_close(pull(upstream)[0], jnp.zeros(3), atol=1e-12)


@pytest.mark.parametrize("unbiased", [False, True])
def test_merged_micro_batches_update_like_the_whole_batch(unbiased):
    # Fault 8: one update from three micro-batches is that of their union, whose m counts all rows.
    x = draw(9, 3, shift=4.0)
    pooled = empty_moments((3,))
    for rows in (x[:2], x[2:3], x[3:]):
        pooled = merge(pooled, moments(jnp.asarray(rows, jnp.float32), (0,)))
    running = RunningStatistics(jnp.zeros(3), jnp.ones(3))
    new = update_running_statistics(running, pooled, momentum=0.9, unbiased=unbiased)
    expected = 0.1 * x.mean(0), 0.9 + 0.1 * x.var(0, ddof=int(unbiased))
    chex.assert_trees_all_close(tuple(new), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_running_statistics_keep_their_own_type(dtype):
    # A scan over steps needs a carry of one type; the average itself is rounded only when stored.
    running = RunningStatistics(jnp.full(3, 2, dtype), jnp.full(3, 3, dtype))
    new = update_running_statistics(running, moments(jnp.asarray(draw(8, 3), jnp.float32), (0,)), momentum=0.5)
    x = draw(8, 3).astype(np.float32)
    assert {part.dtype for part in new} == {np.dtype(dtype)}
    expected = 1 + x.mean(0) / 2, 1.5 + x.var(0) / 2
    chex.assert_trees_all_close(tuple(map(widen, new)), expected, rtol=2 * float(jnp.finfo(dtype).eps))
