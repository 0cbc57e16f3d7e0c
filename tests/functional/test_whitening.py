"""The inverse square root of a covariance: exact by eigh, partial by Newton, with derivatives that nothing spoils."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from normjax.functional import inverse_sqrt, whiten


def covariance(size, *, condition=100.0, seed=0):
    """A covariance with eigenvalues spread evenly in the logarithm."""
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    return rotation @ np.diag(np.geomspace(1, condition, size)) @ rotation.T


def numpy_inverse_sqrt(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(values**-0.5) @ vectors.T


@pytest.mark.parametrize("size", [1, 2, 16, 64])
def test_eigh_and_many_newton_iterations_are_the_inverse_square_root(size):
    matrix = covariance(size)
    want = numpy_inverse_sqrt(matrix)
    x = jnp.asarray(matrix, jnp.float32)
    chex.assert_trees_all_close(inverse_sqrt(x, "eigh", epsilon=0.0), want, atol=1e-5)
    chex.assert_trees_all_close(inverse_sqrt(x, "newton", iterations=20, epsilon=0.0), want, atol=2e-4)


@pytest.mark.parametrize(
    ("size", "iterations", "variance"),
    [(8, 5, 0.9985), (16, 5, 0.966), (32, 5, 0.824), (64, 5, 0.586), (64, 7, 0.983), (128, 5, 0.360), (256, 5, 0.201)],
)
def test_few_iterations_leave_the_variance_known_from_theory(size, iterations, variance):
    # An isotropic input: what five iterations make of it depends on the size of the matrix alone.
    w = inverse_sqrt(3.0 * jnp.eye(size), "newton", iterations=iterations, epsilon=0.0)
    chex.assert_trees_all_close(3.0 * w @ w, variance * np.eye(size), atol=6e-4)


def test_the_coupled_iteration_stays_where_the_uncoupled_one_diverges():
    # Reference codes iterate P <- (3 P - P^3 N) / 2: in float32 that blows up after some ten iterations.
    matrix = jnp.asarray(covariance(16, condition=3e4), jnp.float32)
    w = inverse_sqrt(matrix, "newton", iterations=20, epsilon=0.0)
    p, n = jnp.eye(16), matrix / jnp.trace(matrix)
    for _ in range(20):
        p = 1.5 * p - 0.5 * p @ p @ p @ n
    assert not float(jnp.abs(p @ n @ p - jnp.eye(16)).max()) < 1
    chex.assert_trees_all_close(jnp.diagonal(w @ matrix @ w), np.ones(16), atol=0.02)


@pytest.mark.parametrize("iterations", [1, 2, 3, 5])
def test_newton_has_the_iterates_of_its_definition(iterations):
    matrix = covariance(5)
    trace = np.trace(matrix) + 5 * 1e-5
    p, n = np.eye(5), (matrix + 1e-5 * np.eye(5)) / trace
    for _ in range(iterations):
        p = 1.5 * p - 0.5 * p @ p @ p @ n
    got = inverse_sqrt(jnp.asarray(matrix, jnp.float32), iterations=iterations)
    chex.assert_trees_all_close(got, p / np.sqrt(trace), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["newton", "eigh"])
def test_a_rotation_of_the_input_rotates_the_root(method):
    matrix = covariance(6)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))
    turned = inverse_sqrt(jnp.asarray(rotation @ matrix @ rotation.T, jnp.float32), method)
    want = rotation @ np.asarray(inverse_sqrt(jnp.asarray(matrix, jnp.float32), method)) @ rotation.T
    chex.assert_trees_all_close(turned, want, atol=1e-5)


@pytest.mark.parametrize(
    "values", [(1, 2, 3, 4), (2, 2, 2, 2), (1, 1, 3, 3), (1, 0, 0, 0)], ids=["apart", "all equal", "pairs", "rank one"]
)
@pytest.mark.parametrize("method", ["newton", "eigh"])
def test_derivatives_at_repeated_and_zero_eigenvalues(method, values):
    # The derivative of eigenvectors is infinite where eigenvalues repeat; that of the root is not.
    with jax.enable_x64():
        rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))
        matrix = jnp.asarray(rotation @ np.diag(values).astype(float) @ rotation.T)
        weights = jnp.asarray(np.random.default_rng(1).normal(size=(4, 4)))

        def f(m):
            return (weights * inverse_sqrt(jnp.asarray(m + m.T) / 2, method, epsilon=0.1)).sum()

        # A second derivative of eigh goes through that of its vectors.
        order = 2 if method == "newton" else 1
        check_grads(f, (matrix,), order=order, modes=("fwd", "rev"), atol=1e-4, rtol=1e-4)


def test_whitening_by_eigh_gives_the_identity_covariance():
    x = np.random.default_rng(0).normal(size=(500, 4)) @ np.linalg.cholesky(covariance(4)).T + 3
    x = jnp.asarray(x, jnp.float32)
    sigma = jnp.asarray(np.cov(np.asarray(x, np.float64).T, bias=True), jnp.float32)
    y = whiten(x, x.mean(0), inverse_sqrt(sigma[None], "eigh", epsilon=0.0))
    chex.assert_trees_all_close(np.cov(np.asarray(y, np.float64).T, bias=True), np.eye(4), atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: inverse_sqrt(jnp.eye(2), "zca"), "method='zca' is not known|'method': 'zca'"),
        (lambda: inverse_sqrt(jnp.eye(2), iterations=0), "iterations=0 is too small; use 1 or more"),
        (lambda: inverse_sqrt(jnp.eye(2), epsilon=-1.0), "epsilon=-1.0 is negative"),
        (lambda: whiten(jnp.ones((2, 4)), jnp.ones(4), jnp.ones((1, 2, 2))), "do not fit the 4 features"),
    ],
)
def test_mistakes_are_told(call, message):
    with pytest.raises(Exception, match=message) as error:
        call()
    assert isinstance(error.value, ValueError) or "Type-check" in str(error.value)
