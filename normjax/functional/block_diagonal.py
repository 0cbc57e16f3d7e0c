"""Groups of features as the diagonal blocks of matrices that are wide enough for the matrix unit of a TPU."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_WIDEST = 512  # beyond it the zeros between the blocks cost more than they save


def products(
    a: Float[Array, "... features"], b: Float[Array, "... features"], group_size: int
) -> Float[Array, "groups size size"]:
    """The sums of products of the features of each group, over all other axes."""
    others = tuple(range(a.ndim - 1))

    def of_blocks(a: Array, b: Array) -> Array:
        full = lax.dot_general(a, b, ((others, others), ((), ())), precision=lax.Precision.HIGHEST)
        count = full.shape[0] // group_size
        return jnp.einsum("gigj->gij", full.reshape(count, group_size, count, group_size))

    return jnp.concatenate([of_blocks(*pair) for pair in zip(_cut(a, group_size), _cut(b, group_size), strict=True)])


def times(x: Float[Array, "... features"], matrices: Float[Array, "groups size size"]) -> Float[Array, "... features"]:
    """The features of each group times its matrix."""
    _, size, _ = matrices.shape
    parts, start = [], 0
    for part in _cut(x, size):
        count = part.shape[-1] // size
        apart = jnp.eye(count, dtype=matrices.dtype)[:, None, :, None]
        full = (matrices[start : start + count, :, None] * apart).reshape(part.shape[-1], part.shape[-1])
        parts.append(jnp.matmul(part, full, precision=lax.Precision.HIGHEST))
        start += count
    return jnp.concatenate(parts, -1)


def _cut(x: Array, group_size: int) -> list[Array]:
    """The features in parts of whole groups."""
    features = x.shape[-1]
    widths = range(group_size, min(features, _WIDEST) + 1, group_size)
    width = max((width for width in widths if features % width == 0), default=group_size)
    return [x] if width >= features else jnp.split(x, features // width, axis=-1)
