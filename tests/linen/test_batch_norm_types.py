"""Types of input, parameters and result: as Flax has them, with statistics in float32 or wider."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from oracles import numpy_batch_norm, numpy_moments, numpy_variance, widen

import normjax

HALF, SINGLE, COMPLEX = jnp.bfloat16, jnp.float32, jnp.complex64


def draw(*shape, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    imaginary = 1j * rng.normal(size=shape) if dtype == COMPLEX else 0
    return jnp.asarray(rng.normal(size=shape) + 0.5 + imaginary, dtype)


def flax_allowed(f, *args, **kwargs):
    with jax.numpy_rank_promotion("allow"):
        return f(*args, **kwargs)


def both_modes(layer, variables, x):
    """Output and statistics in training, and output at inference."""

    @jax.jit
    def run(variables, x):
        y, updates = layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
        return y, updates, layer.apply(variables, x, use_running_average=True)

    return run(variables, x)


@pytest.mark.parametrize(
    ("x", "dtype", "param_dtype"),
    [
        (SINGLE, None, SINGLE),
        (SINGLE, HALF, SINGLE),
        (SINGLE, jnp.float16, HALF),
        (SINGLE, None, HALF),
        (HALF, None, SINGLE),
        (HALF, HALF, SINGLE),
        (HALF, None, HALF),
        (HALF, SINGLE, HALF),
        (jnp.float16, None, SINGLE),
        (jnp.float16, None, HALF),
        (COMPLEX, None, SINGLE),
        (jnp.int32, None, SINGLE),
        (jnp.uint8, HALF, SINGLE),
    ],
)
def test_types_and_values_are_those_of_flax(x, dtype, param_dtype):
    # A result one type too narrow or too wide changes the whole network behind it.
    x = jnp.asarray(np.abs(draw(8, 3)) * 9, x) if jnp.issubdtype(x, jnp.integer) else draw(8, 3, dtype=x)
    ours, theirs = (cls(dtype=dtype, param_dtype=param_dtype) for cls in (normjax.BatchNorm, nn.BatchNorm))
    variables = jax.jit(partial(ours.init, use_running_average=True))(jax.random.key(0), x)
    fresh = flax_allowed(jax.eval_shape, partial(theirs.init, use_running_average=True), jax.random.key(0), x)
    chex.assert_trees_all_equal_dtypes(variables, fresh)
    actual, expected = both_modes(ours, variables, x), flax_allowed(both_modes, theirs, variables, x)
    chex.assert_trees_all_equal_dtypes(actual, expected)
    eps = float(jnp.finfo(expected[0].dtype).eps)
    chex.assert_trees_all_close(*(jax.tree.map(widen, tree) for tree in (actual, expected)), rtol=2 * eps, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("masked", [False, True])
def test_half_precision_input_moves_float32_statistics(dtype, masked):
    # Haiku's bfloat16 running state cannot hold a step of 1 %. Expected: float64 statistics of the rounded input.
    x = draw(2048, 3, dtype=dtype)
    mask = jnp.asarray(np.arange(2048) % 3 > 0)[:, None] if masked else None
    layer = normjax.BatchNorm(use_running_average=False, momentum=0.99, param_dtype=dtype)
    variables = layer.init(jax.random.key(0), x)
    y, updates = layer.apply(variables, x, mask=mask, mutable=["batch_stats"])
    count, mean, m2 = numpy_moments(x, (0,), mask)
    expected = {"mean": 0.01 * mean, "var": 0.99 + 0.01 * m2 / count}
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {np.dtype(np.float32)}
    chex.assert_trees_all_close(updates["batch_stats"], expected, rtol=1e-5)
    half_unit = float(jnp.finfo(dtype).eps) / 2
    expected = numpy_batch_norm(x, axes=(0,), mask=mask)
    chex.assert_trees_all_close(widen(y), expected, rtol=1.01 * half_unit, atol=1e-5)


def test_complex_input_has_a_complex_running_mean():
    # The state starts real (as in Flax) and becomes complex with the first batch.
    x = draw(8, 3, dtype=COMPLEX)
    layer = normjax.BatchNorm(use_running_average=False, momentum=0.5)
    y, updates = layer.apply(layer.init(jax.random.key(0), x), x, mutable=["batch_stats"])
    expected = {"mean": widen(x).mean(0) / 2, "var": (1 + numpy_variance(x, (0,))) / 2}
    chex.assert_trees_all_close(updates["batch_stats"], expected, rtol=1e-5)
    chex.assert_trees_all_close(y, numpy_batch_norm(x, axes=(0,)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [None, jnp.float16, jnp.bfloat16])
def test_integers_are_not_rounded_before_they_are_counted(dtype):
    # Flax takes statistics of integers in float32: in bfloat16, 901 and 903 are the same number.
    x = jnp.arange(900, 912, dtype=jnp.int32).reshape(6, 2)
    layer = normjax.BatchNorm(use_running_average=False, momentum=0.0, dtype=dtype)
    y, updates = layer.apply(layer.init(jax.random.key(0), x), x, mutable=["batch_stats"])
    expected = {"mean": widen(x).mean(0), "var": numpy_variance(x, (0,))}
    chex.assert_trees_all_close(updates["batch_stats"], expected, rtol=1e-5)
    chex.assert_trees_all_close(widen(y), numpy_batch_norm(x, axes=(0,)), rtol=float(jnp.finfo(y.dtype).eps), atol=1e-6)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_integers_are_not_rounded_before_inference(dtype):
    # As above, by the running statistics.
    x = jnp.arange(900, 912, dtype=jnp.int32).reshape(6, 2)
    layer = normjax.BatchNorm(use_running_average=True, dtype=dtype)
    variables = layer.init(jax.random.key(0), x)
    variables["batch_stats"] = {"mean": jnp.full(2, 905.5), "var": jnp.full(2, 12.0)}
    y = layer.apply(variables, x)
    expected = (widen(x) - 905.5) / np.sqrt(12.0 + 1e-5)
    chex.assert_trees_all_close(widen(y), expected, rtol=float(jnp.finfo(y.dtype).eps), atol=1e-6)


def test_double_precision_input_is_normalised_in_double_precision():
    # float64 results, as Flax has them, good to more than float32's seven digits.
    with jax.enable_x64(True):
        x = draw(8, 3, dtype=np.float64)
        layer, theirs = (cls(use_running_average=False) for cls in (normjax.BatchNorm, nn.BatchNorm))
        variables = layer.init(jax.random.key(0), x)
        y, _ = layer.apply(variables, x, mutable=["batch_stats"])
        expected, _ = flax_allowed(theirs.apply, variables, x, mutable=["batch_stats"])
        assert y.dtype == expected.dtype == np.float64
        chex.assert_trees_all_close(y, numpy_batch_norm(x, axes=(0,)), rtol=1e-12)


def test_statistics_in_the_type_of_the_parameters_on_request():
    # force_float32_reductions=False keeps the state in param_dtype, as Flax does; it is computed in float32 first.
    x = draw(64, 3, dtype=HALF)
    options = {"use_running_average": False, "param_dtype": HALF, "force_float32_reductions": False}
    ours, theirs = (cls(**options) for cls in (normjax.BatchNorm, nn.BatchNorm))
    variables = ours.init(jax.random.key(0), x)
    chex.assert_trees_all_equal_dtypes(variables, flax_allowed(jax.eval_shape, theirs.init, jax.random.key(0), x))
    actual = ours.apply(variables, x, mutable=["batch_stats"])
    expected = flax_allowed(theirs.apply, variables, x, mutable=["batch_stats"])
    chex.assert_trees_all_equal_dtypes(actual, expected)
    mean, var = 0.01 * widen(x).mean(0), 0.99 + 0.01 * numpy_variance(x, (0,))
    stats = jax.tree.map(widen, actual[1]["batch_stats"])
    chex.assert_trees_all_close(stats, {"mean": mean, "var": var}, rtol=float(jnp.finfo(HALF).eps))


@pytest.mark.parametrize("dtype", [SINGLE, HALF, jnp.float16, COMPLEX])
def test_the_layer_runs_under_strict_promotion(dtype):
    # The type of the result is named, as strict mode asks: float32 parameters and bfloat16 input leave it open.
    x = draw(8, 3, dtype=dtype)
    layer = normjax.BatchNorm(dtype=dtype, momentum=0.5)
    with jax.numpy_dtype_promotion("strict"):
        variables = layer.init(jax.random.key(0), x, use_running_average=True)
        y, updates = layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
        evaluated = layer.apply({**variables, **updates}, x, use_running_average=True)
    eps = float(jnp.finfo(dtype).eps)
    mean, variance = widen(x).mean(0) / 2, (1 + numpy_variance(x, (0,))) / 2
    chex.assert_trees_all_close(updates["batch_stats"], {"mean": mean, "var": variance}, rtol=1e-5)
    chex.assert_trees_all_close(widen(y), numpy_batch_norm(x, axes=(0,)), rtol=2 * eps, atol=1e-5)
    expected = (widen(x) - mean) / np.sqrt(variance + 1e-5)
    chex.assert_trees_all_close(widen(evaluated), expected, rtol=2 * eps, atol=1e-5)
