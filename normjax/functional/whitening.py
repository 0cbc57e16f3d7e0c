"""Whitening: the inverse square root of a covariance, and what it does to features."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from normjax.functional.groups import matmul, times_groups, times_left, times_right
from normjax.functional.moments import statistics_dtype

Method = Literal["newton", "eigh"]


def inverse_sqrt(
    matrix: Float[Array, "*batch size size"],
    method: Method = "newton",
    iterations: int = 5,
    epsilon: float = 1e-5,
) -> Float[Array, "*batch size size"]:
    r"""The symmetric inverse square root :math:`(\Sigma + \epsilon I)^{-1/2}` of covariance matrices.

    ``eigh`` is exact (ZCA whitening). With eigenvectors U and the roots :math:`r_i` of the eigenvalues, its derivative
    is :math:`dW = -U\big[(U^T d\Sigma\, U)_{ij} / (r_i r_j (r_i + r_j))\big]U^T`, which repeated eigenvalues leave
    finite. ``newton`` is the iteration in its coupled form: with
    :math:`t = \mathrm{tr}(\Sigma + \epsilon I)`, :math:`Y_0 = (\Sigma + \epsilon I) / t` and :math:`Z_0 = I`,

    .. math:: M = \tfrac12 (3 I - Z_k Y_k), \quad Y_{k+1} = Y_k M, \quad Z_{k+1} = M Z_k, \quad W = Z_T / \sqrt t.

    The uncoupled form has the same iterates in exact arithmetic and diverges in float32 after some 10.
    After T iterations no direction is amplified by more than :math:`1.5^T / \sqrt t`: the larger the
    matrix, the more iterations it takes (5 for 16 channels, 7 for 64).

    Args:
      matrix: symmetric positive semi-definite matrices.
      method: ``newton`` or ``eigh``.
      iterations: of Newton, T.
      epsilon: added to the diagonal.

    Returns:
      One symmetric matrix for each.

    Raises:
      ValueError: the matrices are not square, or an option is out of range.

    Example:
      >>> print(inverse_sqrt(jnp.diag(jnp.array([4.0, 0.25])), method="eigh", epsilon=0.0))
      [[0.5 0. ]
       [0.  2. ]]

    References:
      Huang, Zhou, Zhu, Liu, Shao, `Iterative Normalization: Beyond Standardization towards Efficient
      Whitening <https://arxiv.org/abs/1904.03441>`_, 2019.
      Higham, `Functions of Matrices`, 2008, section 6.3 (the coupled form).
    """
    check_whitening(method, iterations, epsilon)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"matrix of shape {matrix.shape} is not square in its last two axes.")
    wide = shifted(matrix.astype(statistics_dtype(matrix.dtype)), epsilon)
    root = _eigh_inverse_sqrt(wide) if method == "eigh" else _newton_inverse_sqrt(wide, iterations)
    return root.astype(matrix.dtype)


def whiten(
    x: Float[Array, "... features"],
    mean: Float[Array, " features"],
    matrix: Float[Array, "groups size size"],
) -> Float[Array, "... features"]:
    r"""Centres features and multiplies each group of neighbours by its matrix.

    .. math:: y_g = W_g (x - \mu)_g.

    Args:
      x: activations, features along the last axis.
      mean: mean, one entry a feature.
      matrix: whitening matrix of each group; groups times size are the features.

    Returns:
      The whitened activations, shape of ``x``, at least float32.

    Raises:
      ValueError: mean or matrices do not fit the features.

    Example:
      >>> print(whiten(jnp.array([[3.0, 5.0]]), jnp.array([1.0, 1.0]), jnp.array([[[0.0, 1.0], [1.0, 0.0]]])))
      [[4. 2.]]
    """
    groups, size = matrix.shape[0], matrix.shape[-1]
    if mean.shape != (x.shape[-1],) or groups * size != x.shape[-1]:
        raise ValueError(
            f"mean of shape {mean.shape} and matrices of shape {matrix.shape} do not fit the {x.shape[-1]} features."
        )
    wide = statistics_dtype(x.dtype)
    centred = x.astype(wide) - mean.astype(wide).reshape((1,) * (x.ndim - 1) + (-1,))
    return times_groups(centred, matrix.astype(wide))


def check_whitening(method: str, iterations: int, epsilon: float) -> None:
    """ValueError where an option of ``inverse_sqrt`` is out of range."""
    if method not in ("newton", "eigh"):
        raise ValueError(f"method={method!r} is not known; use 'newton' or 'eigh'.")
    if iterations < 1:
        raise ValueError(f"iterations={iterations} is too small; use 1 or more.")
    if epsilon < 0:
        raise ValueError(f"epsilon={epsilon} is negative; use 0 or more.")


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _newton_inverse_sqrt(matrix: Array, iterations: int) -> Array:
    trace = trace_of(matrix)
    return newton(matrix / jnp.where(trace > 0, trace, 1), iterations)[-1][-1] * inverse_root(trace)


@_newton_inverse_sqrt.defjvp
def _newton_inverse_sqrt_jvp(iterations: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (matrix,), (dmatrix,) = primals, tangents
    trace, dtrace = trace_of(matrix), trace_of(dmatrix)
    root = inverse_root(trace)
    trace = jnp.where(trace > 0, trace, 1)
    normalised = matrix / trace
    steps = newton(normalised, iterations)
    dy = (dmatrix - normalised * dtrace) / trace
    dz: Array | None = None  # Z starts as the identity
    for k, (y, z, m, _) in enumerate(steps):
        dm = -0.5 * dy if dz is None else -0.5 * (times_right(dz, y) + times_left(z, dy))
        dz = dm if dz is None else times_right(dm, z) + times_left(m, dz)
        if k + 1 < len(steps):
            dy = times_right(dy, m) + times_left(y, dm)
    assert dz is not None  # one iteration at least
    z = steps[-1][-1]
    return z * root, dz * root - z * (0.5 * root / trace * dtrace)


def inverse_root(x: Array) -> Array:
    """1 / sqrt(x), and 0 with derivative 0 where x is 0: what has no variance is not amplified. NaN stays NaN."""
    return jnp.where(x <= 0, 0, lax.rsqrt(jnp.where(x <= 0, 1, x)))


def newton(
    y: Array, iterations: int, matmul: Callable[[Array, Array], Array] = matmul
) -> list[tuple[Array, Array, Array, Array]]:
    """Y, Z, M before each iteration and Z after it, from a matrix of trace 1."""
    identity = jnp.eye(y.shape[-1], dtype=y.dtype).reshape((1,) * (y.ndim - 2) + y.shape[-2:])
    z = jnp.broadcast_to(identity, y.shape)
    steps = []
    for k in range(iterations):
        m = 1.5 * identity - 0.5 * (y if k == 0 else matmul(z, y))
        after = m if k == 0 else matmul(m, z)
        steps.append((y, z, m, after))
        y, z = (matmul(y, m) if k + 1 < iterations else y), after
    return steps


def shifted(matrix: Array, epsilon: float) -> Array:
    """The matrices with epsilon added to their diagonals."""
    diagonal = epsilon * jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    return matrix + diagonal.reshape((1,) * (matrix.ndim - 2) + diagonal.shape)


def trace_of(matrix: Array) -> Array:
    """The traces of the matrices, as matrices of one entry."""
    return jnp.trace(matrix, axis1=-2, axis2=-1)[..., None, None]


@jax.custom_jvp
def _eigh_inverse_sqrt(matrix: Array) -> Array:
    vectors, inverse_roots = _eigenvectors_and_inverse_roots(matrix)
    return matmul(vectors * inverse_roots[..., None, :], jnp.swapaxes(vectors, -1, -2))


@_eigh_inverse_sqrt.defjvp
def _eigh_inverse_sqrt_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (matrix,), (dmatrix,) = primals, tangents
    vectors, inverse_roots = _eigenvectors_and_inverse_roots(matrix)
    transposed = jnp.swapaxes(vectors, -1, -2)
    result = matmul(vectors * inverse_roots[..., None, :], transposed)
    rows, columns = inverse_roots[..., :, None], inverse_roots[..., None, :]
    # The divided difference of 1 / sqrt(lambda): no difference of eigenvalues stands below, so none may repeat in vain.
    total = rows + columns
    slope = -rows * columns * (rows * columns / jnp.where(total > 0, total, 1))
    inner = matmul(matmul(transposed, dmatrix), vectors)
    return result, matmul(matmul(vectors, slope * inner), transposed)


def _eigenvectors_and_inverse_roots(matrix: Array) -> tuple[Array, Array]:
    values, vectors = jnp.linalg.eigh(matrix, symmetrize_input=True)
    # Rounding moves an eigenvalue by up to this much: smaller ones (or negative ones) cannot be told from it.
    largest = jnp.maximum(values[..., -1:], 0)
    resolution = largest * (matrix.shape[-1] * jnp.finfo(matrix.dtype).eps)
    return vectors, inverse_root(jnp.maximum(values, resolution))
