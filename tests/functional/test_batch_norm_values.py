"""Normalised values and running statistics against float64 NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from oracles import numpy_batch_norm, numpy_moments, widen

from normjax.functional import Moments, RunningStatistics, batch_norm, normalize, update_running_statistics

VARIANTS = {"with_jit": True, "without_jit": True, "with_device": True, "without_device": True, "with_pmap": True}


def draw(*shape, seed=0, shift=3.0):
    return (np.random.default_rng(seed).normal(size=shape) + shift).astype(np.float32)


def from_host(f):
    """The types ask for JAX arrays, so what the variant `without_device` hands over as NumPy is put back first."""
    return lambda *args: f(*jax.tree.map(jnp.asarray, args))


class BatchNormTest(chex.TestCase):
    @chex.variants(**VARIANTS)
    @parameterized.named_parameters(("conv", (2, 3, 3, 4), -1, (0, 1, 2)), ("channels_first", (3, 4, 2), 1, (0, 2)))
    def test_batch_norm_is_algorithm_1(self, shape, axis, axes):
        x, scale, bias = draw(*shape), draw(4, seed=1), draw(4, seed=2)
        f = self.variant(from_host(lambda *arrays: batch_norm(*arrays, axis=axis)))
        y, stats = f(*map(jnp.asarray, (x, scale, bias)))
        chex.assert_trees_all_close(y, numpy_batch_norm(x, scale, bias, axes=axes), rtol=1e-5, atol=1e-5)
        chex.assert_trees_all_close(tuple(stats), tuple(numpy_moments(x, axes)), rtol=1e-5)

    @chex.variants(**VARIANTS)
    def test_masked_batch_norm_normalises_by_the_values_that_count(self):
        # Those that do not count are normalised by the same statistics, as Flax does.
        x, scale, bias = draw(5, 4, 3), draw(3, seed=1), draw(3, seed=2)
        mask = np.random.default_rng(3).random((5, 4, 1)) < 0.5
        f = self.variant(from_host(lambda x, mask, *affine: batch_norm(x, *affine, mask=mask)[0]))
        expected = numpy_batch_norm(x, scale, bias, axes=(0, 1), mask=mask)
        chex.assert_trees_all_close(f(*map(jnp.asarray, (x, mask, scale, bias))), expected, rtol=1e-5, atol=1e-5)

    @chex.variants(**VARIANTS)
    def test_normalize_uses_the_given_statistics_and_no_others(self):
        # Batch statistics at inference would make an example's answer depend on its neighbours.
        x, mean, scale, bias = draw(2, 3, 4), draw(4, seed=1), draw(4, seed=2), draw(4, seed=3)
        variance = np.square(draw(4, seed=4))
        f = self.variant(from_host(lambda *arrays: normalize(*arrays, epsilon=0.1)))
        expected = (widen(x) - mean) / np.sqrt(widen(variance) + 0.1) * scale + bias
        chex.assert_trees_all_close(f(*map(jnp.asarray, (x, mean, variance, scale, bias))), expected, rtol=1e-5)

    @chex.variants(**VARIANTS)
    @parameterized.named_parameters(("biased", False, 5), ("unbiased", True, 4))
    def test_running_statistics_keep_the_share_of_momentum(self, unbiased, divisor):
        # Momentum is the share of the old value (PyTorch's is that of the new); fault 4: m/(m-1) only where asked for.
        x = draw(5, 3)
        old = RunningStatistics(jnp.asarray(draw(3, seed=1)), jnp.asarray(np.square(draw(3, seed=2))))
        batch = Moments(*(jnp.asarray(part, jnp.float32) for part in numpy_moments(x, (0,))))
        f = self.variant(from_host(lambda a, b: update_running_statistics(a, b, momentum=0.7, unbiased=unbiased)))
        expected = (
            0.7 * widen(old.mean) + 0.3 * x.mean(0, dtype=np.float64),
            0.7 * widen(old.variance) + 0.3 * np.square(x - x.mean(0, dtype=np.float64)).sum(0) / divisor,
        )
        chex.assert_trees_all_close(tuple(f(old, batch)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "axis", "axes"),
    [
        ((6, 3), -1, (0,)),
        ((2, 3, 2, 2, 4), -1, (0, 1, 2, 3)),
        ((2, 3, 4), (1, -1), (0,)),
        ((2, 3, 4), [2, 0], (1,)),
        ((6, 1), 1, (0,)),
        ((1, 3), -1, (0,)),
        ((3,), 0, ()),
    ],
)
def test_any_axes_may_be_features(shape, axis, axes):
    # Affine parameters follow the order of the array's axes, whatever the order in `axis`.
    x, features = draw(*shape), tuple(size for i, size in enumerate(shape) if i not in axes)
    scale, bias = draw(*features, seed=1), draw(*features, seed=2)
    f = jax.jit(lambda *arrays: [batch_norm(*arrays, axis=axis, use_fast_variance=fast)[0] for fast in (True, False)])
    expected = numpy_batch_norm(x, scale, bias, axes=axes)
    for y in f(*map(jnp.asarray, (x, scale, bias))):
        chex.assert_trees_all_close(y, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("epsilon", [1e-5, 0.3])
@pytest.mark.parametrize(("has_scale", "has_bias"), [(True, False), (False, True), (False, False)])
def test_absent_parameters_are_one_and_zero(has_scale, has_bias, epsilon):
    # With the epsilon outside the root, or ignored as in reference whitening code, 0.3 gives other values.
    x, scale, bias = draw(6, 3), draw(3, seed=1) if has_scale else None, draw(3, seed=2) if has_bias else None
    given = [None if array is None else jnp.asarray(array) for array in (x, scale, bias)]
    expected = numpy_batch_norm(x, scale, bias, axes=(0,), epsilon=epsilon)
    chex.assert_trees_all_close(batch_norm(*given, epsilon=epsilon)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_normalised_in_float32_and_rounded_once(dtype):
    # The result is the oracle of the rounded input, rounded to half precision: no other rounding on the way.
    x, scale, bias = jnp.asarray(draw(64, 3), dtype), jnp.asarray(draw(3)), jnp.asarray(draw(3, seed=1))
    y, stats = jax.jit(batch_norm)(x, scale, bias)
    assert y.dtype == dtype
    chex.assert_trees_all_close(tuple(stats), tuple(numpy_moments(x, (0,))), rtol=1e-5)
    half_unit = float(jnp.finfo(dtype).eps) / 2
    chex.assert_trees_all_close(widen(y), numpy_batch_norm(x, scale, bias, axes=(0,)), rtol=1.01 * half_unit, atol=1e-5)


def test_output_type_can_be_chosen_apart_from_the_input():
    # A bfloat16 network may want float32 logits: the answer must not pass through bfloat16.
    x = jnp.asarray(draw(16, 3), jnp.bfloat16)
    expected = numpy_batch_norm(x, axes=(0,))
    chex.assert_trees_all_close(batch_norm(x, dtype=jnp.float32)[0], expected.astype(np.float32), rtol=1e-5, atol=1e-5)
    given = [jnp.zeros(3), jnp.ones(3)]
    expected = widen(x) / np.sqrt(1 + 1e-5)
    chex.assert_trees_all_close(normalize(x, *given, dtype=jnp.float32), expected.astype(np.float32), rtol=1e-6)


def test_complex_input_is_normalised_to_unit_power():
    # The variance of complex values is E|x - mean|**2, so real and imaginary parts keep their proportions.
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(9, 2)) + 3j * rng.normal(size=(9, 2))).astype(np.complex64)
    y, _ = jax.jit(batch_norm)(jnp.asarray(x))
    chex.assert_trees_all_close(y, numpy_batch_norm(x, axes=(0,)), rtol=1e-5, atol=1e-5)


def test_batched_calls_normalise_each_batch_by_itself():
    # vmap over independent batches (an ensemble, say) must not mix their statistics.
    x, scale = draw(4, 6, 3), draw(4, 3, seed=1)
    y, _ = jax.vmap(batch_norm)(jnp.asarray(x), jnp.asarray(scale))
    expected = np.stack([numpy_batch_norm(*pair, axes=(0,)) for pair in zip(x, scale, strict=True)])
    chex.assert_trees_all_close(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: batch_norm(x, axis=2), r"axes=\(2,\) out of range for an array of 2 dimensions; use -2 to 1"),
        (lambda x: batch_norm(x, jnp.ones(4)), r"scale of shape \(4,\) does not fit .*; use shape \(3,\)"),
        (lambda x: batch_norm(x, None, jnp.ones(1)), r"bias of shape \(1,\) does not fit .*; use shape \(3,\)"),
        (lambda x: batch_norm(x, mask=jnp.ones(6, bool)), r"mask of shape \(6,\) does not broadcast"),
        (lambda x: batch_norm(x, epsilon=-1e-5), "epsilon=-1e-05 is negative; use 0 or more"),
        (lambda x: normalize(x, jnp.ones(1), jnp.ones(1)), r"mean of shape \(1,\) does not fit .*; use shape \(3,\)"),
        (lambda x: normalize(x, jnp.ones(3), jnp.ones(3), axis=0), r"use shape \(6,\)"),
    ],
)
def test_what_would_give_plausible_numbers_is_refused(call, message):
    # One value for all features or a mask of rows without its trailing axis would broadcast, to the wrong thing.
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((6, 3)))
