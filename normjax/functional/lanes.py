"""The products of ``groups`` with the batch along the lanes of a TPU, whose tiles small matrices leave nearly empty.

Arguments and results have the axes they have in ``groups``: (batch, groups, ...). Inside, the batch comes last and a
product is a sum of elementwise products, which the compiler fuses and lays out so that moving the axes costs nothing.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from normjax.functional.groups import gram_by
from normjax.functional.whitening import Method, inverse_root, newton, shifted, trace_of
from normjax.functional.whitening import inverse_sqrt as inverse_sqrt_by_rows

# What is saved for the derivative are the arguments, not the large arrays of products before their sum.
_saving_arguments = partial(jax.checkpoint, prevent_cse=False)


def gram(x: Float[Array, "batch groups samples size"]) -> Float[Array, "batch groups size size"]:
    """The sums of products of each batch of vectors."""
    return gram_by(_products, x)


@_saving_arguments
def times(
    x: Float[Array, "batch groups samples size"], symmetric: Float[Array, "batch groups size size"]
) -> Float[Array, "batch groups samples size"]:
    """Each batch of vectors times its symmetric matrix."""
    samples, matrices = _samples_first(x), jnp.moveaxis(symmetric, 0, -1)
    return (samples[:, :, :, None] * matrices[None]).sum(2).transpose(3, 1, 0, 2)


@_saving_arguments
def matmul(a: Float[Array, "batch groups size size"], b: Float[Array, "batch groups size size"]) -> Array:
    """The products of small matrices."""
    a, b = jnp.moveaxis(a, 0, -1), jnp.moveaxis(b, 0, -1)
    return jnp.moveaxis((a[:, :, :, None] * b[:, None]).sum(2), -1, 0)


def inverse_sqrt(
    matrix: Float[Array, "batch groups size size"], method: Method, iterations: int, epsilon: float
) -> Float[Array, "batch groups size size"]:
    """``whitening.inverse_sqrt`` with these products; eigenvectors are the platform's own."""
    if method == "eigh":
        return inverse_sqrt_by_rows(matrix, method, iterations, epsilon)
    matrix = shifted(matrix, epsilon)
    trace = trace_of(matrix)
    return newton(matrix / jnp.where(trace > 0, trace, 1), iterations, matmul)[-1][-1] * inverse_root(trace)


@_saving_arguments
def _products(a: Array, b: Array) -> Array:
    a, b = _samples_first(a), _samples_first(b)
    return jnp.moveaxis((a[:, :, :, None] * b[:, :, None]).sum(0), -1, 0)


def _samples_first(x: Array) -> Array:
    return x.transpose(2, 1, 3, 0)
