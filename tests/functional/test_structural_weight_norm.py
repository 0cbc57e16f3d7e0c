"""Neuron scales and the structural weight norm: by their definition, and grouped kernels as those they stand for."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from normjax.functional import (
    neuron_scale,
    orthogonal_weight_norm,
    prox_exclusive_sparsity,
    structural_weight_norm,
    weight_norm,
)

BASES = ["orthogonal", "weight_norm", "none"]


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def base_of(kernel, base):
    return {"orthogonal": orthogonal_weight_norm, "weight_norm": weight_norm, "none": lambda kernel: kernel}[base](
        kernel
    )


def lengths(kernel, axis):
    """L2 norms of the weights of each input (or output) unit, of kernels without feature groups."""
    kernel = np.asarray(kernel, np.float64)
    unit = kernel.ndim - 2 if axis == "input" else kernel.ndim - 1
    return np.sqrt((kernel**2).sum(tuple(i for i in range(kernel.ndim) if i != unit)))


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("axis", ["input", "output"])
def test_neuron_scale_is_a_power_of_the_relative_length(axis, strength):
    kernel = draw(3, 3, 5, 7) * jnp.linspace(0.5, 2, 5)[None, None, :, None]
    s = lengths(kernel, axis)
    want = np.clip((s / np.sqrt((s**2).mean())) ** strength, 0.6, 1.5)
    got = neuron_scale(kernel, strength=strength, axis=axis, min_scale=0.6, max_scale=1.5)
    chex.assert_trees_all_close(got, want.astype(np.float32), rtol=1e-5)


@pytest.mark.parametrize("shape", [(20, 8), (3, 3, 6, 8)])
def test_the_mean_square_of_the_neuron_scales_is_one(shape):
    # Under the orthogonal base the squared lengths of the columns add up to the number of rows.
    weights = orthogonal_weight_norm(draw(*shape))
    assert (lengths(weights, "input") ** 2).sum() == pytest.approx(8, rel=1e-5)
    assert float(jnp.square(neuron_scale(weights)).mean()) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("base", BASES)
def test_sparsity_acts_after_the_base(base):
    # Zeros in V do not survive the orthogonal base, which mixes the rows.
    kernel, scale = draw(20, 8), jnp.linspace(0.5, 2, 8)
    got = structural_weight_norm(kernel, scale, measure="sparsity", base=base, strength=0.3)
    want = prox_exclusive_sparsity(base_of(kernel, base), 0.3) * scale[None]
    chex.assert_trees_all_close(got, want, atol=1e-6)
    zeros = [
        float((structural_weight_norm(kernel, measure="sparsity", base=base, strength=s) == 0).mean())
        for s in (0.0, 0.01, 0.1, 0.5, 3.0)
    ]
    assert zeros == sorted(zeros)
    assert zeros[0] == 0 < zeros[2] < zeros[-1]


def test_sparsity_of_outputs_lets_the_weights_of_an_output_compete():
    kernel = draw(3, 3, 5, 8)
    got = structural_weight_norm(kernel, measure="sparsity", base="none", strength=0.1, axis="output")
    chex.assert_trees_all_close(got, prox_exclusive_sparsity(kernel, 0.1, (0, 1, 2)), atol=1e-6)


@pytest.mark.parametrize("base", BASES)
def test_neuron_scales_multiply_the_inputs(base):
    kernel, scale = draw(3, 3, 5, 8), jnp.linspace(0.5, 2, 8)
    weights = base_of(kernel, base)
    got = structural_weight_norm(kernel, scale, measure="neuron", base=base)
    want = weights * neuron_scale(weights)[None, None, :, None] * scale[None, None, None]
    chex.assert_trees_all_close(got, want, atol=1e-6)
    chex.assert_trees_all_close(
        structural_weight_norm(kernel, measure="neuron", base=base, strength=0.0), weights, atol=1e-6
    )


@pytest.mark.parametrize("base", BASES)
def test_neuron_scales_of_outputs_are_measured_where_they_differ(base):
    # After the base all outputs have length 1, and nothing would be scaled.
    kernel = draw(9, 4) * jnp.array([[0.5, 1.0, 1.5, 2.0]])
    got = structural_weight_norm(kernel, measure="neuron", base=base, axis="output")
    chex.assert_trees_all_close(got, base_of(kernel, base) * neuron_scale(kernel, axis="output")[None], atol=1e-6)
    assert np.ptp(lengths(got, "output")) > 0.5


def test_a_column_of_zeros_stays_one():
    kernel = draw(9, 4) - 0.5
    kernel = kernel.at[2].set(0.0)
    for measure in ("sparsity", "neuron"):
        got = structural_weight_norm(kernel, measure=measure, center=False)
        assert not np.any(got[2])
        # With centring the mean of an output goes to all its weights: nothing of V survives as zero.
        assert np.any(structural_weight_norm(kernel, measure=measure)[2])


def groups_of(size, base):
    """The base, with groups where it has any."""
    return {"base": base, "group_size": size} if base == "orthogonal" else {"base": base}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("measure", ["sparsity", "neuron"])
def test_a_grouped_kernel_is_normalised_as_the_layers_it_stands_for(base, measure):
    # Two groups of outputs, each with inputs of its own: as two kernels, but for the mean of the lengths of all units.
    kernel, base = draw(3, 3, 4, 12), groups_of(3, base)
    got = structural_weight_norm(kernel, measure=measure, strength=0.4, feature_group_count=2, **base)
    weights = structural_weight_norm(kernel, feature_group_count=2, **base)
    if measure == "sparsity":
        parts = [
            structural_weight_norm(part, measure=measure, strength=0.4, **base) for part in jnp.split(kernel, 2, -1)
        ]
        chex.assert_trees_all_close(got, jnp.concatenate(parts, -1), atol=1e-5)
    else:
        first, second = jnp.split(weights, 2, -1)
        s = np.concatenate([lengths(first, "input"), lengths(second, "input")])
        scale = (s / np.sqrt((s**2).mean())) ** 0.4
        spread = scale.reshape(2, 1, 1, 4, 1).astype(np.float32)
        want = jnp.concatenate([first * spread[0], second * spread[1]], -1)
        chex.assert_trees_all_close(got, want, atol=1e-5)
        chex.assert_trees_all_close(
            neuron_scale(weights, strength=0.4, feature_group_count=2), scale.astype(np.float32), rtol=1e-4
        )


def test_neuron_scales_are_constants_for_the_derivative_unless_asked_for():
    kernel = draw(9, 4)
    fixed = neuron_scale(kernel)
    gradient = jax.grad(lambda k: jnp.sin(structural_weight_norm(k, measure="neuron", base="none")).sum())(kernel)
    chex.assert_trees_all_close(gradient, jnp.cos(kernel * fixed[:, None]) * fixed[:, None], atol=1e-6)
    moved = jax.grad(lambda k: jnp.sin(neuron_scale(k, differentiable=True)).sum())(kernel)
    assert np.abs(moved).max() > 1e-3


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("measure", [None, "sparsity", "neuron"])
def test_derivatives_in_float64(base, measure):
    with jax.enable_x64(True):
        kernel, scale = draw(3, 6, 8).astype(jnp.float64), jnp.linspace(0.5, 2, 8, dtype=jnp.float64)
        options = {} if measure is None else {"strength": 0.0 if measure == "neuron" else 0.2}

        def function(*args):
            # The numerical side passes NumPy arrays.
            return structural_weight_norm(*map(jnp.asarray, args), measure=measure, **groups_of(4, base), **options)

        check_grads(function, (kernel, scale), order=1, modes=["fwd", "rev"], atol=1e-5, rtol=1e-5)

        def differentiable(kernel):
            return neuron_scale(jnp.asarray(kernel), strength=0.7, differentiable=True)

        check_grads(differentiable, (kernel,), order=1, modes=["fwd", "rev"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("measure", ["sparsity", "neuron"])
@pytest.mark.parametrize("axis", ["input", "output"])
def test_zero_weights_have_finite_values_and_derivatives(base, measure, axis):
    partly = draw(9, 4).at[2].set(0.0).at[:, 1].set(0.0)
    for kernel in (partly, jnp.zeros((9, 4))):
        value, gradient = jax.jit(
            jax.value_and_grad(
                lambda k: jnp.sin(structural_weight_norm(k, measure=measure, base=base, axis=axis)).sum()
            )
        )(kernel)
        chex.assert_tree_all_finite((value, gradient))
        gradient = jax.grad(lambda k: neuron_scale(k, strength=0.5, axis=axis, differentiable=True).sum())(kernel)
        chex.assert_tree_all_finite(gradient)


def test_it_maps_over_seeds():
    kernels = draw(3, 12, 8)
    mapped = jax.jit(jax.vmap(lambda k: structural_weight_norm(k, measure="sparsity", strength=0.2)))(kernels)
    for i in range(3):
        alone = structural_weight_norm(kernels[i], measure="sparsity", strength=0.2)
        chex.assert_trees_all_close(mapped[i], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -0.1, "measure": "sparsity"}, r"strength=-0.1 is out of range; use a finite number, 0 or more"),
        ({"strength": 0.1}, r"strength=0.1 has no meaning with measure=None; it is for measure='sparsity' or 'neuron'"),
        (
            {"base": "none", "group_size": 7},
            r"group_size=7 has no meaning with base='none'; it is for base='orth",
        ),
        ({"base": "weight_norm", "iterations": -4}, r"iterations=-4 has no meaning with base='weight_norm'"),
        ({"measure": "neuron", "rule": "cges"}, r"rule='cges' has no meaning with measure='neuron'"),
        ({"measure": "sparsity", "min_scale": 0.5}, r"min_scale=0.5 has no meaning with measure='sparsity'"),
        ({"axis": "output"}, r"axis='output' has no meaning with measure=None"),
        ({"measure": "neuron", "min_scale": 0.0}, r"min_scale=0.0, max_scale=10.0 are out of range"),
        ({"measure": "neuron", "max_scale": 0.5}, r"min_scale=0.1, max_scale=0.5 are out of range"),
        ({"measure": "neuron", "base": "none", "feature_group_count": 3}, r"feature_group_count=3 does not divide"),
    ],
)
def test_bad_input_is_told(options, message):
    with pytest.raises(ValueError, match=message):
        structural_weight_norm(draw(9, 4), **options)


@pytest.mark.parametrize("base", BASES)
def test_a_kernel_of_rank_below_two_is_told(base):
    with pytest.raises(ValueError, match=r"kernel of shape \(4,\) has 1 axes; it needs two or more"):
        structural_weight_norm(jnp.ones(4), base=base)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("measure", [None, "sparsity", "neuron"])
def test_a_weight_that_is_not_a_number_stays_seen(base, measure):
    kernel = draw(4, 6).at[1, 2].set(jnp.nan)
    assert np.isnan(np.asarray(structural_weight_norm(kernel, base=base, measure=measure))).any()
