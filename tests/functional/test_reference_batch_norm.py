"""Reference-batch normalization: each mode by its definition, and what the modes have in common with other norms."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from normjax.functional import Moments, batch_norm, moments, normalize, reference_batch_norm

MODES = ["virtual", "mixed", "fixed", "renorm"]
AXES = (0, 1, 2)


def draw(*shape, seed=0, shift=0.0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * 1.5 + shift, jnp.float32)


def reference_of(x):
    return moments(x, tuple(range(x.ndim - 1)))


def raw(x, axes):
    x = np.asarray(x, np.float64)
    return x.mean(axes, keepdims=True), np.square(x).mean(axes, keepdims=True)


def by_raw_moments(x, mean, square):
    return (np.asarray(x, np.float64) - mean) / np.sqrt(square - mean**2 + 1e-5)


def test_the_worked_example():
    reference = Moments(jnp.full(1, 64.0), jnp.zeros(1), jnp.full(1, 64.0))
    chex.assert_trees_all_close(
        reference_batch_norm(jnp.array([[5.0]]), reference), jnp.array([[4.2163547]]), rtol=1e-6
    )


@pytest.mark.parametrize("shape", [(6, 4), (6, 3, 3, 4)])
def test_virtual_mixes_the_raw_moments_of_each_example_with_those_of_the_reference(shape):
    ref, x = draw(10, *shape[1:], seed=1, shift=2.0), draw(*shape, shift=-1.0)
    c = 1 / 11
    m_r, q_r = raw(ref, tuple(range(ref.ndim - 1)))
    m_i, q_i = raw(x, tuple(range(1, x.ndim - 1)))
    want = by_raw_moments(x, c * m_i + (1 - c) * m_r, c * q_i + (1 - c) * q_r)
    chex.assert_trees_all_close(reference_batch_norm(x, reference_of(ref)), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("alpha", [None, 0.0, 0.3, 1.0])
def test_mixed_mixes_the_raw_moments_of_the_batch_with_those_of_the_reference(alpha):
    ref, x = draw(10, 3, 3, 4, seed=1, shift=2.0), draw(6, 3, 3, 4, shift=-1.0)
    a = 10 / 16 if alpha is None else alpha
    (m_r, q_r), (m_b, q_b) = raw(ref, AXES), raw(x, AXES)
    want = by_raw_moments(x, a * m_r + (1 - a) * m_b, a * q_r + (1 - a) * q_b)
    got = reference_batch_norm(x, reference_of(ref), mode="mixed", alpha=alpha)
    chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-4)


def test_the_ends_of_the_mixture_are_batch_norm_and_the_reference_alone():
    ref, x, scale, bias = reference_of(draw(10, 4, seed=1)), draw(6, 4), draw(4, seed=2), draw(4, seed=3)
    mixed = partial(reference_batch_norm, x, ref, scale, bias, mode="mixed")
    chex.assert_trees_all_close(mixed(alpha=0.0), batch_norm(x, scale, bias)[0], rtol=1e-5, atol=1e-5)
    fixed = reference_batch_norm(x, ref, scale, bias, mode="fixed")
    chex.assert_trees_all_close(mixed(alpha=1.0), fixed, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(fixed, normalize(x, ref.mean, ref.variance, scale, bias), rtol=1e-6)


def test_renorm_without_limits_is_the_reference_alone_and_with_none_batch_norm():
    ref, x = reference_of(draw(10, 4, seed=1, shift=1.0)), draw(6, 4)
    free = reference_batch_norm(x, ref, mode="renorm", r_max=1e6, d_max=1e6)
    chex.assert_trees_all_close(free, reference_batch_norm(x, ref, mode="fixed"), rtol=1e-4, atol=1e-4)
    bound = reference_batch_norm(x, ref, mode="renorm", r_max=1.0, d_max=0.0)
    chex.assert_trees_all_close(bound, batch_norm(x)[0], rtol=1e-5, atol=1e-5)


def test_an_example_depends_on_no_other_in_virtual_and_fixed():
    ref, x = reference_of(draw(10, 3, 3, 4, seed=1)), draw(6, 3, 3, 4)
    for mode in ("virtual", "fixed"):
        alone = reference_batch_norm(x[2:3], ref, mode=mode)
        chex.assert_trees_all_close(reference_batch_norm(x, ref, mode=mode)[2:3], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_masked_values_do_not_count(mode):
    ref, x = reference_of(draw(10, 3, 3, 4, seed=1)), draw(6, 3, 3, 4)
    mask = jnp.arange(6)[:, None, None, None] < 4
    spoilt = x.at[4:].set(1e4)
    got = reference_batch_norm(spoilt, ref, mode=mode, mask=mask)[:4]
    chex.assert_trees_all_close(got, reference_batch_norm(x[:4], ref, mode=mode), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_devices_do_as_one(mode):
    ref, x = reference_of(draw(10, 3, 3, 4, seed=1)), draw(16, 3, 3, 4)
    f = jax.pmap(lambda x: reference_batch_norm(x, ref, mode=mode, axis_name="batch"), axis_name="batch")
    got = f(x.reshape(8, 2, 3, 3, 4)).reshape(x.shape)
    chex.assert_trees_all_close(got, reference_batch_norm(x, ref, mode=mode), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["virtual", "mixed", "fixed"])
def test_gradients_reach_the_batch_and_the_reference(mode):
    with jax.enable_x64():
        ref, x = (jnp.asarray(draw(5, 2, 3, seed=seed), jnp.float64) for seed in (1, 2))
        f = jax.jit(lambda x, ref: reference_batch_norm(x, reference_of(ref), mode=mode))  # which takes numpy arrays
        check_grads(f, (x, ref), order=1)


@pytest.mark.parametrize("mode", MODES)
def test_data_far_from_zero_keep_their_variance(mode):
    ref, x = draw(64, 4, seed=1), draw(64, 4)
    near = reference_batch_norm(x, reference_of(ref), mode=mode)
    far = reference_batch_norm(x + 1e4, reference_of(ref + 1e4), mode=mode)
    chex.assert_trees_all_close(far, near, atol=5e-3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_under_strict_promotion(mode, dtype):
    ref, x = reference_of(draw(64, 4, seed=1)), draw(8, 4)
    with jax.numpy_dtype_promotion("strict"):
        y = reference_batch_norm(x.astype(dtype), ref, mode=mode)
    assert y.dtype == dtype
    chex.assert_trees_all_close(y.astype(jnp.float32), reference_batch_norm(x, ref, mode=mode), rtol=0.02, atol=0.03)


@pytest.mark.parametrize("mode", MODES)
def test_the_feature_axis_may_be_any(mode):
    ref, x = reference_of(draw(10, 3, 3, 4, seed=1)), draw(6, 3, 3, 4)
    got = reference_batch_norm(jnp.moveaxis(x, -1, 1), ref, mode=mode, axis=1)
    want = reference_batch_norm(x, ref, mode=mode)
    chex.assert_trees_all_close(jnp.moveaxis(got, 1, -1), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "mixed", "alpha": 1.5}, "alpha=1.5 is out of range; use 0 to 1"),
        ({"mode": "fixed", "alpha": 0.5}, "alpha=0.5 has no meaning with mode='fixed'"),
        ({"axis": 0}, "axis=0 names the first axis"),
        ({"axis": 1}, r"the reference has features of shape \(4,\), and the input has \(3,\)"),
    ],
)
def test_mistakes_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        reference_batch_norm(draw(6, 3, 4), reference_of(draw(6, 3, 4)), **options)
