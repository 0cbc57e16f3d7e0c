"""Count, mean and sum of squared deviations against the same in float64 NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from oracles import numpy_moments

from normjax.functional import Moments, moments

VARIANTS = {"with_jit": True, "without_jit": True, "with_device": True, "without_device": True, "with_pmap": True}


def draw(*shape, seed=0, shift=3.0):
    return (np.random.default_rng(seed).normal(size=shape) + shift).astype(np.float32)


def assert_moments(actual, expected, rtol=1e-5):
    chex.assert_trees_all_close(tuple(actual), tuple(expected), rtol=rtol, atol=1e-6)


class MomentsTest(chex.TestCase):
    # The types ask for JAX arrays, so what `without_device` hands over as NumPy is put back first.
    @chex.variants(**VARIANTS)
    @parameterized.named_parameters(("dense", (7, 3), (0,)), ("channels_first", (2, 5, 4, 3), (0, 2, 3)))
    def test_moments_are_those_of_the_values(self, shape, axes):
        x = draw(*shape)
        f = self.variant(lambda x: moments(jnp.asarray(x), axes))
        assert_moments(f(jnp.asarray(x)), numpy_moments(x, axes))

    @chex.variants(**VARIANTS)
    def test_masked_moments_are_those_of_the_values_that_count(self):
        x, mask = draw(6, 4, 3), np.random.default_rng(1).random((6, 4, 1)) < 0.6
        f = self.variant(lambda x, mask: moments(jnp.asarray(x), (0, 1), mask=jnp.asarray(mask)))
        assert_moments(f(jnp.asarray(x), jnp.asarray(mask)), numpy_moments(x, (0, 1), mask))


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((2, 4, 3, 5), (0, 1, 2)),
        ((4, 2, 3, 2), (0, 2)),
        ((4, 2, 3), (-1, -3)),
        ((2, 3, 2, 2, 4), (0, 1, 2, 3)),
        ((6, 1), (0,)),
        ((1, 3), (0,)),
        ((0, 3), (0,)),
        ((4, 2), ()),
        ((5,), (0,)),
    ],
)
def test_any_axes_and_sizes_may_be_reduced(shape, axes):
    # One forgotten or doubled axis, or a wrong divisor, shows in count, mean or m2; no rows give zeros, not NaN.
    # Both ways of the variance in one program, as compiling is what takes time here.
    x = draw(*shape)
    f = jax.jit(lambda x: [moments(x, axes, use_fast_variance=fast) for fast in (True, False)])
    for result in f(jnp.asarray(x)):
        assert_moments(result, numpy_moments(x, axes))


@pytest.mark.parametrize("mask_shape", [(6, 1, 1), (6, 4, 1), (6, 4, 3), (3,), (1, 4, 1), ()])
def test_values_that_do_not_count_leave_no_trace(mask_shape):
    # Fault 2: NaN, infinity and a huge number stand wherever the mask is False, whatever axes it covers.
    x, mask = draw(6, 4, 3), np.random.default_rng(1).random(mask_shape) < 0.6
    dirty = np.where(mask, x, np.resize(np.array([np.nan, np.inf, -np.inf, 1e30], np.float32), x.shape))
    f = jax.jit(lambda x, mask: moments(x, (0, 1), mask=mask))
    assert_moments(f(jnp.asarray(dirty), jnp.asarray(mask)), numpy_moments(x, (0, 1), mask))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_summed_in_float32(dtype):
    # Haiku keeps bfloat16 statistics; 4096 values summed in half precision would stop at a few hundred.
    x = jnp.asarray(draw(4096, 2), dtype)
    result = moments(x, (0,))
    assert {part.dtype for part in result} == {np.dtype(np.float32)}
    assert_moments(result, numpy_moments(x, (0,)))


@pytest.mark.parametrize("masked", [False, True])
def test_complex_values_have_a_complex_mean_and_real_deviations(masked):
    # |x - mean|**2, not (x - mean)**2, which is complex and may be 0.
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(9, 2)) + 1j * rng.normal(size=(9, 2))).astype(np.complex64)
    mask = rng.random((9, 1)) < 0.5 if masked else None
    result = moments(jnp.asarray(x), (0,), mask=None if mask is None else jnp.asarray(mask))
    assert [part.dtype for part in result] == [np.float32, np.complex64, np.float32]
    assert_moments(result, numpy_moments(x, (0,), mask))


def test_double_precision_stays_double():
    # A cast to float32 on the way would leave seven digits of sixteen.
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(8, 3)) + 1e3
        assert_moments(moments(jnp.asarray(x), (0,)), numpy_moments(x, (0,)), rtol=1e-14)


def test_batched_moments_are_those_of_each_batch():
    # Masks and data of different examples must not meet under vmap.
    x, mask = draw(5, 6, 3), np.random.default_rng(1).random((5, 6, 1)) < 0.5
    result = jax.vmap(lambda x, mask: moments(x, (0,), mask=mask))(jnp.asarray(x), jnp.asarray(mask))
    expected = [numpy_moments(*pair) for pair in zip(x, [(0,)] * 5, mask, strict=True)]
    assert_moments(result, [np.stack(parts) for parts in zip(*expected, strict=True)])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("fast", [False, True])
def test_gradients_of_mean_and_m2_are_those_of_their_formulas(masked, fast):
    # d mean / dx = 1/n and d m2 / dx = 2 (x - mean), 0 where masked out: the shift must not add a term of its own.
    x = draw(6, 3)
    mask = (np.arange(6) < 4)[:, None] if masked else np.ones((6, 1), bool)
    weight_mean, weight_m2 = draw(3, seed=1), draw(3, seed=2)

    def loss(x):
        result = moments(x, (0,), mask=jnp.asarray(mask) if masked else None, use_fast_variance=fast)
        return (result.mean * weight_mean + result.m2 * weight_m2).sum()

    count, mean, _ = numpy_moments(x, (0,), mask)
    expected = np.where(mask, weight_mean / count + weight_m2 * 2 * (x - mean), 0)
    chex.assert_trees_all_close(jax.jit(jax.grad(loss))(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)


def test_variance_divides_by_the_count_or_by_one_less():
    # m and m - 1 taken for each other is the classic fault of running statistics; neither divides by zero.
    stats = Moments(jnp.array([4.0, 1.0, 0.0]), jnp.zeros(3), jnp.array([6.0, 0.0, 0.0]))
    chex.assert_trees_all_close(stats.variance, np.array([1.5, 0.0, 0.0]))
    chex.assert_trees_all_close(stats.unbiased_variance, np.array([2.0, 0.0, 0.0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axes": (2,)}, r"axes=\(2,\) out of range for an array of 2 dimensions; use -2 to 1"),
        ({"axes": (0, -2)}, r"axes=\(0, -2\) names an axis twice"),
        ({"axes": (0,), "mask": (5, 1)}, r"mask of shape \(5, 1\) does not broadcast to the input's shape \(6, 3\)"),
        ({"axes": (0,), "mask": (2, 6, 3)}, r"mask of shape \(2, 6, 3\) does not broadcast"),
    ],
)
def test_impossible_axes_and_masks_are_refused_by_name(options, message):
    # A mask that broadcasts the input instead, or an axis counted twice, would give plausible numbers.
    options = {key: jnp.ones(value, bool) if key == "mask" else value for key, value in options.items()}
    with pytest.raises(ValueError, match=message):
        moments(jnp.ones((6, 3)), **options)
