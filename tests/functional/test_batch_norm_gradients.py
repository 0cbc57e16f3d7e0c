"""The derivative written by hand against the paper's chain rule in NumPy and against finite differences."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from oracles import numpy_batch_norm_gradients

from normjax.functional import batch_norm


def draw(*shape, seed=0, shift=1.0):
    return np.random.default_rng(seed).normal(size=shape) + shift


def gradients(x, upstream, scale, bias, **options):
    """Of the output weighted by `upstream`, for x, scale and bias."""

    def loss(x, scale, bias):
        y, _ = batch_norm(x, scale, bias, **options)
        return (y * upstream).sum()

    return jax.jit(jax.grad(loss, (0, 1, 2)))(*map(jnp.asarray, (x, scale, bias)))


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    ("shape", "axis", "axes"), [((7, 4), -1, (0,)), ((2, 3, 3, 4), -1, (0, 1, 2)), ((3, 4, 2), 1, (0, 2))]
)
def test_gradients_are_those_of_the_paper(shape, axis, axes, fast):
    # Dropping the path through the mean or the variance (as in inference mode) gives a plausible, wrong dx.
    x, upstream, scale, bias = draw(*shape), draw(*shape, seed=1), draw(4, seed=2), draw(4, seed=3)
    with jax.enable_x64(True):
        actual = gradients(x, upstream, scale, bias, axis=axis, use_fast_variance=fast)
        expected = numpy_batch_norm_gradients(x, upstream, scale, axes=axes)
        chex.assert_trees_all_close(actual, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("mask_shape", [(6, 1, 1), (6, 3, 1), (6, 3, 4), (4,)])
def test_gradients_with_a_mask_count_only_what_counts(mask_shape):
    # A masked-out value has its own output and gradient, but no share in the mean and the variance.
    x, upstream, scale, bias = draw(6, 3, 4), draw(6, 3, 4, seed=1), draw(4, seed=2), draw(4, seed=3)
    mask = np.random.default_rng(5).random(mask_shape) < 0.6
    with jax.enable_x64(True):
        actual = gradients(x, upstream, scale, bias, mask=jnp.asarray(mask))
        expected = numpy_batch_norm_gradients(x, upstream, scale, axes=(0, 1), mask=mask)
        chex.assert_trees_all_close(actual, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("masked", [False, True])
def test_derivatives_to_second_order_agree_with_finite_differences(masked):
    # Forward and reverse, of the output and of the returned moments: a stop_gradient too much shows here.
    mask = (np.arange(5) != 2)[:, None] if masked else None
    with jax.enable_x64(True):
        args = draw(5, 2), draw(2, seed=1), draw(2, seed=2)

        @jax.jit
        def f(*arrays):
            y, stats = batch_norm(*arrays, mask=None if mask is None else jnp.asarray(mask), epsilon=0.1)
            return y, stats.mean, stats.m2

        check_grads(f, map(jnp.asarray, args), order=2, modes=("fwd", "rev"), atol=1e-5, rtol=1e-5)


def test_complex_derivatives_agree_with_finite_differences():
    # The variance depends on x and its conjugate: a missing conj or real part is right for real input only.
    with jax.enable_x64(True):
        x = jnp.asarray(draw(5, 2) + 1j * draw(5, 2, seed=1))
        scale, bias = jnp.asarray(draw(2, seed=2)), jnp.asarray(draw(2, seed=3))

        @jax.jit
        def f(re, im, scale, bias):
            y, stats = batch_norm(re + 1j * im, scale, bias, epsilon=0.1)
            return y.real, y.imag, stats.mean.real, stats.mean.imag, stats.m2

        check_grads(f, (x.real, x.imag, scale, bias), order=2, modes=("rev",), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_gradients_are_summed_in_float32(dtype):
    # 4096 terms summed in bfloat16 stop growing at 256; every gradient has the type of what it belongs to.
    x, upstream = jnp.asarray(draw(4096, 2), dtype), jnp.asarray(draw(4096, 2, seed=1), dtype)
    scale, bias = jnp.asarray(draw(2, seed=2), jnp.float32), jnp.asarray(draw(2, seed=3), jnp.float32)
    actual = jax.jit(lambda *a: jax.vjp(lambda *b: batch_norm(*b)[0], *a)[1](upstream))(x, scale, bias)
    assert [part.dtype for part in actual] == [dtype, jnp.float32, jnp.float32]
    expected = numpy_batch_norm_gradients(x, upstream, scale, axes=(0,))
    rtol = float(jnp.finfo(dtype).eps)
    chex.assert_trees_all_close(np.asarray(actual[0], np.float64), expected[0], rtol=rtol, atol=rtol)
    chex.assert_trees_all_close(actual[1:], expected[1:], rtol=1e-4)


def test_per_example_gradients_are_those_of_each_batch():
    # grad under vmap, as an ensemble or a Jacobian uses it, keeps the batches apart.
    x, upstream, scale = draw(3, 6, 2), draw(3, 6, 2, seed=1), draw(2, seed=2)
    with jax.enable_x64(True):
        f = jax.jit(jax.vmap(jax.grad(lambda x, g: (batch_norm(x, jnp.asarray(scale))[0] * g).sum())))
        expected = [numpy_batch_norm_gradients(*pair, scale, axes=(0,))[0] for pair in zip(x, upstream, strict=True)]
        chex.assert_trees_all_close(f(jnp.asarray(x), jnp.asarray(upstream)), np.stack(expected), rtol=1e-9, atol=1e-11)
