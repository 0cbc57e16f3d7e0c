"""Weight normalization: the direction of a neuron's weights apart from their length."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from normjax.functional.affine import affine, check_affine
from normjax.functional.moments import moments, statistics_dtype
from normjax.functional.sparsity import check_real
from normjax.functional.whitening import inverse_root


def weight_norm(
    kernel: Float[Array, "... outputs"], scale: Float[Array, " units"] | None = None
) -> Float[Array, "... outputs"]:
    r"""Gives the weights of each output unit the length of its scale.

    .. math:: w = g\, \frac{v}{\| v \|_2} .

    The derivative by v is at right angles to v, :math:`\frac{g}{\|v\|} (I - v v^T / \|v\|^2)`: a step along it
    can only make v longer.

    Args:
      kernel: v, outputs along the last axis as in Flax.
      scale: g, one entry an output; None is 1.

    Returns:
      w, shape and type of ``kernel``; an output whose weights are all 0 keeps them, with derivative 0.

    Raises:
      ValueError: the kernel has fewer than two axes, or the scale has other outputs.

    Example:
      >>> print(weight_norm(jnp.array([[3.0], [4.0]])).ravel())
      [0.6 0.8]

    References:
      Salimans, Kingma, `Weight Normalization: A Simple Reparameterization to Accelerate Training of Deep Neural
      Networks <https://arxiv.org/abs/1602.07868>`_, 2016.
    """
    check_kernel(kernel)
    check_affine(kernel, scale, None)
    wide = kernel.astype(statistics_dtype(kernel.dtype))
    axes = tuple(range(kernel.ndim - 1))
    return affine(wide * inverse_root(jnp.square(wide).sum(axes, keepdims=True)), scale, None).astype(kernel.dtype)


def mean_and_inverse_deviation(
    y: Float[Array, "... features"],
) -> tuple[Float[Array, " features"], Float[Array, " features"]]:
    r"""Mean and inverse deviation of each feature of a layer's output, for data-dependent initialisation.

    Args:
      y: outputs, features along the last axis.

    Returns:
      :math:`\mu` and :math:`1 / \sigma`; 1 where the output is constant.
    """
    found = moments(y, tuple(range(y.ndim - 1)))
    return found.mean, jnp.where(found.variance <= 0, 1, inverse_root(found.variance))


def check_kernel(kernel: Array) -> None:
    """ValueError where the array cannot be a kernel."""
    if kernel.ndim < 2:
        raise ValueError(
            f"kernel of shape {kernel.shape} has {kernel.ndim} axes; it needs two or more, inputs and outputs last."
        )
    if 0 in kernel.shape:
        raise ValueError(f"kernel of shape {kernel.shape} is empty; each axis needs one entry or more.")
    check_real(kernel)
