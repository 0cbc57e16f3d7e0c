"""The functions mix no types by accident: they run under JAX's strict promotion, with the same results."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import numpy_batch_norm, numpy_moments, widen

from normjax.functional import (
    RunningStatistics,
    batch_norm,
    empty_moments,
    merge,
    moments,
    normalize,
    update_running_statistics,
)

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16, jnp.complex64]


def draw(*shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) + (1j * rng.normal(size=shape) if dtype == jnp.complex64 else 0)
    return jnp.asarray(x, dtype)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("affine", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("dtype", DTYPES)
def test_training_form_runs_and_has_the_same_answer(dtype, affine, masked):
    # An implicit bfloat16 * float32 is where a result silently changes its type; so is one with a weak Python float.
    x, upstream = draw(6, 3, dtype=dtype), draw(6, 3, dtype=dtype, seed=1)
    scale, bias = draw(3, dtype=affine, seed=2), draw(3, dtype=affine, seed=3)
    mask = jnp.asarray(np.arange(6) < 4)[:, None] if masked else None

    @jax.jit
    def step(*arrays):
        return jax.vjp(lambda *arrays: batch_norm(*arrays, mask=mask)[0], *arrays)[1](upstream)

    with jax.numpy_dtype_promotion("strict"):
        y, stats = jax.jit(lambda *arrays: batch_norm(*arrays, mask=mask))(x, scale, bias)
        grads = step(x, scale, bias)
    assert [y.dtype, *(part.dtype for part in grads)] == [dtype, dtype, affine, affine]
    eps = float(jnp.finfo(dtype).eps)
    expected = numpy_batch_norm(x, scale, bias, axes=(0,), mask=mask)
    chex.assert_trees_all_close(widen(y), expected, rtol=4 * eps, atol=1e-5 + eps)
    chex.assert_trees_all_close(tuple(stats), tuple(numpy_moments(x, (0,), mask)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_inference_and_running_statistics_run_and_have_the_same_answer(dtype):
    # The state of a half-precision network is float32 and its mean complex where the data are.
    x, first, second = (draw(5, 3, dtype=dtype, seed=seed) for seed in range(3))
    with jax.numpy_dtype_promotion("strict"):
        mean_type = jnp.complex64 if dtype == jnp.complex64 else jnp.float32
        pooled = merge(merge(empty_moments((3,), mean_type), moments(first, (0,))), moments(second, (0,)))
        running = update_running_statistics(RunningStatistics(jnp.zeros(3), jnp.ones(3)), pooled, momentum=0.5)
        y = normalize(x, running.mean, running.variance, jnp.ones(3), jnp.zeros(3), epsilon=0.0)
    both = np.concatenate([widen(first), widen(second)])
    mean, variance = both.mean(0) / 2, (1 + both.var(0)) / 2
    chex.assert_trees_all_close(tuple(running), (mean, variance), rtol=1e-5, atol=1e-6)
    eps = float(jnp.finfo(dtype).eps)
    assert y.dtype == dtype
    chex.assert_trees_all_close(widen(y), (widen(x) - mean) / np.sqrt(variance), rtol=4 * eps, atol=1e-5 + eps)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_shared_statistics_run_and_have_the_same_answer(dtype, masked):
    # Count, mean and m2 are packed into one array for the collective, complex mean included.
    x, mask = draw(2, 6, 3, dtype=dtype), np.arange(6) < np.array([5, 1])[:, None]
    mask = mask[..., None] if masked else np.ones((2, 6, 1), bool)

    def step(x, mask):
        given = mask if masked else None
        y, pull, stats = jax.vjp(lambda x: batch_norm(x, mask=given, axis_name="batch"), x, has_aux=True)
        return y, *pull(y), tuple(stats)

    with jax.numpy_dtype_promotion("strict"):
        y, dx, stats = jax.jit(jax.vmap(step, axis_name="batch"))(x, jnp.asarray(mask))
    eps = float(jnp.finfo(dtype).eps)
    assert dx.dtype == dtype
    expected = numpy_batch_norm(x, axes=(0, 1), mask=mask)
    chex.assert_trees_all_close(widen(y), expected, rtol=4 * eps, atol=1e-5 + eps)
    expected = tuple(np.stack([part] * 2) for part in numpy_moments(x, (0, 1), mask))
    chex.assert_trees_all_close(stats, expected, rtol=1e-5, atol=1e-6)
