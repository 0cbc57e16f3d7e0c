"""Groups of features, and products of vectors and of small symmetric matrices whose derivatives are products."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from normjax.functional import block_diagonal


def groups_of(features: int, group_size: int | None) -> tuple[int, int]:
    """How many groups of which size; ValueError where the size does not divide the features."""
    size = features if group_size is None else group_size
    if size < 1 or features % size:
        allowed = ", ".join(str(n) for n in range(1, features + 1) if features % n == 0)
        raise ValueError(
            f"group_size={size} does not divide the {features} channels of the input; use one of {allowed}."
        )
    return features // size, size


def as_groups(x: Float[Array, "... features"], group_size: int) -> Float[Array, "groups vectors size"]:
    """The vectors of each group of neighbouring features, one below the other."""
    vectors = x.reshape(math.prod(x.shape[:-1]), x.shape[-1] // group_size, group_size)
    # Without the barrier XLA merges this transpose with that of a product before it in the derivative, and then no
    # longer sees that the product could be computed the other way round: on CPU that took half of the backward pass.
    return lax.optimization_barrier(jnp.swapaxes(vectors, 0, 1))


def from_groups(vectors: Float[Array, "groups vectors size"], shape: tuple[int, ...]) -> Float[Array, "... features"]:
    """The inverse of ``as_groups``."""
    return jnp.swapaxes(vectors, 0, 1).reshape(shape)


@jax.custom_jvp
def centre(
    vectors: Float[Array, "*batch samples size"],
) -> tuple[Float[Array, "*batch 1 size"], Float[Array, "*batch samples size"]]:
    """The mean over the samples, and the deviations from it; zero where all samples are equal."""
    # The rounding of a plain mean would be the only deviation of constant samples, and whitening would make it large.
    first = vectors[..., :1, :]
    mean = first + (vectors - first).mean(-2, keepdims=True)
    return mean, vectors - mean


@centre.defjvp
def _centre_jvp(primals: tuple[Array], tangents: tuple[Array]):
    (vectors,), (dvectors,) = primals, tangents
    dmean = dvectors.mean(-2, keepdims=True)
    return centre(vectors), (dmean, dvectors - dmean)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def gram_by(products: Callable[[Array, Array], Array], x: Array) -> Array:
    """The products of vectors with themselves, by a function that multiplies two batches of vectors."""
    return products(x, x)


@gram_by.defjvp
def _gram_by_jvp(
    products: Callable[[Array, Array], Array], primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    # One product, whose transpose is one product: the sum with its own transpose is of small matrices.
    half = products(x, dx)
    return products(x, x), half + jnp.swapaxes(half, -1, -2)


def gram_of_groups(x: Float[Array, "... features"], group_size: int) -> Float[Array, "groups size size"]:
    """The sums of products of the features of each group with each other, over all other axes."""
    return gram_by(partial(products_of_groups, group_size=group_size), x)


def products_of_groups(
    a: Float[Array, "... features"], b: Float[Array, "... features"], group_size: int
) -> Float[Array, "groups size size"]:
    """The sums of products of the features of each group of two arrays, over all other axes."""
    return lax.platform_dependent(
        a,
        b,
        tpu=partial(block_diagonal.products, group_size=group_size),
        default=lambda a, b: products(as_groups(a, group_size), as_groups(b, group_size)),
    )


def times_groups(
    x: Float[Array, "... features"], symmetric: Float[Array, "groups size size"]
) -> Float[Array, "... features"]:
    """The features of each group times its symmetric matrix."""
    return lax.platform_dependent(
        x,
        symmetric,
        tpu=block_diagonal.times,
        default=lambda x, symmetric: from_groups(times(as_groups(x, symmetric.shape[-1]), symmetric), x.shape),
    )


def matmul(a: Array, b: Array) -> Array:
    """A product of matrices without a loss of precision on any platform."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def times_right(a: Array, symmetric: Array) -> Array:
    """A product with a symmetric matrix on the right, which is written transposed.

    It makes no difference to the result, and what JAX makes of it in reverse, by ``a``, is a product of matrices as
    they lie in memory.
    """
    return jnp.einsum("...ij,...kj->...ik", a, symmetric, precision=lax.Precision.HIGHEST)


def times_left(symmetric: Array, a: Array) -> Array:
    """The same with the symmetric matrix on the left."""
    return jnp.einsum("...ji,...jk->...ik", symmetric, a, precision=lax.Precision.HIGHEST)


def gram(x: Float[Array, "*batch samples size"]) -> Float[Array, "*batch size size"]:
    """The sums of products :math:`x^T x` of each batch of vectors."""
    return gram_by(products, x)


@jax.custom_jvp
def times(x: Float[Array, "*batch samples size"], symmetric: Float[Array, "*batch size size"]) -> Array:
    """Each batch of vectors times its symmetric matrix."""
    return matmul(x, symmetric)


@times.defjvp
def _times_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (x, symmetric), (dx, dsymmetric) = primals, tangents
    return matmul(x, symmetric), times_right(dx, symmetric) + matmul(x, dsymmetric)


def products(a: Array, b: Array) -> Array:
    """The sums of products of the vectors of two batches."""
    return jnp.einsum("...si,...sj->...ij", a, b, precision=lax.Precision.HIGHEST)
