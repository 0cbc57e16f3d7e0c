"""Sparsity penalties and their proximal operators: worked examples, optimality, and derivatives."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from normjax.functional import (
    exclusive_sparsity,
    group_sparsity,
    prox_exclusive_sparsity,
    prox_group_sparsity,
    prox_l1,
)
from normjax.functional.sparsity import check_real


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sorted_prox(v, strength):
    """The textbook form: sort, find how many survive, subtract."""
    v = np.asarray(v, np.float64)
    a = -np.sort(-np.abs(v))
    k = np.arange(1, v.size + 1)
    taus = strength * np.cumsum(a) / (1 + strength * k)
    last = np.flatnonzero(a > taus)
    tau = taus[last[-1]] if last.size else 0.0
    return np.sign(v) * np.maximum(np.abs(v) - tau, 0)


@pytest.mark.parametrize(
    ("strength", "rule", "expected"),
    [
        (0.5, "exact", [1.75, -0.75, 0.0]),
        (0.1, "exact", [2.538462, -1.538462, 0.538462]),
        (0.5, "cges", [0.0, 0.0, 0.0]),
        (0.1, "cges", [2.4, -1.4, 0.4]),
    ],
)
def test_the_worked_examples(strength, rule, expected):
    got = prox_exclusive_sparsity(jnp.array([3.0, -2.0, 1.0]), strength, rule=rule)
    chex.assert_trees_all_close(got, np.float32(expected), atol=1e-6)


@pytest.mark.parametrize("strength", [0.0, 1e-3, 0.05, 0.7, 30.0])
@pytest.mark.parametrize("axis", [-1, 0, (0, 2), (0, 1, 2)])
def test_the_exact_operator_is_that_found_by_sorting(strength, axis):
    kernel = draw(4, 5, 6)
    kernel[1, :, 2] = 0.0
    kernel[0, 0, :3] = 0.5  # ties
    got = prox_exclusive_sparsity(jnp.asarray(kernel), strength, axis)
    members = tuple(i % 3 for i in np.atleast_1d(axis))
    moved = np.moveaxis(kernel, members, range(-len(members), 0))
    rows = moved.reshape(-1, int(np.prod([kernel.shape[i] for i in members])))
    want = np.stack([sorted_prox(row, strength) for row in rows]).reshape(moved.shape)
    want = np.moveaxis(want, range(-len(members), 0), members)
    chex.assert_trees_all_close(got, want.astype(np.float32), atol=1e-6)
    np.testing.assert_array_equal(np.asarray(got) == 0, want == 0)


def test_no_perturbation_is_better_than_the_exact_operator():
    # The rule of the CGES code is: where it empties a group or keeps too much, neighbours are better.
    rng = np.random.default_rng(0)
    beaten = 0
    for case in range(100):
        v = rng.normal(size=rng.integers(1, 12)).astype(np.float32)
        strength = float(rng.uniform(0.01, 2))

        def objective(u, v=v, strength=strength):
            return 0.5 * ((u - np.float64(v)) ** 2).sum(-1) + 0.5 * strength * np.abs(u).sum(-1) ** 2

        exact, cges = (
            np.float64(prox_exclusive_sparsity(jnp.asarray(v), strength, rule=rule)) for rule in ("exact", "cges")
        )
        size = 10.0 ** rng.uniform(-4, 0, size=(10_000, 1))
        moved = exact + size * rng.normal(size=(10_000, v.size))
        assert objective(moved).min() >= objective(exact) - 1e-6, case
        beaten += objective(exact) < objective(cges) - 1e-6
    assert beaten > 50


def test_the_operators_keep_order_and_signs():
    v, permuted = jnp.asarray(draw(1, 9)), np.random.default_rng(1).permutation(9)
    for prox in (prox_exclusive_sparsity, prox_group_sparsity, lambda v, strength: prox_l1(v, strength)):
        chex.assert_trees_all_close(prox(v[:, permuted], 0.3), prox(v, 0.3)[:, permuted], atol=1e-6)
        chex.assert_trees_all_close(prox(-v, 0.3), -prox(v, 0.3), rtol=1e-6)
        chex.assert_trees_all_equal(prox(v, 0.0), v)
        shrunk = prox(v, 0.3)
        assert np.all(np.abs(shrunk) <= np.abs(v))
        assert np.all((np.sign(shrunk) == np.sign(v)) | (np.asarray(shrunk) == 0))


def test_stronger_means_more_zeros_and_the_largest_weight_of_a_group_survives():
    kernel = jnp.asarray(draw(30, 40))
    zeros = [
        float((prox_exclusive_sparsity(kernel, strength) == 0).mean())
        for strength in (0.0, 0.01, 0.03, 0.1, 1.0, 100.0)
    ]
    assert zeros == sorted(zeros)
    assert zeros[0] == 0
    assert zeros[-1] > 0.9
    assert np.all((np.asarray(prox_exclusive_sparsity(kernel, 100.0)) != 0).any(-1))
    # The authors' rule empties groups.
    assert not np.any(np.asarray(prox_exclusive_sparsity(kernel, 1.0, rule="cges")))


@pytest.mark.parametrize("axis", [-1, 0, (0, 1)])
def test_penalties_are_their_formulas(axis):
    kernel = draw(3, 4, 5)
    sums = np.abs(kernel.astype(np.float64)).sum(axis)
    chex.assert_trees_all_close(
        exclusive_sparsity(jnp.asarray(kernel), axis), np.float32((sums**2).sum() / 2), rtol=1e-5
    )
    lengths = np.sqrt((kernel.astype(np.float64) ** 2).sum(axis))
    chex.assert_trees_all_close(group_sparsity(jnp.asarray(kernel), axis), np.float32(lengths.sum()), rtol=1e-5)


def test_group_sparsity_shrinks_whole_groups():
    got = prox_group_sparsity(jnp.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]), 1.0)
    chex.assert_trees_all_close(got, jnp.array([[2.4, 3.2], [0.0, 0.0], [0.0, 0.0]]), atol=1e-6)


PROXES = {
    "exact": lambda k, s: prox_exclusive_sparsity(k, s),
    "exact, columns": lambda k, s: prox_exclusive_sparsity(k, s, 0),
    "cges": lambda k, s: prox_exclusive_sparsity(k, s, rule="cges"),
    "group": prox_group_sparsity,
    "l1": prox_l1,
}


@pytest.mark.parametrize("name", PROXES)
def test_derivatives_are_those_of_the_formula(name):
    # By the strength too: the set of survivors is constant around a point, tau is not.
    with jax.enable_x64(True):
        kernel = jnp.asarray(draw(4, 6), jnp.float64)
        # The numerical side passes NumPy arrays.
        check_grads(
            lambda *args: PROXES[name](*map(jnp.asarray, args)),
            (kernel, jnp.float64(0.11)),
            order=1,
            modes=["fwd", "rev"],
            atol=1e-5,
            rtol=1e-5,
        )


@pytest.mark.parametrize("name", [*PROXES, "exclusive", "group penalty"])
def test_zeros_have_finite_derivatives(name):
    # The reciprocal norm of the CGES code is inf * 0 at a group of zeros.
    functions = {
        **{key: lambda k, prox=prox: prox(k, 0.1).sum() for key, prox in PROXES.items()},
        "exclusive": exclusive_sparsity,
        "group penalty": group_sparsity,
    }
    kernel = jnp.asarray(draw(3, 4)).at[1].set(0.0).at[:, 2].set(0.0)
    for array in (kernel, jnp.zeros((3, 4))):
        value, gradient = jax.jit(jax.value_and_grad(functions[name]))(array)
        chex.assert_tree_all_finite((value, gradient))


def test_half_precision_is_computed_in_float32():
    kernel = jnp.asarray(draw(64, 64)).astype(jnp.bfloat16)
    got = prox_exclusive_sparsity(kernel, 0.02)
    assert got.dtype == jnp.bfloat16
    chex.assert_trees_all_equal(got, prox_exclusive_sparsity(kernel.astype(jnp.float32), 0.02).astype(jnp.bfloat16))
    assert exclusive_sparsity(kernel).dtype == jnp.float32


def test_it_maps_over_seeds():
    kernels, strengths = jnp.asarray(draw(3, 4, 6)), jnp.array([0.01, 0.3, 5.0])
    got = jax.jit(jax.vmap(prox_exclusive_sparsity))(kernels, strengths)
    for i in range(3):
        chex.assert_trees_all_close(got[i], prox_exclusive_sparsity(kernels[i], float(strengths[i])), atol=1e-6)


def test_bad_input_is_told():
    kernel = jnp.ones((2, 3))
    for prox in (prox_exclusive_sparsity, prox_group_sparsity, prox_l1):
        with pytest.raises(ValueError, match=r"strength=-1.0 is out of range; use a finite number, 0 or more"):
            prox(kernel, -1.0)
    with pytest.raises(ValueError, match=r"axes=\(2,\) out of range for an array of 2 dimensions"):
        exclusive_sparsity(kernel, 2)


OPERATORS = {
    "exact": lambda kernel, strength: prox_exclusive_sparsity(kernel, strength),
    "cges": lambda kernel, strength: prox_exclusive_sparsity(kernel, strength, rule="cges"),
    "group": prox_group_sparsity,
    "l1": prox_l1,
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_does_not_become_a_zero(name, bad):
    # A step that overflowed would pass for pruning, and no guard behind it would see it.
    kernel = jnp.array([[1.0, bad, 2.0], [1.0, -2.0, 0.5]])
    moved = np.asarray(OPERATORS[name](kernel, 0.1))
    assert not np.isfinite(moved[0, 1])
    assert np.isfinite(moved[1]).all()


@pytest.mark.parametrize("name", OPERATORS)
def test_a_traced_strength_that_is_not_a_number_is_seen(name):
    moved = jax.jit(OPERATORS[name])(jnp.array([[1.0, 3.0]]), jnp.nan)
    assert np.isnan(np.asarray(moved)).all()


def test_penalties_of_what_is_not_finite_are_not_finite():
    kernel = jnp.array([[jnp.nan, 1.0], [1.0, 2.0]])
    assert np.isnan(group_sparsity(kernel))
    assert np.isnan(exclusive_sparsity(kernel))


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.complex64])
def test_kernels_that_are_not_real_are_refused(dtype):
    with pytest.raises(ValueError, match=rf"kernel of type {dtype.__name__} is not real; use a floating-point type"):
        check_real(jnp.ones((2, 2), dtype))
