"""Equivalences of the whitening layers, ghost batch norm and batch renorm with what they are in special cases."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import numpy_batch_norm

from normjax import DecorrelatedBatchNorm
from normjax.functional import (
    RenormStatistics,
    batch_norm,
    batch_renorm,
    comoments,
    decorrelated_batch_norm,
    decorrelated_layer_norm,
    ghost_batch_norm,
    normalize,
    renorm_limits,
)
from normjax.functional.moments import statistics_dtype


def draw(*shape, seed=0, shift=1.0):
    x = np.random.default_rng(seed).normal(size=shape) + shift
    return jnp.asarray(x + 0.7 * np.roll(x, 1, -1), jnp.float32)


def numpy_layer_norm(x):
    x = np.asarray(x, np.float64)
    axes = tuple(range(1, x.ndim))
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)


def test_groups_of_one_are_instance_norm_after_layer_norm():
    x = draw(3, 5, 5, 4)
    z = numpy_layer_norm(x)
    want = (z - z.mean((1, 2), keepdims=True)) / np.sqrt(z.var((1, 2), keepdims=True) + 1e-5)
    got = decorrelated_layer_norm(x, group_size=1, renormalize=False)
    chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-5)


def test_one_group_in_mode_group_is_layer_norm():
    x = draw(3, 5, 5, 4)
    got = decorrelated_layer_norm(x, group_size=1, mode="group", renormalize=False)
    chex.assert_trees_all_close(got, numpy_layer_norm(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["channel", "group"])
@pytest.mark.parametrize("layer_norm", [True, False])
def test_eigh_makes_the_vectors_of_each_sample_uncorrelated(mode, layer_norm):
    x = draw(3, 8, 8, 6)
    y = decorrelated_layer_norm(
        x, group_size=3, mode=mode, method="eigh", epsilon=1e-7, layer_norm=layer_norm, renormalize=False
    )
    y = np.asarray(y, np.float64).reshape(3, 64, 2, 3)
    if mode == "group":
        y = y.reshape(3, 64, 3, 2).transpose(0, 1, 3, 2).reshape(3, 128, 1, 3)
    for sample in y:
        for group in range(sample.shape[1]):
            chex.assert_trees_all_close(np.cov(sample[:, group].T, bias=True), np.eye(3), atol=1e-4)


def test_a_sample_does_not_depend_on_the_others():
    x = draw(4, 5, 5, 4)
    whole = decorrelated_layer_norm(x, group_size=2)
    chex.assert_trees_all_close(decorrelated_layer_norm(x[1:2], group_size=2), whole[1:2], rtol=1e-5, atol=1e-6)


def test_renormalised_samples_have_unit_mean_square_however_few_iterations():
    x = draw(3, 16, 16, 64)
    plain = decorrelated_layer_norm(x, group_size=None, renormalize=False)
    assert float(jnp.square(plain).mean()) < 0.8  # what five iterations leave of 64 channels
    y = decorrelated_layer_norm(x, group_size=None)
    chex.assert_trees_all_close(jnp.square(y).mean((1, 2, 3)), np.ones(3), rtol=1e-3)


def test_full_shrinkage_leaves_the_correlations():
    # The covariance is then a multiple of the identity: centred and scaled, not turned.
    x = draw(2, 6, 6, 4)
    y = decorrelated_layer_norm(x, group_size=4, shrink=1.0, method="eigh", layer_norm=False, renormalize=False)
    centred = np.asarray(x, np.float64) - np.asarray(x, np.float64).mean((1, 2), keepdims=True)
    want = centred / np.sqrt(centred.var((1, 2)).mean(-1) + 1e-5)[:, None, None, None]
    chex.assert_trees_all_close(y, want, rtol=1e-4, atol=1e-5)


def test_whitening_a_batch_by_eigh_gives_the_identity_covariance_in_each_group():
    x = draw(50, 4, 4, 6)
    y, stats = decorrelated_batch_norm(x, group_size=3, method="eigh", epsilon=1e-7)
    flat = np.asarray(y, np.float64).reshape(-1, 2, 3)
    for group in range(2):
        chex.assert_trees_all_close(np.cov(flat[:, group].T, bias=True), np.eye(3), atol=1e-4)
    want = np.cov(np.asarray(x, np.float64).reshape(-1, 6).T, bias=True)
    chex.assert_trees_all_close(stats.covariance, np.stack([want[:3, :3], want[3:, 3:]]), rtol=1e-4, atol=1e-5)


def test_groups_have_matrices_of_their_own():
    # Reference code shares one covariance among all groups by mistake: a second group of another scale shows it.
    x = draw(50, 4).at[:, 2:].multiply(100.0)
    together, _ = decorrelated_batch_norm(x, group_size=2, method="eigh")
    apart = [decorrelated_batch_norm(x[:, i : i + 2], group_size=2, method="eigh")[0] for i in (0, 2)]
    chex.assert_trees_all_close(together, jnp.concatenate(apart, -1), rtol=1e-4, atol=1e-5)


def test_groups_of_one_whiten_as_batch_norm():
    x = draw(50, 4)
    y, _ = decorrelated_batch_norm(x, group_size=1, iterations=12)
    chex.assert_trees_all_close(y, numpy_batch_norm(x, axes=(0,)), rtol=1e-4, atol=1e-4)


def test_the_feature_axis_may_be_any():
    x, scale, bias = draw(10, 6, 3), draw(6, seed=1), draw(6, seed=2)
    moved, _ = decorrelated_batch_norm(x, scale, bias, group_size=2, axis=1)
    last, _ = decorrelated_batch_norm(jnp.moveaxis(x, 1, -1), scale, bias, group_size=2)
    chex.assert_trees_all_close(moved, jnp.moveaxis(last, -1, 1), rtol=1e-5, atol=1e-6)


def test_one_ghost_batch_is_batch_norm_and_several_are_several():
    x, scale, bias = draw(12, 3, 4), draw(4, seed=1), draw(4, seed=2)
    chex.assert_trees_all_close(
        ghost_batch_norm(x, scale, bias, ghost_batch_size=12), batch_norm(x, scale, bias), rtol=1e-5, atol=1e-5
    )
    y, stats = ghost_batch_norm(x, scale, bias, ghost_batch_size=4)
    parts = [numpy_batch_norm(x[i : i + 4], scale, bias, axes=(0, 1)) for i in (0, 4, 8)]
    chex.assert_trees_all_close(y, np.concatenate(parts), rtol=1e-4, atol=1e-4)
    flat = np.asarray(x, np.float64).reshape(-1, 4)
    chex.assert_trees_all_close((stats.mean, stats.variance), (flat.mean(0), flat.var(0)), rtol=1e-5)


def test_renorm_without_correction_is_batch_norm_and_without_limits_is_inference():
    x, scale, bias = draw(12, 4), draw(4, seed=1), draw(4, seed=2)
    running = RenormStatistics(draw(4, seed=3), 1 + jnp.square(draw(4, seed=4)))
    y, _ = batch_renorm(x, running, scale, bias, r_max=1.0, d_max=0.0)
    chex.assert_trees_all_close(y, numpy_batch_norm(x, scale, bias, axes=(0,)), rtol=1e-4, atol=1e-4)
    y, _ = batch_renorm(x, running, scale, bias, r_max=1e9, d_max=1e9)
    want = normalize(x, running.mean, jnp.square(running.std), scale, bias, epsilon=0.0)
    chex.assert_trees_all_close(y, want, rtol=1e-4, atol=1e-4)


def test_renorm_limits_follow_the_paper():
    # Plain batch norm for 5,000 steps; r reaches 3 at 40,000 and d reaches 5 at 25,000.
    steps = [0, 5_000, 15_000, 25_000, 40_000, 10**6]
    limits = [tuple(map(float, renorm_limits(step))) for step in steps]
    want = [(1, 0), (1, 0), (1 + 2 / 3.5, 2.5), (1 + 4 / 3.5, 5), (3, 5), (3, 5)]
    chex.assert_trees_all_close(limits, [tuple(map(float, pair)) for pair in want], rtol=1e-5)
    assert tuple(map(float, renorm_limits(0, warmup_steps=0, r_steps=0, d_steps=0))) == (3, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: decorrelated_layer_norm(x, group_size=3), "group_size=3 does not divide the 8 channels"),
        (lambda x: decorrelated_layer_norm(x[:, 0, 0], group_size=2), "use mode='group'"),
        (lambda x: decorrelated_layer_norm(x[:, 0, 0], group_size=8, mode="group"), "leaves one value in each group"),
        (lambda x: decorrelated_layer_norm(x, group_size=2, shrink=1.5), "shrink=1.5 is out of range"),
        (lambda x: decorrelated_batch_norm(x, group_size=5), "group_size=5 does not divide the 8 channels"),
        (lambda x: decorrelated_batch_norm(x, group_size=2, mask=jnp.ones(8, bool)), "tells features apart"),
        (lambda x: ghost_batch_norm(x, ghost_batch_size=3), "ghost_batch_size=3 does not divide the 4 examples"),
        (lambda x: ghost_batch_norm(x, ghost_batch_size=2, axis=0), "names the first axis"),
        (lambda x: batch_renorm(x, RenormStatistics(jnp.zeros(8), jnp.ones(8)), r_max=0.5), "r_max=0.5 is too small"),
        (lambda _: renorm_limits(0, r_steps=10), "r_steps=10 lies before the end of the warm-up"),
    ],
)
def test_mistakes_are_told(call, message):
    with pytest.raises(ValueError, match=message):
        call(draw(4, 3, 3, 8))


@pytest.mark.parametrize("method", ["newton", "eigh"])
@pytest.mark.parametrize("f", [decorrelated_layer_norm, lambda x, **options: decorrelated_batch_norm(x, **options)[0]])
def test_constant_input_without_epsilon_is_zero_with_finite_gradients(f, method):
    # 0 / 0 in Newton's normalisation by the trace, and an overflowing slope of eigh.
    def loss(x):
        return jnp.sum(f(x, group_size=2, method=method, epsilon=0.0) * jnp.arange(4.0).reshape(1, 1, 4))

    value, gradient = jax.value_and_grad(loss)(jnp.ones((8, 6, 4)))
    assert value == 0
    chex.assert_tree_all_finite(gradient)


def test_integers_are_refused():
    # They came out as integers: inverse_sqrt of 4 was 0. (Here the annotations of the functions refuse them before.)
    with pytest.raises(TypeError, match="input of type int32 has no statistics"):
        statistics_dtype(jnp.dtype(jnp.int32))


def test_a_group_size_that_does_not_divide_the_features_is_told():
    with pytest.raises(ValueError, match="group_size=3 does not divide the 4 channels"):
        comoments(draw(3, 4), 3)


def test_decorrelated_batch_norm_takes_one_feature_axis():
    # The first of them was taken for all, and its size was found not to divide.
    with pytest.raises(ValueError, match=r"axis=\(1, 2\) is no single axis"):
        DecorrelatedBatchNorm(use_running_average=False, axis=(1, 2)).init(jax.random.key(0), draw(4, 6, 8))
