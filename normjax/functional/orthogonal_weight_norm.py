"""Orthogonal weight normalization: the weights of different neurons at right angles to each other."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from normjax.functional.affine import affine, check_affine
from normjax.functional.groups import centre, gram_of_groups, times_groups
from normjax.functional.moments import statistics_dtype
from normjax.functional.weight_norm import check_kernel
from normjax.functional.whitening import Method, inverse_root, inverse_sqrt, trace_of


def orthogonal_weight_norm(
    kernel: Float[Array, "... outputs"],
    scale: Float[Array, " units"] | None = None,
    *,
    group_size: int | None = None,
    center: bool = True,
    feature_group_count: int = 1,
    method: Method = "newton",
    iterations: int = 20,
    epsilon: float = 1e-7,
) -> Float[Array, "... outputs"]:
    r"""Gives the weights of each output unit length 1 and puts those of a group at right angles to each other.

    With the kernel as a matrix Z of outputs by fan-in, in groups of rows, and :math:`\bar Z` without the mean of
    each row,

    .. math:: W = (\bar Z \bar Z^T)^{-1/2} \bar Z, \qquad W W^T = I,

    the orthogonal matrix next to :math:`\bar Z`. It is the whitening of the outputs over their fan-in, and uses the
    same code. One Newton-Schulz step on W itself, :math:`W \leftarrow \tfrac12 (3 I - W W^T) W`, takes out the
    rounding of the root, so that the error does not grow with the condition of :math:`\bar Z \bar Z^T`.

    Args:
      kernel: outputs along the last axis as in Flax, fan-in along all others.
      scale: one entry an output, multiplied in the end; None is 1. The paper's networks with relu have
        :math:`\sqrt 2`.
      group_size: outputs of a group; divides the outputs of each feature group and is at most the rank, the
        fan-in (less one, with ``center``). None is the largest divisor of them that is at most 64 and half the fan-in;
        of a prime number of outputs above 64 that is 1, each by itself.
      center: whether to take out the mean of the weights of each output.
      feature_group_count: of a grouped convolution.
      method: ``newton`` or ``eigh`` (see ``inverse_sqrt``).
      iterations: of Newton; 20 serve a condition of 1e4.
      epsilon: added to the diagonal of :math:`\bar Z \bar Z^T`, as a share of its mean.

    Returns:
      The new weights, shape and type of ``kernel``; a kernel of zeros stays one.

    Raises:
      ValueError: the group does not divide the outputs or is larger than the rank, the kernel has fewer than two
        axes, or an option is out of range.

    Example:
      >>> kernel = jnp.array([[3.0, 1.0], [1.0, 2.0], [2.0, 2.0]])
      >>> weights = orthogonal_weight_norm(kernel, group_size=2, center=False)
      >>> print(jnp.abs(weights.T @ weights).round(3))
      [[1. 0.]
       [0. 1.]]

    References:
      Huang, Liu, Lang, Yu, Wang, Li, `Orthogonal Weight Normalization: Solution to Optimization over Multiple
      Dependent Stiefel Manifolds in Deep Neural Networks <https://arxiv.org/abs/1709.06079>`_, 2018.
    """
    check_kernel(kernel)
    check_affine(kernel, scale, None)
    size = row_group_size(kernel.shape, group_size, center, feature_group_count)
    rows = kernel.astype(statistics_dtype(kernel.dtype)).reshape(-1, kernel.shape[-1])
    if center:
        rows = centre(rows)[1]
    gram = gram_of_groups(rows, size)
    mean_square = trace_of(gram) / size
    relative = gram / jnp.where(mean_square > 0, mean_square, 1)
    matrix = inverse_sqrt(relative, method=method, iterations=iterations, epsilon=epsilon)
    rows = times_groups(rows, matrix * inverse_root(mean_square))
    rows = times_groups(rows, 1.5 * jnp.eye(size, dtype=rows.dtype)[None] - 0.5 * gram_of_groups(rows, size))
    return affine(rows.reshape(kernel.shape), scale, None).astype(kernel.dtype)


def row_group_size(shape: tuple[int, ...], group_size: int | None, center: bool, feature_group_count: int = 1) -> int:
    """The outputs of a group that can be orthogonal.

    Args:
      shape: of the kernel.
      group_size: that was asked for; None is the largest divisor of the outputs of a feature group that is at most
        64 and half the fan-in.
      center: whether the mean is taken out, which costs one dimension.
      feature_group_count: of a grouped convolution.

    Raises:
      ValueError: there is no such group; the message names the largest possible.
    """
    outputs, fan_in = shape[-1], math.prod(shape[:-1])
    if feature_group_count < 1 or outputs % feature_group_count:
        raise ValueError(f"feature_group_count={feature_group_count} does not divide the {outputs} outputs.")
    own, rank = outputs // feature_group_count, fan_in - center
    divisors = [n for n in range(1, own + 1) if own % n == 0 and n <= rank]
    if not divisors:
        raise ValueError(
            f"kernel of shape {shape} has a fan-in of {fan_in}, of which center=True leaves rank 0; "
            "use center=False or weight norm."
        )
    if group_size is None:
        return max(n for n in divisors if n == 1 or n <= min(64, fan_in / 2))
    if group_size not in divisors:
        allowed = ", ".join(map(str, divisors))
        why = (
            f"is larger than the rank {rank} of a kernel of shape {shape}; the largest possible is {divisors[-1]}"
            if group_size > rank
            else f"does not divide the {own} outputs of a kernel of shape {shape}"
        )
        raise ValueError(f"group_size={group_size} {why}; use one of {allowed}.")
    return group_size
